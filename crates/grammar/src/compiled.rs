//! A grammar that is ready, and the constraint of one answer.

use crate::calls;
use crate::error::{GrammarError, said};
use crate::grammar::Grammar;
use crate::marker::{Follow, Marker};
use crate::schema::{self, Reading};
use crate::sources::TRIAL_STACK_BYTES;
use crate::vocabulary::{STEPS_MAX, Vocabulary};
use crate::{SOURCE_BYTES_MAX, TOTAL_BYTES_MAX};
use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use serde_json::json;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use stoa_engine::{Constraint, ConstraintError, TokenSet};

/// Most expressions of a grammar's schemas that are tried by themselves; further ones are left out like those that failed.
const TRIED_MAX: usize = 16;

/// A grammar over a vocabulary, ready to begin answers. Clones share it; equal ones were made of equal grammars.
#[derive(Clone)]
pub struct Compiled {
    grammar: Arc<Grammar>,
    vocabulary: Vocabulary,
    /// At the grammar's begin, with only what compiling computed.
    matcher: Arc<Matcher>,
    marker: Option<Arc<Marker>>,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compiled({:?})", self.grammar)
    }
}

impl PartialEq for Compiled {
    fn eq(&self, other: &Self) -> bool {
        self.grammar == other.grammar
    }
}

impl Eq for Compiled {}

impl Compiled {
    /// The library goes down along `$ref`s as long as they chain, some kilobytes a step. Memory is taken as it is reached.
    const STACK_BYTES: usize = 2 * TRIAL_STACK_BYTES;

    /// Made on a stack of its own.
    pub(crate) fn on_own_stack(
        vocabulary: &Vocabulary,
        grammar: &Grammar,
    ) -> Result<Self, GrammarError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("stoa-grammar".to_owned())
                .stack_size(Self::STACK_BYTES)
                .spawn_scoped(scope, || Self::new(vocabulary, grammar))
                .map_err(|error| GrammarError::Machine(error.to_string()))?
                .join()
                .map_err(|_| GrammarError::Compile("it broke the grammar library".to_owned()))?
        })
    }

    /// Made on the caller's stack. May panic where the library does.
    pub(crate) fn new(vocabulary: &Vocabulary, grammar: &Grammar) -> Result<Self, GrammarError> {
        check_sizes(grammar)?;
        // Of all schemas together: however many tools there are, few expressions are tried.
        let tried = Cell::new(0);
        let takes = |expression: &str| {
            tried.set(tried.get() + 1);
            tried.get() <= TRIED_MAX && takes(vocabulary, expression)
        };
        let mut matcher = parser(vocabulary, grammar, Reading::Relaxed);
        // What the library says is not read: whatever it was, expressions are looked at one by one.
        if matches!(matcher, Err(GrammarError::Compile(_))) && is_relaxed(grammar) {
            matcher = parser(vocabulary, grammar, Reading::Tried(&takes));
        }
        let marker = match grammar {
            Grammar::Calls(calls) if !calls.required && calls.instead.is_none() => {
                Some(Arc::clone(calls.syntax.marker()))
            }
            _ => None,
        };
        let compiled = Self {
            grammar: Arc::new(grammar.clone()),
            vocabulary: vocabulary.clone(),
            matcher: Arc::new(matcher?),
            marker,
        };
        Ok(compiled)
    }

    /// The grammar.
    pub fn grammar(&self) -> &Grammar {
        &self.grammar
    }

    /// The constraint of a new answer. Nothing that another answer computed is shared, so that none can change another.
    pub fn begin(&self) -> Box<dyn Constraint> {
        let inside = Inside::new(&self.matcher, self.vocabulary.len());
        match &self.marker {
            None => Box::new(inside),
            Some(marker) => Box::new(AfterMarker {
                vocabulary: self.vocabulary.clone(),
                marker: Arc::clone(marker),
                begun: Some(0),
                inside,
            }),
        }
    }
}

/// The grammar's begin. `relaxed` says how schemas are read that are not strict.
fn parser(
    vocabulary: &Vocabulary,
    grammar: &Grammar,
    relaxed: Reading<'_>,
) -> Result<Matcher, GrammarError> {
    let source = match grammar {
        Grammar::Regex(expression) => TopLevelGrammar::from_regex(expression),
        Grammar::Calls(calls) => calls::grammar(vocabulary, calls, relaxed)?,
        json => {
            let schema = schema::of_answer(json, relaxed)?;
            TopLevelGrammar::from_json_schema(schema.unwrap_or_default())
        }
    };
    begun(vocabulary, source)
}

