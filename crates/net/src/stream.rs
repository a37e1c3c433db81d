//! Typed message streams over QUIC streams.

use crate::endpoint::Timeouts;
use crate::error::StreamError;
use crate::frame::{FrameReader, FrameWriter};
use iroh::endpoint::{RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::time::Duration;
use stoa_nodes::message::{MESSAGE_BYTES_MAX, ToProvider, ToRouter};

/// The router's end of a job.
pub type JobStream = MessageStream<ToProvider, ToRouter>;

/// The provider's end of a job.
pub type ProviderJobStream = MessageStream<ToRouter, ToProvider>;

/// Both halves of a stream that sends `S` and receives `R`.
#[derive(Debug)]
pub struct MessageStream<S, R> {
    /// Sending half.
    pub sender: MessageSender<S>,
    /// Receiving half.
    pub receiver: MessageReceiver<R>,
}

impl<S: Serialize, R: DeserializeOwned> MessageStream<S, R> {
    pub(crate) fn new(
        (send, recv): (SendStream, RecvStream),
        limit: usize,
        timeouts: &Timeouts,
    ) -> Self {
        Self {
            sender: MessageSender {
                frames: FrameWriter::new(send, limit, timeouts.stall),
                message: PhantomData,
            },
            receiver: MessageReceiver {
                frames: FrameReader::new(recv, limit, timeouts.frame),
                message: PhantomData,
            },
        }
    }

    /// See [`MessageSender::send`].
    pub async fn send(&mut self, message: &S) -> Result<(), StreamError> {
        self.sender.send(message).await
    }

    /// See [`MessageReceiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<R>, StreamError> {
        self.receiver.recv().await
    }

    /// Parts for two tasks.
    pub fn split(self) -> (MessageSender<S>, MessageReceiver<R>) {
        (self.sender, self.receiver)
    }
}

/// Sending half. Dropping it lets what was sent arrive and then ends the stream.
#[derive(Debug)]
pub struct MessageSender<T> {
    frames: FrameWriter<SendStream>,
    message: PhantomData<fn(T)>,
}

impl<T: Serialize> MessageSender<T> {
    /// Sends one message; waits while the peer's window is full. Returns when QUIC has taken it, not when the peer has read it.
    ///
    /// When the future is dropped half-way, the rest of the frame leaves with the next call.
    pub async fn send(&mut self, message: &T) -> Result<(), StreamError> {
        let body = serde_json::to_vec(message)
            .expect("messages are plain structs with string keys, which JSON can always hold");
        let sent = self.frames.send(&body).await;
        if let Err(error @ StreamError::StalledReader(_)) = &sent {
            // The peer may have read half a frame: only a reset is honest.
            self.reset(error);
        }
        sent
    }

    /// Messages may be as long as those of a job from now on: the peer is known.
    pub(crate) fn trust(&mut self) {
        self.frames.set_limit(MESSAGE_BYTES_MAX);
    }

    /// Ends this direction; the peer's `recv` gives `None` after the last message.
    pub async fn finish(&mut self) -> Result<(), StreamError> {
        self.frames.finish().await
    }

    /// Ends this direction at once with a code that the peer sees.
    pub(crate) fn reset(&mut self, error: &StreamError) {
        let _ = self.frames.io.reset(error.close_code().var_int());
    }

    /// Resolves when the peer stopped reading, finished reading everything, or went away.
    pub async fn stopped(&mut self) {
        let _ = self.frames.io.stopped().await;
    }
}

/// Receiving half. Dropping it tells the peer to stop sending.
#[derive(Debug)]
pub struct MessageReceiver<T> {
    frames: FrameReader<RecvStream>,
    message: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> MessageReceiver<T> {
    /// Next message, `None` at the peer's end of the stream (a peer that panicked looks the same). Cancel safe.
    ///
    /// On a frame that is no message the peer is told why and the stream is of no more use.
    pub async fn recv(&mut self) -> Result<Option<T>, StreamError> {
        let result = match self.frames.next().await {
            Ok(Some(body)) => decode(&body).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            let _ = self.frames.io.stop(error.close_code().var_int());
        }
        result
    }

    /// Messages may be as long as those of a job from now on: the peer is known.
    pub(crate) fn trust(&mut self) {
        self.frames.set_limit(MESSAGE_BYTES_MAX);
    }

    /// As [`MessageReceiver::recv`], for a message that must come within `patience`.
    pub(crate) async fn recv_within(&mut self, patience: Duration) -> Result<T, StreamError> {
        match tokio::time::timeout(patience, self.recv()).await {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(StreamError::Unexpected("the stream ended")),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let error = StreamError::Silent(patience);
                let _ = self.frames.io.stop(error.close_code().var_int());
                Err(error)
            }
        }
    }

    /// Ends this direction with a code that the peer sees.
    pub(crate) fn stop(&mut self, error: &StreamError) {
        let _ = self.frames.io.stop(error.close_code().var_int());
    }
}

/// Parses one message. Errors name kind and position only: serde's own text may quote a prompt.
fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, StreamError> {
    serde_json::from_slice(body).map_err(|error| StreamError::Malformed {
        bytes: body.len(),
        what: format!(
            "{} error at line {}, column {}",
            match error.classify() {
                serde_json::error::Category::Data => "data",
                _ => "syntax",
            },
            error.line(),
            error.column()
        ),
    })
}
