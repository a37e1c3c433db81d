//! Questions of validators, and of providers about their earnings, to a router: one question and one answer per stream, one stream at a time
//! on each connection. Whoever asks has two of them: one for leaf files, one for all else.
//!
//! Whoever asks is a stranger. It costs the router a place among those who ask, frames of at most [`QUESTION_BYTES_MAX`], and as many
//! questions as [`PACE`] lets through; an answer that is not taken at 64 KiB/s is given up.

use crate::door::Place;
use crate::endpoint::{self, Role, RouterAddress, Timeouts, close};
use crate::error::{CloseCode, NetError, StreamError};
use crate::frame::{FrameReader, FrameWriter};
use crate::{AUDIT_ALPN, EndpointSecret};
use iroh::Endpoint;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stoa_nodes::audit::{KeptWork, Question};
use stoa_nodes::payout::Payout;
use stoa_nodes::validator::Voted;
use stoa_types::{EndpointId, SignedTicket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Largest question: a ballot of some thousand verdicts.
pub const QUESTION_BYTES_MAX: usize = 1 << 20;
/// Largest answer that is taken: the leaf file of a full batch is some 10 MB.
pub const BODY_BYTES_MAX: u64 = 64 << 20;

/// Largest answer about payouts: one for each version of fees, some hundred bytes and a proof.
const PAYOUTS_BYTES_MAX: u64 = 64 << 10;

/// Connections that ask, in all and from one address: two of each of 64 validators, and others.
pub(crate) const ASKERS: usize = 192;
pub(crate) const ASKERS_PER_SOURCE: usize = 32;

/// Questions of one connection that are answered at once, and how long each further one waits.
const BURST: u32 = 256;
const PACE: Duration = Duration::from_millis(10);
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Pieces of an answer.
const PIECE: usize = 64 << 10;
/// Bytes per second at which an answer must be taken.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Larger answers than this need room: as many as there are connections of smaller ones are no burden.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// Large answers that may lie in memory at once: of routers whose last one came whole in time, and of the others.
const ROOMS_PROMPT: usize = 2;
const ROOMS_LATE: usize = 1;
/// Bytes per second at which a large answer must come to leave its room to others soon; who is slower has its next ones among the late.
const PROMPT_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// What a router answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has not got it, or not for this asker.
    Nothing(String),
    /// It took what was left with it.
    Taken,
    /// A leaf file.
    Leaves(Arc<[u8]>),
    /// What was kept of a job.
    Work(Box<KeptWork>),
    /// A ballot.
    Ballot(Voted),
    /// What a provider earned.
    Payouts(Vec<Payout>),
}

/// Answers one question. Who may hear what is its decision.
pub type Answerer =
    Arc<dyn Fn(Question) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// The first frame of an answer; so many bytes follow in further ones.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Head {
    Nothing {
        reason: String,
    },
    Taken,
    Leaves {
        bytes: u64,
    },
    Work {
        ticket: Box<SignedTicket>,
        bytes: u64,
    },
    Ballot {
        bytes: u64,
    },
    Payouts {
        bytes: u64,
    },
}

