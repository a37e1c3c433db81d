//! What is billed of an upstream server's answer: units, and where its text stands in them.
//!
//! The unit is the token as the server counts it while it streams, bounded by what is seen: a piece of text is one unit, or as many
//! as the server's running count says, but never more than it has bytes. At the end the server's own `usage` is held against the sum,
//! and the smaller one is billed. A unit's id is the number of bytes that came with it (0 for the further units of one piece), so that
//! the root over the ids says how the answer was cut. Marks that are put around reasoning here came with nothing and count nothing.

use super::UpstreamFault;
use super::reasoning::Woven;
use super::stream::Usage;

/// Bytes of text that one unit may stand for; the router takes no more than 1,024.
const UNIT_BYTES_MAX: usize = 1000;

/// Units with the text that leaves with them; none where nothing leaves yet.
type Units = (Vec<u32>, String);

/// Counts pieces and says what of them may be handed on.
pub(crate) struct Teller {
    /// Units that were ordered.
    most: u32,
    /// Units handed on or waiting.
    units: u32,
    /// The server's running count at the last piece.
    counted: u64,
    /// Units that wait for the text that is certain only later: the last one that may be used, or one that stands for something
    /// not shown yet.
    waiting: Vec<u32>,
    /// Text that leaves with them.
    text: String,
    /// Text is held back until it was judged as a whole.
    withhold: bool,
}

impl Teller {
    pub fn new(most: u32, withhold: bool) -> Self {
        Self {
            most,
            units: 0,
            counted: 0,
            waiting: Vec::new(),
            text: String::new(),
            withhold,
        }
    }

    /// Units so far.
    pub fn units(&self) -> u32 {
        self.units
    }

    /// Text that is held back.
    pub fn held(&self) -> &str {
        &self.text
    }

    /// Takes one piece: a text, of which the server did not send all, beside `hidden` bytes that are not shown now. Gives what leaves.
    pub fn piece(
        &mut self,
        Woven { text, added, .. }: &Woven,
        hidden: usize,
        so_far: Option<u64>,
    ) -> Result<Units, UpstreamFault> {
        let bytes = text.len() + hidden;
        if bytes == 0 {
            return Ok(Units::default());
        }
        let ids = self.ids(bytes, *added, so_far);
        if ids.is_empty() {
            // More pieces than ordered tokens: their text belongs to the last one.
            self.text.push_str(text);
            return self.check_held().map(|()| Units::default());
        }
        if self.withhold {
            let before = std::mem::replace(&mut self.waiting, ids);
            self.text.push_str(text);
            self.check_held()?;
            return Ok((before, String::new()));
        }
        let mut all = std::mem::take(&mut self.waiting);
        let mut shown = std::mem::take(&mut self.text);
        if hidden > 0 || self.units >= self.most {
            self.waiting = ids;
            self.text.push_str(text);
            self.check_held()?;
        } else {
            all.extend(ids);
            shown.push_str(text);
        }
        Ok((all, shown))
    }

    /// What waits, with the text that is certain now. Nothing is left to say after it.
    pub fn end(&mut self, text: String) -> Units {
        let mut ids = std::mem::take(&mut self.waiting);
        self.text.clear();
        if ids.is_empty() && !text.is_empty() {
            ids = self.ids(text.len(), 0, None);
        }
        (ids, text)
    }

    /// The units of a piece of so many bytes, of which the server did not send `added`, as far as they were ordered.
    fn ids(&mut self, bytes: usize, added: usize, so_far: Option<u64>) -> Vec<u32> {
        let told = so_far.map_or(1, |now| now.saturating_sub(self.counted));
        self.counted = so_far.map_or(self.counted, |now| now.max(self.counted));
        let least = bytes.div_ceil(UNIT_BYTES_MAX) as u64;
        let sent = bytes.saturating_sub(added);
        let count = told.clamp(least, (sent as u64).max(least));
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let count = count.min(self.most.saturating_sub(self.units));
        self.units += count;
        (0..count)
            .map(|n| match n {
                0 => u32::try_from(sent).unwrap_or(u32::MAX),
                _ => 0,
            })
            .collect()
    }

    fn check_held(&self) -> Result<(), UpstreamFault> {
        let room = (self.units.max(1) as usize).saturating_mul(UNIT_BYTES_MAX);
        if self.text.len() > room {
            return Err(UpstreamFault::TooMuch { most: self.most });
        }
        Ok(())
    }
}

