//! W3C Trace Context: what ties the spans of one call together over processes. It identifies nothing that is paid or signed.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Id of a trace, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// Id of a span within a trace, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

macro_rules! id_type {
    ($name:ident, $len:expr) => {
        impl $name {
            /// `None` for zero, which W3C Trace Context forbids.
            pub fn new(bytes: [u8; $len]) -> Option<Self> {
                (bytes != [0; $len]).then_some(Self(bytes))
            }

            /// Lower-case digits only, and as many as there must be.
            fn parse(text: &str) -> Option<Self> {
                let mut bytes = [0; $len];
                let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
                let read = lower && hex::decode_to_slice(text, &mut bytes).is_ok();
                read.then_some(bytes).and_then(Self::new)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
    };
}

id_type!(TraceId, 16);
id_type!(SpanId, 8);

/// A `traceparent`: the span that a call came from, and whether whoever sent it records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceParent {
    /// The trace.
    pub trace: TraceId,
    /// The span above.
    pub span: SpanId,
    /// Whether the sender may have recorded it.
    pub sampled: bool,
}

/// A text that is no `traceparent`. It is not repeated: it comes from strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a W3C traceparent: VERSION-TRACE-PARENT-FLAGS in lower-case hexadecimal")]
pub struct NoTraceParent;

/// Length of version 00; the beginning of what later versions may append to.
const LENGTH: usize = 55;
/// A longer header is of no version that is known, and nobody needs to look at it.
const LENGTH_MAX: usize = 512;

/// As the specification says: version 00 is exactly four fields; a later version is read as far as 00 goes; `ff` is none.
impl FromStr for TraceParent {
    type Err = NoTraceParent;

    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        if text.len() > LENGTH_MAX || !text.is_ascii() {
            return Err(NoTraceParent);
        }
        let (known, rest) = text.split_at_checked(LENGTH).ok_or(NoTraceParent)?;
        let mut fields = known.split('-');
        let mut field = || fields.next().ok_or(NoTraceParent);
        let (version, trace, span, flags) = (field()?, field()?, field()?, field()?);
        let byte = |text: &str| {
            let mut byte = [0];
            let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
            let read = lower && hex::decode_to_slice(text, &mut byte).is_ok();
            read.then_some(byte[0]).ok_or(NoTraceParent)
        };
        let (version, flags) = (byte(version)?, byte(flags)?);
        let whole = fields.next().is_none();
        let ends = rest.is_empty() || (version != 0 && rest.starts_with('-'));
        if !whole || !ends || version == 0xff {
            return Err(NoTraceParent);
        }
        Ok(Self {
            trace: TraceId::parse(trace).ok_or(NoTraceParent)?,
            span: SpanId::parse(span).ok_or(NoTraceParent)?,
            sampled: flags & 1 == 1,
        })
    }
}

/// Version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

impl TryFrom<String> for TraceParent {
    type Error = NoTraceParent;
    fn try_from(text: String) -> Result<Self, NoTraceParent> {
        text.parse()
    }
}

impl From<TraceParent> for String {
    fn from(parent: TraceParent) -> String {
        parent.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_reads_as_it_was_written() {
        let parent: TraceParent = VALID.parse().expect("valid");
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), VALID);
        let json = serde_json::to_string(&parent).expect("a string");
        let read: TraceParent = serde_json::from_str(&json).expect("the same");
        assert_eq!(read, parent);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for later in [
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes",
        ] {
            let parent: TraceParent = later.parse().expect(later);
            assert_eq!(parent.to_string(), VALID, "{later}");
        }
    }

    #[test]
    fn what_is_no_traceparent_is_refused_whole() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0é",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(wrong.parse::<TraceParent>(), Err(NoTraceParent), "{wrong}");
        }
        let long = format!("01-{}-{}", &VALID[3..], "x".repeat(LENGTH_MAX));
        assert_eq!(long.parse::<TraceParent>(), Err(NoTraceParent));
    }
}