impl Head {
    const fn bytes(&self) -> u64 {
        match self {
            Self::Nothing { .. } | Self::Taken => 0,
            Self::Leaves { bytes }
            | Self::Work { bytes, .. }
            | Self::Ballot { bytes }
            | Self::Payouts { bytes } => *bytes,
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs with string keys, which JSON can always hold")
}

fn malformed(bytes: usize) -> StreamError {
    StreamError::Malformed {
        bytes,
        what: "not what belongs here".to_owned(),
    }
}

fn parts(answer: Answer) -> (Head, Arc<[u8]>) {
    let none: Arc<[u8]> = Arc::from([]);
    match answer {
        Answer::Nothing(reason) => (Head::Nothing { reason }, none),
        Answer::Taken => (Head::Taken, none),
        Answer::Leaves(body) => {
            let bytes = body.len() as u64;
            (Head::Leaves { bytes }, body)
        }
        Answer::Work(kept) => {
            let KeptWork { ticket, sealed } = *kept;
            let (ticket, bytes) = (Box::new(ticket), sealed.len() as u64);
            (Head::Work { ticket, bytes }, sealed.into())
        }
        Answer::Ballot(voted) => {
            let body = json(&voted);
            let bytes = body.len() as u64;
            (Head::Ballot { bytes }, body.into())
        }
        Answer::Payouts(payouts) => {
            let body = json(&payouts);
            let bytes = body.len() as u64;
            (Head::Payouts { bytes }, body.into())
        }
    }
}

/// A connection that asks.
pub(crate) struct Asker {
    pub(crate) connection: Connection,
    pub(crate) answerer: Answerer,
    pub(crate) timeouts: Timeouts,
    pub(crate) _place: Place,
}

impl Asker {
    /// Answers until it leaves, breaks a rule, or asks nothing for a while.
    pub(crate) async fn serve(self) {
        let full = || {
            let now = Instant::now();
            now.checked_sub(PACE * BURST).unwrap_or(now)
        };
        let mut since = full();
        loop {
            // A bucket of questions that fills up again at the pace.
            since = since.max(full()) + PACE;
            tokio::time::sleep_until(since).await;
            let streams = match timeout(IDLE, self.connection.accept_bi()).await {
                Ok(Ok(streams)) => streams,
                Ok(Err(_)) => return,
                Err(_) => return close(&self.connection, CloseCode::Done, "nothing was asked"),
            };
            if let Err(error) = self.answer(streams).await {
                tracing::debug!(%error, "an asker was left");
                return close(&self.connection, error.close_code(), &error.to_string());
            }
        }
    }

    async fn answer(&self, (send, recv): (SendStream, RecvStream)) -> Result<(), StreamError> {
        let patience = self.timeouts.handshake;
        let mut question = FrameReader::new(recv, QUESTION_BYTES_MAX, self.timeouts.frame);
        let asked = timeout(patience, question.next())
            .await
            .map_err(|_| StreamError::Silent(patience))??;
        let asked = asked.ok_or(StreamError::Unexpected("the stream ended"))?;
        let asked: Question = serde_json::from_slice(&asked).map_err(|_| malformed(asked.len()))?;
        let (head, body) = parts((self.answerer)(asked).await);
        let limit = patience + Duration::from_secs(body.len() as u64 / BYTES_PER_SECOND_MIN);
        let sent = timeout(limit, self.send(send, &head, &body)).await;
        sent.map_err(|_| StreamError::StalledReader(limit))?
    }

    async fn send(&self, stream: SendStream, head: &Head, body: &[u8]) -> Result<(), StreamError> {
        let mut frames = FrameWriter::new(stream, QUESTION_BYTES_MAX, self.timeouts.stall);
        frames.send(&json(head)).await?;
        for piece in body.chunks(PIECE) {
            frames.send(piece).await?;
        }
        frames.finish().await?;
        // Until it is read: the next stream may not be opened before this one is over on both sides.
        let _ = frames.io.stopped().await;
        Ok(())
    }
}

/// How soon an answer is needed: what comes later stands behind all others of its kind to the same router, but for one that is next already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// As soon as may be.
    Now,
    /// After the rest.
    Later,
}

/// One router to ask. Its leaf files, which may wait for room, keep nothing else waiting.
#[derive(Default)]
struct Line {
    leaves: Turns,
    rest: Turns,
}

impl Line {
    const fn turns(&self, question: &Question) -> &Turns {
        match question {
            Question::Leaves { .. } => &self.leaves,
            _ => &self.rest,
        }
    }
}

/// Questions that wait for each other. What comes late among them says nothing of the router's others, which may be under way meanwhile.
#[derive(Default)]
struct Turns {
    /// Whose turn it is, and the connection.
    turn: tokio::sync::Mutex<Option<Connection>>,
    /// Of those that can wait, the one that waits for its turn: the others wait for it.
    later: tokio::sync::Mutex<()>,
    /// Whether the last large answer did not come whole in time. Only whose turn it is reads or writes it.
    is_late: AtomicBool,
}

/// Room in memory for large answers of all routers together.
struct Rooms {
    /// For routers whose last one came whole in time.
    prompt: Arc<Semaphore>,
    /// For the others, which keep none waiting but each other.
    late: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            prompt: Arc::new(Semaphore::new(ROOMS_PROMPT)),
            late: Arc::new(Semaphore::new(ROOMS_LATE)),
        }
    }
}

