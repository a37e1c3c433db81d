//! The router's end: takes providers in and opens job streams to them.

use crate::audit::{self, Answerer};
use crate::control::{ProviderStatus, RouterControl, Welcome};
use crate::door::{Answer, Door};
use crate::endpoint::{self, EndpointSecret, PathInfo, Role, RouterAddress, Timeouts, close};
use crate::error::{CloseCode, Lost, NetError, StreamError};
use crate::stream::{JobStream, MessageReceiver, MessageSender, MessageStream};
use crate::{CONTROL_BYTES_MAX, JOBS_PER_LINK_MAX};
use iroh::Endpoint;
use iroh::endpoint::{Connection, Incoming, IncomingAddr};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use stoa_nodes::message::{Dispatch, Hello, MESSAGE_BYTES_MAX, ToProvider, ToRouter};
use stoa_types::EndpointId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Admitted providers that wait for [`RouterEndpoint::accept`].
const ACCEPT_QUEUE: usize = 64;
/// Repeated receipts that wait for [`ProviderLink::next_late`]; when full, the control stream is not read.
const LATE_QUEUE: usize = 16;
/// How long a refused provider has to read the reason.
const REFUSAL_LINGER: Duration = Duration::from_secs(1);

/// What a provider is told that came too early.
const NOT_OPEN: &str =
    "the router has just started and does not know yet whom to let in; come again";

/// Decides whether this endpoint may speak for the account in its `Hello`; the text goes to the provider's operator.
pub type Authorize = Arc<dyn Fn(EndpointId, &Hello) -> Result<(), String> + Send + Sync>;

/// How a router listens.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// Its endpoint key.
    pub secret: EndpointSecret,
    /// UDP address; port 0 takes any free one. `127.0.0.1:0` for a devnet.
    pub bind: SocketAddr,
    /// What admitted providers are told.
    pub welcome: Welcome,
    /// How long peers may take.
    pub timeouts: Timeouts,
}

/// A listening router. Dropping it closes every link.
pub struct RouterEndpoint {
    endpoint: Endpoint,
    links: tokio::sync::Mutex<mpsc::Receiver<ProviderLink>>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    welcome: Welcome,
    timeouts: Timeouts,
    authorize: Authorize,
    /// Answers validators, once there is somebody who does.
    answerer: OnceLock<Answerer>,
    /// Places of those who ask about audits.
    askers: Door,
    /// Whether it is known whom to let in.
    open: watch::Sender<bool>,
    /// The newest connection of each provider endpoint.
    connections: Mutex<BTreeMap<EndpointId, Connection>>,
}

impl RouterEndpoint {
    /// Starts to listen; `authorize` is asked for every provider and must not block.
    pub async fn bind(config: RouterConfig, authorize: Authorize) -> Result<Self, NetError> {
        let endpoint = Self::bind_closed(config, authorize).await?;
        endpoint.open();
        Ok(endpoint)
    }

    /// As [`RouterEndpoint::bind`], but `authorize` is asked only after [`RouterEndpoint::open`]. Who comes before waits at the door for half of
    /// the handshake's time, and is then told to come again.
    pub async fn bind_closed(config: RouterConfig, authorize: Authorize) -> Result<Self, NetError> {
        let endpoint =
            endpoint::bind(&config.secret, config.bind, Role::Router, &config.timeouts).await?;
        let shared = Arc::new(Shared {
            welcome: config.welcome,
            timeouts: config.timeouts,
            authorize,
            answerer: OnceLock::new(),
            askers: Door::of(audit::ASKERS, audit::ASKERS_PER_SOURCE),
            open: watch::Sender::new(false),
            connections: Mutex::default(),
        });
        let (admitted, links) = mpsc::channel(ACCEPT_QUEUE);
        let accepting = tokio::spawn(accept_loop(endpoint.clone(), shared.clone(), admitted));
        Ok(Self {
            endpoint,
            links: tokio::sync::Mutex::new(links),
            shared,
            accepting,
        })
    }

    /// From now on it is known whom to let in.
    pub fn open(&self) {
        self.shared.open.send_replace(true);
    }

