//! Network profile: the one file from which contracts and Rust read protocol parameters (SPEC part D).
//!
//! Only the parts that this version acts on are fields; a file that names anything else is refused, so that nobody believes a
//! parameter is in force that is not.

use crate::{Address, Bps, Price, StakeAmount, TokenAmount};
use serde::{Deserialize, Serialize};

/// Why a profile was refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No built-in profile of that name.
    #[error("there is no profile `{name}`: this version has {}", NetworkProfile::NAMES.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The text is not a profile.
    #[error("the profile cannot be read: {0}")]
    Malformed(#[from] toml::de::Error),
    /// A value breaks a rule between fields.
    #[error("the profile is inconsistent: {0}")]
    Inconsistent(&'static str),
}

/// Rules and numbers of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkProfile {
    /// Name, also the file's name.
    pub name: String,
    /// Raised with every change of a value.
    pub version: u32,
    /// Whether simulated evidence, test keys and free test money are allowed.
    pub devnet: bool,
    /// Batching, windows, exits.
    pub settlement: SettlementParameters,
    /// Shares of a settled charge.
    pub fees: FeeParameters,
    /// Stake and slashing.
    pub stake: StakeParameters,
    /// Rounds, panels and sampling of audits.
    pub audit: AuditParameters,
    /// Claims of non-delivery.
    pub delivery: DeliveryParameters,
    /// Scoring of providers.
    pub routing: RoutingParameters,
    /// Bounds on what a request may ask.
    pub limits: Limits,
    /// Chain parameters of an embedded chain.
    pub chain: ChainParameters,
}

/// Batching, windows, exits (design: settlement 7.3–7.9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettlementParameters {
    /// A batch closes at this age, in seconds, even when it is not full.
    pub batch_seconds: u64,
    /// Most receipts in one batch.
    pub batch_receipts_max: u32,
    /// Seconds between posting a payout root and its becoming claimable.
    pub window_seconds: u64,
    /// Seconds after `revoke` until an allotment expires.
    pub notice_seconds: u64,
    /// Seconds after expiry until the rest of an allotment returns (T_settle).
    pub settle_delay_seconds: u64,
    /// Life of a default allotment in seconds.
    pub allotment_seconds: u64,
    /// Seconds a ticket is valid; at most the notice.
    pub ticket_seconds: u64,
    /// Smallest claim, against fee evasion by tiny claims.
    pub claim_min: TokenAmount,
}

/// Shares of a settled charge; the remainder is the provider's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeeParameters {
    /// Version named in leaves.
    pub version: u16,
    /// Router's share.
    pub router_bps: Bps,
    /// Treasury's share.
    pub treasury_bps: Bps,
    /// Validator pool's share.
    pub validators_bps: Bps,
    /// Buyback pot's share.
    pub buyback_bps: Bps,
}

/// Stake and slashing (SPEC C.6.4, C.6.8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StakeParameters {
    /// Payment token units that one whole stake token is worth, until an oracle exists.
    pub stake_price: TokenAmount,
    /// Least stake value of a provider, in payment token.
    pub provider_floor: TokenAmount,
    /// Least stake value of a router, in payment token.
    pub router_floor: TokenAmount,
    /// Least stake value of a validator, in payment token.
    pub validator_floor: TokenAmount,
    /// Lowest sampling rate, for the minimum stake.
    pub sampling_floor_bps: Bps,
    /// Seconds that leaving stake stays slashable.
    pub unbonding_seconds: u64,
    /// Share of a slash that goes to harmed developers.
    pub slash_developer_bps: Bps,
    /// Share of a slash that goes to the challenger. The rest is burned.
    pub slash_challenger_bps: Bps,
    /// Whole supply of the stake token.
    pub supply: StakeAmount,
}

/// Rounds, panels and sampling of audits (docs/audits.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditParameters {
    /// Least seconds between two rounds.
    pub interval_seconds: u64,
    /// Most seconds in which validators reveal their preimages.
    pub reveal_seconds: u64,
    /// Most seconds in which they recompute and commit their ballots.
    pub ballot_seconds: u64,
    /// Most seconds in which they show them.
    pub unseal_seconds: u64,
    /// Most seconds in which planters name their plants.
    pub plants_seconds: u64,
    /// Seconds in which rulings are taken.
    pub rulings_seconds: u64,
    /// Seconds that a panel member has to show its verdict after a ruling without it.
    pub answer_seconds: u64,
    /// Validators that judge one job. This version's contracts draw three.
    pub panel: u8,
    /// Equal verdicts that decide. This version's contracts ask for two; in a devnet with one validator, one.
    pub votes: u8,
    /// Share of jobs audited of a provider without record.
    pub most_bps: Bps,
    /// Share of jobs audited of a provider with full reputation.
    pub least_bps: Bps,
    /// Jobs of each provider that are audited in full before sampling starts; only in devnets.
    pub first_jobs: u32,
    /// Who may plant false receipts to see which validators look. Devnets name more when they start.
    pub planters: Vec<Address>,
}

