//! Guesses at the next tokens of an answer, so that one pass gives more than one of them.
//!
//! What follows the last few tokens where they stood before, in the prompt or in the answer, is guessed to follow again. The guesses go
//! through the model as rows of their own; a row whose token was not the one that is chosen is taken back. So what is chosen is chosen
//! from the same logits as without guesses, and no bit of an answer depends on them. (Prompt look-up decoding, without a second model.)

/// Most tokens that are guessed at a time: with the one before them they fill the rows that a kernel takes together.
const MOST: usize = 3;
/// Tokens that must have stood before in the same order.
const ALIKE: usize = 3;
/// Estimates are shares of this.
const WHOLE: u32 = 1 << 16;
/// What is thought of guesses of which nothing is known.
const UNKNOWN: u32 = WHOLE / 16 * 9;
/// Weights that fit into a core's own cache.
const CACHED: u64 = 16 << 20;

/// Rows that take as long as a pass does besides its own: the weights are read once for all. Measured with the example `guesses`: 7.4 with
/// 100 MB of weights, 1.0 with the 2.6 MB of the default model.
pub(super) fn reading(weights: u64) -> u32 {
    if weights > CACHED { 7 } else { 1 }
}

/// How well an answer can be guessed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guesses {
    /// Share of guesses that came true, the last ones counting most.
    right: u32,
}

impl Default for Guesses {
    fn default() -> Self {
        Self { right: UNKNOWN }
    }
}

impl Guesses {
    /// How many tokens are worth guessing in a pass that has `rows` rows already: a row must more likely save a token of the others' time
    /// than it costs. `reading`: see [`reading`].
    pub fn worth(self, rows: usize, reading: u32) -> usize {
        let (mut likely, mut count) = (self.right, 0);
        while count < MOST {
            let rows = (rows + count) as u32;
            if likely <= WHOLE / (reading + rows) * rows {
                break;
            }
            likely = (u64::from(likely) * u64::from(self.right) / u64::from(WHOLE)) as u32;
            count += 1;
        }
        count
    }

    /// Learns from a pass that guessed `guessed` tokens, of which the first `right` were chosen.
    pub fn learn(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            // What was once hard to guess may have become easy.
            let towards = UNKNOWN.saturating_sub(self.right);
            self.right += towards / 64;
            return;
        }
        for _ in 0..right {
            self.right += (WHOLE - self.right) / 8;
        }
        if right < guessed {
            self.right -= self.right / 4;
        }
    }
}

/// Appends up to `most` tokens that may follow `tokens`; their number.
pub(super) fn guess(tokens: &mut Vec<u32>, most: usize) -> usize {
    let length = tokens.len();
    if most == 0 || length <= ALIKE {
        return 0;
    }
    let (before, last) = (&tokens[..length - 1], &tokens[length - ALIKE..]);
    // The latest place is the likeliest.
    let found = before.windows(ALIKE).rposition(|window| window == last);
    let Some(found) = found else { return 0 };
    let from = found + ALIKE;
    let to = (from + most).min(length);
    tokens.extend_from_within(from..to);
    to - from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_same_tokens_last_is_guessed() {
        let mut tokens = vec![1, 2, 3, 4, 1, 2, 3, 5, 6, 7, 1, 2, 3];
        assert_eq!(guess(&mut tokens, 3), 3);
        assert_eq!(tokens[13..], [5, 6, 7]);
        let mut near = vec![8, 8, 8, 8];
        assert_eq!((guess(&mut near, 3), near.len()), (1, 5));
        for nothing in [vec![], vec![1, 2, 3], vec![1, 2, 3, 4, 5]] {
            let mut tokens = nothing.clone();
            assert_eq!((guess(&mut tokens, 3), &tokens), (0, &nothing));
        }
        assert_eq!(guess(&mut vec![8, 8, 8, 8], 0), 0);
    }

    #[test]
    fn guesses_that_fail_end_and_are_tried_again_later_and_a_full_pass_needs_surer_ones() {
        let mut guesses = Guesses::default();
        assert!(guesses.worth(1, 7) > 0 && guesses.worth(60, 7) == 0);
        assert!(guesses.worth(1, 1) == 1 && guesses.worth(2, 1) == 0);
        for _ in 0..20 {
            guesses.learn(1, 0);
        }
        assert_eq!(guesses.worth(1, 7), 0);
        for _ in 0..500 {
            guesses.learn(0, 0);
        }
        assert!(guesses.worth(1, 7) > 0, "tried again");
        for _ in 0..40 {
            guesses.learn(3, 3);
        }
        assert_eq!(guesses.worth(4, 7), MOST);
    }
}
