//! The provider's end: dials out, stays connected, hands over jobs.

use crate::CONTROL_BYTES_MAX;
use crate::backoff::Backoff;
use crate::control::{ProviderStatus, RouterControl, Welcome};
use crate::endpoint::{self, EndpointSecret, PathInfo, Role, RouterAddress, Timeouts, close};
use crate::error::{CloseCode, NetError, StreamError};
use crate::stream::{MessageReceiver, MessageSender, MessageStream, ProviderJobStream};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::{Endpoint, EndpointAddr};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stoa_nodes::message::{Dispatch, Hello, MESSAGE_BYTES_MAX, ToProvider, ToRouter};
use stoa_types::EndpointId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Jobs that wait for [`ProviderEndpoint::next_job`]; when full, no further stream is accepted.
const JOB_QUEUE: usize = 16;
/// Messages without a job stream that wait to be sent, or to be read.
const LATE_QUEUE: usize = 16;
/// What a handshake's error says where the peers have no protocol in common.
const NO_PROTOCOL: &str = "any known protocol";
/// A link must live this long before a loss counts as the first again: two processes with one key would else chase each other.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// How a provider reaches its router.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Its endpoint key, registered to its account.
    pub secret: EndpointSecret,
    /// Local UDP address; `0.0.0.0:0` in the open, `127.0.0.1:0` in a devnet. No port needs to be reachable.
    pub bind: SocketAddr,
    /// Whom to dial.
    pub router: RouterAddress,
    /// What it says of itself.
    pub hello: Hello,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// How long the router may take.
    pub timeouts: Timeouts,
}

/// Where the link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Dialling.
    Connecting,
    /// Admitted.
    Connected {
        /// The router.
        welcome: Welcome,
        /// Counts connections from 1: a watcher that was slow sees that there was another one between.
        connection: u64,
    },
    /// Lost, unreachable or refused; dials again after the wait.
    Waiting {
        /// What ended the last attempt.
        reason: String,
        /// How long until the next.
        wait: Duration,
    },
    /// [`ProviderEndpoint::close`] was called.
    Closed,
}

/// One job that the router opened.
#[derive(Debug)]
pub struct IncomingJob {
    /// The order.
    pub dispatch: Box<Dispatch>,
    /// The router that sent it.
    pub welcome: Arc<Welcome>,
    /// Answers go here; a cancel comes from here. `recv` fails when the router is lost.
    pub stream: ProviderJobStream,
}

/// A provider's connection to its router: dials, and dials again after a loss. Dropping it closes the connection.
pub struct ProviderEndpoint {
    endpoint: Endpoint,
    id: EndpointId,
    jobs: tokio::sync::Mutex<mpsc::Receiver<IncomingJob>>,
    late: tokio::sync::Mutex<mpsc::Receiver<ToProvider>>,
    repeated: mpsc::Sender<ToRouter>,
    status: watch::Sender<ProviderStatus>,
    state: watch::Receiver<LinkState>,
    current: Arc<Mutex<Option<Connection>>>,
    router: watch::Sender<EndpointAddr>,
    dialling: JoinHandle<()>,
}

impl ProviderEndpoint {
    /// Opens the endpoint and starts to dial; does not wait for the router.
    pub async fn connect(config: ProviderConfig) -> Result<Self, NetError> {
        let (router_sender, router) = watch::channel(config.router.to_iroh()?);
        let endpoint = endpoint::bind(
            &config.secret,
            config.bind,
            Role::Provider,
            &config.timeouts,
        )
        .await?;
        let (job_sender, jobs) = mpsc::channel(JOB_QUEUE);
        let (late_sender, late) = mpsc::channel(LATE_QUEUE);
        let (repeated, repeated_receiver) = mpsc::channel(LATE_QUEUE);
        let (status, status_receiver) = watch::channel(ProviderStatus {
            free_slots: config.hello.slots,
            draining: false,
        });
        let (state_sender, state) = watch::channel(LinkState::Connecting);
        let current = Arc::new(Mutex::new(None));
        let dialler = Dialler {
            endpoint: endpoint.clone(),
            router,
            hello: config.hello,
            timeouts: config.timeouts,
            jobs: job_sender,
            late: late_sender,
            repeated: repeated_receiver,
            status: status_receiver,
            state: state_sender,
            current: current.clone(),
            connections: 0,
        };
        Ok(Self {
            id: config.secret.endpoint_id(),
            endpoint,
            jobs: tokio::sync::Mutex::new(jobs),
            late: tokio::sync::Mutex::new(late),
            repeated,
            status,
            state,
            current,
            router: router_sender,
            dialling: tokio::spawn(dialler.run(config.backoff)),
        })
    }

