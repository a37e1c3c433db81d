//! Connections: how many there may be, and when one is given up. A client that takes nothing, sends its request a byte at a time, or
//! keeps an idle connection must not hold a socket, buffers and a task for ever.

use crate::error::ApiError;
use axum::Router;
use axum::body::Body;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use stoa_nodes::client::{Cause, Failure};
use stoa_types::{JobId, TokenAmount};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};

use crate::server::Timings;

/// What a connection may hold of a request's head and of an answer that is not sent yet. Small, since tokens in here count as written.
const BUFFER_BYTES: usize = 16 << 10;
/// Largest head of a request over HTTP/2.
const HEAD_BYTES_MAX: u32 = 32 << 10;
/// Requests at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 100;
/// Connections that are told at once that there are too many; the rest is closed without a word.
const TURNED_AWAY_MAX: usize = 64;
/// How long a connection has to end after it was asked to, and a client to read that it was turned away.
const GRACE: Duration = Duration::from_secs(1);

/// Where a request comes from: the other end of its connection, which may be a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Accepts connections until `shutdown` resolves, then lets those finish that have a request under way.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    timings: Timings,
    seed: [u8; 32],
    shutdown: impl Future,
) {
    let room = Arc::new(Semaphore::new(timings.connections_max));
    let porch = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let (closing, closed) = watch::channel(false);
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    let mut shutdown = pin!(shutdown);
    let mut turned_away: u64 = 0;
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            _ = &mut shutdown => break,
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            metrics::counter!("stoa_api_connections_refused_total").increment(1);
            turned_away += 1;
            let name = [b"turned away".as_slice(), &turned_away.to_be_bytes()].concat();
            let id = JobId(*blake3::keyed_hash(&seed, &name).as_bytes());
            if let Ok(permit) = porch.clone().try_acquire_owned() {
                tokio::spawn(turn_away(stream, id, permit));
            }
            continue;
        };
        let (app, closed, alive) = (app.clone(), closed.clone(), alive.clone());
        tokio::spawn(async move {
            carry(stream, app, timings, closed).await;
            drop((permit, alive));
        });
    }
    drop(listener);
    closing.send_replace(true);
    drop(alive);
    all_gone.recv().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // One connection that broke at once, or no file is free: the next attempt waits for others to end.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Says why nobody is served here, as far as the client listens.
async fn turn_away(mut stream: TcpStream, id: JobId, permit: OwnedSemaphorePermit) {
    let cause = Cause::RouterUnavailable {
        reason: "it has as many connections as it can take".to_owned(),
    };
    let billed = TokenAmount::ZERO;
    let (head, body) = ApiError::Failed(Failure::new(cause, billed))
        .render(id)
        .into_parts();
    let body = axum::body::to_bytes(body, BUFFER_BYTES)
        .await
        .unwrap_or_default();
    let mut text = format!(
        "HTTP/1.1 {}\r\nconnection: close\r\nx-request-id: {id}\r\ncontent-length: {}\r\n",
        head.status,
        body.len()
    );
    for (name, value) in &head.headers {
        text.push_str(&format!(
            "{name}: {}\r\n",
            value.to_str().unwrap_or_default()
        ));
    }
    text.push_str("\r\n");
    let answer = async {
        stream.write_all(&[text.as_bytes(), &body].concat()).await?;
        stream.shutdown().await?;
        // Closed with bytes unread, the answer could be lost on its way.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(GRACE, answer).await;
    drop(permit);
}

/// Serves one connection to its end.
async fn carry(
    stream: TcpStream,
    app: Router,
    timings: Timings,
    mut closed: watch::Receiver<bool>,
) {
    // Each event of a stream leaves at once. Without it answers are only slower.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let peer = stream.peer_addr().ok().map(|at| Peer(at.ip()));
    let connection = Connection {
        stream,
        stall: timings.slow_reader,
        stalled: None,
    };
    let activity = Activity::new();
    let mut watched = activity.0.subscribe();
    let service = Counted {
        app: TowerToHyperService::new(app),
        peer,
        activity,
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .max_send_buf_size(BUFFER_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    let mut served = pin!(builder.serve_connection(TokioIo::new(connection), service));
    tokio::select! {
        _ = served.as_mut() => return,
        () = idle_for_too_long(&mut watched, timings) => {}
        _ = closed.wait_for(|closing| *closing) => {}
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        _ = served.as_mut() => {}
        () = idle_for_too_long(&mut watched, Timings { first_request: GRACE, idle: GRACE, ..timings }) => {}
    }
}

/// Requests under way on a connection, and since when the number is what it is.
#[derive(Debug, Clone, Copy)]
struct Work {
    requests: usize,
    any_before: bool,
    since: Instant,
}

#[derive(Debug, Clone)]
struct Activity(Arc<watch::Sender<Work>>);

impl Activity {
    fn new() -> Self {
        let work = Work {
            requests: 0,
            any_before: false,
            since: Instant::now(),
        };
        Self(Arc::new(watch::Sender::new(work)))
    }

    /// One more request, until the value is dropped.
    fn begin(&self) -> UnderWay {
        self.0.send_modify(|work| work.requests += 1);
        UnderWay(self.clone())
    }
}

struct UnderWay(Activity);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|work| {
            work.requests -= 1;
            work.any_before = true;
            work.since = Instant::now();
        });
    }
}

async fn idle_for_too_long(watched: &mut watch::Receiver<Work>, timings: Timings) {
    loop {
        let work = *watched.borrow_and_update();
        let limit = if work.any_before {
            timings.idle
        } else {
            timings.first_request
        };
        let changed = if work.requests > 0 {
            watched.changed().await
        } else {
            match timeout_at(work.since + limit, watched.changed()).await {
                Ok(changed) => changed,
                Err(_) => return,
            }
        };
        if changed.is_err() {
            return std::future::pending().await; // The connection ends by itself.
        }
    }
}

/// The app, with each request counted until its answer is written or given up.
struct Counted {
    app: TowerToHyperService<Router>,
    peer: Option<Peer>,
    activity: Activity,
}

impl hyper::service::Service<Request<Incoming>> for Counted {
    type Response = Response<CountedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let under_way = self.activity.begin();
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let answer = self.app.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| CountedBody {
                body,
                _under_way: under_way,
            }))
        })
    }
}

struct CountedBody {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for CountedBody {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}

/// A socket whose writes may stall for at most `stall`.
struct Connection {
    stream: TcpStream,
    stall: Duration,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Fails a write that has waited for too long.
    fn limit<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stall = self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall)));
        timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limit(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.limit(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
