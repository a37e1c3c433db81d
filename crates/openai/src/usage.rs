use serde::{Deserialize, Serialize};

/// Token counts of one answer; they agree with the receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Both.
    #[serde(default)]
    pub total_tokens: u64,
    /// What the prompt tokens were.
    #[serde(default, deserialize_with = "crate::usage::null_is_default")]
    pub prompt_tokens_details: PromptDetails,
    /// What the answer's tokens were.
    #[serde(default, deserialize_with = "crate::usage::null_is_default")]
    pub completion_tokens_details: CompletionDetails,
}

impl Usage {
    /// Text in, text out, of which some may be reasoning; nothing cached.
    pub fn of_text(prompt_tokens: u64, completion_tokens: u64, reasoning_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: PromptDetails {
                text_tokens: prompt_tokens,
                ..PromptDetails::default()
            },
            completion_tokens_details: CompletionDetails {
                text_tokens: completion_tokens,
                reasoning_tokens,
                ..CompletionDetails::default()
            },
        }
    }
}

/// Parts of the prompt tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptDetails {
    /// Served from a cache.
    pub cached_tokens: u64,
    /// Sound.
    pub audio_tokens: u64,
    /// Text.
    pub text_tokens: u64,
    /// Pictures.
    pub image_tokens: u64,
    /// Written to a cache.
    pub cache_write_tokens: u64,
}

/// Parts of the answer's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletionDetails {
    /// Up to the end of the reasoning; 0 also where it is not known.
    pub reasoning_tokens: u64,
    /// Sound.
    pub audio_tokens: u64,
    /// Text.
    pub text_tokens: u64,
    /// Predicted by the client and kept.
    pub accepted_prediction_tokens: u64,
    /// Predicted by the client and not kept.
    pub rejected_prediction_tokens: u64,
}

/// Reads `null` as the default: servers send it for what they do not count.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
