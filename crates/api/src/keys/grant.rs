//! What a key may do: routes, models, money, pace, and until when.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use stoa_nodes::client::{Budget, KeyId};
use stoa_nodes::router::day_of;
use stoa_types::{Timestamp, TokenAmount};

/// Longest list of models on a key.
pub(crate) const MODELS_MAX: usize = 64;

/// A group of routes that a key can be confined to. The management of keys is in no group: only a key without any limit may do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Paid calls.
    Inference,
    /// What models there are.
    Models,
    /// Jobs, their receipts and explanations.
    Jobs,
    /// Balances, limits, providers, claims.
    Account,
}

impl Scope {
    /// All groups.
    pub const ALL: [Self; 4] = [Self::Inference, Self::Models, Self::Jobs, Self::Account];

    /// As keys name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Models => "models",
            Self::Jobs => "jobs",
            Self::Account => "account",
        }
    }
}

/// How often a spend limit begins anew, in universal time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// At midnight.
    Day,
    /// On the first of the month.
    Month,
    /// Never.
    Total,
}

impl Period {
    /// All periods.
    pub const ALL: [Self; 3] = [Self::Day, Self::Month, Self::Total];

    /// As keys name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// First day of the period that holds `now`, and of the next one.
    pub fn bounds(self, now: Timestamp) -> (u64, Option<u64>) {
        let today = day_of(now);
        match self {
            Self::Day => (today, Some(today + 1)),
            Self::Month => {
                let (first, next) = month_around(today);
                (first, Some(next))
            }
            Self::Total => (0, None),
        }
    }
}

/// First day of the month that holds `day`, and of the next month; days since the Unix epoch.
fn month_around(day: u64) -> (u64, u64) {
    let mut first = 0;
    let mut year = 1970;
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let february = if leap { 29 } else { 28 };
        let in_year = 337 + february;
        if first + in_year <= day {
            first += in_year;
            year += 1;
            continue;
        }
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if day < first + length {
                return (first, first + length);
            }
            first += length;
        }
    }
}

/// What the calls of a key may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendLimit {
    /// In each period.
    pub amount: TokenAmount,
    /// How long a period is.
    pub period: Period,
}

/// How fast a key may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Calls in a minute, and at once.
    pub requests_per_minute: u32,
    /// Tokens, of prompts and answers together, in a minute, and at once.
    pub tokens_per_minute: u64,
}

/// What a key may do. Without any limit it may do everything, also make other keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grant {
    /// Groups of routes; `None` for all.
    pub routes: Option<BTreeSet<Scope>>,
    /// Models; `None` for all.
    pub models: Option<BTreeSet<String>>,
    /// What its calls may cost.
    pub spend_limit: Option<SpendLimit>,
    /// How fast it may call.
    pub rate_limit: Option<RateLimit>,
    /// Until when it is accepted.
    pub expires_at: Option<Timestamp>,
}

impl Grant {
    /// Whether nothing is withheld. Only such a key manages keys, so that no key can widen itself through another one.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Whether routes of the group are open.
    pub fn allows(&self, scope: Scope) -> bool {
        self.routes
            .as_ref()
            .is_none_or(|routes| routes.contains(&scope))
    }

    /// Whether calls may name the model.
    pub fn allows_model(&self, model: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.contains(model))
    }

    /// The spend limit as the router enforces it now.
    pub fn budget(&self, key: KeyId, now: Timestamp) -> Option<Budget> {
        let SpendLimit { amount, period } = self.spend_limit?;
        let (first_day, next) = period.bounds(now);
        Some(Budget {
            key,
            amount,
            first_day,
            resets_at: next.map(|day| Timestamp::from_secs(day.saturating_mul(86_400))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_on_its_first_day_leap_years_included() {
        for (day, first, next) in [
            (0, 0, 31),
            (30, 0, 31),
            (31, 31, 59),
            (789, 761, 790),       // 29 February 1972.
            (11016, 10988, 11017), // 29 February 2000.
            (20779, 20758, 20788), // 22 November 2026.
        ] {
            assert_eq!(month_around(day), (first, next), "day {day}");
        }
    }

    #[test]
    fn a_day_s_limit_starts_anew_at_midnight_and_a_total_never() {
        let noon = Timestamp::from_secs(86_400 * 100 + 43_200);
        assert_eq!(Period::Day.bounds(noon), (100, Some(101)));
        assert_eq!(Period::Total.bounds(noon), (0, None));
    }
}