    /// This endpoint's public key.
    pub fn endpoint_id(&self) -> EndpointId {
        self.id
    }

    /// The router started anew, perhaps elsewhere: the link is dialled again at once. One that stands ends, because the process at its
    /// other end is gone; waiting for its silence to be noticed would take [`Timeouts::silence`].
    pub fn redial(&self, router: &RouterAddress) -> Result<(), NetError> {
        self.router.send_replace(router.to_iroh()?);
        if let Some(connection) = lock(&self.current).take() {
            close(&connection, CloseCode::Done, "the router started anew");
        }
        Ok(())
    }

    /// Next job; `None` after [`ProviderEndpoint::close`].
    pub async fn next_job(&self) -> Option<IncomingJob> {
        self.jobs.lock().await.recv().await
    }

    /// Sends a `Final` again whose job stream was lost. Waits while the router does not read; one that is still waiting when the
    /// link is lost is dropped, since every receipt that is still open is repeated on the next link.
    pub async fn repeat(&self, message: ToRouter) {
        // The dialling task lives as long as this endpoint; after `close` there is nobody to tell.
        let _ = self.repeated.send(message).await;
    }

    /// Next answer to a repeated `Final`; `None` after [`ProviderEndpoint::close`].
    pub async fn next_late(&self) -> Option<ToProvider> {
        self.late.lock().await.recv().await
    }

    /// Tells the router how much work is welcome, now and after every reconnect. Only the newest value is sent.
    pub fn set_status(&self, status: ProviderStatus) {
        self.status
            .send_if_modified(|current| std::mem::replace(current, status) != status);
    }

    /// Watch of the link.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Waits until a router has taken this provider in; `None` if closed before.
    pub async fn connected(&self) -> Option<Welcome> {
        let mut state = self.state.clone();
        let found = state
            .wait_for(|s| matches!(s, LinkState::Connected { .. } | LinkState::Closed))
            .await
            .ok()?
            .clone();
        match found {
            LinkState::Connected { welcome, .. } => Some(welcome),
            _ => None,
        }
    }

    /// Round-trip time, direct or relayed, losses; `None` while not connected.
    pub fn path(&self) -> Option<PathInfo> {
        endpoint::path_info(lock(&self.current).as_ref()?)
    }

    /// Tells the router and stops. Waits until the router heard it, a few seconds at most.
    pub async fn close(&self) {
        self.abandon();
        self.endpoint.close().await;
    }

    fn abandon(&self) {
        self.dialling.abort();
        if let Some(connection) = lock(&self.current).take() {
            close(&connection, CloseCode::Shutdown, "");
        }
    }
}

impl Drop for ProviderEndpoint {
    fn drop(&mut self) {
        self.abandon();
        endpoint::close_in_background(&self.endpoint);
    }
}

fn lock(current: &Mutex<Option<Connection>>) -> std::sync::MutexGuard<'_, Option<Connection>> {
    // One assignment at a time: a panic elsewhere leaves nothing half done.
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Dialler {
    endpoint: Endpoint,
    router: watch::Receiver<EndpointAddr>,
    hello: Hello,
    timeouts: Timeouts,
    jobs: mpsc::Sender<IncomingJob>,
    late: mpsc::Sender<ToProvider>,
    repeated: mpsc::Receiver<ToRouter>,
    status: watch::Receiver<ProviderStatus>,
    state: watch::Sender<LinkState>,
    current: Arc<Mutex<Option<Connection>>>,
    connections: u64,
}

