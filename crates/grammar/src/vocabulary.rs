//! A tokenizer's tokens as grammars see them.

use crate::compiled::Compiled;
use crate::error::{GrammarError, said};
use crate::grammar::Grammar;
use llguidance::ParserFactory;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use std::fmt;
use std::sync::Arc;
use stoa_engine::Tokenizer;
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

/// Longest token that a grammar may use, in bytes. Longer ones are never allowed under one.
const TOKEN_BYTES_MAX: usize = 512;
/// Most bytes of all tokens together: what the tree of them can hold.
const TOTAL_BYTES_MAX: usize = 4_000_000;
/// Most tokens: ids of the tree have 24 bits.
const TOKENS_MAX: usize = 1 << 23;

/// The bounds of the work for one grammar and for one step of an answer, in the library's own units. They are steps and sizes: how long
/// a step takes has no say.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 200_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// About the steps that a set can take before it meets its bound.
pub(crate) const STEPS_MAX: u64 = LIMITS.step_lexer_fuel + LIMITS.step_max_items as u64;

/// The tokens of a model, made once. Clones share it.
#[derive(Clone)]
pub struct Vocabulary {
    shared: Arc<Shared>,
}

struct Shared {
    factory: ParserFactory,
    /// Bytes of every token, those of control tokens included.
    texts: Vec<Box<[u8]>>,
    /// Control tokens and those that end an answer: no letters to a grammar.
    control: Vec<bool>,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vocabulary({} tokens)", self.len())
    }
}

impl Vocabulary {
    /// The tokens of a tokenizer. Some tenths of a second for a hundred thousand of them.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let ids = 0..u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
        let ends: Vec<u32> = ids.clone().filter(|id| tokenizer.is_end(*id)).collect();
        let texts = ids
            .clone()
            .map(|id| tokenizer.bytes(id, true).into())
            .collect();
        let control = ids.map(|id| tokenizer.is_special(id)).collect();
        Self::of_parts(texts, control, &ends)
    }

    /// Tokens by their bytes, which of them are control tokens, and which end an answer.
    pub fn of_parts(
        texts: Vec<Box<[u8]>>,
        mut control: Vec<bool>,
        ends: &[u32],
    ) -> Result<Self, GrammarError> {
        let no = |reason: &str| GrammarError::Vocabulary(reason.to_owned());
        if ends.is_empty() {
            return Err(no("it has no token that ends an answer"));
        }
        if texts.len() > TOKENS_MAX || texts.len() != control.len() {
            return Err(no("its tokens are too many"));
        }
        for end in ends {
            let known = control.get_mut(*end as usize);
            *known.ok_or_else(|| no("a token that ends answers is unknown"))? = true;
        }
        let words: Vec<Vec<u8>> = texts
            .iter()
            .zip(&control)
            .map(|(text, control)| letters(text, *control))
            .collect();
        if words.iter().map(Vec::len).sum::<usize>() > TOTAL_BYTES_MAX {
            return Err(no("its tokens are too long"));
        }
        let size = u32::try_from(texts.len()).map_err(|_| no("its tokens are too many"))?;
        let tree = TokTrie::from(&TokRxInfo::new(size, ends[0]), &words).with_eos_tokens(ends);
        // Says of itself that it does not cut texts as the model's tokenizer does, so nothing is forced and every token that fits is
        // allowed.
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(tree));
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError::Vocabulary(said(error)))?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        let shared = Shared {
            factory,
            texts,
            control,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.shared.texts.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes a grammar ready for answers. Some milliseconds for what people write. The library counts the parts of what it is given and not
    /// what it copies and compares while it joins them: a schema of a stranger is tried apart first ([`crate::Sources::try_out`]), where
    /// memory and time have an end.
    pub fn compile(&self, grammar: &Grammar) -> Result<Compiled, GrammarError> {
        Compiled::on_own_stack(self, grammar)
    }

    pub(crate) fn parser(
        &self,
        grammar: TopLevelGrammar,
    ) -> Result<llguidance::Matcher, GrammarError> {
        let parser = self.shared.factory.create_parser(grammar);
        let matcher = llguidance::Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(GrammarError::Compile(said(error))),
            None => Ok(matcher),
        }
    }

    /// Every token with its bytes.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0u32..).zip(self.shared.texts.iter().map(|text| &**text))
    }

    /// Bytes of a token; none of an unknown one.
    pub(crate) fn text(&self, id: u32) -> &[u8] {
        self.shared
            .texts
            .get(id as usize)
            .map_or(&[], |text| &**text)
    }

    /// The control token that is written like this.
    pub(crate) fn control(&self, text: &str) -> Option<u32> {
        let found = self
            .texts()
            .find(|(id, bytes)| self.shared.control[*id as usize] && *bytes == text.as_bytes());
        found.map(|(id, _)| id)
    }
}

/// What a token is to a grammar: its bytes; nothing where it is a control token, too long, or holds the byte that no text has and that
/// the library uses as a mark of its own.
fn letters(text: &[u8], control: bool) -> Vec<u8> {
    if control || text.len() > TOKEN_BYTES_MAX || text.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return Vec::new();
    }
    text.to_vec()
}
