//! A provider before somebody else's inference server: anything that speaks OpenAI's protocol.
//!
//! The answers are of tier `none`: floating point on unknown hardware, which nobody can recompute. What is done about it is to hand on
//! only what is whole: a stream that breaks the protocol fails the job, and nothing is charged for it. What stands in the receipt, and
//! what is counted, is in `count` and in docs/decisions/.

mod client;
mod count;
mod fault;
mod health;
mod job;
mod kind;
mod lane;
mod outlet;
mod reasoning;
mod request;
mod sse;
mod stream;
mod vectors;

pub use client::UpstreamError;
pub use fault::UpstreamFault;
pub use kind::ServerKind;
pub use request::upstream_prompt_root;

use crate::backend::{
    Backend, CancelFlag, Emit, Generation, ModelFacts, Piece, Prepared, RunError,
};
use client::Client;
use health::{Asked, Health};
use kind::{About, Listed, listed, recognise};
use lane::Lane;
use request::Request;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use stoa_crypto::keccak256;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::provider::Counted;
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_types::{Digest, FinishReason, Q16, SamplingParameters, Tier};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How to use a server.
#[derive(Clone)]
pub struct UpstreamOptions {
    /// Its address, with or without `/v1`.
    pub url: String,
    /// Sent as a bearer token.
    pub key: Option<String>,
    /// Id of the model there; the only one when absent.
    pub model: Option<String>,
    /// Context in tokens; what the server says when absent.
    pub context: Option<u32>,
    /// Requests at once; what the server says when absent, else [`CONCURRENCY`].
    pub concurrency: Option<u32>,
    /// Upper bound of the tokens that the model's template adds per message.
    pub message_overhead: u32,
    /// How long is waited.
    pub timeouts: UpstreamTimeouts,
}

impl UpstreamOptions {
    /// The defaults for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            key: None,
            model: None,
            context: None,
            concurrency: None,
            message_overhead: 64,
            timeouts: UpstreamTimeouts::default(),
        }
    }
}

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamTimeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the first event of an answer, its prompt's computation included.
    pub first_event: Duration,
    /// For every further one.
    pub silence: Duration,
    /// For a place among the requests at once.
    pub place: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_event: Duration::from_secs(120),
            silence: Duration::from_secs(30),
            place: Duration::from_secs(5),
        }
    }
}

/// Requests at once to a server that does not say how many it takes.
pub const CONCURRENCY: u32 = 64;
/// Context of a model of which nobody says how long it is.
const CONTEXT_UNKNOWN: u32 = 4096;

/// What was found at a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamInfo {
    /// Its address.
    pub url: String,
    /// Which server it is.
    pub kind: ServerKind,
    /// Its version, where it says one.
    pub version: Option<String>,
    /// Id of the model there.
    pub model: String,
    /// Requests at once.
    pub concurrency: u32,
    /// Whether the server itself said how long the model's context is, or the operator did.
    pub context_known: bool,
}

/// A server as a backend. Clones share it.
#[derive(Clone)]
pub struct UpstreamBackend {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    info: UpstreamInfo,
    facts: ModelFacts,
    message_overhead: u32,
    timeouts: UpstreamTimeouts,
    permits: Semaphore,
    health: Arc<Health>,
    /// Carries every connection and the watch over the server's health.
    lane: Lane,
}

/// How a test answer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// From the request to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub rest: Duration,
    /// Tokens of the answer, as billed.
    pub output_units: u64,
    /// The same by the server's usage.
    pub output_told: u64,
    /// Tokens of the prompt.
    pub input_units: u64,
}