/// An answer, and the room that it takes up: until it is dropped, a large one keeps others waiting.
#[derive(Debug)]
pub struct Received {
    /// What was answered.
    pub answer: Answer,
    /// To be kept as long as the answer lies in memory as it came.
    pub room: Room,
}

/// Room of one answer; none is needed for a small one.
#[derive(Debug, Default)]
pub struct Room {
    _held: Option<OwnedSemaphorePermit>,
}

/// Asks routers for what audits and claims need. Questions to one router for leaf files wait for each other, and so do all others to it; those to
/// several do not, but for room: so many large answers as there is room for lie in memory at once, whoever sends them.
pub struct AuditClient {
    endpoint: Endpoint,
    timeouts: Timeouts,
    lines: std::sync::Mutex<BTreeMap<EndpointId, Arc<Line>>>,
    rooms: Rooms,
}

impl AuditClient {
    /// Opens a socket under a fresh key: nothing is proved by who dials.
    pub async fn bind(address: SocketAddr, timeouts: Timeouts) -> Result<Self, NetError> {
        let secret = EndpointSecret::generate();
        Ok(Self {
            endpoint: endpoint::bind(&secret, address, Role::Validator, &timeouts).await?,
            timeouts,
            lines: std::sync::Mutex::default(),
            rooms: Rooms::default(),
        })
    }

    /// Asks one router. Dials where there is no connection, once.
    pub async fn ask(
        &self,
        router: &RouterAddress,
        question: &Question,
    ) -> Result<Answer, NetError> {
        let at = || router.clone();
        let asked = self.ask_where(router.endpoint, at, question, Urgency::Now);
        Ok(asked.await?.answer)
    }

    /// Asks the router of an endpoint. Where it is reached is looked up when its turn comes: it may have moved while questions waited.
    pub async fn ask_where(
        &self,
        router: EndpointId,
        at: impl Fn() -> RouterAddress,
        question: &Question,
        urgency: Urgency,
    ) -> Result<Received, NetError> {
        let line = {
            let lines = self.lines.lock();
            let mut lines = lines.unwrap_or_else(std::sync::PoisonError::into_inner);
            lines.entry(router).or_default().clone()
        };
        let turns = line.turns(question);
        let later = match urgency {
            Urgency::Now => None,
            Urgency::Later => Some(turns.later.lock().await),
        };
        let mut turn = turns.turn.lock().await;
        drop(later);
        let open = turn.take().filter(|open| open.close_reason().is_none());
        let connection = match open {
            Some(open) => open,
            None => self.dial(&at()).await?,
        };
        let asked = ask_on(&connection, question, &self.timeouts, (&self.rooms, turns)).await;
        match &asked {
            Ok(_) => *turn = Some(connection),
            // A stream that broke may leave the next one waiting: a new connection is surer.
            Err(error) => close(&connection, error.close_code(), ""),
        }
        Ok(asked?)
    }

    async fn dial(&self, router: &RouterAddress) -> Result<Connection, NetError> {
        let patience = self.timeouts.handshake;
        let dialled = self.endpoint.connect(router.to_iroh()?, AUDIT_ALPN);
        let dialled = timeout(patience, dialled).await;
        let dialled = dialled.map_err(|_| StreamError::Silent(patience))?;
        dialled.map_err(|error| NetError::Connect(format!("{error:#}")))
    }

