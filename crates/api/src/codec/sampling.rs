//! Fields that chat and text completions share: sampling, length, stop, streaming.

use super::object::{Object, integer_at, invalid, number_at, text_at};
use crate::error::ApiError;
use crate::json::{Json, clip};
use std::collections::BTreeMap;
use stoa_nodes::client::{CHOICES_MAX, Controls};
use stoa_types::{
    LOGIT_BIAS_ENTRIES_MAX, LOGIT_BIAS_MAX, PENALTY_MAX, Q16, STOP_BYTES_MAX, STOP_STRINGS_MAX,
    SignedQ16, TOP_LOGPROBS_MAX,
};

/// Most ignored fields that an answer names.
const NAMES_MAX: usize = 32;

/// What decides the tokens besides the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sampling {
    pub(super) temperature: Q16,
    pub(super) min_p: Q16,
    pub(super) seed: Option<u64>,
    pub(super) stop: Vec<String>,
    pub(super) controls: Controls,
    pub(super) choices: u32,
}

/// Where nothing is drawn.
pub(super) fn no_sampling() -> Sampling {
    Sampling {
        temperature: Q16(0),
        min_p: Q16(0),
        seed: Some(0),
        stop: Vec::new(),
        controls: Controls::default(),
        choices: 1,
    }
}

/// Reads the sampling fields; what has no effect here is checked and noted.
pub(super) fn sampling(root: &Object<'_>, ignored: &mut Vec<String>) -> Result<Sampling, ApiError> {
    let fixed = |name, value: Option<f64>, default| {
        value.map_or(Ok(default), |value| {
            Q16::from_f64(value).ok_or_else(|| invalid(name, "is no number that can be used"))
        })
    };
    let temperature = fixed(
        "temperature",
        root.number("temperature", 0.0, 2.0)?,
        Q16::ONE,
    )?;
    let min_p = fixed("min_p", root.number("min_p", 0.0, 1.0)?, Q16(0))?;
    let top_p = root.number("top_p", 0.0, 1.0)?;
    if top_p.is_some_and(|value| value != 1.0) {
        ignored.push("top_p".to_owned());
    }
    let controls = Controls {
        logit_bias: logit_bias(root)?,
        presence_penalty: penalty(root, "presence_penalty")?,
        frequency_penalty: penalty(root, "frequency_penalty")?,
        logprobs: None,
    };
    Ok(Sampling {
        temperature,
        min_p,
        seed: seed(root)?,
        stop: stop(root)?,
        controls,
        choices: choices(root)?,
    })
}

/// A 64-bit number, signed or not, whose bits are the seed: a caller's may be negative, and those of further choices are shown as they are.
fn seed(root: &Object<'_>) -> Result<Option<u64>, ApiError> {
    let seed = root.integer("seed", i128::from(i64::MIN), i128::from(u64::MAX))?;
    // Two's complement: the low 64 bits of either.
    Ok(seed.map(|seed| seed as u64))
}

fn stop(root: &Object<'_>) -> Result<Vec<String>, ApiError> {
    let list = match root.get("stop") {
        None => return Ok(Vec::new()),
        Some(Json::Text(text)) => vec![(text.as_str(), "stop".to_owned())],
        Some(_) => {
            let items = root.array("stop")?.unwrap_or_default().iter().enumerate();
            let text = |(index, item)| {
                let path = format!("stop[{index}]");
                text_at(item, &path).map(|text| (text, path))
            };
            items.map(text).collect::<Result<Vec<_>, _>>()?
        }
    };
    if list.len() > STOP_STRINGS_MAX {
        return Err(invalid(
            "stop",
            format!("must hold at most {STOP_STRINGS_MAX} strings"),
        ));
    }
    let check = |(text, path): (&str, String)| match text.len() {
        0 => Err(invalid(
            path,
            "must not be empty: it would end every answer at once",
        )),
        n if n > STOP_BYTES_MAX => Err(invalid(
            path,
            format!("must have at most {STOP_BYTES_MAX} bytes"),
        )),
        _ => Ok(text.to_owned()),
    };
    list.into_iter().map(check).collect()
}

fn penalty(root: &Object<'_>, name: &str) -> Result<SignedQ16, ApiError> {
    let most = f64::from(PENALTY_MAX);
    let value = root.number(name, -most, most)?.unwrap_or_default();
    SignedQ16::from_f64(value).ok_or_else(|| invalid(name, "is no number that can be used"))
}