impl UpstreamBackend {
    /// Finds out what the server is and serves, and watches its health from then on, all on one thread of its own.
    pub async fn connect(options: UpstreamOptions) -> Result<Self, UpstreamError> {
        let lane = Lane::start().map_err(UpstreamError::Thread)?;
        let found = lane.run(find(options.clone())).await?;
        let health = Arc::new(Health::default());
        lane.spawn(health::keep_watch(found.asked(), health.clone()));
        let limit = found
            .about
            .slots
            .and_then(|slots| u32::try_from(slots).ok());
        let concurrency = options.concurrency.or(limit).unwrap_or(CONCURRENCY).max(1);
        let Found {
            client,
            model,
            about,
        } = found;
        let facts = facts(&options, &model, &about);
        let info = UpstreamInfo {
            url: client.base().to_owned(),
            kind: about.kind,
            version: about.version,
            context_known: options.context.or(context(&model, about.context)).is_some(),
            model: model.id,
            concurrency,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                info,
                facts,
                message_overhead: options.message_overhead,
                timeouts: options.timeouts,
                permits: Semaphore::new(concurrency as usize),
                health,
                lane,
            }),
        })
    }

    /// What was found.
    pub fn info(&self) -> &UpstreamInfo {
        &self.shared.info
    }

    /// What is wrong with the server now, if anything.
    pub fn fault(&self) -> Option<UpstreamFault> {
        self.shared.health.fault()
    }

    /// Makes one short answer and says how it went: whether the server's stream is one that can be paid for, and how fast it is.
    pub async fn probe(&self, tokens: u32) -> Result<Probe, UpstreamFault> {
        let chat = Prompt::Chat {
            messages: r#"[{"role":"user","content":"Hello"}]"#.to_owned(),
            tools: "[]".to_owned(),
            arguments: String::new(),
        };
        match self.probe_with(chat, tokens).await {
            // A model without a chat template completes texts only.
            Err(UpstreamFault::Rejected { .. }) => {
                self.probe_with(Prompt::Text("One, two, three,".to_owned()), tokens)
                    .await
            }
            result => result,
        }
    }

    async fn probe_with(&self, prompt: Prompt, tokens: u32) -> Result<Probe, UpstreamFault> {
        let work = Work {
            prompt,
            sampling: SamplingParameters {
                temperature: Q16(0),
                min_p: Q16(0),
                seed: 0,
                max_output_tokens: tokens,
                stop: Vec::new(),
                ..SamplingParameters::default()
            },
            answer: AnswerShape::Any,
        };
        let shared = &self.shared;
        let request = shared.request(&work).map_err(|_| UpstreamFault::NotFound)?;
        let (start, mut first) = (Instant::now(), None);
        let mut emit = |_: Piece| {
            first.get_or_insert_with(Instant::now);
            ControlFlow::Continue(())
        };
        let cancel = CancelFlag::new();
        let answer = shared
            .answer(&work, request, &cancel, &mut emit, &mut |_| {})
            .await?;
        let first = first.unwrap_or_else(Instant::now);
        Ok(Probe {
            first_token: first - start,
            rest: first.elapsed(),
            output_units: answer.billed.completion_tokens,
            output_told: answer.told.completion_tokens,
            input_units: answer.billed.prompt_tokens,
        })
    }
}

/// A server that is well and serves the model.
struct Found {
    client: Client,
    model: Listed,
    about: About,
}

impl Found {
    fn asked(&self) -> Asked {
        Asked {
            client: self.client.clone(),
            kind: self.about.kind,
            model: self.model.id.clone(),
        }
    }
}

async fn find(options: UpstreamOptions) -> Result<Found, UpstreamError> {
    let client = Client::new(
        &options.url,
        options.key.as_deref(),
        options.timeouts.connect,
    )?;
    let models = listed(&client.get_json("/v1/models").await?);
    let model = choose(models, options.model.as_deref())?;
    let about = recognise(&client, &model).await?;
    let found = Found {
        client,
        model,
        about,
    };
    found.asked().check().await?;
    Ok(found)
}

fn choose(mut models: Vec<Listed>, wanted: Option<&str>) -> Result<Listed, UpstreamError> {
    let ids = |models: &[Listed]| models.iter().map(|model| model.id.clone()).collect();
    let at = match wanted {
        Some(wanted) => models
            .iter()
            .position(|model| model.id == wanted || offered_name(&model.id) == wanted)
            .ok_or_else(|| UpstreamError::NotListed {
                wanted: wanted.to_owned(),
                ids: ids(&models),
            })?,
        None if models.len() > 1 => return Err(UpstreamError::Several { ids: ids(&models) }),
        None if models.is_empty() => return Err(UpstreamError::NoModel),
        None => 0,
    };
    Ok(models.swap_remove(at))
}

/// The name that clients ask for: the id, or the file's name where the id is a path on the operator's machine.
fn offered_name(id: &str) -> &str {
    let is_path = id.starts_with('/') || id.ends_with(".gguf");
    if !is_path {
        return id;
    }
    let file = id.rsplit(['/', '\\']).next().unwrap_or(id);
    file.strip_suffix(".gguf").unwrap_or(file)
}

