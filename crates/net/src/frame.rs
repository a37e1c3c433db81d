//! Frames: 32-bit big-endian length, then that many bytes. Both halves survive a dropped future, so that they fit `select!`.

use crate::error::{CloseCode, Lost, StreamError};
use bytes::{Buf, BufMut, BytesMut};
use iroh::endpoint::{ReadError, WriteError};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

const HEADER: usize = 4;
/// How much is asked of the stream at once; also what an empty reader keeps.
const READ_CHUNK: usize = 16 << 10;
/// A frame must arrive at least this fast, after its grace.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Reads frames. Memory grows with what has arrived, never with what was announced.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    pub(crate) io: R,
    buffer: BytesMut,
    limit: usize,
    grace: Duration,
    started: Option<Instant>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A begun frame must be complete within `grace` plus its length at 64 KiB/s.
    pub(crate) fn new(io: R, limit: usize, grace: Duration) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            limit,
            grace,
            started: None,
        }
    }

    /// Frames may be this long from now on.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Next frame's body, or `None` at a clean end. Cancel safe: bytes that came stay for the next call.
    pub(crate) async fn next(&mut self) -> Result<Option<BytesMut>, StreamError> {
        loop {
            let announced = self.announced()?;
            if let Some(body) = announced
                && self.buffer.len() >= HEADER + body
            {
                return Ok(Some(self.take(body)));
            }
            if self.read_more(announced.unwrap_or(0)).await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    received => Err(StreamError::Truncated { received }),
                };
            }
        }
    }

    fn announced(&self) -> Result<Option<usize>, StreamError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let announced = u64::from(u32::from_be_bytes(*header));
        match usize::try_from(announced) {
            Ok(body) if body <= self.limit => Ok(Some(body)),
            _ => Err(StreamError::Oversized {
                announced,
                limit: self.limit,
            }),
        }
    }

    fn take(&mut self, body: usize) -> BytesMut {
        self.buffer.advance(HEADER);
        let frame = self.buffer.split_to(body);
        if body > READ_CHUNK {
            // A large frame's allocation goes with the frame instead of staying as long as the stream.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        self.started = (!self.buffer.is_empty()).then(Instant::now);
        frame
    }

    async fn read_more(&mut self, body: usize) -> Result<usize, StreamError> {
        self.buffer.reserve(READ_CHUNK.min(HEADER + body));
        let read = self.io.read_buf(&mut self.buffer);
        let count = match self.started {
            None => read.await,
            Some(started) => {
                let after = self.grace + Duration::from_secs(body as u64 / BYTES_PER_SECOND_MIN);
                let Ok(done) = timeout_at(started + after, read).await else {
                    return Err(StreamError::SlowPeer {
                        after,
                        received: self.buffer.len(),
                    });
                };
                done
            }
        }
        .map_err(stream_error)?;
        self.started.get_or_insert_with(Instant::now);
        Ok(count)
    }
}

/// Writes frames.
#[derive(Debug)]
pub(crate) struct FrameWriter<W> {
    pub(crate) io: W,
    pending: BytesMut,
    limit: usize,
    stall: Duration,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Gives up when the peer takes not one byte for `stall`.
    pub(crate) fn new(io: W, limit: usize, stall: Duration) -> Self {
        Self {
            io,
            pending: BytesMut::new(),
            limit,
            stall,
        }
    }

    /// Frames may be this long from now on.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Sends one frame. A dropped call leaves the rest of its frame to the next one, so that frames never mix.
    pub(crate) async fn send(&mut self, body: &[u8]) -> Result<(), StreamError> {
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| body.len() <= self.limit)
            .ok_or(StreamError::TooLarge {
                bytes: body.len(),
                limit: self.limit,
            })?;
        self.flush().await?;
        self.pending.reserve(HEADER + body.len());
        self.pending.put_u32(length);
        self.pending.put_slice(body);
        self.flush().await
    }

    /// Sends what an interrupted call left.
    pub(crate) async fn flush(&mut self) -> Result<(), StreamError> {
        let large = self.pending.len() > READ_CHUNK;
        while !self.pending.is_empty() {
            timeout(self.stall, self.io.write_buf(&mut self.pending))
                .await
                .map_err(|_| StreamError::StalledReader(self.stall))?
                .map_err(stream_error)?;
        }
        if large {
            self.pending = BytesMut::new();
        }
        Ok(())
    }

    /// Sends the rest and ends the stream.
    pub(crate) async fn finish(&mut self) -> Result<(), StreamError> {
        self.flush().await?;
        self.io.shutdown().await.map_err(stream_error)
    }
}

