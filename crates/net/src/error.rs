//! Errors of the transport, and the codes that tell the peer why a stream or connection ended.

use iroh::endpoint::{ConnectionError, VarInt};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Why this side ended a stream or connection, as the peer sees it (QUIC application error codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// Done with it, or no longer interested.
    Done,
    /// A frame was longer than its limit.
    Oversized,
    /// A frame was no message.
    Malformed,
    /// A frame or answer did not arrive in time.
    Slow,
    /// A message came where it does not belong.
    Unexpected,
    /// The router did not take the provider in.
    Refused,
    /// The same endpoint opened a newer connection.
    Replaced,
    /// The process stops.
    Shutdown,
    /// A code that this version does not know.
    Unknown(u64),
}

impl CloseCode {
    pub(crate) fn var_int(self) -> VarInt {
        let code: u32 = match self {
            Self::Done => 0,
            Self::Oversized => 1,
            Self::Malformed => 2,
            Self::Slow => 3,
            Self::Unexpected => 4,
            Self::Refused => 5,
            Self::Replaced => 6,
            Self::Shutdown => 7,
            Self::Unknown(code) => return VarInt::from_u64(code).unwrap_or(VarInt::MAX),
        };
        VarInt::from_u32(code)
    }

    pub(crate) fn from_var_int(code: VarInt) -> Self {
        match code.into_inner() {
            0 => Self::Done,
            1 => Self::Oversized,
            2 => Self::Malformed,
            3 => Self::Slow,
            4 => Self::Unexpected,
            5 => Self::Refused,
            6 => Self::Replaced,
            7 => Self::Shutdown,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Oversized => "a frame was over its limit",
            Self::Malformed => "a frame was malformed",
            Self::Slow => "a frame or answer came too slowly",
            Self::Unexpected => "a message came where it does not belong",
            Self::Refused => "refused",
            Self::Replaced => "replaced by a newer connection of the same endpoint",
            Self::Shutdown => "the peer shut down",
            Self::Unknown(code) => return write!(f, "unknown code {code}"),
        })
    }
}

/// Why a message was not sent or received. The stream is of no more use after any of these but `TooLarge`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer announced a longer frame than this stream allows; nothing of it was kept.
    #[error("a frame of {announced} bytes was announced; the limit is {limit}")]
    Oversized {
        /// Announced length.
        announced: u64,
        /// Limit.
        limit: usize,
    },
    /// A frame was no message of this stream. The text names a position and never the content, which may be a prompt.
    #[error("a frame of {bytes} bytes is no message: {what}")]
    Malformed {
        /// Its length.
        bytes: usize,
        /// Kind of fault and position.
        what: String,
    },
    /// The peer ended the stream within a frame.
    #[error("the stream ended within a frame, after {received} bytes")]
    Truncated {
        /// Bytes of the frame that had come, length included.
        received: usize,
    },
    /// A begun frame was not completed in time.
    #[error("a begun frame was not complete after {after:?} ({received} bytes came)")]
    SlowPeer {
        /// Time allowed.
        after: Duration,
        /// Bytes of the frame that had come.
        received: usize,
    },
    /// An expected first message did not come in time.
    #[error("the peer said nothing for {0:?}")]
    Silent(Duration),
    /// The peer did not read for so long that the message could not leave.
    #[error("the peer read nothing for {0:?}")]
    StalledReader(Duration),
    /// The message is longer than the peer accepts; nothing was sent.
    #[error("a message of {bytes} bytes was not sent; the limit is {limit}")]
    TooLarge {
        /// Encoded length.
        bytes: usize,
        /// Limit.
        limit: usize,
    },
    /// A message came where it does not belong.
    #[error("unexpected message: {0}")]
    Unexpected(&'static str),
    /// The peer ended this stream.
    #[error("the peer ended the stream: {0}")]
    EndedByPeer(CloseCode),
    /// The connection is gone.
    #[error("the connection was lost: {0}")]
    Lost(Lost),
    /// This side had finished the stream before.
    #[error("the stream was already finished on this side")]
    Finished,
}

impl StreamError {
    /// What to tell the peer when this side met the error.
    pub(crate) fn close_code(&self) -> CloseCode {
        match self {
            Self::Oversized { .. } => CloseCode::Oversized,
            Self::Malformed { .. } | Self::Truncated { .. } => CloseCode::Malformed,
            Self::SlowPeer { .. } | Self::Silent(_) | Self::StalledReader(_) => CloseCode::Slow,
            Self::Unexpected(_) => CloseCode::Unexpected,
            Self::TooLarge { .. } | Self::EndedByPeer(_) | Self::Lost(_) | Self::Finished => {
                CloseCode::Done
            }
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The peer closed it and said why.
    #[error("{code}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    ClosedByPeer {
        /// Code.
        code: CloseCode,
        /// The peer's words; not to be trusted.
        reason: String,
    },
    /// Nothing was heard from the peer any more.
    #[error("the peer fell silent")]
    Silent,
    /// This side closed it.
    #[error("closed on this side")]
    ClosedHere,
    /// The peer restarted, or the protocol was broken.
    #[error("{0}")]
    Transport(String),
}

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::ClosedByPeer {
                code: CloseCode::from_var_int(close.error_code),
                reason: String::from_utf8_lossy(&close.reason)
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect(),
            },
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::LocallyClosed => Self::ClosedHere,
            other => Self::Transport(other.to_string()),
        }
    }
}

/// Why an endpoint or connection could not be set up. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address cannot be listened on.
    #[error(
        "cannot use UDP address {address}: {reason}; choose another port or 0 for any free one"
    )]
    Bind {
        /// Address asked for.
        address: SocketAddr,
        /// From the operating system.
        reason: String,
    },
    /// The endpoint id is no ed25519 key.
    #[error("{0} is no endpoint id: not an ed25519 public key")]
    BadEndpointId(stoa_types::EndpointId),
    /// No connection came about.
    #[error("cannot connect to the router: {0}")]
    Connect(String),
    /// The router turned this provider away.
    #[error("the router refused this provider: {0}")]
    Refused(String),
    /// The connection or its control stream failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
}
