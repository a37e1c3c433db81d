//! Finding a marker in an answer, token by token.

use crate::vocabulary::Vocabulary;
use stoa_engine::TokenSet;

/// A text that begins a tool call, and how every token of a vocabulary stands to it.
#[derive(Debug)]
pub(crate) struct Marker {
    bytes: Vec<u8>,
    /// By the number of its bytes that an answer ends with: the tokens that may come, if not all.
    allowed: Vec<Option<TokenSet>>,
}

impl Marker {
    pub fn new(vocabulary: &Vocabulary, text: &str) -> Self {
        let mut marker = Self {
            bytes: text.as_bytes().to_vec(),
            allowed: Vec::new(),
        };
        let last = marker.bytes.last().copied();
        // Only a token that has the marker's last byte before its own end can go beyond the marker.
        let suspects: Vec<(u32, &[u8])> = vocabulary
            .texts()
            .filter(|(_, bytes)| {
                let before_end = bytes.split_last().map_or(&[][..], |(_, rest)| rest);
                last.is_some_and(|last| before_end.contains(&last))
            })
            .collect();
        marker.allowed = (0..marker.bytes.len())
            .map(|begun| {
                let beyond = |bytes: &[u8]| matches!(marker.follow(begun, bytes), Follow::Beyond);
                let mut set: Option<TokenSet> = None;
                for (id, _) in suspects.iter().filter(|(_, bytes)| beyond(bytes)) {
                    set.get_or_insert_with(|| TokenSet::all(vocabulary.len()))
                        .remove(*id);
                }
                set
            })
            .collect();
        marker
    }

    /// Tokens that may come after a text that ends with `begun` bytes of the marker: those that do not go beyond its end, since what
    /// follows it is held to a grammar. `None` for all.
    pub fn allowed(&self, begun: usize) -> Option<&TokenSet> {
        self.allowed.get(begun)?.as_ref()
    }

    /// What `bytes` make of a text that ends with `begun` bytes of the marker.
    pub fn follow(&self, begun: usize, bytes: &[u8]) -> Follow {
        let mut begun = begun;
        for (at, byte) in bytes.iter().enumerate() {
            begun = self.next(begun, *byte);
            if begun == self.bytes.len() {
                return match at + 1 == bytes.len() {
                    true => Follow::Met,
                    false => Follow::Beyond,
                };
            }
        }
        Follow::Begun(begun)
    }

    /// Length of the longest beginning of the marker that a text ends with, after one more byte.
    fn next(&self, begun: usize, byte: u8) -> usize {
        let mut text = self.bytes[..begun].to_vec();
        text.push(byte);
        (0..=text.len())
            .rev()
            .find(|length| text.ends_with(&self.bytes[..*length]))
            .unwrap_or(0)
    }
}

/// Where a text stands to a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// It ends with this many bytes of the marker.
    Begun(usize),
    /// It ends with the marker.
    Met,
    /// It goes on after the marker.
    Beyond,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(words: &[&str], text: &str) -> Marker {
        let texts: Vec<Box<[u8]>> = words.iter().map(|word| word.as_bytes().into()).collect();
        let control = vec![false; words.len()];
        let vocabulary = Vocabulary::of_parts(texts, control, &[0]).expect("usable");
        Marker::new(&vocabulary, text)
    }

    #[test]
    fn a_marker_is_found_however_it_is_cut_and_overlaps_itself() {
        let marker = marker(&["end"], "aab");
        for text in ["aab", "aaab", "xaab", "aaaab", "abaab", "aaxaab"] {
            for cut in 0..text.len() {
                let Follow::Begun(begun) = marker.follow(0, &text.as_bytes()[..cut]) else {
                    panic!("{text} has no marker before its end");
                };
                assert_eq!(marker.follow(begun, &text.as_bytes()[cut..]), Follow::Met);
            }
        }
        assert_eq!(marker.follow(0, b"aabx"), Follow::Beyond);
        assert_eq!(marker.follow(0, b"abab"), Follow::Begun(0));
        assert_eq!(marker.follow(0, b"aba"), Follow::Begun(1));
    }

    #[test]
    fn no_token_goes_beyond_a_marker() {
        let words = [
            "end", "<c>", "<c>{", "c>", "c>{", ">x", ">", "<", "a>b", "c",
        ];
        let marker = marker(&words, "<c>");
        let forbidden = |begun| match marker.allowed(begun) {
            None => Vec::new(),
            Some(set) => (0..10u32).filter(|id| !set.contains(*id)).collect(),
        };
        assert_eq!(forbidden(0), [2]);
        assert_eq!(forbidden(1), [2, 4]);
        assert_eq!(forbidden(2), [2, 5]);
    }
}