    /// Where providers reach this router. Bound to an unspecified address, these are the addresses of its interfaces.
    pub fn address(&self) -> RouterAddress {
        let bound = self.endpoint.bound_sockets();
        let addresses = if bound.iter().any(|socket| socket.ip().is_unspecified()) {
            self.endpoint.addr().ip_addrs().copied().collect()
        } else {
            bound
        };
        RouterAddress {
            endpoint: EndpointId(*self.endpoint.id().as_bytes()),
            addresses,
        }
    }

    /// Answers questions about audits and payouts from now on; before, nobody is let in who asks them. The first answerer stays.
    pub fn answer_audits(&self, answerer: Answerer) {
        let _ = self.shared.answerer.set(answerer);
    }

    /// Next admitted provider; `None` after [`RouterEndpoint::close`].
    pub async fn accept(&self) -> Option<ProviderLink> {
        self.links.lock().await.recv().await
    }

    /// Tells every provider and stops listening. Waits until they heard it, a few seconds at most. The port is free when the links
    /// and job streams are dropped too.
    pub async fn close(&self) {
        self.close_connections();
        self.accepting.abort();
        self.endpoint.close().await;
    }

    fn close_connections(&self) {
        let mut connections = self.shared.connections();
        for connection in std::mem::take(&mut *connections).values() {
            close(connection, CloseCode::Shutdown, "");
        }
    }
}

