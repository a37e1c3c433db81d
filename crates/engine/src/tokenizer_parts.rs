//! What of a `tokenizer.json` is looked at before the library reads it. The library takes files of friends: some parts of one make it
//! panic, others make it take memory without measure, when it reads them or at the first text. Those that models of the supported kinds
//! have are let through, within bounds that are far from what they need.

use crate::error::ImportError;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::str::Chars;

/// Normalizers that are read. Not `Precompiled`, whose tables the library takes for sound.
const NORMALIZERS: [&str; 13] = [
    "BertNormalizer",
    "ByteLevel",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Prepend",
    "Replace",
    "Sequence",
    "Strip",
    "StripAccents",
];
/// Ways to split that are read.
const PRE_TOKENIZERS: [&str; 10] = [
    "BertPreTokenizer",
    "ByteLevel",
    "Digits",
    "Metaspace",
    "Punctuation",
    "Sequence",
    "Split",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
];
/// Most parts of each kind; real files have up to about eight.
const PARTS_MAX: usize = 32;
/// Most that replacements, one after the other, may lengthen a text; real ones make three bytes of one.
const GROWTH_MAX: usize = 64;
/// Most bytes that replacements may put before a text or into one.
const CONTENT_MAX: usize = 256;
/// Most expressions, and sets of letters in all of them, each as often as counts repeat it. Real files have up to three, and some 50 sets; a
/// set such as that of all letters takes some 50 KB.
const EXPRESSIONS_MAX: usize = 8;
const SETS_MAX: usize = 96;
/// Longest expression, in bytes.
const EXPRESSION_MAX: usize = 4 << 10;

#[derive(Deserialize)]
struct Document {
    model: Model,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: String,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    vocab: LongestToken,
    #[serde(default)]
    merges: LongestMerge,
}

/// Refuses what the library must not be given.
pub(crate) fn check(json: &str) -> Result<(), ImportError> {
    let document: Document = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
    check_model(&document.model)?;
    let normalizers = parts(&document.normalizer, "normalizers", &NORMALIZERS)?;
    let splits = parts(&document.pre_tokenizer, "pretokenizers", &PRE_TOKENIZERS)?;
    let decoders = parts(&document.decoder, "decoders", &[])?;
    check_growth(&normalizers)?;
    let all = normalizers.into_iter().chain(splits).chain(decoders);
    let expressions = all.filter_map(|part| part["pattern"]["Regex"].as_str());
    check_expressions(&expressions.collect::<Vec<_>>())
}

fn check_expressions(expressions: &[&str]) -> Result<(), ImportError> {
    if expressions.len() > EXPRESSIONS_MAX {
        return Err(bad(format!(
            "it has more than {EXPRESSIONS_MAX} expressions"
        )));
    }
    if expressions.iter().any(|e| e.len() > EXPRESSION_MAX) {
        return Err(bad(format!(
            "an expression has more than {EXPRESSION_MAX} bytes"
        )));
    }
    let sets = expressions.iter().map(|e| letters_of(e).div_ceil(SET));
    let sets = sets.fold(0, usize::saturating_add);
    if sets > SETS_MAX {
        return Err(bad(format!(
            "its expressions come to {sets} sets of letters; up to {SETS_MAX} are read"
        )));
    }
    Ok(())
}

fn bad(reason: impl Into<String>) -> ImportError {
    ImportError::Tokenizer(reason.into())
}

fn check_model(model: &Model) -> Result<(), ImportError> {
    match &model.kind[..] {
        "WordPiece" => return Ok(()),
        "BPE" => {}
        other => {
            return Err(bad(format!(
                "its model is {other:?}; BPE and WordPiece are read"
            )));
        }
    }
    // Merges left out by chance would make every prompt another one each time it is read.
    if model.dropout.is_some_and(|p| p != 0.0) {
        let reason = "its merges are left out at random (model.dropout); set it to null";
        return Err(bad(reason));
    }
    let affixes = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
        let reason = "its BPE has a prefix or suffix of words, which is not supported";
        return Err(bad(reason));
    }
    if model.merges.0 > model.vocab.0 {
        return Err(bad(format!(
            "a merge makes {} bytes, and the longest token has {}",
            model.merges.0, model.vocab.0
        )));
    }
    Ok(())
}

/// The parts of one kind, those of lists among them, each of which must be known where names are given.
fn parts<'a>(value: &'a Value, list: &str, known: &[&str]) -> Result<Vec<&'a Value>, ImportError> {
    let (mut found, mut left) = (vec![], vec![value]);
    while let Some(part) = left.pop() {
        if part.is_null() {
            continue;
        }
        let kind = part["type"].as_str().unwrap_or("");
        if !known.is_empty() && !known.contains(&kind) {
            return Err(bad(format!(
                "{list} of the type {kind:?} are not supported"
            )));
        }
        found.push(part);
        left.extend(part[list].as_array().into_iter().flatten());
        if found.len() + left.len() > PARTS_MAX {
            return Err(bad(format!("it has more than {PARTS_MAX} {list}")));
        }
    }
    Ok(found)
}

