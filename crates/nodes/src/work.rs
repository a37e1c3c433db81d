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
    /// What shape the answer must have.
    pub answer: AnswerShape,
}

/// Name of the rules by which the exact engine holds an answer to a grammar (0034). It stands in the parameters of every work that has one,
/// and so in its receipt, so that nobody recomputes an answer under other rules.
pub const GRAMMAR: &str = "stoa.grammar.v1";

/// What the names of all versions of these rules begin with. A number follows.
const GRAMMAR_NAMES: &str = "stoa.grammar.v";
/// Number of the version that [`GRAMMAR`] names.
const GRAMMAR_VERSION: u32 = 1;

/// Longest text of a schema or expression, in bytes.
pub const GRAMMAR_BYTES_MAX: usize = 64 << 10;

/// Most inputs of one call for vectors.
pub const INPUTS_MAX: usize = 2048;

const VERSION: &[u8] = b"stoa.work.v1";

impl Work {
    /// One byte form: version, the kind of prompt and its parts, the sampling parameters, the shape; every part with its length, integers
    /// big-endian. Its keccak stands in the ticket, so that router and provider cannot say later that something else was ordered.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        match &self.prompt {
            Prompt::Chat {
                messages,
                tools,
                arguments,
            } => {
                // Without arguments the bytes are those of before there were any.
                bytes.push(if arguments.is_empty() { 0 } else { 4 });
                push(&mut bytes, messages.as_bytes());
                push(&mut bytes, tools.as_bytes());
                if !arguments.is_empty() {
                    push(&mut bytes, arguments.as_bytes());
                }
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
        match &self.answer {
            AnswerShape::JsonSchema { schema, strict } => {
                bytes.push(u8::from(*strict));
                push(&mut bytes, schema.as_bytes());
            }
            AnswerShape::Regex(expression) => push(&mut bytes, expression.as_bytes()),
            _ => {}
        }
        bytes
    }

    /// The same work, with the rules of grammars named in its parameters where it has one, and nowhere else.
    pub fn with_rules(mut self) -> Self {
        self.sampling.grammar = grammar_rules(&self.prompt, &self.answer).to_owned();
        self
    }

    /// Whether its parameters name the rules of grammars that this program knows, exactly where a grammar has a say.
    pub fn has_rules(&self) -> bool {
        self.sampling.grammar == grammar_rules(&self.prompt, &self.answer)
    }

    /// Whether its parameters name rules that a version up to this one had where a grammar has a say (none before there were names), and
    /// none elsewhere. Newer ones count as invented: validators are brought up to date before routers.
    fn had_rules(&self) -> bool {
        let named = self.sampling.grammar.as_str();
        named.is_empty()
            || (were_rules(named) && !grammar_rules(&self.prompt, &self.answer).is_empty())
    }

    /// The inverse of [`Self::canonical_bytes`]; `None` for any other bytes, and for a work that names rules which no version up to this
    /// one had. One under the rules of an older version is read, so that it can be said that it is one: ask [`Self::has_rules`] before it
    /// is computed.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.strip_prefix(VERSION)?.split_first()?;
        let (first, rest) = pull(rest)?;
        let (prompt, rest) = match kind {
            0 | 4 => {
                let (tools, rest) = pull(rest)?;
                let (arguments, rest) = match kind {
                    0 => (&[][..], rest),
                    _ => pull(rest).filter(|(arguments, _)| !arguments.is_empty())?,
                };
                let prompt = Prompt::Chat {
                    messages: text(first)?,
                    tools: text(tools)?,
                    arguments: text(arguments)?,
                };
                (prompt, rest)
            }
            1 => (Prompt::Text(text(first)?), rest),
            2 => (Prompt::Tokens(ids(first)?), rest),
            3 => (embed(first)?, rest),
            _ => return None,
        };
        let (sampling, rest) = pull(rest)?;
        let (answer, rest) = AnswerShape::read(rest)?;
        let work = Self {
            prompt,
            sampling: SamplingParameters::from_canonical_bytes(sampling)?,
            answer,
        };
        (rest.is_empty() && work.had_rules()).then_some(work)
    }

    /// keccak of the canonical bytes: the ticket's `work_digest`.
    pub fn digest(&self) -> Digest {
        keccak256(self.canonical_bytes())
    }
}

/// Whether the rules of some version up to this one are called so.
fn were_rules(name: &str) -> bool {
    (0..=GRAMMAR_VERSION).any(|version| name == format!("{GRAMMAR_NAMES}{version}"))
}

/// What the parameters of such a work name: the rules of grammars where one has a say in the answer's tokens, nothing elsewhere.
pub fn grammar_rules(prompt: &Prompt, answer: &AnswerShape) -> &'static str {
    let held = match answer {
        AnswerShape::NoTools => false,
        AnswerShape::Any | AnswerShape::OneCallAtMost => {
            matches!(prompt, Prompt::Chat { tools, .. } if tools != "[]")
        }
        _ => true,
    };
    if held { GRAMMAR } else { "" }
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
        /// JSON object of further arguments for the template; empty for none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        arguments: String,
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

/// What an answer must be. Exact engines hold it to this while they decode, others check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Any text, or one tool call if tools were given.
    OneCallAtMost,
    /// One tool call.
    OneCall,
    /// JSON that fits a schema.
    JsonSchema {
        /// The schema as the client wrote it: its order is the order of the answer's properties.
        schema: String,
        /// Whether a keyword that cannot be enforced is refused instead of left out.
        strict: bool,
    },
    /// Text that a regular expression matches from begin to end.
    Regex(String),
}

