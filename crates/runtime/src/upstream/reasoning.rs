//! Reasoning that a server sets apart, put into the answer's one text: in front, between the marks of [`stoa_verify::reasoning`], as a
//! model writes it that knows them. So it is receipted with the rest, and whoever reads the answer sets it apart again.
//!
//! Reasoning that comes again behind other text stands there, between the same marks: nothing that is paid for is left out, and nothing
//! changes its place. A closing mark within reasoning is written with a blank in it, or the rest of it would pass for the answer.

use super::stream::Step;
use stoa_verify::reasoning::{CLOSE, OPEN, begun};

/// How a closing mark within reasoning is written.
const CLOSE_WITHIN: &str = "</think >";

/// Text of one step with the marks that belong there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Woven {
    pub text: String,
    /// Bytes of it that the server did not send.
    pub added: usize,
    /// Whether it begins with the mark that closes the reasoning before it.
    pub closes: bool,
}

/// Follows an answer's steps.
#[derive(Debug, Default)]
pub(crate) struct Weaver {
    inside: bool,
    /// The end of the reasoning so far with which a closing mark may begin.
    tail: String,
}

impl Weaver {
    /// The text of the next step. Reasoning that nothing follows stays open.
    pub fn step(&mut self, step: &Step) -> Woven {
        let (mut text, was_inside) = (String::new(), self.inside);
        if !step.thought.is_empty() {
            if !self.inside {
                text.push_str(OPEN);
            }
            self.inside = true;
            text.push_str(&self.thought(&step.thought));
        }
        let follows = !step.text.is_empty() || step.hidden > 0;
        let closes = self.inside && follows;
        if closes {
            *self = Self::default();
            text.push_str(CLOSE);
        }
        text.push_str(&step.text);
        Woven {
            added: text.len() - step.thought.len() - step.text.len(),
            closes: closes && was_inside && step.thought.is_empty(),
            text,
        }
    }

    /// More reasoning without a mark that closes it: of the mark at least the last letter is new.
    fn thought(&mut self, more: &str) -> String {
        let before = std::mem::take(&mut self.tail);
        let mut whole = (before.clone() + more).replace(CLOSE, CLOSE_WITHIN);
        self.tail = whole[whole.len() - begun(&whole)..].to_owned();
        whole.split_off(before.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_verify::reasoning::{Parts, split};

    /// Steps of reasoning, text and bytes of calls.
    fn weave(steps: &[(&str, &str, usize)]) -> (String, Vec<Woven>) {
        let mut weaver = Weaver::default();
        let woven = steps.iter().map(|(thought, text, hidden)| {
            weaver.step(&Step {
                thought: (*thought).to_owned(),
                text: (*text).to_owned(),
                hidden: *hidden,
                so_far: None,
            })
        });
        let woven: Vec<_> = woven.collect();
        let text = woven.iter().map(|woven| woven.text.as_str()).collect();
        (text, woven)
    }

    fn parts(reasoning: &str, content: &str) -> Parts {
        Parts {
            reasoning: reasoning.to_owned(),
            content: content.to_owned(),
        }
    }

    #[test]
    fn reasoning_stands_between_its_marks_before_what_follows_it() {
        for (steps, expected) in [
            (
                &[("a ", "", 0), ("b", "", 0), ("", "\n\nc", 0), ("", "d", 0)][..],
                "<think>a b</think>\n\ncd",
            ),
            // The end of one and the begin of the other in one piece.
            (&[("a", "", 0), ("b", "c", 0)], "<think>ab</think>c"),
            // Cut within it.
            (&[("a", "", 0), ("", "", 0)], "<think>a"),
            // A call follows it: what is not valid of the call becomes text.
            (
                &[("a", "", 0), ("", "", 5), ("", "", 5)],
                "<think>a</think>",
            ),
            (&[("", "a", 0), ("", "b", 0)], "ab"),
            // Again, behind other text.
            (
                &[("a", "", 0), ("", "b", 0), ("c", "", 0), ("", "d", 0)],
                "<think>a</think>b<think>c</think>d",
            ),
            // A server that sets nothing apart.
            (
                &[("", "<think>a", 0), ("", "</think>b", 0)],
                "<think>a</think>b",
            ),
        ] {
            let (text, woven) = weave(steps);
            assert_eq!(text, expected);
            let sent: usize = steps.iter().map(|(a, b, _)| a.len() + b.len()).sum();
            let added: usize = woven.iter().map(|woven| woven.added).sum();
            assert_eq!(text.len(), sent + added);
        }
        let (_, woven) = weave(&[("a", "", 0), ("", "b", 0), ("", "c", 0)]);
        let closes: Vec<_> = woven.iter().map(|woven| woven.closes).collect();
        assert_eq!(closes, [false, true, false]);
    }

    #[test]
    fn a_closing_mark_within_reasoning_closes_nothing_however_it_is_cut() {
        let thought = "write </think> or </think>, not </thi";
        for size in 1..thought.len() {
            let pieces = thought.as_bytes().chunks(size);
            let mut steps: Vec<_> = pieces
                .map(|piece| (std::str::from_utf8(piece).expect("ASCII"), "", 0))
                .collect();
            steps.push(("", "</think>so", 0));
            let told = parts("write </think > or </think >, not </thi", "</think>so");
            assert_eq!(split(&weave(&steps).0, true), told, "{size}");
        }
    }

    #[test]
    fn parts_that_a_server_sets_apart_are_set_apart_again() {
        let pieces = ["<", "</th", "ink>", "</think>", "é"];
        let index = |n: usize, at: u32| pieces[n / pieces.len().pow(at) % pieces.len()];
        for n in 0..pieces.len().pow(5) {
            let thoughts = [0, 1, 2].map(|at| (index(n, at), "", 0));
            let texts = [3, 4].map(|at| ("", index(n, at), 0));
            let (text, _) = weave(&[&thoughts[..], &texts].concat());
            let reasoning = thoughts.map(|(thought, _, _)| thought).concat();
            let content = texts.map(|(_, text, _)| text).concat();
            let told = parts(&reasoning.replace(CLOSE, CLOSE_WITHIN), &content);
            assert_eq!(split(&text, true), told);
        }
    }
}
