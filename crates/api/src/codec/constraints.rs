//! The `stoa` object: hard limits of one request. Unknown keys are refused here and only here, since a misspelt ceiling must not be
//! ignored; keys of the design that are not built yet are refused too, by name.

use super::object::{Object, invalid, text_at, unsupported};
use crate::error::ApiError;
use crate::json::{Json, clip};
use std::collections::BTreeSet;
use std::str::FromStr;
use stoa_nodes::client::Constraints;
use stoa_types::{Address, Price, Region, Tier, TokenAmount};

/// Where the answer shows its receipt. It is always made, and always at `GET /v1/receipts/{job}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReceiptPlace {
    /// Whole, in the `stoa` object.
    #[default]
    Inline,
    /// Its id in the headers only.
    Header,
}

/// What the `stoa` object says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    pub(super) constraints: Constraints,
    pub(super) receipt: ReceiptPlace,
    pub(super) require_parameters: bool,
}

const NOT_BUILT: &[&str] = &[
    "redundancy",
    "max_latency",
    "min_throughput_tps",
    "queue_ms_max",
    "privacy",
    "capacity",
    "reservation",
    "sort",
    "quantizations",
    "failover",
    "session",
    "budget",
    "idempotency_key",
    "payment",
];

/// Reads `stoa`.
pub(super) fn options(root: &Object<'_>) -> Result<Options, ApiError> {
    let mut options = Options::default();
    let Some(stoa) = root.object("stoa")? else {
        return Ok(options);
    };
    let constraints = &mut options.constraints;
    for (name, value) in stoa.fields() {
        let path = stoa.path(name);
        match name {
            "tier" => constraints.tier = Some(tier(value, &path)?),
            "max_price" => max_price(&Object::at(value, path)?, constraints)?,
            "max_cost" => constraints.cost_max = Some(amount(value, &path)?),
            "regions" => regions(&Object::at(value, path)?, constraints)?,
            "providers" => providers(&Object::at(value, path)?, constraints)?,
            "require_parameters" => {
                options.require_parameters = stoa.boolean(name)?.unwrap_or_default();
            }
            "receipt" => {
                options.receipt = match text_at(value, &path)? {
                    "inline" => ReceiptPlace::Inline,
                    "header" | "none" => ReceiptPlace::Header,
                    _ => return Err(invalid(path, "must be inline, header or none")),
                }
            }
            _ => return Err(unknown(name, path)),
        }
    }
    Ok(options)
}

fn unknown(name: &str, path: String) -> ApiError {
    if NOT_BUILT.contains(&name) {
        return unsupported(
            path,
            "this router does not offer it yet, and does not ignore it in silence",
        );
    }
    invalid(path, "is no field of `stoa`")
}

fn tier(value: &Json, path: &str) -> Result<Tier, ApiError> {
    match value {
        Json::Array(list) => {
            let tiers = list
                .iter()
                .map(|one| tier_word(one, path))
                .collect::<Result<BTreeSet<_>, _>>()?;
            match tiers.into_iter().collect::<Vec<_>>().as_slice() {
                [one] => Ok(*one),
                [] => Err(invalid(path, "must name a tier")),
                _ => Err(unsupported(path, "only one tier can be asked for")),
            }
        }
        one => tier_word(one, path),
    }
}

fn tier_word(value: &Json, path: &str) -> Result<Tier, ApiError> {
    let word = match value {
        Json::Text(word) => word.clone(),
        Json::Number(number) => number.to_string(),
        other => {
            return Err(invalid(
                path,
                format!("must be a string, not {}", other.kind()),
            ));
        }
    };
    Tier::from_str(&word).map_err(|error| invalid(path, clip(&error.to_string(), 160)))
}

/// Decimal text in whole payment tokens. Numbers are refused: a float is no amount.
fn amount(value: &Json, path: &str) -> Result<TokenAmount, ApiError> {
    let Json::Text(text) = value else {
        let reason = format!(
            "must be a decimal string such as \"0.25\", not {}",
            value.kind()
        );
        return Err(invalid(path, reason));
    };
    TokenAmount::parse(text).map_err(|error| invalid(path, clip(&error.to_string(), 160)))
}

fn max_price(from: &Object<'_>, constraints: &mut Constraints) -> Result<(), ApiError> {
    for (name, value) in from.fields() {
        let path = from.path(name);
        let price = || amount(value, &path).map(Price::per_million);
        match name {
            "input_per_mtok" => constraints.input_price_max = Some(price()?),
            "output_per_mtok" => constraints.output_price_max = Some(price()?),
            // Neither is ever charged, so any ceiling holds.
            "request" | "image" | "audio_minute" => drop(price()?),
            _ => return Err(invalid(path, "is no field of `stoa.max_price`")),
        }
    }
    Ok(())
}

fn regions(from: &Object<'_>, constraints: &mut Constraints) -> Result<(), ApiError> {
    for (name, value) in from.fields() {
        let region = |text: &str| Region::try_from(text.to_owned());
        match name {
            "only" => constraints.regions_only = hard_set(value, &from.path(name), region)?,
            "exclude" => constraints.regions_exclude = set(value, &from.path(name), region)?,
            _ => return Err(invalid(from.path(name), "is no field of `stoa.regions`")),
        }
    }
    Ok(())
}

fn providers(from: &Object<'_>, constraints: &mut Constraints) -> Result<(), ApiError> {
    for (name, value) in from.fields() {
        let path = from.path(name);
        let address = |text: &str| text.to_ascii_lowercase().parse::<Address>();
        match name {
            "only" => constraints.providers_only = hard_set(value, &path, address)?,
            "ignore" => constraints.providers_ignore = set(value, &path, address)?,
            "order" | "allow_fallbacks" => return Err(unknown_provider_field(path)),
            _ => return Err(invalid(path, "is no field of `stoa.providers`")),
        }
    }
    Ok(())
}

fn unknown_provider_field(path: String) -> ApiError {
    unsupported(
        path,
        "this router does not offer it yet, and does not ignore it in silence",
    )
}

/// A set that limits to its members: an empty one would read as "any", so it is refused.
fn hard_set<T: Ord, E: ToString>(
    value: &Json,
    path: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<BTreeSet<T>, ApiError> {
    let set = set(value, path, read)?;
    if set.is_empty() {
        return Err(invalid(
            path,
            "leaves nothing to choose from; leave the field out to allow all",
        ));
    }
    Ok(set)
}

fn set<T: Ord, E: ToString>(
    value: &Json,
    path: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<BTreeSet<T>, ApiError> {
    let Json::Array(items) = value else {
        return Err(invalid(
            path,
            format!("must be an array, not {}", value.kind()),
        ));
    };
    let item = |(index, item): (usize, &Json)| {
        let path = format!("{path}[{index}]");
        read(text_at(item, &path)?).map_err(|error| invalid(path, clip(&error.to_string(), 160)))
    };
    items.iter().enumerate().map(item).collect()
}
