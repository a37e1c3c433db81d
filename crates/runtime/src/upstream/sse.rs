//! Server-sent events, read from bytes that the network cuts anywhere.

use super::UpstreamFault;

/// Longest line, and longest data of one event, in bytes. A server that streams tokens sends some hundreds.
pub(crate) const EVENT_BYTES_MAX: usize = 1 << 20;

/// Reads `data` of events; comments and other fields are passed over. Lines end with LF, CRLF or CR.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last line ended with CR: an LF right after it belongs to it.
    after_return: bool,
}

impl EventReader {
    /// Takes bytes; gives the data of every event that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, UpstreamFault> {
        let mut events = Vec::new();
        let mut rest = bytes;
        if std::mem::take(&mut self.after_return) && rest.first() == Some(&b'\n') {
            rest = &rest[1..];
        }
        while let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            self.extend_line(&rest[..end])?;
            let with_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if with_return && rest.first() == Some(&b'\n') {
                rest = &rest[1..];
            } else if with_return && rest.is_empty() {
                self.after_return = true;
            }
            if let Some(event) = self.line_end()? {
                events.push(event);
            }
        }
        self.extend_line(rest)?;
        Ok(events)
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), UpstreamFault> {
        self.line.extend_from_slice(bytes);
        within_limit(self.line.len())
    }

    /// An empty line ends an event; any other adds to it or is passed over.
    fn line_end(&mut self) -> Result<Option<String>, UpstreamFault> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            if !std::mem::take(&mut self.has_data) {
                return Ok(None);
            }
            let data = std::mem::take(&mut self.data);
            return String::from_utf8(data)
                .map(Some)
                .map_err(|_| UpstreamFault::NotUtf8);
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data
                .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            within_limit(self.data.len())?;
        }
        Ok(None)
    }
}

fn within_limit(length: usize) -> Result<(), UpstreamFault> {
    if length > EVENT_BYTES_MAX {
        return Err(UpstreamFault::TooLong {
            limit: EVENT_BYTES_MAX,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, UpstreamFault> {
        let mut reader = EventReader::default();
        let mut events = Vec::new();
        for piece in pieces {
            events.extend(reader.push(piece)?);
        }
        Ok(events)
    }

    #[test]
    fn events_are_the_same_however_the_network_cuts_them() {
        let text = ": hello\r\nevent: message\r\ndata: {\"a\":\"é\"}\r\n\r\ndata:x\ndata: y\n\n: ping\n\n\ndata: [DONE]\r\rid: 7\n\ndata: open";
        let expected = ["{\"a\":\"é\"}", "x\ny", "[DONE]"];
        for size in 1..=text.len() {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(read(&pieces).expect("valid"), expected, "pieces of {size}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_and_events_without_end_are_named() {
        assert_eq!(read(&[b"data: \xff\n\n"]), Err(UpstreamFault::NotUtf8));
        let giant = vec![b'a'; EVENT_BYTES_MAX / 4 + 1];
        let line = read(&[b"data: ", &giant, &giant, &giant, &giant]);
        assert!(matches!(line, Err(UpstreamFault::TooLong { .. })));
        let mut reader = EventReader::default();
        let many = (0..5).try_for_each(|_| {
            reader.push(b"data: ")?;
            reader.push(&giant)?;
            reader.push(b"\n").map(drop)
        });
        assert!(matches!(many, Err(UpstreamFault::TooLong { .. })));
    }
}