impl AnswerShape {
    const fn code(&self) -> u8 {
        match self {
            Self::Any => 0,
            Self::JsonObject => 1,
            Self::ToolCall => 2,
            Self::NoTools => 3,
            Self::OneCallAtMost => 4,
            Self::OneCall => 5,
            Self::JsonSchema { .. } => 6,
            Self::Regex(_) => 7,
        }
    }

    /// The shape that `bytes` begin with, and what follows it.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (code, rest) = bytes.split_first()?;
        let plain = |shape| Some((shape, rest));
        match code {
            0 => plain(Self::Any),
            1 => plain(Self::JsonObject),
            2 => plain(Self::ToolCall),
            3 => plain(Self::NoTools),
            4 => plain(Self::OneCallAtMost),
            5 => plain(Self::OneCall),
            6 => {
                let (strict, rest) = rest.split_first()?;
                let (schema, rest) = pull(rest)?;
                let (schema, strict) = (text(schema)?, flag(*strict)?);
                Some((Self::JsonSchema { schema, strict }, rest))
            }
            7 => {
                let (expression, rest) = pull(rest)?;
                Some((Self::Regex(text(expression)?), rest))
            }
            _ => None,
        }
    }

    /// Whether the answer is one that a model may miss where nothing holds it to its shape.
    pub const fn is_demanding(&self) -> bool {
        !matches!(self, Self::Any | Self::NoTools | Self::OneCallAtMost)
    }

    /// Whether tools may be called.
    pub const fn may_call(&self) -> bool {
        matches!(
            self,
            Self::Any | Self::ToolCall | Self::OneCallAtMost | Self::OneCall
        )
    }

    /// Whether tools must be called.
    pub const fn must_call(&self) -> bool {
        matches!(self, Self::ToolCall | Self::OneCall)
    }
}

const fn flag(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stoa_types::Q16;

    prop_compose! {
        fn works()(
            kind in 0..5, a in ".{0,20}", b in ".{0,20}", ids in proptest::collection::vec(any::<u32>(), 0..9), shape in 0usize..9,
            temperature in any::<u32>(), min_p in any::<u32>(), seed in any::<u64>(), max_output_tokens in any::<u32>(),
            stop in proptest::collection::vec(".{0,5}", 0..4),
        ) -> Work {
            let prompt = match kind {
                0 => Prompt::Chat { messages: a, tools: b, arguments: String::new() },
                4 => Prompt::Chat { messages: a.clone(), tools: b, arguments: a },
                1 => Prompt::Text(a),
                2 => Prompt::Tokens(ids),
                _ => Prompt::Embed { inputs: vec![Input::Text(a), Input::Tokens(ids), Input::Text(b)], dimensions: seed as u32 },
            };
            let (temperature, min_p) = (Q16(temperature), Q16(min_p));
            let sampling = SamplingParameters { temperature, min_p, seed, max_output_tokens, stop, ..SamplingParameters::default() };
            Work { prompt, sampling, answer: shapes()[shape].clone() }.with_rules()
        }
    }

    fn shapes() -> [AnswerShape; 9] {
        let schema = |strict| AnswerShape::JsonSchema {
            schema: "{}".to_owned(),
            strict,
        };
        [
            AnswerShape::Any,
            AnswerShape::JsonObject,
            AnswerShape::ToolCall,
            AnswerShape::NoTools,
            AnswerShape::OneCallAtMost,
            AnswerShape::OneCall,
            schema(false),
            schema(true),
            AnswerShape::Regex("a*".to_owned()),
        ]
    }

    fn plain(prompt: Prompt) -> Work {
        let sampling = SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 0,
            max_output_tokens: 1,
            stop: Vec::new(),
            ..SamplingParameters::default()
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
            Prompt::Chat {
                messages,
                tools,
                arguments: String::new(),
            },
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
    fn the_name_of_the_rules_is_that_of_their_version() {
        assert_eq!(GRAMMAR, format!("{GRAMMAR_NAMES}{GRAMMAR_VERSION}"));
    }

    #[test]
    fn the_rules_of_grammars_are_named_by_every_work_that_has_one_and_by_no_other() {
        let chat = |tools: &str, answer: AnswerShape| {
            let (messages, tools) = ("[]".to_owned(), tools.to_owned());
            Work {
                answer,
                ..plain(Prompt::Chat {
                    messages,
                    tools,
                    arguments: String::new(),
                })
            }
        };
        for answer in shapes() {
            for tools in ["[]", "[{}]"] {
                let free = [
                    AnswerShape::Any,
                    AnswerShape::OneCallAtMost,
                    AnswerShape::NoTools,
                ];
                let called = answer.may_call() && tools != "[]";
                let work = chat(tools, answer.clone()).with_rules();
                let named = work.sampling.grammar == GRAMMAR;
                assert_eq!(
                    named,
                    called || !free.contains(&answer),
                    "{answer:?} {tools}"
                );
                assert_eq!(
                    Work::from_canonical_bytes(&work.canonical_bytes()),
                    Some(work.clone())
                );
                // What an older version ordered is read and known as not ours; what none ordered is not read.
                let old = (0..=GRAMMAR_VERSION).map(|n| (format!("stoa.grammar.v{n}"), named));
                let invented = ["v", "v00", "v+0", "v 0", "v0 ", "v4294967296", "v9"];
                let invented = invented.map(|end| (format!("stoa.grammar.{end}"), false));
                let others = [(String::new(), true), ("mine".to_owned(), false)];
                for (other, may_be) in old.chain(invented).chain(others) {
                    let mut changed = work.clone();
                    changed.sampling.grammar = other.clone();
                    let read = Work::from_canonical_bytes(&changed.canonical_bytes());
                    assert_eq!(read, may_be.then(|| changed.clone()), "{other}");
                    assert_eq!(changed.has_rules(), changed == work);
                }
            }
        }
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
