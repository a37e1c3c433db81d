//! Reasoning in front of an answer, told from what follows it by marks in the text.
//!
//! The text that a receipt names has both, marks included: [`OPEN`], the reasoning, [`CLOSE`], the rest. Nothing is trimmed. Whoever has
//! the two parts has the text but for its marks: of reasoning with nothing behind it nobody can tell whether it was closed, and marks
//! around nothing leave no trace. [`texts`] are the few that it can be, and the receipt's digest says which it was.

/// Where reasoning begins: the first letters of an answer, or it has none.
pub const OPEN: &str = "<think>";
/// Where it ends. Without it all of the answer is reasoning.
pub const CLOSE: &str = "</think>";

/// Two parts of a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// Between the marks.
    pub reasoning: String,
    /// The rest.
    pub content: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Begin,
    Inside,
    After,
}

/// Tells reasoning from the rest while a text is written, however it is cut.
#[derive(Debug)]
pub struct Splitter {
    place: Place,
    /// Letters that may belong to a mark.
    held: String,
}

impl Splitter {
    /// At the begin of an answer. Where its model knows no marks (`reasons` is false) all of it is content.
    pub fn new(reasons: bool) -> Self {
        let place = if reasons { Place::Begin } else { Place::After };
        Self {
            place,
            held: String::new(),
        }
    }

    /// Whether what was taken ends within reasoning.
    pub fn is_inside(&self) -> bool {
        self.place == Place::Inside
    }

    /// Whether no reasoning can come any more.
    pub fn is_past(&self) -> bool {
        self.place == Place::After
    }

    /// Takes more text; gives what is certain.
    pub fn push(&mut self, text: &str) -> Parts {
        self.held.push_str(text);
        let mut parts = Parts::default();
        if self.place == Place::Begin {
            if let Some(rest) = self.held.strip_prefix(OPEN) {
                self.held = rest.to_owned();
                self.place = Place::Inside;
            } else if OPEN.starts_with(&self.held) {
                return parts;
            } else {
                self.place = Place::After;
            }
        }
        if self.place == Place::Inside {
            match self.held.find(CLOSE) {
                Some(at) => {
                    let rest = self.held.split_off(at);
                    parts.reasoning = std::mem::take(&mut self.held);
                    self.held = rest[CLOSE.len()..].to_owned();
                    self.place = Place::After;
                }
                None => {
                    let rest = self.held.split_off(self.held.len() - begun(&self.held));
                    parts.reasoning = std::mem::replace(&mut self.held, rest);
                }
            }
        }
        if self.place == Place::After {
            parts.content = std::mem::take(&mut self.held);
        }
        parts
    }

    /// What was held back, when nothing more comes.
    pub fn finish(&mut self) -> Parts {
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Inside => Parts {
                reasoning: held,
                ..Parts::default()
            },
            Place::Begin | Place::After => Parts {
                content: held,
                ..Parts::default()
            },
        }
    }
}

/// Length of the longest end of `text` with which [`CLOSE`] may begin. The mark is ASCII, so that no character is cut.
pub fn begun(text: &str) -> usize {
    let fits = |n: &usize| text.as_bytes().ends_with(&CLOSE.as_bytes()[..*n]);
    (1..CLOSE.len()).rev().find(fits).unwrap_or(0)
}

/// The parts of a whole text.
pub fn split(text: &str, reasons: bool) -> Parts {
    let mut splitter = Splitter::new(reasons);
    let (mut parts, rest) = (splitter.push(text), splitter.finish());
    parts.reasoning.push_str(&rest.reasoning);
    parts.content.push_str(&rest.content);
    parts
}

/// Where the reasoning of a text that is told apart ends: before its closing mark, and behind it. Both are the end of the text where the
/// mark is missing. `None` where there is no reasoning.
pub fn end(text: &str) -> Option<(usize, usize)> {
    let inside = text.strip_prefix(OPEN).filter(|text| !text.is_empty())?;
    match inside.find(CLOSE) {
        Some(0) => None,
        Some(at) => Some((OPEN.len() + at, OPEN.len() + at + CLOSE.len())),
        None => Some((text.len(), text.len())),
    }
}

/// Every text that has these parts, the likeliest first.
pub fn texts(parts: &Parts) -> Vec<String> {
    let Parts { reasoning, content } = parts;
    let plain = reasoning.is_empty().then(|| content.clone());
    let closed = [OPEN, reasoning, CLOSE, content].concat();
    let unclosed = content.is_empty().then(|| [OPEN, reasoning].concat());
    plain.into_iter().chain([closed]).chain(unclosed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(reasoning: &str, content: &str) -> Parts {
        Parts {
            reasoning: reasoning.to_owned(),
            content: content.to_owned(),
        }
    }

    #[test]
    fn reasoning_stands_between_the_marks_at_the_begin_and_nowhere_else() {
        for (text, expected) in [
            ("<think>a < b</think>\n\nyes", parts("a < b", "\n\nyes")),
            (
                "<think>never closed </thin",
                parts("never closed </thin", ""),
            ),
            ("<think></think>", parts("", "")),
            ("<think>a</think>b</think>", parts("a", "b</think>")),
            ("<thin", parts("", "<thin")),
            ("so <think>a</think>", parts("", "so <think>a</think>")),
            ("", parts("", "")),
        ] {
            assert_eq!(split(text, true), expected, "{text}");
            assert_eq!(split(text, false), parts("", text));
        }
    }

    #[test]
    fn parts_are_of_few_texts_and_the_marks_alone_tell_them_apart() {
        for (of, expected) in [
            (parts("a", "b"), &["<think>a</think>b"][..]),
            (parts("", "b"), &["b", "<think></think>b"]),
            (parts("a", ""), &["<think>a</think>", "<think>a"]),
            (parts("", ""), &["", "<think></think>", "<think>"]),
        ] {
            assert_eq!(texts(&of), expected);
        }
    }

    proptest! {
        #[test]
        fn however_a_text_is_cut_its_parts_are_the_same(
            text in "(<think>)?[a</think>é]{0,12}(</think>)?[<é]{0,4}", cuts in proptest::collection::vec(any::<bool>(), 40), reasons: bool,
        ) {
            let whole = split(&text, reasons);
            let mut splitter = Splitter::new(reasons);
            let mut joined = Parts::default();
            let mut add = |more: Parts| {
                joined.reasoning.push_str(&more.reasoning);
                joined.content.push_str(&more.content);
            };
            let mut piece = String::new();
            for (letter, cut) in text.chars().zip(cuts.iter().cycle()) {
                piece.push(letter);
                if *cut {
                    add(splitter.push(&std::mem::take(&mut piece)));
                }
            }
            add(splitter.push(&piece));
            add(splitter.finish());
            prop_assert_eq!(&joined, &whole);
            prop_assert!(texts(&whole).contains(&text));
            if reasons {
                let found = end(&text);
                prop_assert_eq!(found.is_some(), !whole.reasoning.is_empty());
                if let Some((before, behind)) = found {
                    prop_assert_eq!(&text[OPEN.len()..before], &whole.reasoning);
                    prop_assert_eq!(&text[behind..], &whole.content);
                }
            }
        }
    }
}