/// Replacements could double a text a hundred times over.
fn check_growth(normalizers: &[&Value]) -> Result<(), ImportError> {
    let mut growth = 1usize;
    for part in normalizers {
        let text = |value: &Value| value.as_str().map_or(0, str::len);
        let (put, begin) = (text(&part["content"]), text(&part["prepend"]));
        if put.max(begin) > CONTENT_MAX {
            let reason = format!("a normalizer writes more than {CONTENT_MAX} bytes");
            return Err(bad(reason));
        }
        growth *= match text(&part["pattern"]["String"]) {
            // Found between all letters, or as short as an expression has it.
            0 if part["type"] == "Replace" => put + 1,
            found => put.div_ceil(found.max(1)).max(1),
        };
        if growth > GROWTH_MAX {
            return Err(bad(format!(
                "its replacements make a text more than {GROWTH_MAX} times as long"
            )));
        }
    }
    Ok(())
}

/// Letters that cost as much as a set of letters.
const SET: usize = 32;

/// What an expression is compiled to, in letters: each letter, each set of letters, and what counts repeat as often as they may.
fn letters_of(expression: &str) -> usize {
    // Of the groups that are open, what came before the last part, and that part.
    let mut open = vec![(0usize, 0usize)];
    let mut rest = expression.chars();
    while let Some(letter) = rest.next() {
        let cost = match letter {
            '(' if !is_known_group(rest.as_str()) => return usize::MAX,
            '(' => {
                open.push((0, 0));
                continue;
            }
            // What follows them counts for what they follow.
            '+' | '*' | '?' => continue,
            ')' if open.len() > 1 => open.pop().map_or(0, |(sum, last)| sum.saturating_add(last)),
            '{' => {
                let (inside, after) = rest.as_str().split_once('}').unwrap_or(("", ""));
                let counts = inside.split(',').map(|n| n.trim().parse::<usize>());
                let counts: Vec<_> = counts.filter_map(Result::ok).collect();
                if let (Some(most), Some((_, last))) = (counts.iter().max(), open.last_mut()) {
                    *last = last.saturating_mul(*most.max(&1));
                    rest = after.chars();
                    continue;
                }
                1
            }
            '\\' => escaped(&mut rest),
            '[' => set(&mut rest),
            '.' => SET / 4,
            _ => 1,
        };
        if let Some((sum, last)) = open.last_mut() {
            *sum = sum.saturating_add(*last);
            *last = cost;
        }
    }
    let all = open.into_iter().flat_map(|(sum, last)| [sum, last]);
    all.fold(0, usize::saturating_add)
}

/// Whether a group is one that is measured: not a comment, a call of another, a condition or one in which blanks mean nothing.
fn is_known_group(after: &str) -> bool {
    let Some(kind) = after.strip_prefix('?') else {
        return true;
    };
    let flags = kind.trim_start_matches(['i', 'm', 's', 'u', 'U', '-']);
    let known = [":", "=", "!", "<", ">", "P<"];
    known.iter().any(|known| kind.starts_with(known)) || flags.starts_with([':', ')'])
}

/// What stands for a letter or a set of letters after a backslash.
fn escaped(rest: &mut Chars<'_>) -> usize {
    match rest.next() {
        Some('p' | 'P' | 'x' | 'u') if rest.as_str().starts_with('{') => {
            // The name of the set, or the number of the letter.
            rest.find(|letter| *letter == '}');
            SET
        }
        // Calls of groups.
        Some('g') => usize::MAX,
        Some('p' | 'P' | 'w' | 'W' | 'd' | 'D' | 's' | 'S' | 'X' | 'h' | 'H') => SET,
        _ => 1,
    }
}

/// A set in brackets, those in it among it.
fn set(rest: &mut Chars<'_>) -> usize {
    let (mut depth, mut cost, mut first) = (1, SET / 4, true);
    while let Some(letter) = rest.next() {
        let more = match letter {
            '\\' => escaped(rest),
            '[' => {
                depth += 1;
                SET / 4
            }
            ']' if !first => {
                depth -= 1;
                1
            }
            _ => 1,
        };
        cost = cost.saturating_add(more);
        if depth == 0 {
            break;
        }
        // A bracket that comes first is a letter, after the sign that turns a set round too.
        first = (first && letter == '^') || letter == '[';
    }
    cost
}

