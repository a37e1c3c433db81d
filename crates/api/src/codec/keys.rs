//! The bodies of key management and of signing in. A field that is not known is refused: a misspelt limit must not be no limit.

use super::object::{Object, invalid, text_at};
use super::parse;
use crate::error::ApiError;
use crate::json::Json;
use crate::keys::{Grant, MODELS_MAX, NewKey, Period, RateLimit, Scope, SpendLimit};
use std::collections::BTreeSet;
use stoa_types::{Millis, TokenAmount};

const NAME_MAX: usize = 100;
/// Ten years.
const LIFETIME_SECONDS_MAX: i128 = 10 * 365 * 86_400;
/// Longest time for which a replaced secret is still accepted: a week.
const GRACE_SECONDS_MAX: i128 = 7 * 86_400;

fn only(object: &Object<'_>, known: &[&str]) -> Result<(), ApiError> {
    match object.fields().find(|(name, _)| !known.contains(name)) {
        Some((name, _)) => Err(invalid(object.path(name), "there is no such field")),
        None => Ok(()),
    }
}

/// Reads the body of `POST /v1/stoa/keys`.
pub(crate) fn parse_new_key(body: &[u8]) -> Result<NewKey, ApiError> {
    let json = parse(body)?;
    let root = Object::root(&json)?;
    only(
        &root,
        &[
            "name",
            "routes",
            "models",
            "spend_limit",
            "rate_limit",
            "expires_in_seconds",
        ],
    )?;
    let name = root.text("name")?.unwrap_or_default();
    if name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        let reason = format!("must have at most {NAME_MAX} characters, all printable");
        return Err(invalid("name", reason));
    }
    let lifetime = root.integer("expires_in_seconds", 1, LIFETIME_SECONDS_MAX)?;
    Ok(NewKey {
        name: name.to_owned(),
        grant: Grant {
            routes: words(&root, "routes", Scope::ALL.len(), scope)?,
            models: words(&root, "models", MODELS_MAX, model)?,
            spend_limit: root
                .object("spend_limit")?
                .as_ref()
                .map(spend_limit)
                .transpose()?,
            rate_limit: root
                .object("rate_limit")?
                .as_ref()
                .map(rate_limit)
                .transpose()?,
            expires_at: None,
        },
        lifetime: lifetime.map(seconds),
    })
}

fn seconds(seconds: i128) -> Millis {
    Millis::from_secs(u64::try_from(seconds).expect("the range was checked"))
}

/// A list without repetitions; an empty one would be a key that may do nothing.
fn words<T: Ord>(
    root: &Object<'_>,
    name: &str,
    most: usize,
    read: fn(&str, &str) -> Result<T, ApiError>,
) -> Result<Option<BTreeSet<T>>, ApiError> {
    let Some(items) = root.array(name)? else {
        return Ok(None);
    };
    if items.is_empty() || items.len() > most {
        return Err(invalid(name, format!("must have 1 to {most} entries")));
    }
    let entry = |(index, item): (usize, &Json)| {
        let path = format!("{name}[{index}]");
        read(text_at(item, &path)?, &path)
    };
    items
        .iter()
        .enumerate()
        .map(entry)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn scope(text: &str, path: &str) -> Result<Scope, ApiError> {
    let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
    found.ok_or_else(|| invalid(path, "must be one of inference, models, jobs, account"))
}

fn model(text: &str, path: &str) -> Result<String, ApiError> {
    match text.chars().count() {
        1..=256 => Ok(text.to_owned()),
        _ => Err(invalid(path, "must have 1 to 256 characters")),
    }
}

fn spend_limit(limit: &Object<'_>) -> Result<SpendLimit, ApiError> {
    only(limit, &["amount", "period"])?;
    let amount = TokenAmount::parse(limit.required_text("amount", 40)?)
        .map_err(|error| invalid(limit.path("amount"), error.to_string()))?;
    let period = limit.required_text("period", 16)?;
    let period = Period::ALL
        .into_iter()
        .find(|known| known.as_str() == period);
    let wrong = || invalid(limit.path("period"), "must be one of day, month, total");
    Ok(SpendLimit {
        amount,
        period: period.ok_or_else(wrong)?,
    })
}

fn rate_limit(limit: &Object<'_>) -> Result<RateLimit, ApiError> {
    only(limit, &["requests_per_minute", "tokens_per_minute"])?;
    let missing = |name| ApiError::Missing {
        param: limit.path(name),
    };
    let count = |name| {
        let found = limit.integer(name, 1, i128::from(u32::MAX))?;
        let found = found.ok_or_else(|| missing(name))?;
        Ok::<_, ApiError>(u32::try_from(found).expect("the range was checked"))
    };
    Ok(RateLimit {
        requests_per_minute: count("requests_per_minute")?,
        tokens_per_minute: count("tokens_per_minute")?.into(),
    })
}

/// Reads the body of `POST /v1/stoa/keys/{key}/rotate`: how long the secret before is still accepted. Nothing at all means not at all.
pub(crate) fn parse_rotation(body: &[u8]) -> Result<Millis, ApiError> {
    if body.is_empty() {
        return Ok(Millis(0));
    }
    let json = parse(body)?;
    let root = Object::root(&json)?;
    only(&root, &["old_valid_seconds"])?;
    let grace = root.integer("old_valid_seconds", 0, GRACE_SECONDS_MAX)?;
    Ok(seconds(grace.unwrap_or(0)))
}

/// Longest message and signature that are looked at.
const SIGNED_CHARS_MAX: usize = 8 << 10;

/// Reads the body of `POST /sign-in`: the message and its signature.
pub(crate) fn parse_sign_in(body: &[u8]) -> Result<(String, String), ApiError> {
    let json = parse(body)?;
    let root = Object::root(&json)?;
    only(&root, &["message", "signature"])?;
    let message = root.required_text("message", SIGNED_CHARS_MAX)?;
    let signature = root.required_text("signature", SIGNED_CHARS_MAX)?;
    Ok((message.to_owned(), signature.to_owned()))
}
