//! Authenticated peer streams over iroh: the transport of [`stoa_nodes::message`].
//!
//! The provider dials out to the router and needs no open port ([`ProviderEndpoint::connect`]). It opens one control stream:
//! `Hello` first, which the router answers with [`RouterControl`], then a `Status` whenever its free slots change, and a `Final` again
//! when the stream of its job was lost before the router countersigned. The router opens one bidirectional stream per job
//! ([`ProviderLink::open_job`]).
//!
//! A frame is a 32-bit big-endian length and that many bytes of JSON. An over-long, malformed or dribbling frame ends its stream
//! with a [`CloseCode`] that the peer sees. Nothing is queued without bound: a stalled reader fills one stream window
//! ([`STREAM_WINDOW_BYTES`]) and then holds the writer back, alone among its neighbours.
//!
//! Validators ask the same router under a protocol of their own ([`AuditClient`], [`RouterEndpoint::answer_audits`]): one question and one
//! answer per stream, one stream at a time. A provider asks under it for what it can claim. Anyone may ask; who may hear what is for the router's [`Answerer`] to say.
//!
//! Strangers cost a router little: one stream each, frames of at most [`CONTROL_BYTES_MAX`] until they are admitted, a bounded number of
//! handshakes in all and from one address, and under load a retry packet that proves the address before anything is kept.
//!
//! No relay, discovery service or port mapping is used: the router's addresses come from the caller, who reads them on chain
//! (DECISIONS 30). What is not there yet: relays and hole punching for routers that have no reachable address.

mod audit;
mod backoff;
mod control;
mod door;
mod endpoint;
mod error;
mod frame;
mod provider;
mod router;
mod stream;

pub use audit::{
    Answer, Answerer, AuditClient, BODY_BYTES_MAX, QUESTION_BYTES_MAX, Received, Room, Urgency,
};
pub use backoff::Backoff;
pub use control::{ProviderStatus, RouterControl, Welcome};
pub use endpoint::{EndpointSecret, PathInfo, RouterAddress, Timeouts};
pub use error::{CloseCode, Lost, NetError, StreamError};
pub use provider::{IncomingJob, LinkState, ProviderConfig, ProviderEndpoint};
pub use router::{Authorize, ProviderLink, RouterConfig, RouterEndpoint};
pub use stream::{JobStream, MessageReceiver, MessageSender, MessageStream, ProviderJobStream};

/// Protocol of the connection between provider and router, with its version.
pub const ALPN: &[u8] = b"stoa/provider/4";

/// Protocol by which validators ask routers for what audits need, and providers for what they can claim, with its version.
pub const AUDIT_ALPN: &[u8] = b"stoa/audit/1";

/// Largest frame of the control stream until the provider is admitted, in bytes; afterwards a repeated `Final` may be as large as on the
/// stream of its job.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

/// Jobs that one connection carries at once.
pub const JOBS_PER_LINK_MAX: u32 = 256;

/// What one stream buffers for a reader that does not read.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
