//! What may come next: rules that an answer is held to while it is chosen (`docs/iq8.md`, section 6).
//!
//! The engine knows no grammar. Whoever does gives it the set of tokens that may follow; a token outside of it counts as if the
//! vocabulary did not have it.

use std::fmt;

/// A set of token ids, one bit for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenSet {
    words: Vec<u32>,
}

impl TokenSet {
    /// No token of a vocabulary of `size`.
    pub fn none(size: usize) -> Self {
        Self {
            words: vec![0; size.div_ceil(32)],
        }
    }

    /// Every token of a vocabulary of `size`.
    pub fn all(size: usize) -> Self {
        let mut set = Self {
            words: vec![u32::MAX; size.div_ceil(32)],
        };
        let beyond = set.words.len() * 32 - size;
        if let Some(last) = set.words.last_mut() {
            *last >>= beyond;
        }
        set
    }

    /// Takes over the bits of `words`, of which the lowest of the first is token 0. Nothing is allocated where they fit.
    pub fn copy_from(&mut self, words: &[u32]) {
        self.words.clear();
        self.words.extend_from_slice(words);
    }

    /// Adds a token; one beyond the vocabulary is no token.
    pub fn insert(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word |= 1 << (id % 32);
        }
    }

    /// Takes a token out.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Whether a token belongs to it.
    pub fn contains(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 32);
        word.is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// The tokens below `limit`, in order.
    pub fn ids(&self, limit: usize) -> impl Iterator<Item = u32> + Clone + '_ {
        let words = (0u32..).step_by(32).zip(&self.words);
        words
            .flat_map(|(base, word)| {
                let mut rest = *word;
                std::iter::from_fn(move || {
                    let bit = rest.trailing_zeros();
                    rest &= rest.wrapping_sub(1);
                    (bit < 32).then_some(base + bit)
                })
            })
            .take_while(move |id| (*id as usize) < limit)
    }
}

/// Why an answer cannot go on under its constraint. It follows from the tokens so far alone, so everybody who computes the answer
/// meets it at the same token. After the first token it ends the answer as a limit does; nobody hears of it but who asks for a first one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer cannot go on under its grammar: {reason}; ask for a simpler grammar or schema")]
pub struct ConstraintError {
    /// What is in the way.
    pub reason: String,
}

impl ConstraintError {
    /// An error with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// Follows one answer and says what may come next. The same tokens always give the same sets, on every machine.
pub trait Constraint: fmt::Debug + Send {
    /// Tokens of which the next one is chosen; `None` where every token may come. Tokens that end an answer belong to the set exactly
    /// where the answer may end. Asked again before the next [`Constraint::accept`], it says the same at no cost.
    fn allowed(&mut self) -> Result<Option<&TokenSet>, ConstraintError>;

    /// Takes the token that was chosen, which does not end the answer.
    fn accept(&mut self, id: u32) -> Result<(), ConstraintError>;

    /// Steps that sets took to make since this was last asked, also those that met a bound; each takes some hundred nanoseconds. Whoever
    /// shares time out counts them. They change nothing else.
    fn take_steps(&mut self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_into_it_and_nothing_beyond_the_vocabulary() {
        for size in [1, 31, 32, 33, 64, 100] {
            let all: Vec<u32> = TokenSet::all(size).ids(usize::MAX).collect();
            assert_eq!(all, (0..size as u32).collect::<Vec<_>>());
            let mut set = TokenSet::none(size);
            assert_eq!(set.ids(usize::MAX).count(), 0);
            set.insert(size as u32 - 1);
            set.insert(1 << 20);
            assert_eq!(set.ids(usize::MAX).collect::<Vec<_>>(), [size as u32 - 1]);
            assert!(set.contains(size as u32 - 1) && !set.contains(1 << 20));
            assert_eq!(set.ids(size - 1).count(), 0);
            set.remove(size as u32 - 1);
            assert_eq!(set, TokenSet::none(size));
        }
        let mut set = TokenSet::default();
        set.copy_from(&[0b101, 1]);
        assert_eq!(set.ids(usize::MAX).collect::<Vec<_>>(), [0, 2, 32]);
    }
}
