//! Log-probabilities in OpenAI's two forms. Only here do they become decimal numbers.

use std::collections::BTreeMap;
use std::fmt::Write;
use stoa_openai::{ChatLogprobs, CompletionLogprobs, LikelyToken, TokenLikelihood};
use stoa_types::{Logprobs, TokenBytes, TokenLogprob};

/// A token as text: its letters, or its bytes by name where they are no whole characters.
fn token(bytes: &TokenBytes) -> String {
    if let Ok(text) = std::str::from_utf8(&bytes.0) {
        return text.to_owned();
    }
    let mut name = "bytes:".to_owned();
    for byte in &bytes.0 {
        // Writing to a string cannot fail.
        let _ = write!(name, "\\x{byte:02x}");
    }
    name
}

/// The form of chats.
pub(crate) fn chat(entries: &[Logprobs]) -> ChatLogprobs {
    let likely = |one: &TokenLogprob| LikelyToken {
        token: token(&one.bytes),
        logprob: one.logprob.to_f64(),
        bytes: Some(one.bytes.0.clone()),
    };
    let entry = |entry: &Logprobs| TokenLikelihood {
        chosen: likely(&entry.chosen),
        top_logprobs: entry.top.iter().map(likely).collect(),
    };
    ChatLogprobs {
        content: Some(entries.iter().map(entry).collect()),
        refusal: None,
    }
}

/// The form of text completions. `offset` is the number of characters that begin before the first token; it moves on to behind the last.
pub(crate) fn completion(entries: &[Logprobs], offset: &mut u64) -> CompletionLogprobs {
    let mut form = CompletionLogprobs::default();
    for entry in entries {
        let all = entry.top.iter().chain([&entry.chosen]);
        let likely = all.map(|one| (token(&one.bytes), one.logprob.to_f64()));
        form.top_logprobs.push(likely.collect::<BTreeMap<_, _>>());
        form.tokens.push(token(&entry.chosen.bytes));
        form.token_logprobs
            .push(Some(entry.chosen.logprob.to_f64()));
        form.text_offset.push(*offset);
        // A character belongs to the token that begins it.
        let begins = entry.chosen.bytes.0.iter().filter(|b| *b & 0xc0 != 0x80);
        *offset += begins.count() as u64;
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::SignedQ16;

    fn one(id: u32, bytes: &[u8], logprob: i32) -> TokenLogprob {
        TokenLogprob {
            id,
            bytes: TokenBytes(bytes.to_vec()),
            logprob: SignedQ16(logprob),
        }
    }

    fn entries() -> Vec<Logprobs> {
        let (e, acute) = (one(1, &[b'a', 0xc3], -65_536), one(2, &[0xa9], -1));
        vec![
            Logprobs {
                chosen: e.clone(),
                top: vec![one(9, b" b", -32_768), e],
            },
            Logprobs {
                chosen: acute,
                top: Vec::new(),
            },
        ]
    }

    #[test]
    fn a_chat_s_entries_hold_text_number_and_bytes() {
        let form = serde_json::to_value(chat(&entries())).expect("writes");
        let first = &form["content"][0];
        assert_eq!(first["token"], r"bytes:\x61\xc3");
        assert_eq!(first["logprob"], -1.0);
        assert_eq!(first["bytes"], serde_json::json!([97, 195]));
        assert_eq!(
            first["top_logprobs"][0],
            serde_json::json!({"token": " b", "logprob": -0.5, "bytes": [32, 98]})
        );
        assert_eq!(form["content"][1]["top_logprobs"], serde_json::json!([]));
        assert!(form["refusal"].is_null());
    }

    #[test]
    fn a_completion_s_offsets_count_characters_from_where_they_begin() {
        let mut offset = 5;
        let form = completion(&entries(), &mut offset);
        assert_eq!((form.text_offset, offset), (vec![5, 7], 7));
        assert_eq!(form.token_logprobs[0], Some(-1.0));
        // The chosen token stands there whether or not it is among the likeliest.
        assert_eq!(form.top_logprobs[0].len(), 2);
        assert_eq!(form.top_logprobs[1].len(), 1);
    }
}
