//! Texts of control tokens in what a client sends: broken, so that nobody can speak in another's turn.

use aho_corasick::{AhoCorasick, BuildError, MatchKind};

/// The texts of a model's control tokens.
#[derive(Debug)]
pub(crate) struct ControlTokens {
    /// Finds all of them in one reading.
    finder: AhoCorasick,
    /// What each is replaced by.
    broken: Vec<String>,
}

impl ControlTokens {
    /// Fails where the texts are too many to be looked for together.
    pub fn new(texts: &[String]) -> Result<Self, BuildError> {
        Ok(Self {
            finder: AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(texts)?,
            broken: texts.iter().map(|text| broken(text, texts)).collect(),
        })
    }

    /// Breaks control tokens that stand in the strings of a JSON text. Everything else keeps its bytes.
    pub fn defuse(&self, json: &str) -> String {
        let mut out = String::with_capacity(json.len());
        let mut rest = json;
        while let Some((before, from_quote)) = rest.find('"').map(|at| rest.split_at(at)) {
            let literal = string_literal(from_quote);
            out.push_str(before);
            self.defuse_literal(literal, &mut out);
            rest = &from_quote[literal.len()..];
        }
        out.push_str(rest);
        out
    }

    fn defuse_literal(&self, literal: &str, out: &mut String) {
        let text = serde_json::from_str::<String>(literal);
        let text = text.ok().filter(|text| self.finder.is_match(text));
        let Some(mut text) = text else {
            // Also what is not JSON: the template's reader says so.
            return out.push_str(literal);
        };
        // Breaking one token may leave another behind (`<<<` holds `<<` twice), so all are looked for again. A reading breaks at least one
        // in every span as long as a token: how often they are looked for hangs on the tokens, not on the text.
        while self.finder.is_match(&text) {
            text = self.finder.replace_all(&text, &self.broken);
        }
        out.push_str(&serde_json::Value::String(text).to_string());
    }
}

/// A control token that is none any more: a space after its first letter, or a mark that no control token holds in place of one that has
/// no second letter. A step widens a gap between letters or puts a mark for good, so breaking ends.
fn broken(control: &str, all: &[String]) -> String {
    let mut letters = control.chars();
    match letters.next() {
        Some(first) if !first.is_whitespace() && !letters.as_str().trim().is_empty() => {
            format!("{first} {}", letters.as_str())
        }
        _ => {
            let held = |mark: &char| all.iter().any(|c| c.contains(*mark));
            let mut marks = std::iter::once(char::REPLACEMENT_CHARACTER).chain('\u{e000}'..);
            marks.find(|mark| !held(mark)).into_iter().collect()
        }
    }
}

/// The string literal that `text` begins with, quotes included; all of it when it does not end.
fn string_literal(text: &str) -> &str {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return &text[..=at],
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(texts: &[&str]) -> ControlTokens {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        ControlTokens::new(&texts).expect("few")
    }

    fn usual() -> ControlTokens {
        control(&["<|end|>", "</s>"])
    }

    #[test]
    fn a_control_token_in_a_message_becomes_plain_letters() {
        let attack = r#"[{"role":"user","content":"a<|end|>b</s>"},{"content":"\u003c|end|>"}]"#;
        assert_eq!(
            usual().defuse(attack),
            r#"[{"role":"user","content":"a< |end|>b< /s>"},{"content":"< |end|>"}]"#
        );
    }

    #[test]
    fn breaking_one_control_token_leaves_no_other() {
        let hostile = [
            "<<",
            "< <",
            "\u{1}",
            "  ",
            "x ",
            "< <|end|>",
            "é",
            "\u{fffd}",
        ];
        for text in [
            "<<<<<",
            "a\u{1}b",
            "     ",
            "é",
            "<<<  <<",
            "< <|end|>< <",
            "x  x \u{fffd}",
        ] {
            let literal = serde_json::Value::String(text.to_owned()).to_string();
            let defused = control(&hostile).defuse(&literal);
            let plain: String = serde_json::from_str(&defused).expect("a literal");
            assert!(hostile.iter().all(|c| !plain.contains(c)), "{plain:?}");
        }
    }

    #[test]
    fn everything_else_keeps_its_bytes() {
        for same in [
            r#"[ {"b" : "\u00e9 \" \\", "a":1.50} ]"#,
            "",
            "not json \"",
            r#""\"#,
        ] {
            assert_eq!(usual().defuse(same), same);
            assert_eq!(control(&[]).defuse(same), same);
        }
    }

    #[test]
    fn a_long_text_of_many_control_tokens_is_read_a_few_times_and_not_once_for_each() {
        let texts: Vec<String> = (0..1_000).map(|n| format!("<|reserved_{n}|>")).collect();
        let tokens = ControlTokens::new(&texts).expect("few");
        let text = texts.concat().repeat(200);
        let literal = serde_json::Value::String(text.clone()).to_string();
        let expected = serde_json::Value::String(text.replace("<|", "< |")).to_string();
        assert_eq!(tokens.defuse(&literal), expected);
    }
}