fn context(model: &Listed, about: Option<u64>) -> Option<u32> {
    // What the server runs with; what it lists may be what the model was trained for.
    let known = about.or(model.context)?;
    u32::try_from(known).ok().filter(|context| *context > 0)
}

fn facts(options: &UpstreamOptions, model: &Listed, about: &About) -> ModelFacts {
    let known = options.context.or(context(model, about.context));
    let identity = format!(
        "stoa.upstream.v1\nunit=piece\nserver={}\nmodel={}",
        about.kind.name(),
        model.id
    );
    let format = model.format.as_deref().or(about.format.as_deref());
    ModelFacts {
        // What a server sets apart is put between the marks; one that does not hands on those of its model.
        reasons: true,
        model: offered_name(&model.id).to_owned(),
        model_root: Digest::ZERO,
        runtime_digest: keccak256(identity),
        tier: Tier::None,
        context: known.unwrap_or(CONTEXT_UNKNOWN),
        quantization: format
            .map_or("unknown".to_owned(), fault::word)
            .to_lowercase(),
        message_overhead: options.message_overhead,
    }
}

impl Shared {
    fn request(&self, work: &Work) -> Result<Request, RefusalReason> {
        let (kind, context) = (self.info.kind, self.facts.context);
        Request::new(work, kind, self.message_overhead, context)
    }
}

impl Backend for UpstreamBackend {
    fn facts(&self) -> &ModelFacts {
        &self.shared.facts
    }

    fn ready(&self) -> Result<(), String> {
        self.shared
            .health
            .fault()
            .map_or(Ok(()), |fault| Err(fault.to_string()))
    }

    fn prepare(&self, work: &Work) -> Result<Prepared, RefusalReason> {
        if self.shared.health.fault().is_some() {
            return Err(RefusalReason::UnknownModel);
        }
        let request = self.shared.request(work)?;
        let facts = stoa_nodes::provider::Prepared {
            input_units: request.input_bound,
            prompt_root: request.prompt_root,
        };
        Ok(Prepared {
            facts,
            ..Prepared::new(work.clone(), Vec::new())
        })
    }

    fn run(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
    ) -> Result<Generation, RunError> {
        self.run_counted(prepared, cancel, emit, &mut |_| {})
    }

    fn run_counted(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
        counted: &mut dyn FnMut(Counted),
    ) -> Result<Generation, RunError> {
        let (shared, work) = (&self.shared, &prepared.work);
        let request = shared
            .request(work)
            .map_err(|reason| RunError::Failed(format!("{reason:?}")))?;
        let answer = shared.answer(work, request, cancel, emit, counted);
        let answer = shared.lane.block_on(answer);
        let outcome = match &answer {
            Ok(answer) if answer.generation.finish_reason == FinishReason::Cancelled => "cancelled",
            Ok(_) => "ok",
            Err(fault) => fault.label(),
        };
        metrics::counter!("stoa_upstream_requests_total", "outcome" => outcome).increment(1);
        match answer {
            Ok(answer) => Ok(answer.generation),
            Err(fault) => {
                if fault.is_doubt() {
                    shared.health.doubt();
                }
                Err(RunError::Upstream(fault))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_on_the_operator_s_machine_is_not_offered_as_a_name() {
        assert_eq!(offered_name("/home/me/models/Tiny.Q8_0.gguf"), "Tiny.Q8_0");
        assert_eq!(offered_name("C:\\models\\a.gguf"), "a");
        assert_eq!(offered_name("Qwen/Qwen3-8B"), "Qwen/Qwen3-8B");
        assert_eq!(offered_name("/data/llama"), "llama");
    }

    #[test]
    fn the_model_is_chosen_or_the_choice_is_asked_for() {
        let model = |id: &str| Listed {
            id: id.to_owned(),
            owned_by: String::new(),
            context: None,
            format: None,
        };
        let two = || vec![model("a"), model("/m/b.gguf")];
        assert!(matches!(choose(vec![], None), Err(UpstreamError::NoModel)));
        assert_eq!(
            choose(vec![model("a")], None).expect("the only one").id,
            "a"
        );
        let open = choose(two(), None).expect_err("open").to_string();
        assert!(
            open.contains("--upstream-model") && open.contains("/m/b.gguf"),
            "{open}"
        );
        assert_eq!(choose(two(), Some("b")).expect("by name").id, "/m/b.gguf");
        assert!(matches!(
            choose(two(), Some("c")),
            Err(UpstreamError::NotListed { .. })
        ));
    }
}