impl Drop for RouterEndpoint {
    fn drop(&mut self) {
        self.accepting.abort();
        self.close_connections();
        endpoint::close_in_background(&self.endpoint);
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, BTreeMap<EndpointId, Connection>> {
        // The map is whole after every statement, so a panic elsewhere leaves nothing half done.
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this link the endpoint's only one and hands it over: after a crash the old one may linger until its silence is noticed.
    /// Both under one lock: of two connections of one endpoint, the one that stays is the one that is handed over last.
    fn hand_over(&self, link: &ProviderLink, place: mpsc::Permit<'_, ProviderLink>) {
        let (id, connection) = (link.0.endpoint_id, &link.0.connection);
        let mut connections = self.connections();
        let old = connections.insert(id, connection.clone());
        place.send(link.clone());
        drop(connections);
        if let Some(old) = old {
            close(&old, CloseCode::Replaced, "");
        }
    }

    fn unregister(&self, id: EndpointId, connection: &Connection) {
        let mut connections = self.connections();
        let current = connections.get(&id);
        if current.is_some_and(|c| c.stable_id() == connection.stable_id()) {
            connections.remove(&id);
        }
    }
}

async fn accept_loop(
    endpoint: Endpoint,
    shared: Arc<Shared>,
    admitted: mpsc::Sender<ProviderLink>,
) {
    let door = Door::default();
    while let Some(incoming) = endpoint.accept().await {
        let source = match incoming.remote_addr() {
            IncomingAddr::Ip(address) => Some(address.ip()),
            _ => None,
        };
        let at_door = match door.knock(source, incoming.remote_addr_validated()) {
            Answer::Enter(place) => place,
            Answer::Prove => {
                // It fails only for an address that is proved already.
                let _ = incoming.retry();
                continue;
            }
            Answer::Full => {
                incoming.refuse();
                continue;
            }
        };
        let (shared, admitted) = (shared.clone(), admitted.clone());
        tokio::spawn(async move {
            let limit = shared.timeouts.handshake * 2;
            let outcome = tokio::time::timeout(limit, admit(incoming, &shared, source)).await;
            match outcome.unwrap_or(Err(NetError::Stream(StreamError::Silent(limit)))) {
                Ok(Admitted::Asker(asker)) => {
                    drop(at_door);
                    asker.serve().await;
                }
                Ok(Admitted::Provider(link, control)) => {
                    // The place at the door is kept while the queue is full, so that waiting links are bounded too.
                    let Ok(place) = admitted.reserve().await else {
                        return;
                    };
                    shared.hand_over(&link, place);
                    drop(at_door);
                    follow_control(link, control, shared).await;
                }
                Err(error) => tracing::debug!(%error, "a provider was not admitted"),
            }
        });
    }
}

/// What reads a link's control stream, and where it puts what it reads.
struct Control {
    messages: MessageReceiver<ToRouter>,
    status: watch::Sender<ProviderStatus>,
    late: mpsc::Sender<ToRouter>,
}

/// Who stands inside.
enum Admitted {
    Provider(ProviderLink, Control),
    Asker(audit::Asker),
}

async fn admit(
    incoming: Incoming,
    shared: &Arc<Shared>,
    source: Option<IpAddr>,
) -> Result<Admitted, NetError> {
    let connect = |error: String| NetError::Connect(error);
    let connection = incoming
        .accept()
        .map_err(|error| connect(error.to_string()))?
        .await
        .map_err(|error| connect(error.to_string()))?;
    if connection.alpn() == crate::AUDIT_ALPN {
        // Its address is proved by the handshake.
        let place = shared.askers.knock(source, true);
        let answerer = shared.answerer.get().cloned();
        return match (place, answerer) {
            (Answer::Enter(place), Some(answerer)) => Ok(Admitted::Asker(audit::Asker {
                connection,
                answerer,
                timeouts: shared.timeouts,
                _place: place,
            })),
            _ => {
                let reason = "no room, or no audits here";
                close(&connection, CloseCode::Refused, reason);
                Err(NetError::Refused(reason.to_owned()))
            }
        };
    }
    match greet(&connection, shared).await {
        Ok((link, control)) => Ok(Admitted::Provider(link, control)),
        Err(error) => {
            let code = match &error {
                NetError::Stream(error) => error.close_code(),
                _ => CloseCode::Refused,
            };
            close(&connection, code, &error.to_string());
            Err(error)
        }
    }
}

async fn greet(
    connection: &Connection,
    shared: &Arc<Shared>,
) -> Result<(ProviderLink, Control), NetError> {
    let patience = shared.timeouts.handshake;
    let streams = tokio::time::timeout(patience, connection.accept_bi())
        .await
        .map_err(|_| StreamError::Silent(patience))?
        .map_err(|error| StreamError::Lost(error.into()))?;
    let control: MessageStream<RouterControl, ToRouter> =
        MessageStream::new(streams, CONTROL_BYTES_MAX, &shared.timeouts);
    let (mut answer, mut messages) = control.split();
    let ToRouter::Hello(hello) = messages.recv_within(patience).await? else {
        return Err(StreamError::Unexpected("the first message is not `hello`").into());
    };
    let id = EndpointId(*connection.remote_id().as_bytes());
    let mut open = shared.open.subscribe();
    let opening = tokio::time::timeout(patience / 2, open.wait_for(|open| *open));
    let opened = opening.await.is_ok();
    let known = match opened {
        true => (shared.authorize)(id, &hello),
        false => Err(NOT_OPEN.to_owned()),
    };
    if let Err(reason) = known {
        refuse(connection, answer, &reason).await?;
        return Err(NetError::Refused(reason));
    }
    // Known from here on: a receipt that is repeated may be as large as it was on the stream of its job.
    messages.trust();
    answer
        .send(&RouterControl::Welcome(shared.welcome.clone()))
        .await?;
    answer.trust();
    let (status, status_receiver) = watch::channel(ProviderStatus {
        free_slots: hello.slots,
        draining: false,
    });
    let (late, late_receiver) = mpsc::channel(LATE_QUEUE);
    let link = ProviderLink(Arc::new(Link {
        connection: connection.clone(),
        endpoint_id: id,
        hello: *hello,
        status: status_receiver,
        late: tokio::sync::Mutex::new(late_receiver),
        answer: tokio::sync::Mutex::new(answer),
        timeouts: shared.timeouts,
    }));
    let control = Control {
        messages,
        status,
        late,
    };
    Ok((link, control))
}

async fn refuse(
    connection: &Connection,
    mut answer: MessageSender<RouterControl>,
    reason: &str,
) -> Result<(), StreamError> {
    let reason = reason.to_owned();
    answer.send(&RouterControl::Refuse { reason }).await?;
    answer.finish().await?;
    // Closing drops what is under way; the provider closes first when it has read the reason.
    let _ = tokio::time::timeout(REFUSAL_LINGER, connection.closed()).await;
    Ok(())
}

/// Reads the control stream until the connection ends, then forgets the link.
async fn follow_control(link: ProviderLink, mut control: Control, shared: Arc<Shared>) {
    let error = loop {
        if let Err(error) = control.read_one().await {
            break error;
        }
    };
    let connection = &link.0.connection;
    close(connection, error.close_code(), &error.to_string());
    shared.unregister(link.0.endpoint_id, connection);
    tracing::debug!(account = %link.0.hello.account, %error, "a provider's link ended");
}

impl Control {
    async fn read_one(&mut self) -> Result<(), StreamError> {
        match self.messages.recv().await? {
            Some(ToRouter::Status {
                free_slots,
                draining,
            }) => {
                self.status.send_replace(ProviderStatus {
                    free_slots,
                    draining,
                });
                Ok(())
            }
            Some(message @ ToRouter::Final(_)) => {
                // The receiver lives in the link, which the caller holds.
                let _ = self.late.send(message).await;
                Ok(())
            }
            Some(_) => Err(StreamError::Unexpected(
                "only `status` and `final` belong on the control stream",
            )),
            None => Err(StreamError::EndedByPeer(CloseCode::Done)),
        }
    }
}

/// One connected provider. Clones share the connection.
#[derive(Clone)]
pub struct ProviderLink(Arc<Link>);

struct Link {
    connection: Connection,
    endpoint_id: EndpointId,
    hello: Hello,
    status: watch::Receiver<ProviderStatus>,
    late: tokio::sync::Mutex<mpsc::Receiver<ToRouter>>,
    answer: tokio::sync::Mutex<MessageSender<RouterControl>>,
    timeouts: Timeouts,
}

impl ProviderLink {
    /// The provider's transport key, proved by the handshake.
    pub fn endpoint_id(&self) -> EndpointId {
        self.0.endpoint_id
    }

    /// What the provider said of itself; `authorize` has agreed to its account.
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    /// Free slots and draining, as last reported.
    pub fn status(&self) -> watch::Receiver<ProviderStatus> {
        self.0.status.clone()
    }

    /// Round-trip time, direct or relayed, losses; `None` when the link is gone.
    pub fn path(&self) -> Option<PathInfo> {
        endpoint::path_info(&self.0.connection)
    }

    /// Opens the stream of one job and sends its order. Fails when the provider lets no further stream open in time.
    pub async fn open_job(&self, dispatch: Dispatch) -> Result<JobStream, StreamError> {
        let patience = self.0.timeouts.handshake;
        let streams = tokio::time::timeout(patience, self.0.connection.open_bi())
            .await
            .map_err(|_| StreamError::StalledReader(patience))?
            .map_err(|error| StreamError::Lost(error.into()))?;
        let mut stream = JobStream::new(streams, MESSAGE_BYTES_MAX, &self.0.timeouts);
        stream
            .send(&ToProvider::Dispatch(Box::new(dispatch)))
            .await?;
        Ok(stream)
    }

    /// Next `Final` of a job whose stream was lost before the router countersigned; `None` when the link is gone.
    pub async fn next_late(&self) -> Option<ToRouter> {
        self.0.late.lock().await.recv().await
    }

    /// Answers such a `Final`.
    pub async fn answer_late(&self, message: ToProvider) -> Result<(), StreamError> {
        let late = RouterControl::Late(Box::new(message));
        self.0.answer.lock().await.send(&late).await
    }

    /// Jobs that one link carries at once.
    pub const fn jobs_max() -> u32 {
        JOBS_PER_LINK_MAX
    }

    /// Resolves when the link is gone, and says why.
    pub async fn closed(&self) -> Lost {
        self.0.connection.closed().await.into()
    }

    /// True once the link is gone.
    pub fn is_closed(&self) -> bool {
        self.0.connection.close_reason().is_some()
    }

    /// Ends the link; running jobs are lost.
    pub fn close(&self, code: CloseCode, reason: &str) {
        close(&self.0.connection, code, reason);
    }
}
