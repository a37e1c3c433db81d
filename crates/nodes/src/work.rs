//! What is asked of a model, as the provider gets it: already parsed, nothing left to interpret.

use serde::{Deserialize, Serialize};
use stoa_crypto::keccak256;
use stoa_types::{Digest, SamplingParameters};

/// One generation to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Prompt in one of its forms.
    pub prompt: Prompt,
    /// Integer sampling parameters, seed included.
    pub sampling: SamplingParameters,
    /// What shape the answer must have; checked after decoding.
    pub answer: AnswerShape,
}

/// Most inputs of one call for vectors.
pub const INPUTS_MAX: usize = 2048;

const VERSION: &[u8] = b"stoa.work.v1";

impl Work {
    /// One byte form: version, the kind of prompt and its parts, the sampling parameters, the shape; every part with its length, integers
    /// big-endian. Its keccak stands in the ticket, so that router and provider cannot say later that something else was ordered.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        match &self.prompt {
            Prompt::Chat { messages, tools } => {
                bytes.push(0);
                push(&mut bytes, messages.as_bytes());
                push(&mut bytes, tools.as_bytes());
            }
            Prompt::Text(text) => {
                bytes.push(1);
                push(&mut bytes, text.as_bytes());
            }
            Prompt::Tokens(ids) => {
                bytes.push(2);
                push(&mut bytes, &id_bytes(ids));
            }
            Prompt::Embed { inputs, dimensions } => {
                bytes.push(3);
                push(&mut bytes, &input_bytes(inputs, *dimensions));
            }
        }
        push(&mut bytes, &self.sampling.canonical_bytes());
        bytes.push(self.answer.code());
        bytes
    }

    /// The inverse of [`Self::canonical_bytes`]; `None` for any other bytes.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.strip_prefix(VERSION)?.split_first()?;
        let (first, rest) = pull(rest)?;
        let (prompt, rest) = match kind {
            0 => {
                let (tools, rest) = pull(rest)?;
                let (messages, tools) = (text(first)?, text(tools)?);
                (Prompt::Chat { messages, tools }, rest)
            }
            1 => (Prompt::Text(text(first)?), rest),
            2 => (Prompt::Tokens(ids(first)?), rest),
            3 => (embed(first)?, rest),
            _ => return None,
        };
        let (sampling, rest) = pull(rest)?;
        let [answer] = rest else {
            return None;
        };
        Some(Self {
            prompt,
            sampling: SamplingParameters::from_canonical_bytes(sampling)?,
            answer: AnswerShape::from_code(*answer)?,
        })
    }

    /// keccak of the canonical bytes: the ticket's `work_digest`.
    pub fn digest(&self) -> Digest {
        keccak256(self.canonical_bytes())
    }
}

fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend((part.len() as u64).to_be_bytes());
    bytes.extend(part);
}

fn pull(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn id_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_be_bytes()).collect()
}

/// The dimensions, then every input with its kind and length.
fn input_bytes(inputs: &[Input], dimensions: u32) -> Vec<u8> {
    let mut bytes = dimensions.to_be_bytes().to_vec();
    for input in inputs {
        match input {
            Input::Text(text) => {
                bytes.push(1);
                push(&mut bytes, text.as_bytes());
            }
            Input::Tokens(ids) => {
                bytes.push(2);
                push(&mut bytes, &id_bytes(ids));
            }
        }
    }
    bytes
}

fn embed(bytes: &[u8]) -> Option<Prompt> {
    let (dimensions, mut rest) = bytes.split_first_chunk()?;
    let mut inputs = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        let (input, after) = pull(after)?;
        inputs.push(match kind {
            1 => Input::Text(text(input)?),
            2 => Input::Tokens(ids(input)?),
            _ => return None,
        });
        rest = after;
    }
    let dimensions = u32::from_be_bytes(*dimensions);
    Some(Prompt::Embed { inputs, dimensions })
}

fn ids(bytes: &[u8]) -> Option<Vec<u32>> {
    let (ids, rest) = bytes.as_chunks();
    let ids = ids.iter().map(|id| u32::from_be_bytes(*id)).collect();
    rest.is_empty().then_some(ids)
}

/// Input of a generation. Messages and tools are JSON text (arrays), kept as the client wrote them but for normalised roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Prompt {
    /// Rendered through the model's chat template.
    Chat {
        /// JSON array of messages.
        messages: String,
        /// JSON array of tools; `[]` for none.
        tools: String,
    },
    /// Plain text, tokenized as it stands.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Texts whose vectors are asked for (0026): an output unit for each, in order.
    Embed {
        /// Each by itself, within the model's context.
        inputs: Vec<Input>,
        /// Elements of a vector, counted from the first; 0 for all.
        dimensions: u32,
    },
}