/// Seconds of the shortest phase in which validators or planters act.
const LEAST_PHASE: u64 = 3;

impl AuditParameters {
    /// With the phases before rulings shortened in proportion, so that they end before a window of `window_seconds` does. A longer window
    /// leaves them as they are. Blocks count whole seconds: phases in which somebody acts keep three, or they could be over at once. They
    /// end when all have acted, so that also in windows shorter than their sum rulings come in time where nobody is late.
    #[must_use]
    pub fn within(self, window_seconds: u64) -> Self {
        let needed = self.seconds_to_ruling();
        if needed <= window_seconds || needed == 0 {
            return self;
        }
        let part = |seconds: u64| {
            let scaled = u128::from(seconds) * u128::from(window_seconds) / u128::from(needed);
            u64::try_from(scaled).unwrap_or(seconds).max(1)
        };
        let phase = |seconds: u64| part(seconds).max(LEAST_PHASE.min(seconds));
        Self {
            interval_seconds: part(self.interval_seconds),
            reveal_seconds: phase(self.reveal_seconds),
            ballot_seconds: phase(self.ballot_seconds),
            unseal_seconds: phase(self.unseal_seconds),
            plants_seconds: phase(self.plants_seconds),
            ..self
        }
    }

    /// The most seconds from a post to the first ruling on it, when rounds are opened as soon as they may.
    pub fn seconds_to_ruling(&self) -> u64 {
        [
            self.interval_seconds,
            self.reveal_seconds,
            self.ballot_seconds,
            self.unseal_seconds,
            self.plants_seconds,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// Claims of non-delivery (docs/decisions/0030-non-delivery.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryParameters {
    /// Seconds after its deadline in which an accepted ticket may be claimed.
    pub claim_seconds: u64,
    /// Seconds that its provider has to answer.
    pub answer_seconds: u64,
    /// What a claim costs until it is decided; the provider gets it with its answer.
    pub deposit: StakeAmount,
}

/// Scoring of providers (SPEC C.6.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingParameters {
    /// Weight of price.
    pub price_bps: Bps,
    /// Weight of latency.
    pub latency_bps: Bps,
    /// Weight of reliability.
    pub reliability_bps: Bps,
    /// Weight of reputation.
    pub reputation_bps: Bps,
    /// Time to first token, in ms, at which the latency score is full.
    pub ttft_target_ms: u64,
    /// Providers below this reputation (ppm) get no jobs.
    pub reputation_min_ppm: u32,
    /// Candidates within this share of the best score draw lots.
    pub tie_bps: Bps,
    /// Milliseconds to the first token before the next provider is tried.
    pub first_token_ms_max: u64,
    /// Milliseconds between two tokens before the stream is given up.
    pub inter_token_ms_max: u64,
    /// Most providers tried for one job.
    pub attempts_max: u32,
}

/// Bounds on what a request may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest request body in bytes.
    pub body_bytes_max: u64,
    /// Most output tokens of one job.
    pub output_tokens_max: u32,
    /// Output tokens when the request names no limit.
    pub output_tokens_default: u32,
    /// Highest price of 10^6 tokens that the router accepts from a provider.
    pub price_max: Price,
}

/// Parameters of an embedded chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainParameters {
    /// Milliseconds the sealing thread waits for more transactions.
    pub seal_window_ms: u64,
}