/// Bytes of the longest name of a map.
#[derive(Default)]
struct LongestToken(usize);

/// Bytes of the longest text that a merge makes.
#[derive(Default)]
struct LongestMerge(usize);

/// Bytes of a text, which need not be kept for that.
struct Bytes(usize);

/// Bytes of what a merge makes, written as `"left right"` or `["left", "right"]`.
struct Merge(usize);

/// Reads texts and lists of texts as the numbers of their bytes.
struct Lengths;

impl<'de> Visitor<'de> for Lengths {
    type Value = (usize, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok((text.len(), false))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut all = 0;
        while let Some(Bytes(text)) = list.next_element()? {
            all += text;
        }
        Ok((all, true))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (length, _) = deserializer.deserialize_str(Lengths)?;
        Ok(Self(length))
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (length, list) = deserializer.deserialize_any(Lengths)?;
        // The space between the halves is no part of what they make.
        Ok(Self(length - usize::from(!list && length > 0)))
    }
}

impl<'de> Deserialize<'de> for LongestToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap;
        impl<'de> Visitor<'de> for OfMap {
            type Value = LongestToken;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LongestToken, A::Error> {
                let mut longest = 0;
                while let Some((Bytes(token), IgnoredAny)) = map.next_entry()? {
                    longest = longest.max(token);
                }
                Ok(LongestToken(longest))
            }
        }
        deserializer.deserialize_map(OfMap)
    }
}

impl<'de> Deserialize<'de> for LongestMerge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfList;
        impl<'de> Visitor<'de> for OfList {
            type Value = LongestMerge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LongestMerge, A::Error> {
                let mut longest = 0;
                while let Some(Merge(made)) = list.next_element()? {
                    longest = longest.max(made);
                }
                Ok(LongestMerge(longest))
            }
        }
        deserializer.deserialize_seq(OfList)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_measured_by_what_counts_make_of_them() {
        for (expression, letters) in [
            ("", 0),
            ("abc", 3),
            (r"\p{L}", SET),
            (r"a\p{L}{2,30}b", 30 * SET + 2),
            (r"(\p{L}{30}){30}", 900 * SET),
            (r"(ab){3}c", 7),
            (r"((a{9}b){9}){,9}", 810),
            (r"(\d){1000", SET + 5),
            (r"[\p{L}]{20}", 20 * (SET / 4 + SET + 1)),
            (r"[^]\]x[ab]]{9}", 9 * (2 * (SET / 4) + 8)),
            (r"[[]({9})a", SET / 4 * 2 + 7),
            (r"\w+{20}?{2}", 40 * SET),
            ("(?i:a)(?s)b(?=c)", 7),
            (r"\{3}x)", 5),
        ] {
            assert_eq!(letters_of(expression), letters, "{expression}");
        }
        for unknown in [
            r"(?x)\w {9}",
            "a(?#b){9}",
            r"(a)\g<1>",
            "(?R)",
            "(a)(?(1)b)",
            "(?P>a)",
        ] {
            assert_eq!(letters_of(unknown), usize::MAX, "{unknown}");
        }
        let endless = "((((a{99999999999}){99999999999}){99999999999}){99999999999}";
        assert_eq!(letters_of(endless), usize::MAX);
        assert_eq!(letters_of(&"(".repeat(4096)), 0);
    }

    #[test]
    fn the_expressions_of_known_models_are_within_the_bounds() {
        let word =
            |rest: &str| format!(r"[^\r\n\p{{L}}\p{{N}}]?{rest}(?i:'s|'t|'re|'ve|'m|'ll|'d)?");
        let upper = word(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+");
        let o200k = format!(
            r"{upper}|{upper}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let three = [
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r"[!#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ];
        check_expressions(&[&o200k]).expect("o200k");
        check_expressions(&three).expect("three of one file");
    }

    #[test]
    fn both_spellings_of_merges_are_measured_and_no_json_is_an_error() {
        let with = |merges: &str| {
            let vocab = r#"{"ab":0,"a":1,"b":2}"#;
            check(&format!(
                r#"{{"model":{{"type":"BPE","vocab":{vocab},"merges":{merges}}}}}"#
            ))
        };
        for fits in ["[]", r#"["a b"]"#, r#"[["a","b"],"a b",""]"#] {
            assert!(with(fits).is_ok(), "{fits}");
        }
        for long in [r#"["ab b"]"#, r#"[["a","b"],["ab","b"]]"#, "[1]", "3"] {
            assert!(with(long).is_err(), "{long}");
        }
        let cut = r#"{"model":{"type":"WordPiece"},"decoder":{"type":"Fuse" 1"#;
        assert!(check(cut).is_err());
        assert!(check(r#"{"model":{"type":"WordPiece"}}"#).is_ok());
    }
}