/// What is billed: never more than was seen or accepted, never more than the server says.
pub(crate) fn reconcile(usage: Usage, input_bound: u64, units: u32) -> Usage {
    let billed = Usage {
        prompt_tokens: usage.prompt_tokens.min(input_bound),
        completion_tokens: usage.completion_tokens.min(u64::from(units)),
    };
    // The end token is counted by servers and brings no piece.
    let end_token = usage.completion_tokens == u64::from(units) + 1;
    let output_differs = usage.completion_tokens != u64::from(units) && !end_token;
    for (differs, kind) in [
        (usage.prompt_tokens > input_bound, "input"),
        (output_differs, "output"),
    ] {
        if differs {
            metrics::counter!("stoa_upstream_usage_differs_total", "kind" => kind).increment(1);
            tracing::info!(
                kind,
                says_input = usage.prompt_tokens,
                says_output = usage.completion_tokens,
                input_bound,
                units,
                billed_input = billed.prompt_tokens,
                billed_output = billed.completion_tokens,
                "the upstream server's usage differs from what was seen; the smaller count is billed"
            );
        }
    }
    billed
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = Vec<(Vec<u32>, String)>;

    fn leaves(units: &Units) -> bool {
        !units.0.is_empty()
    }

    fn sent(text: &str) -> Woven {
        Woven {
            text: text.to_owned(),
            ..Woven::default()
        }
    }

    /// Pieces of text, hidden bytes and running count; gives what was handed on before the end, and with it.
    fn tell(most: u32, withhold: bool, pieces: &[(&str, usize, Option<u64>)]) -> (Told, Told) {
        let mut teller = Teller::new(most, withhold);
        let mut take = |(text, hidden, so_far): &(&str, usize, Option<u64>)| {
            let piece = teller.piece(&sent(text), *hidden, *so_far);
            piece.expect("in bounds")
        };
        let told = pieces.iter().map(&mut take).filter(leaves).collect();
        let held = teller.held().to_owned();
        let end = teller.end(held);
        (told, [end].into_iter().filter(leaves).collect())
    }

    fn told(list: &[(&[u32], &str)]) -> Told {
        list.iter()
            .map(|(ids, text)| (ids.to_vec(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn a_piece_is_one_unit_and_leaves_at_once() {
        let (before, end) = tell(
            9,
            false,
            &[("He", 0, None), ("", 0, None), ("llo", 0, None)],
        );
        assert_eq!(before, told(&[(&[2], "He"), (&[3], "llo")]));
        assert_eq!(end, told(&[]));
    }

    #[test]
    fn a_running_count_is_believed_as_far_as_there_are_bytes() {
        let pieces = [
            ("Hello", 0, Some(2)),
            (" you", 0, Some(3)),
            ("!", 0, Some(99)),
            ("?", 0, Some(1)),
        ];
        let (before, _) = tell(99, false, &pieces);
        let expected = told(&[(&[5, 0], "Hello"), (&[4], " you"), (&[1], "!"), (&[1], "?")]);
        assert_eq!(before, expected);
    }

    #[test]
    fn marks_that_the_server_did_not_send_are_no_bytes_for_a_unit_to_stand_for() {
        let piece = Woven {
            text: "</think>so".to_owned(),
            added: 8,
            closes: true,
        };
        let mut teller = Teller::new(99, false);
        let units = teller.piece(&piece, 0, Some(9)).expect("in bounds");
        assert_eq!(units, (vec![2, 0], piece.text));
        // With them a piece may be longer than one unit can stand for.
        let long = Woven {
            text: "a".repeat(UNIT_BYTES_MAX + 8),
            ..piece
        };
        let units = teller.piece(&long, 0, Some(10)).expect("in bounds");
        assert_eq!(units.0, [UNIT_BYTES_MAX as u32, 0]);
    }

    #[test]
    fn a_long_piece_is_as_many_units_as_the_router_needs_for_its_bytes() {
        let long = "a".repeat(UNIT_BYTES_MAX * 2 + 1);
        let (before, _) = tell(9, false, &[(&long, 0, None)]);
        assert_eq!(before[0].0, [2001, 0, 0]);
    }

    #[test]
    fn more_pieces_than_tokens_were_ordered_leave_with_the_last_unit() {
        let (before, end) = tell(2, false, &[("a", 0, None), ("b", 0, None), ("c", 0, None)]);
        assert_eq!(before, told(&[(&[1], "a")]));
        assert_eq!(end, told(&[(&[1], "bc")]));
        let long = "a".repeat(2500);
        let mut teller = Teller::new(2, false);
        let fault = teller.piece(&sent(&long), 0, None).expect_err("too much");
        assert_eq!(fault.label(), "too_much");
    }

    #[test]
    fn what_must_be_judged_first_is_withheld_while_its_units_go_on() {
        let pieces = [("{", 0, None), ("\"a\":1", 0, None), ("}", 0, None)];
        let (before, end) = tell(9, true, &pieces);
        assert_eq!(before, told(&[(&[1], ""), (&[5], "")]));
        assert_eq!(end, told(&[(&[1], "{\"a\":1}")]));
        let (before, end) = tell(
            9,
            false,
            &[
                ("a ", 0, None),
                ("", 4, None),
                ("", 6, None),
                ("b", 0, None),
            ],
        );
        assert_eq!(before, told(&[(&[2], "a "), (&[4], ""), (&[6, 1], "b")]));
        assert_eq!(end, told(&[]));
    }

    #[test]
    fn the_smaller_count_is_billed() {
        let usage = |prompt_tokens, completion_tokens| Usage {
            prompt_tokens,
            completion_tokens,
        };
        assert_eq!(reconcile(usage(5, 9), 100, 8), usage(5, 8));
        assert_eq!(reconcile(usage(500, 4), 100, 8), usage(100, 4));
        assert_eq!(reconcile(usage(u64::MAX, u64::MAX), 0, 0), usage(0, 0));
    }
}