/// Says that the provider is closed when the dialling task ends, however it ends.
struct ClosedOnDrop(watch::Sender<LinkState>);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(LinkState::Closed);
    }
}

impl Dialler {
    async fn run(mut self, mut backoff: Backoff) {
        let _closed = ClosedOnDrop(self.state.clone());
        loop {
            self.state.send_replace(LinkState::Connecting);
            let error = match self.dial().await {
                Ok((connection, control, welcome)) => {
                    let admitted = Instant::now();
                    let error = self.serve(&connection, control, welcome).await;
                    close(&connection, error.close_code(), &error.to_string());
                    if admitted.elapsed() > STABLE_AFTER {
                        backoff.reset();
                    }
                    NetError::Stream(error)
                }
                Err(error) => error,
            };
            *lock(&self.current) = None;
            let wait = backoff.next_wait(random());
            tracing::debug!(%error, ?wait, "no link to the router");
            self.state.send_replace(LinkState::Waiting {
                reason: error.to_string(),
                wait,
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Whoever knows better need not wait.
                Ok(()) = self.router.changed() => {}
            }
        }
    }

    async fn dial(&mut self) -> Result<(Connection, Control, Welcome), NetError> {
        let patience = self.timeouts.handshake;
        let router = self.router.borrow_and_update().clone();
        let dialled = self.endpoint.connect(router, crate::ALPN);
        let connection = tokio::time::timeout(patience, dialled)
            .await
            .map_err(|_| NetError::Connect(format!("no answer within {patience:?}")))?
            .map_err(|error| refused_dial(&format!("{error:#}")))?;
        match self.introduce(&connection).await {
            Ok((control, welcome)) => Ok((connection, control, welcome)),
            Err(error) => {
                close(&connection, CloseCode::Done, "");
                Err(error)
            }
        }
    }

    async fn introduce(&self, connection: &Connection) -> Result<(Control, Welcome), NetError> {
        // A router that lets no stream open would hold the provider for as long as it keeps the connection alive.
        let patience = self.timeouts.handshake;
        let streams = tokio::time::timeout(patience, connection.open_bi())
            .await
            .map_err(|_| StreamError::Silent(patience))?
            .map_err(|error| StreamError::Lost(error.into()))?;
        let control: MessageStream<ToRouter, RouterControl> =
            MessageStream::new(streams, CONTROL_BYTES_MAX, &self.timeouts);
        let (mut sender, mut receiver) = control.split();
        sender
            .send(&ToRouter::Hello(Box::new(self.hello.clone())))
            .await?;
        match receiver.recv_within(patience).await? {
            RouterControl::Welcome(welcome) => {
                sender.trust();
                receiver.trust();
                Ok((Control { sender, receiver }, welcome))
            }
            RouterControl::Refuse { reason } => Err(NetError::Refused(printable(&reason))),
            RouterControl::Late(_) => {
                Err(StreamError::Unexpected("the first answer is not `welcome`").into())
            }
        }
    }

    /// Carries one link until it ends; returns why. Three loops side by side: a router that does not read holds up neither its answers
    /// nor its orders.
    async fn serve(
        &mut self,
        connection: &Connection,
        mut control: Control,
        welcome: Welcome,
    ) -> StreamError {
        // What waited for the last link will be repeated by its owner.
        while self.repeated.try_recv().is_ok() {}
        *lock(&self.current) = Some(connection.clone());
        self.connections += 1;
        let shared_welcome = Arc::new(welcome.clone());
        self.state.send_replace(LinkState::Connected {
            welcome,
            connection: self.connections,
        });
        self.status.mark_changed();
        tokio::select! {
            error = write_control(&mut control.sender, &mut self.status, &mut self.repeated) => error,
            error = read_control(&mut control.receiver, &self.late) => error,
            error = accept_jobs(connection, &self.jobs, self.timeouts, shared_welcome) => error,
        }
    }
}

/// Why dialling failed. A router without a protocol in common refuses in the handshake, in TLS's words.
fn refused_dial(reason: &str) -> NetError {
    if !reason.contains(NO_PROTOCOL) {
        return NetError::Connect(reason.to_owned());
    }
    let ours = String::from_utf8_lossy(crate::ALPN);
    NetError::Connect(format!(
        "it speaks another version of the link than {ours}; bring provider and router to one release ({reason})"
    ))
}

struct Control {
    sender: MessageSender<ToRouter>,
    receiver: MessageReceiver<RouterControl>,
}

/// Sends the newest status and repeated receipts, until the stream breaks.
async fn write_control(
    sender: &mut MessageSender<ToRouter>,
    status: &mut watch::Receiver<ProviderStatus>,
    repeated: &mut mpsc::Receiver<ToRouter>,
) -> StreamError {
    loop {
        let message = tokio::select! {
            changed = status.changed() => {
                let ProviderStatus { free_slots, draining } = *status.borrow_and_update();
                if changed.is_err() {
                    return StreamError::Finished;
                }
                ToRouter::Status { free_slots, draining }
            }
            Some(message) = repeated.recv() => message,
        };
        match sender.send(&message).await {
            Ok(()) => {}
            // Ending the link would end every job on it, and the next link would meet the same receipt.
            Err(error @ StreamError::TooLarge { .. }) => {
                let job = message.job().map(|(job, _)| tracing::field::display(job));
                tracing::warn!(%error, job, "a receipt cannot be repeated");
            }
            Err(error) => return error,
        }
    }
}

/// Hands on the answers to repeated receipts, until the stream breaks.
async fn read_control(
    receiver: &mut MessageReceiver<RouterControl>,
    late: &mpsc::Sender<ToProvider>,
) -> StreamError {
    loop {
        match receiver.recv().await {
            // The receiver lives as long as the dialling task.
            Ok(Some(RouterControl::Late(message))) => drop(late.send(*message).await),
            Ok(Some(_)) => return StreamError::Unexpected("a second answer to one `hello`"),
            Ok(None) => return StreamError::EndedByPeer(CloseCode::Done),
            Err(error) => return error,
        }
    }
}

/// Takes orders, until the connection breaks.
async fn accept_jobs(
    connection: &Connection,
    jobs: &mpsc::Sender<IncomingJob>,
    timeouts: Timeouts,
    welcome: Arc<Welcome>,
) -> StreamError {
    loop {
        match accept_when_free(jobs, connection).await {
            Ok((permit, streams)) => {
                tokio::spawn(receive_dispatch(streams, timeouts, welcome.clone(), permit));
            }
            Err(error) => return error,
        }
    }
}

type Permit = mpsc::OwnedPermit<IncomingJob>;

/// Accepts a stream only when somebody has room for the job: QUIC then holds the router back.
async fn accept_when_free(
    jobs: &mpsc::Sender<IncomingJob>,
    connection: &Connection,
) -> Result<(Permit, (SendStream, RecvStream)), StreamError> {
    let permit = jobs
        .clone()
        .reserve_owned()
        .await
        .map_err(|_| StreamError::Finished)?;
    let streams = connection
        .accept_bi()
        .await
        .map_err(|error| StreamError::Lost(error.into()))?;
    Ok((permit, streams))
}

async fn receive_dispatch(
    streams: (SendStream, RecvStream),
    timeouts: Timeouts,
    welcome: Arc<Welcome>,
    permit: Permit,
) {
    let mut stream = ProviderJobStream::new(streams, MESSAGE_BYTES_MAX, &timeouts);
    let first = stream.receiver.recv_within(timeouts.handshake).await;
    let error = match first {
        Ok(ToProvider::Dispatch(dispatch)) => {
            permit.send(IncomingJob {
                dispatch,
                welcome,
                stream,
            });
            return;
        }
        Ok(_) => StreamError::Unexpected("the first message of a job is not `dispatch`"),
        Err(error) => error,
    };
    stream.receiver.stop(&error);
    stream.sender.reset(&error);
    tracing::debug!(%error, "a job stream did not begin");
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Places the jitter. Without a random source the wait is the shortest, which is still a wait.
fn random() -> u32 {
    getrandom::u32().unwrap_or(0)
}