impl NetworkProfile {
    /// Names of the built-in profiles.
    pub const NAMES: &'static [&'static str] = &["stoa", "infera"];

    /// Text of a built-in profile. Its keccak is the profile hash in every receipt.
    pub fn builtin_text(name: &str) -> Result<&'static str, ProfileError> {
        match name {
            "stoa" => Ok(include_str!("../../../config/profiles/stoa.toml")),
            "infera" => Ok(include_str!("../../../config/profiles/infera.toml")),
            other => Err(ProfileError::Unknown {
                name: other.chars().take(40).collect(),
            }),
        }
    }

    /// Reads and checks a profile.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        profile.check()?;
        Ok(profile)
    }

    /// The text of this profile: what is hashed when values were overridden at start.
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("a profile holds only values that TOML can write")
    }

    fn check(&self) -> Result<(), ProfileError> {
        let weights = [
            self.routing.price_bps,
            self.routing.latency_bps,
            self.routing.reliability_bps,
            self.routing.reputation_bps,
        ];
        if weights.iter().map(|w| u32::from(w.get())).sum::<u32>() != 10_000 {
            return Err(ProfileError::Inconsistent(
                "the four routing weights must sum to 10,000 basis points",
            ));
        }
        if weights.iter().any(|w| !(500..=4_000).contains(&w.get())) {
            return Err(ProfileError::Inconsistent(
                "each routing weight must lie between 500 and 4,000 basis points",
            ));
        }
        let protocol = self.fees.treasury_bps.get()
            + self.fees.validators_bps.get()
            + self.fees.buyback_bps.get();
        if self.fees.router_bps.get() > 500 || protocol > 500 {
            return Err(ProfileError::Inconsistent(
                "router and protocol fees are at most 500 basis points each",
            ));
        }
        if self.settlement.ticket_seconds > self.settlement.notice_seconds {
            return Err(ProfileError::Inconsistent(
                "a ticket must not outlive the notice of a revoked allotment",
            ));
        }
        let settlement = &self.settlement;
        let settled_within = settlement
            .window_seconds
            .checked_mul(2)
            .and_then(|w| w.checked_add(settlement.batch_seconds));
        if settled_within.is_none_or(|seconds| settlement.settle_delay_seconds < seconds) {
            return Err(ProfileError::Inconsistent(
                "an allotment must not return before a batch and two windows have passed after its end",
            ));
        }
        if self.stake.slash_developer_bps.get() + self.stake.slash_challenger_bps.get() > 10_000 {
            return Err(ProfileError::Inconsistent("slash shares exceed the whole"));
        }
        if !(1..=10_000).contains(&self.settlement.batch_receipts_max) {
            return Err(ProfileError::Inconsistent(
                "a batch holds 1 to 10,000 receipts",
            ));
        }
        self.check_audit()?;
        self.check_delivery()?;
        self.check_usable()
    }

    fn check_audit(&self) -> Result<(), ProfileError> {
        let audit = &self.audit;
        let all_answers = audit
            .seconds_to_ruling()
            .checked_add(audit.rulings_seconds)
            .and_then(|seconds| seconds.checked_add(audit.answer_seconds));
        let rules = [
            (
                audit.reveal_seconds > 0
                    && audit.ballot_seconds > 0
                    && audit.unseal_seconds > 0
                    && audit.rulings_seconds > 0
                    && audit.answer_seconds > 0,
                "reveals, ballots, unsealing, rulings and answers take at least a second each",
            ),
            (
                all_answers.is_some_and(|seconds| seconds <= self.stake.unbonding_seconds),
                "an audit must end before stake that leaves is out of reach",
            ),
            (
                (audit.panel, audit.votes) == (3, 2),
                "panels of three with two equal verdicts are all that this version has",
            ),
            (
                audit.least_bps.get() > 0 && audit.least_bps <= audit.most_bps,
                "the lower audit rate is above zero and not above the upper one",
            ),
            (
                self.devnet || audit.first_jobs == 0,
                "only a devnet audits the first jobs of each provider in full",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ProfileError::Inconsistent(rule)),
            None => Ok(()),
        }
    }

    fn check_delivery(&self) -> Result<(), ProfileError> {
        let delivery = &self.delivery;
        let all = delivery.claim_seconds.checked_add(delivery.answer_seconds);
        let rules = [
            (
                delivery.claim_seconds > 0 && delivery.answer_seconds > 0,
                "claims of non-delivery and answers to them take at least a second each",
            ),
            (
                delivery.deposit.units() > 0,
                "a claim of non-delivery costs a deposit",
            ),
            (
                all.is_some_and(|seconds| seconds < self.stake.unbonding_seconds),
                "a claim of non-delivery must end before stake that leaves is out of reach",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ProfileError::Inconsistent(rule)),
            None => Ok(()),
        }
    }

    /// Values under which nothing could ever be done, or a later division would have no answer.
    fn check_usable(&self) -> Result<(), ProfileError> {
        let (settlement, stake) = (&self.settlement, &self.stake);
        let (routing, limits) = (&self.routing, &self.limits);
        let rules = [
            (
                settlement.batch_seconds > 0 && settlement.window_seconds > 0,
                "batches and windows last at least a second",
            ),
            (
                settlement.ticket_seconds > 0 && settlement.allotment_seconds > 0,
                "tickets and allotments live at least a second",
            ),
            (
                !stake.stake_price.is_zero() && stake.sampling_floor_bps.get() > 0,
                "stake price and sampling floor divide and must be above zero",
            ),
            (
                routing.attempts_max > 0
                    && routing.first_token_ms_max > 0
                    && routing.inter_token_ms_max > 0,
                "a job is tried at least once and waits at least a millisecond",
            ),
            (
                routing.reputation_min_ppm <= 1_000_000,
                "the least reputation is at most 1,000,000 ppm",
            ),
            (
                limits.body_bytes_max > 0
                    && (1..=limits.output_tokens_max).contains(&limits.output_tokens_default),
                "a request has a body, and its default length is 1 to the most output tokens",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ProfileError::Inconsistent(rule)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_loads_under_its_own_name() {
        for name in NetworkProfile::NAMES {
            let profile =
                NetworkProfile::parse(NetworkProfile::builtin_text(name).expect("listed"))
                    .expect("valid");
            assert_eq!(profile.name, *name);
            assert_eq!(
                NetworkProfile::parse(&profile.to_text()).expect("round trip"),
                profile
            );
        }
    }

    #[test]
    fn an_unknown_key_or_a_broken_rule_is_refused() {
        let text = NetworkProfile::builtin_text("stoa").expect("listed");
        assert!(NetworkProfile::parse(&format!("suprise = 1\n{text}")).is_err());
        assert!(
            NetworkProfile::parse(&text.replace("price_bps = 3000", "price_bps = 3001")).is_err()
        );
        assert!(
            NetworkProfile::parse(
                &text.replace("settle_delay_seconds = 3600", "settle_delay_seconds = 100")
            )
            .is_err()
        );
        assert!(NetworkProfile::builtin_text("nope").is_err());
    }

    #[test]
    fn a_profile_under_which_nothing_could_be_done_is_refused() {
        let text = NetworkProfile::builtin_text("stoa").expect("listed");
        for (was, is) in [
            ("batch_seconds = 60", "batch_seconds = 0"),
            ("window_seconds = 90", "window_seconds = 0"),
            ("ticket_seconds = 120", "ticket_seconds = 0"),
            ("allotment_seconds = 86400", "allotment_seconds = 0"),
            ("stake_price = \"100000\"", "stake_price = \"0\""),
            ("sampling_floor_bps = 50", "sampling_floor_bps = 0"),
            ("attempts_max = 3", "attempts_max = 0"),
            ("first_token_ms_max = 10000", "first_token_ms_max = 0"),
            ("inter_token_ms_max = 10000", "inter_token_ms_max = 0"),
            (
                "reputation_min_ppm = 200000",
                "reputation_min_ppm = 1000001",
            ),
            ("body_bytes_max = 4194304", "body_bytes_max = 0"),
            ("output_tokens_default = 256", "output_tokens_default = 0"),
            (
                "output_tokens_default = 256",
                "output_tokens_default = 4097",
            ),
            ("router_bps = 150", "router_bps = 501"),
            ("slash_developer_bps = 4000", "slash_developer_bps = 6001"),
            ("ticket_seconds = 120", "ticket_seconds = 601"),
            ("batch_receipts_max = 10000", "batch_receipts_max = 10001"),
            ("reveal_seconds = 10", "reveal_seconds = 0"),
            ("rulings_seconds = 518400", "rulings_seconds = 604800"),
            ("panel = 3", "panel = 5"),
            ("votes = 2", "votes = 1"),
            ("least_bps = 500", "least_bps = 0"),
            ("most_bps = 1000", "most_bps = 499"),
            ("devnet = true", "devnet = false"),
            ("claim_seconds = 86400", "claim_seconds = 0"),
            ("claim_seconds = 86400", "claim_seconds = 518400"),
            ("deposit = \"10000000000000000000\"", "deposit = \"0\""),
        ] {
            assert_eq!(text.matches(was).count(), 1, "{was}");
            let refused = NetworkProfile::parse(&text.replace(was, is));
            assert!(
                matches!(refused, Err(ProfileError::Inconsistent(_))),
                "{is}: {refused:?}"
            );
        }
    }

    #[test]
    fn phases_of_an_audit_shrink_with_the_window_and_can_still_be_met() {
        let text = NetworkProfile::builtin_text("stoa").expect("listed");
        let audit = NetworkProfile::parse(text).expect("valid").audit;
        assert_eq!(audit.clone().within(90), audit);
        assert!(audit.clone().within(30).seconds_to_ruling() <= 30);
        assert_eq!(
            audit.clone().within(30).rulings_seconds,
            audit.rulings_seconds
        );
        assert_eq!(audit.within(1).seconds_to_ruling(), 13);
    }
}
