//! A router on loopback, providers for it, and small messages.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use stoa_net::{
    Authorize, Backoff, EndpointSecret, ProviderConfig, ProviderEndpoint, ProviderLink,
    RouterConfig, RouterEndpoint, Timeouts, Welcome,
};
use stoa_nodes::message::{Dispatch, Final, Hello, ToRouter};
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_types::{
    Address, Digest, FinishReason, Hardware, JobId, PaidBy, Price, Q16, Receipt, Region,
    SamplingParameters, Signature, SignedTicket, Ticket, Tier, Timestamp, TokenAmount,
};
use stoa_verify::Content;

/// A slot count that marks a provider whose account is not registered.
pub const UNREGISTERED: u32 = 999;

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn timeouts() -> Timeouts {
    Timeouts {
        handshake: Duration::from_secs(2),
        frame: Duration::from_secs(2),
        stall: Duration::from_millis(1500),
        silence: Duration::from_secs(2),
    }
}

pub fn welcome() -> Welcome {
    Welcome {
        router: Address([9; 20]),
        chain_id: 31_337,
        vault: Address([8; 20]),
        profile_hash: Digest([7; 32]),
    }
}

pub fn router_config() -> RouterConfig {
    RouterConfig {
        secret: EndpointSecret::from_bytes([1; 32]),
        bind: loopback(),
        welcome: welcome(),
        timeouts: timeouts(),
    }
}

pub fn everyone() -> Authorize {
    Arc::new(|_, _| Ok(()))
}

pub fn hello(slots: u32) -> Hello {
    Hello {
        account: Address([2; 20]),
        region: Region(*b"XA"),
        slots,
        hardware: Hardware::default(),
        models: Vec::new(),
    }
}

/// Gives a test that hangs a name instead of a timeout of the whole run.
pub async fn patient<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it must not hang")
}

pub async fn connect(config: ProviderConfig) -> ProviderEndpoint {
    ProviderEndpoint::connect(config).await.expect("bound")
}

pub struct Hall {
    pub router: RouterEndpoint,
    pub asked: Arc<AtomicU32>,
}

impl Hall {
    pub async fn open() -> Self {
        let asked = Arc::new(AtomicU32::new(0));
        let router = RouterEndpoint::bind(router_config(), Self::authorize(&asked))
            .await
            .expect("bound");
        Self { router, asked }
    }

    /// A router whose door is still closed.
    pub async fn closed() -> Self {
        let asked = Arc::new(AtomicU32::new(0));
        let router = RouterEndpoint::bind_closed(router_config(), Self::authorize(&asked))
            .await
            .expect("bound");
        Self { router, asked }
    }

    fn authorize(asked: &Arc<AtomicU32>) -> Authorize {
        let asked = asked.clone();
        Arc::new(move |_, hello| {
            asked.fetch_add(1, Ordering::SeqCst);
            match hello.slots {
                UNREGISTERED => Err("this endpoint is not registered on chain".to_owned()),
                _ => Ok(()),
            }
        })
    }

    /// Stops the router; gives what [`Hall::reopen`] needs.
    pub async fn stop(self) -> (SocketAddr, Arc<AtomicU32>) {
        let address = self.router.address().addresses[0];
        self.router.close().await;
        (address, self.asked)
    }

    /// Starts the router again with the same key on the same port, which is free once the last link is dropped.
    pub async fn reopen((bind, asked): (SocketAddr, Arc<AtomicU32>)) -> Self {
        let config = RouterConfig {
            bind,
            ..router_config()
        };
        patient(async {
            loop {
                match RouterEndpoint::bind(config.clone(), Self::authorize(&asked)).await {
                    Ok(router) => break Self { router, asked },
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await
    }

    pub fn provider_config(&self, slots: u32) -> ProviderConfig {
        ProviderConfig {
            secret: EndpointSecret::from_bytes([2; 32]),
            bind: loopback(),
            router: self.router.address(),
            hello: hello(slots),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_millis(400)),
            timeouts: timeouts(),
        }
    }

    pub async fn join(&self, slots: u32) -> (ProviderEndpoint, ProviderLink) {
        let provider = connect(self.provider_config(slots)).await;
        let link = patient(self.router.accept()).await.expect("admitted");
        patient(provider.connected()).await.expect("welcomed");
        (provider, link)
    }
}

pub fn job_of(number: u32) -> JobId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    JobId(id)
}

pub fn delta(number: u32, step: u32) -> ToRouter {
    ToRouter::Delta {
        job: job_of(number),
        attempt: 0,
        tokens: vec![number, step],
        text: format!("{number}.{step} é"),
        logprobs: Vec::new(),
    }
}

/// An order whose `attempt` carries the test's number.
pub fn dispatch(number: u32) -> Dispatch {
    let ticket = Ticket {
        job_id: job_of(number),
        account: Address([3; 20]),
        router: Address([9; 20]),
        provider: Address([2; 20]),
        model_root: Digest([5; 32]),
        parameters_digest: Digest::ZERO,
        request_digest: Digest::ZERO,
        work_digest: Digest::ZERO,
        input_price: Price::per_million(TokenAmount::from_units(1)),
        output_price: Price::per_million(TokenAmount::from_units(2)),
        input_units_max: 10,
        output_units_max: 10,
        reserve: TokenAmount::from_units(100),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: number,
        issued_at: Timestamp(1),
        deadline: Timestamp(2),
    };
    Dispatch {
        ticket: SignedTicket {
            ticket,
            signature: Signature([0; 65]),
        },
        work: Work {
            prompt: Prompt::Text("hello".to_owned()),
            sampling: SamplingParameters {
                temperature: Q16(0),
                min_p: Q16(0),
                seed: 1,
                max_output_tokens: 10,
                stop: Vec::new(),
                ..SamplingParameters::default()
            },
            answer: AnswerShape::Any,
        },
        profile_hash: Digest([7; 32]),
        trace: None,
    }
}

/// A `Final` with plausible contents.
pub fn last_message(number: u32) -> ToRouter {
    large_last_message(number, 5)
}

/// A `Final` whose answer has so many bytes.
pub fn large_last_message(number: u32, bytes: usize) -> ToRouter {
    let ticket = dispatch(number).ticket.ticket;
    let content = Content {
        text: "x".repeat(bytes),
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
        input_units: 3,
        output_units: 2,
    };
    let receipt = Receipt {
        version: 1,
        chain_id: 31_337,
        vault: Address([8; 20]),
        profile_hash: Digest([7; 32]),
        job_id: ticket.job_id,
        account: ticket.account,
        router: ticket.router,
        provider: ticket.provider,
        model_root: ticket.model_root,
        runtime_digest: Digest([6; 32]),
        parameters_digest: ticket.parameters_digest,
        prompt_root: Digest([1; 32]),
        request_digest: ticket.request_digest,
        output_root: Digest([2; 32]),
        response_digest: content.digest(),
        input_units: 3,
        output_units: 2,
        input_price: ticket.input_price,
        output_price: ticket.output_price,
        charge: TokenAmount::from_units(7),
        fee_version: 1,
        paid_by: PaidBy::Allotment,
        tier: Tier::Exact,
        evidence_digest: Digest::ZERO,
        ticket_hash: Digest([3; 32]),
        attempt: number,
        segments_root: Digest::ZERO,
        accepted_at: Timestamp(1),
        delivered_at: Timestamp(2),
    };
    ToRouter::Final(Box::new(Final {
        content,
        receipt,
        signature: Signature([4; 65]),
    }))
}