impl Prompt {
    /// How many vectors are asked for; `None` where the answer is a text.
    pub fn vectors(&self) -> Option<u32> {
        match self {
            Self::Embed { inputs, .. } => Some(u32::try_from(inputs.len()).unwrap_or(u32::MAX)),
            Self::Chat { .. } | Self::Text(_) | Self::Tokens(_) => None,
        }
    }
}

/// One text of which a vector is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// Tokenized as a plain prompt is.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// Shape that the decoded answer is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerShape {
    /// Any text; tool calls if tools were given.
    Any,
    /// A JSON object.
    JsonObject,
    /// At least one tool call.
    ToolCall,
    /// Text only, even if tools were given.
    NoTools,
}

impl AnswerShape {
    const ALL: [Self; 4] = [Self::Any, Self::JsonObject, Self::ToolCall, Self::NoTools];

    const fn code(self) -> u8 {
        match self {
            Self::Any => 0,
            Self::JsonObject => 1,
            Self::ToolCall => 2,
            Self::NoTools => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stoa_types::Q16;

    prop_compose! {
        fn works()(
            kind in 0..4, a in ".{0,20}", b in ".{0,20}", ids in proptest::collection::vec(any::<u32>(), 0..9), shape in 0usize..4,
            temperature in any::<u32>(), min_p in any::<u32>(), seed in any::<u64>(), max_output_tokens in any::<u32>(),
            stop in proptest::collection::vec(".{0,5}", 0..4),
        ) -> Work {
            let prompt = match kind {
                0 => Prompt::Chat { messages: a, tools: b },
                1 => Prompt::Text(a),
                2 => Prompt::Tokens(ids),
                _ => Prompt::Embed { inputs: vec![Input::Text(a), Input::Tokens(ids), Input::Text(b)], dimensions: seed as u32 },
            };
            let (temperature, min_p) = (Q16(temperature), Q16(min_p));
            let sampling = SamplingParameters { temperature, min_p, seed, max_output_tokens, stop };
            Work { prompt, sampling, answer: AnswerShape::ALL[shape] }
        }
    }

    fn plain(prompt: Prompt) -> Work {
        let sampling = SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 0,
            max_output_tokens: 1,
            stop: Vec::new(),
        };
        Work {
            prompt,
            sampling,
            answer: AnswerShape::Any,
        }
    }

    /// Works of these kinds stand in tickets and sealed files that were written before there were vectors.
    #[test]
    fn works_that_were_ordered_before_keep_their_digests() {
        let (messages, tools) = ("[]".to_owned(), "[]".to_owned());
        let digests = [
            Prompt::Chat { messages, tools },
            Prompt::Text("é".to_owned()),
            Prompt::Tokens(vec![1, 2]),
        ]
        .map(|prompt| plain(prompt).digest().to_string());
        assert_eq!(
            digests,
            [
                "0x90c19ac77cc2a48973090e556fcc666435c18d6668f7b38b2b16eb86c5ab2bdc",
                "0xea276610e17017983102ff59f3a37a6f822612c5d871c189fe58417edb35a97b",
                "0xae51450faa3c7b71976ffd19a827fd9b048030380ecd69aa98d6854dde770e67"
            ]
        );
    }

    #[test]
    fn inputs_cannot_be_shifted_into_each_other() {
        let embed = |inputs: &[&str], dimensions| {
            let inputs = inputs
                .iter()
                .map(|t| Input::Text((*t).to_owned()))
                .collect();
            plain(Prompt::Embed { inputs, dimensions }).digest()
        };
        assert_ne!(embed(&["ab", "c"], 0), embed(&["a", "bc"], 0));
        assert_ne!(embed(&["a", ""], 0), embed(&["a"], 0));
        assert_ne!(embed(&["a"], 0), embed(&["a"], 1));
        // The bytes of a text are no token ids.
        let ids = plain(Prompt::Embed {
            inputs: vec![Input::Tokens(vec![0x6162_6364])],
            dimensions: 0,
        });
        assert_ne!(ids.digest(), embed(&["abcd"], 0));
    }

    proptest! {
        #[test]
        fn canonical_bytes_are_read_back_and_two_works_have_two_digests(a in works(), b in works(), cut in any::<prop::sample::Index>()) {
            let bytes = a.canonical_bytes();
            prop_assert_eq!(Work::from_canonical_bytes(&bytes), Some(a.clone()));
            prop_assert_eq!(Work::from_canonical_bytes(&bytes[..cut.index(bytes.len())]), None);
            prop_assert_eq!(a.digest() == b.digest(), a == b);
        }

        #[test]
        fn what_is_read_from_changed_bytes_has_these_very_bytes(work in works(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = work.canonical_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Some(other) = Work::from_canonical_bytes(&bytes) {
                prop_assert_eq!(other.canonical_bytes(), bytes);
            }
        }
    }
}
