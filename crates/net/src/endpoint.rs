//! What both ends share: identity, addresses, timeouts, QUIC settings.

use crate::error::{CloseCode, NetError};
use crate::{JOBS_PER_LINK_MAX, STREAM_WINDOW_BYTES};
use iroh::endpoint::{Connection, QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use stoa_crypto::endpoint_message;
use stoa_types::{Address, EndpointId};

/// Secret key of a transport endpoint (ed25519). Prints as its public key, never as itself.
#[derive(Clone)]
pub struct EndpointSecret(pub(crate) iroh::SecretKey);

impl fmt::Debug for EndpointSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointSecret(of {})", self.endpoint_id())
    }
}

impl EndpointSecret {
    /// A new random key.
    pub fn generate() -> Self {
        Self(iroh::SecretKey::generate())
    }

    /// From stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(iroh::SecretKey::from_bytes(&bytes))
    }

    /// The secret bytes, for storing in a file of mode 0600.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Its public key: what stands on chain and what a peer dials.
    pub fn endpoint_id(&self) -> EndpointId {
        EndpointId(*self.0.public().as_bytes())
    }

    /// Proof that this endpoint agrees to belong to `account`, for the registering transaction (DECISIONS 4).
    pub fn prove(&self, chain_id: u64, registry: Address, account: Address) -> [u8; 64] {
        self.0
            .sign(&endpoint_message(chain_id, registry, account).0)
            .to_bytes()
    }
}

/// Where a router is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouterAddress {
    /// Its endpoint key; whoever answers must hold it.
    pub endpoint: EndpointId,
    /// Socket addresses to try.
    pub addresses: Vec<SocketAddr>,
}

impl RouterAddress {
    pub(crate) fn to_iroh(&self) -> Result<EndpointAddr, NetError> {
        let id = iroh::EndpointId::from_bytes(&self.endpoint.0)
            .map_err(|_| NetError::BadEndpointId(self.endpoint))?;
        Ok(self
            .addresses
            .iter()
            .fold(EndpointAddr::new(id), |to, address| {
                to.with_ip_addr(*address)
            }))
    }
}

/// How long a peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Dialling, and again for `Hello` and its answer.
    pub handshake: Duration,
    /// Completing a begun frame, besides one second per 64 KiB.
    pub frame: Duration,
    /// Taking not one byte of a message.
    pub stall: Duration,
    /// Silence after which a connection counts as lost; a quarter of it is the interval of keep-alive packets.
    pub silence: Duration,
}

impl Default for Timeouts {
    /// 10 s, 10 s, 30 s and 5 s.
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            frame: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            silence: Duration::from_secs(5),
        }
    }
}

/// How a connection travels at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathInfo {
    /// Round-trip time estimate.
    pub rtt: Duration,
    /// True when it goes through a relay, false when it is direct.
    pub relayed: bool,
    /// Packets sent on this path.
    pub packets_sent: u64,
    /// Packets of these that were lost.
    pub packets_lost: u64,
}

/// The selected path, or any while none is selected; `None` when the connection is gone.
pub(crate) fn path_info(connection: &Connection) -> Option<PathInfo> {
    let paths = connection.paths();
    let path = paths
        .iter()
        .find(|path| path.is_selected())
        .or_else(|| paths.iter().next())?;
    let stats = path.stats();
    Some(PathInfo {
        rtt: stats.rtt,
        relayed: path.is_relay(),
        packets_sent: stats.sent_packets,
        packets_lost: stats.lost_packets,
    })
}

/// Which end of a link an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Listens. Its peer opens one stream, for control; a stranger who opens more would fill a window for each.
    Router,
    /// Dials. Its peer opens one stream per job.
    Provider,
    /// Dials and asks. Its peer opens none.
    Validator,
}

impl Role {
    fn alpns(self) -> Vec<Vec<u8>> {
        match self {
            Self::Router => vec![crate::ALPN.to_vec(), crate::AUDIT_ALPN.to_vec()],
            Self::Provider | Self::Validator => Vec::new(),
        }
    }

    fn streams_of_peer(self) -> u32 {
        match self {
            Self::Router => 1,
            Self::Provider => JOBS_PER_LINK_MAX,
            Self::Validator => 0,
        }
    }
}

/// Opens an endpoint that knows nobody but who it is told of: no relay, no discovery, no port mapping.
pub(crate) async fn bind(
    secret: &EndpointSecret,
    address: SocketAddr,
    role: Role,
    timeouts: &Timeouts,
) -> Result<Endpoint, NetError> {
    let refused = |reason: String| NetError::Bind { address, reason };
    Endpoint::builder(presets::Minimal)
        .secret_key(secret.0.clone())
        .relay_mode(RelayMode::Disabled)
        .alpns(role.alpns())
        .transport_config(transport_config(role, timeouts))
        .clear_ip_transports()
        .bind_addr(address)
        .map_err(|error| refused(error.to_string()))?
        .bind()
        .await
        .map_err(|error| refused(format!("{error:#}")))
}

/// Closes a connection, unless it is already lost: its streams would else forget why.
pub(crate) fn close(connection: &Connection, code: CloseCode, reason: &str) {
    if connection.close_reason().is_none() {
        connection.close(code.var_int(), reason.as_bytes());
    }
}

/// Says goodbye in the background: a dropped endpoint would fall silent, and its peers would wait for the silence to be noticed.
pub(crate) fn close_in_background(endpoint: &Endpoint) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current()
        && !endpoint.is_closed()
    {
        let endpoint = endpoint.clone();
        runtime.spawn(async move { endpoint.close().await });
    }
}

fn transport_config(role: Role, timeouts: &Timeouts) -> QuicTransportConfig {
    let silence_ms = u32::try_from(timeouts.silence.as_millis()).unwrap_or(u32::MAX);
    let keep_alive = timeouts.silence / 4;
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(role.streams_of_peer()))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        // Room for every stream's window: readers that stall cannot starve a neighbour.
        .receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES * JOBS_PER_LINK_MAX))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::from_u32(silence_ms).into()))
        .default_path_max_idle_timeout(timeouts.silence)
        .keep_alive_interval(keep_alive)
        .default_path_keep_alive_interval(keep_alive)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_crypto::verify_endpoint_proof;

    #[test]
    fn the_registry_accepts_the_proof_for_this_account_and_no_other() {
        let secret = EndpointSecret::from_bytes([7; 32]);
        let (registry, account) = (Address([1; 20]), Address([2; 20]));
        let proof = secret.prove(31_337, registry, account);
        let check = |chain_id, account| {
            verify_endpoint_proof(secret.endpoint_id(), chain_id, registry, account, &proof)
        };
        assert_eq!(check(31_337, account), Ok(()));
        assert!(check(1, account).is_err());
        assert!(check(31_337, Address([3; 20])).is_err());
    }

    #[test]
    fn a_secret_never_prints_itself() {
        let printed = format!("{:?}", EndpointSecret::from_bytes([0xab; 32]));
        assert!(!printed.contains("abababab"), "{printed}");
    }
}
