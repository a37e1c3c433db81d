//! States of a job, verification tiers, ends of a generation.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How an answer can be checked (DECISIONS 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Signed, but nothing recomputable: an upstream float server.
    None,
    /// Replayed in one prefill and judged statistically.
    Statistical,
    /// Recomputed bit for bit by anyone (`optimistic` and the papers' tier 2 are aliases).
    Exact,
    /// Attested by vendor evidence.
    Tee,
    /// Proved.
    Zk,
}

/// The text names no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a verification tier: use none, statistical, exact, tee or zk")]
pub struct UnknownTier(pub String);

impl Tier {
    /// The tier's number in receipts and contracts.
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Statistical => 1,
            Self::Exact => 2,
            Self::Tee => 3,
            Self::Zk => 4,
        }
    }

    /// The inverse of [`Tier::code`].
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Statistical),
            2 => Some(Self::Exact),
            3 => Some(Self::Tee),
            4 => Some(Self::Zk),
            _ => None,
        }
    }
}

impl FromStr for Tier {
    type Err = UnknownTier;
    fn from_str(text: &str) -> Result<Self, UnknownTier> {
        match text {
            "none" => Ok(Self::None),
            "statistical" => Ok(Self::Statistical),
            "exact" | "optimistic" | "2" => Ok(Self::Exact),
            "tee" | "1" => Ok(Self::Tee),
            "zk" | "3" => Ok(Self::Zk),
            other => Err(UnknownTier(other.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Statistical => "statistical",
            Self::Exact => "exact",
            Self::Tee => "tee",
            Self::Zk => "zk",
        })
    }
}

/// Life of a job, never backwards (SPEC C.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The router reserved the maximum cost.
    Reserved,
    /// A ticket was signed and sent to a provider.
    Dispatched,
    /// The provider accepted the ticket.
    Accepted,
    /// The receipt carries both signatures; the charge is final off chain.
    Delivered,
    /// A batch root on chain holds the leaf.
    Committed,
    /// Terminal: the window is over; pays provider and fees.
    Settled,
    /// Terminal: no charge; the whole reserve went back.
    Refunded,
    /// Terminal: accepted but not delivered by the deadline; the whole reserve went back.
    TimedOut,
    /// Terminal: lost a challenge; the developer is refunded.
    Reversed,
}

impl JobState {
    /// Whether no other state follows.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Settled | Self::Refunded | Self::TimedOut | Self::Reversed
        )
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End token or a stop string.
    Stop,
    /// The token limit or the context was reached.
    Length,
    /// The message holds tool calls.
    ToolCalls,
    /// The client went away; what was delivered is charged.
    Cancelled,
}

impl FinishReason {
    /// The word in the OpenAI format. A cancelled answer has nobody left to read it; `stop` keeps stored copies valid.
    pub const fn as_openai(self) -> &'static str {
        match self {
            Self::Stop | Self::Cancelled => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }

    /// The word in canonical bytes and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Cancelled => "cancelled",
        }
    }
}