/// What nothing can meet is refused now and not while it is paid for.
fn begun(vocabulary: &Vocabulary, source: TopLevelGrammar) -> Result<Matcher, GrammarError> {
    let matcher = vocabulary.parser(source)?;
    let mut first = Inside::new(&matcher, vocabulary.len());
    match first.allowed() {
        Ok(_) => Ok(matcher),
        Err(error) => Err(GrammarError::Compile(error.reason)),
    }
}

/// Whether a text by itself can be held to an expression of a schema.
fn takes(vocabulary: &Vocabulary, expression: &str) -> bool {
    let alone = json!({"type": "string", "pattern": expression});
    let source = TopLevelGrammar::from_json_schema(schema::with_options(alone, false));
    begun(vocabulary, source).is_ok()
}

/// Whether some schema of it is not strict.
fn is_relaxed(grammar: &Grammar) -> bool {
    match grammar {
        Grammar::JsonSchema { strict, .. } => !strict,
        Grammar::Calls(calls) => {
            let instead = calls.instead.as_deref().is_some_and(is_relaxed);
            instead || calls.tools.iter().any(|tool| !tool.strict)
        }
        Grammar::JsonObject | Grammar::Regex(_) => false,
    }
}

fn check_sizes(grammar: &Grammar) -> Result<(), GrammarError> {
    let texts = grammar.texts();
    let too_large = |what, most: usize| {
        let most = most as u64;
        Err(GrammarError::TooLarge { what, most })
    };
    if texts.iter().any(|text| text.len() > SOURCE_BYTES_MAX) {
        return too_large("the bytes of a schema or expression", SOURCE_BYTES_MAX);
    }
    if texts.iter().map(|text| text.len()).sum::<usize>() > TOTAL_BYTES_MAX {
        return too_large("the bytes of all schemas together", TOTAL_BYTES_MAX);
    }
    Ok(())
}

/// An answer within a grammar.
struct Inside {
    matcher: Matcher,
    size: usize,
    set: TokenSet,
    /// Whether `set` is that of the next token.
    known: bool,
    /// Steps that sets took since they were last asked for.
    steps: u64,
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inside")
    }
}

impl Inside {
    fn new(matcher: &Matcher, size: usize) -> Self {
        Self {
            matcher: matcher.deep_clone(),
            size,
            set: TokenSet::none(size),
            known: false,
            steps: 0,
        }
    }
}

impl Constraint for Inside {
    fn allowed(&mut self) -> Result<Option<&TokenSet>, ConstraintError> {
        if !self.known {
            let mask = self.matcher.compute_mask_or_eos();
            let mask = mask.map_err(|error| {
                // Most likely the one bound that a set can meet.
                self.steps = self.steps.saturating_add(STEPS_MAX);
                ConstraintError::new(said(error))
            })?;
            self.set.copy_from(mask.as_slice());
            let took = self.matcher.last_step_stats().map_or(0, |took| {
                took.lexer_cost + (took.all_items + took.trie_nodes_walked) as u64
            });
            self.steps = self.steps.saturating_add(took);
            if self.set.ids(self.size).next().is_none() {
                let reason = "no token of the model's vocabulary may follow";
                return Err(ConstraintError::new(reason));
            }
            self.known = true;
        }
        Ok(Some(&self.set))
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        self.known = false;
        self.matcher
            .consume_token(id)
            .map_err(|error| ConstraintError::new(said(error)))
    }

    fn take_steps(&mut self) -> u64 {
        std::mem::take(&mut self.steps)
    }
}

/// An answer that is free until a marker stands in it.
#[derive(Debug)]
struct AfterMarker {
    vocabulary: Vocabulary,
    marker: Arc<Marker>,
    /// Bytes of the marker that the text ends with; nothing once it was met.
    begun: Option<usize>,
    inside: Inside,
}

impl Constraint for AfterMarker {
    fn allowed(&mut self) -> Result<Option<&TokenSet>, ConstraintError> {
        match self.begun {
            Some(begun) => Ok(self.marker.allowed(begun)),
            None => self.inside.allowed(),
        }
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        let Some(begun) = self.begun else {
            return self.inside.accept(id);
        };
        self.begun = match self.marker.follow(begun, self.vocabulary.text(id)) {
            Follow::Begun(begun) => Some(begun),
            Follow::Met => None,
            Follow::Beyond => {
                let reason = "a token goes beyond the marker that begins a call";
                return Err(ConstraintError::new(reason));
            }
        };
        Ok(())
    }

    fn take_steps(&mut self) -> u64 {
        self.inside.take_steps()
    }
}