    /// Says goodbye to all and frees the socket.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

impl Drop for AuditClient {
    fn drop(&mut self) {
        endpoint::close_in_background(&self.endpoint);
    }
}

async fn ask_on(
    connection: &Connection,
    question: &Question,
    timeouts: &Timeouts,
    (rooms, turns): (&Rooms, &Turns),
) -> Result<Received, StreamError> {
    let patience = timeouts.handshake;
    let opened = timeout(patience, connection.open_bi()).await;
    let (send, recv) = opened
        .map_err(|_| StreamError::StalledReader(patience))?
        .map_err(|error| StreamError::Lost(error.into()))?;
    let mut asks = FrameWriter::new(send, QUESTION_BYTES_MAX, timeouts.stall);
    asks.send(&json(question)).await?;
    asks.finish().await?;
    let mut reads = FrameReader::new(recv, QUESTION_BYTES_MAX, timeouts.frame);
    let head = timeout(patience, reads.next())
        .await
        .map_err(|_| StreamError::Silent(patience))??;
    let head = head.ok_or(StreamError::Unexpected("the stream ended"))?;
    let head: Head = serde_json::from_slice(&head).map_err(|_| malformed(head.len()))?;
    let bytes = head.bytes();
    let most = match head {
        Head::Payouts { .. } => PAYOUTS_BYTES_MAX,
        _ => BODY_BYTES_MAX,
    };
    if bytes > most {
        return Err(StreamError::Oversized {
            announced: bytes,
            limit: usize::try_from(most).unwrap_or(usize::MAX),
        });
    }
    let (room, pace) = rooms.take(bytes, turns).await;
    // Who is given up in the middle, by whom ever, was late.
    let is_large = bytes > SMALL_BYTES_MAX;
    turns.is_late.fetch_or(is_large, Ordering::Relaxed);
    let limit = patience + Duration::from_secs(bytes / pace);
    let body = timeout(limit, read_body(&mut reads, bytes));
    let body = body.await.map_err(|_| StreamError::Silent(limit))??;
    turns.is_late.fetch_and(!is_large, Ordering::Relaxed);
    let answer = whole(head, body)?;
    Ok(Received { answer, room })
}

impl Rooms {
    /// Waits for the room that an answer of so many bytes takes up, and says how fast it must come.
    async fn take(&self, bytes: u64, turns: &Turns) -> (Room, u64) {
        if bytes <= SMALL_BYTES_MAX {
            return (Room::default(), BYTES_PER_SECOND_MIN);
        }
        let (rooms, pace) = if turns.is_late.load(Ordering::Relaxed) {
            (&self.late, BYTES_PER_SECOND_MIN)
        } else {
            (&self.prompt, PROMPT_BYTES_PER_SECOND_MIN)
        };
        // Nobody closes it.
        let room = rooms.clone().acquire_owned().await.ok();
        (Room { _held: room }, pace)
    }
}

/// Memory grows with what has arrived, never with what was announced.
async fn read_body(
    reads: &mut FrameReader<RecvStream>,
    bytes: u64,
) -> Result<Vec<u8>, StreamError> {
    let mut body = Vec::new();
    while (body.len() as u64) < bytes {
        let piece = reads.next().await?;
        let piece = piece.ok_or(StreamError::Truncated {
            received: body.len(),
        })?;
        if piece.is_empty() || (body.len() + piece.len()) as u64 > bytes {
            return Err(StreamError::Unexpected("a piece that was not announced"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn whole(head: Head, body: Vec<u8>) -> Result<Answer, StreamError> {
    Ok(match head {
        Head::Nothing { reason } => {
            let printable = reason.chars().filter(|c| !c.is_control());
            Answer::Nothing(printable.take(200).collect())
        }
        Head::Taken => Answer::Taken,
        Head::Leaves { .. } => Answer::Leaves(body.into()),
        Head::Work { ticket, .. } => Answer::Work(Box::new(KeptWork {
            ticket: *ticket,
            sealed: body,
        })),
        Head::Ballot { .. } => {
            let voted = serde_json::from_slice(&body);
            Answer::Ballot(voted.map_err(|_| malformed(body.len()))?)
        }
        Head::Payouts { .. } => {
            let payouts = serde_json::from_slice(&body);
            Answer::Payouts(payouts.map_err(|_| malformed(body.len()))?)
        }
    })
}