/// iroh wraps its causes into `io::Error`; this unwraps them.
fn stream_error(error: io::Error) -> StreamError {
    let inner = error.get_ref();
    if let Some(read) = inner.and_then(|e| e.downcast_ref::<ReadError>()) {
        return match read {
            ReadError::Reset(code) => StreamError::EndedByPeer(CloseCode::from_var_int(*code)),
            ReadError::ConnectionLost(lost) => StreamError::Lost(lost.clone().into()),
            ReadError::ClosedStream | ReadError::ZeroRttRejected => StreamError::Finished,
        };
    }
    if let Some(write) = inner.and_then(|e| e.downcast_ref::<WriteError>()) {
        return match write {
            WriteError::Stopped(code) => StreamError::EndedByPeer(CloseCode::from_var_int(*code)),
            WriteError::ConnectionLost(lost) => StreamError::Lost(lost.clone().into()),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Finished,
        };
    }
    StreamError::Lost(Lost::Transport(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn frames_arrive_whole_however_they_are_cut() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut reader = FrameReader::new(near, 100, GRACE);
        tokio::spawn(async move {
            for byte in *b"\0\0\0\x03abc\0\0\0\0\0\0\0\x01z" {
                far.write_all(&[byte]).await.expect("open");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        for expected in [&b"abc"[..], b"", b"z"] {
            assert_eq!(reader.next().await.expect("frame").expect("some"), expected);
        }
        assert_eq!(reader.next().await, Ok(None));
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused_from_its_header_alone() {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(&u32::MAX.to_be_bytes()).await.expect("open");
        let mut reader = FrameReader::new(near, 100, GRACE);
        assert_eq!(
            reader.next().await,
            Err(StreamError::Oversized {
                announced: u64::from(u32::MAX),
                limit: 100
            })
        );
        assert!(reader.buffer.capacity() <= READ_CHUNK);
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_not_a_clean_end() {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(b"\0\0\0\x05ab").await.expect("open");
        drop(far);
        let mut reader = FrameReader::new(near, 100, GRACE);
        assert_eq!(
            reader.next().await,
            Err(StreamError::Truncated { received: 6 })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dribbling_peer_is_cut_off_but_a_waiting_one_is_not() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(near, 1 << 20, GRACE);
        // Nothing begun: waiting is free.
        assert!(
            timeout(Duration::from_secs(3600), reader.next())
                .await
                .is_err()
        );
        tokio::spawn(async move {
            far.write_all(&(1_u32 << 17).to_be_bytes())
                .await
                .expect("open");
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let begun = Instant::now();
        assert!(matches!(
            reader.next().await,
            Err(StreamError::SlowPeer { .. })
        ));
        // 5 s of grace and 2 s for 128 KiB.
        assert_eq!(begun.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupted_send_never_mixes_frames() {
        let (near, far) = tokio::io::duplex(8);
        let mut writer = FrameWriter::new(near, 1000, GRACE);
        let interrupted = timeout(Duration::from_millis(1), writer.send(&[1; 100])).await;
        assert!(interrupted.is_err());
        let mut reader = FrameReader::new(far, 1000, GRACE);
        let (sent, first) = tokio::join!(writer.send(&[2; 3]), async {
            let first = reader.next().await.expect("frame").expect("some");
            let second = reader.next().await.expect("frame").expect("some");
            (first, second)
        });
        sent.expect("sent");
        assert_eq!(first.0, [1; 100][..]);
        assert_eq!(first.1, [2; 3][..]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_never_reads_ends_the_send_and_a_too_large_message_does_not() {
        let (near, _far) = tokio::io::duplex(8);
        let mut writer = FrameWriter::new(near, 100, GRACE);
        assert_eq!(
            writer.send(&[0; 101]).await,
            Err(StreamError::TooLarge {
                bytes: 101,
                limit: 100
            })
        );
        assert_eq!(
            writer.send(&[0; 100]).await,
            Err(StreamError::StalledReader(GRACE))
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

        #[test]
        fn what_was_framed_comes_out_and_arbitrary_bytes_end_in_an_error_or_an_end(
            bodies in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), 0..8),
            tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
            runtime.block_on(async {
                let (near, mut far) = tokio::io::duplex(1 << 16);
                let mut writer = FrameWriter::new(near, 200, GRACE);
                for body in &bodies {
                    writer.send(body).await.expect("sent");
                }
                writer.io.write_all(&tail).await.expect("sent");
                drop(writer);
                let mut framed = Vec::new();
                far.read_to_end(&mut framed).await.expect("all");
                let mut reader = FrameReader::new(&framed[..], 200, GRACE);
                for body in &bodies {
                    assert_eq!(reader.next().await.expect("frame").expect("some"), body[..]);
                }
                let mut left = &tail[..];
                while let Ok(Some(body)) = reader.next().await {
                    let (frame, rest) = left.split_at(HEADER + body.len());
                    assert_eq!(frame[..HEADER], (body.len() as u32).to_be_bytes());
                    assert_eq!(frame[HEADER..], body[..]);
                    left = rest;
                }
                // Nothing but the beginning of a frame, or one that is too long, is left over.
                let announced = left.first_chunk().map(|h| u32::from_be_bytes(*h) as usize);
                assert!(announced.is_none_or(|body| body > 200 || left.len() < HEADER + body));
            });
        }
    }
}