/// Ids with what is added to their logits. A value of 0 changes nothing, and its key need not be an id.
fn logit_bias(root: &Object<'_>) -> Result<BTreeMap<u32, SignedQ16>, ApiError> {
    let mut biases = BTreeMap::new();
    let Some(asked) = root.object("logit_bias")? else {
        return Ok(biases);
    };
    let most = f64::from(LOGIT_BIAS_MAX);
    // Each value as it is met: looking it up by name would take the square of their number.
    for (index, (token, value)) in asked.fields().enumerate() {
        if index == LOGIT_BIAS_ENTRIES_MAX {
            let reason = format!("must name at most {LOGIT_BIAS_ENTRIES_MAX} tokens");
            return Err(invalid("logit_bias", reason));
        }
        let path = asked.path(token);
        let value = number_at(value, &path, -most, most)?;
        let Some(bias) = SignedQ16::from_f64(value).filter(|bias| !bias.is_zero()) else {
            continue;
        };
        // One id has one spelling, so that none can be named twice: the reader refuses a name that stands twice.
        let id = token
            .parse::<u32>()
            .ok()
            .filter(|id| id.to_string() == token);
        let id = id.ok_or_else(|| invalid(path, "is no token id"))?;
        biases.insert(id, bias);
    }
    Ok(biases)
}

/// `n`: how many answers, each a job with a receipt and a charge of its own.
fn choices(root: &Object<'_>) -> Result<u32, ApiError> {
    // 0 counts as absent.
    if root.integer("best_of", 0, 128)?.is_some_and(|n| n > 1) {
        let reason = "must be 1: every answer that is computed is charged and shown; ask for `n` choices and take the best";
        return Err(invalid("best_of", reason));
    }
    let asked = root.integer("n", 1, i128::from(CHOICES_MAX))?;
    Ok(asked.map_or(1, |n| u32::try_from(n).expect("the range was checked")))
}

/// `stream` and `stream_options.include_usage`.
pub(super) fn streaming(root: &Object<'_>) -> Result<(bool, bool), ApiError> {
    let stream = root.boolean("stream")?.unwrap_or_default();
    let options = root.object("stream_options")?;
    let usage = match &options {
        Some(options) => options.boolean("include_usage")?.unwrap_or_default(),
        None => false,
    };
    Ok((stream, stream && usage))
}

/// How many alternatives to each token of a chat's answer, where log-probabilities are asked for.
pub(super) fn chat_logprobs(root: &Object<'_>) -> Result<Option<u8>, ApiError> {
    let asked = root.boolean("logprobs")?.unwrap_or_default();
    let top = root.integer("top_logprobs", 0, i128::from(TOP_LOGPROBS_MAX))?;
    let top = u8::try_from(top.unwrap_or_default()).expect("the range was checked");
    if top > 0 && !asked {
        return Err(invalid("top_logprobs", "needs `logprobs` to be true"));
    }
    Ok(asked.then_some(top))
}

/// Token ids of a prompt.
pub(super) fn token_ids(items: &[Json], path: &str) -> Result<Vec<u32>, ApiError> {
    let id = |(index, item): (usize, &Json)| {
        let id = integer_at(item, &format!("{path}[{index}]"), 0, i128::from(u32::MAX))?;
        Ok(u32::try_from(id).expect("the range was checked"))
    };
    items.iter().enumerate().map(id).collect()
}

/// Notes fields that are recognised and would change the answer elsewhere, and fields that nobody knows.
pub(super) fn note_ignored(
    root: &Object<'_>,
    effective: &[&str],
    silent: &[&str],
    ignored: &mut Vec<String>,
) {
    for (name, value) in root.fields() {
        let harmless = match (name, value) {
            ("store", Json::Bool(wanted)) => !wanted,
            ("service_tier", Json::Text(tier)) => matches!(tier.as_str(), "auto" | "default"),
            ("modalities", Json::Array(kinds)) => *kinds == [Json::text("text")],
            ("reasoning_effort", Json::Text(effort)) => effort == "none",
            ("suffix", Json::Text(suffix)) => suffix.is_empty(),
            _ => effective.contains(&name) || silent.contains(&name),
        };
        if !harmless && ignored.len() < NAMES_MAX {
            ignored.push(clip(name, 64));
        }
    }
    // Tools and calls were noted before: a body of nothing else must not come back in every answer.
    ignored.truncate(NAMES_MAX);
}
