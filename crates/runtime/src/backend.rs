//! What every backend offers.

use crate::exact::ExactBackend;
use crate::upstream::UpstreamFault;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stoa_crypto::{keccak256, token_root};
use stoa_engine::{EngineError, Tenant};
use stoa_grammar::Compiled;
use stoa_nodes::message::{ModelOffer, RefusalReason};
use stoa_nodes::provider::Counted;
use stoa_nodes::work::Work;
use stoa_types::{Address, Digest, FinishReason, Logprobs, Price, Tier};
use stoa_verify::{Content, ToolCall};
use tokio::sync::Notify;

/// What a backend says of its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// Name that clients ask for.
    pub model: String,
    /// Root of the integer weights; zero where there are none.
    pub model_root: Digest,
    /// Digest of the semantics version or backend identity.
    pub runtime_digest: Digest,
    /// How answers can be checked.
    pub tier: Tier,
    /// Context length in tokens.
    pub context: u32,
    /// Weight format.
    pub quantization: String,
    /// Upper bound of the tokens that template and specials add per message.
    pub message_overhead: u32,
    /// Whether answers may begin with reasoning between marks that stand in their text.
    pub reasons: bool,
}

impl ModelFacts {
    /// The offer of this model at a price.
    pub fn offer(&self, input_price: Price, output_price: Price) -> ModelOffer {
        ModelOffer {
            model: self.model.clone(),
            model_root: self.model_root,
            runtime_digest: self.runtime_digest,
            tier: self.tier,
            context: self.context,
            input_price,
            output_price,
            quantization: self.quantization.clone(),
            message_overhead: self.message_overhead,
            reasons: self.reasons,
        }
    }
}

/// Work whose prompt is tokenized and fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The work.
    pub work: Work,
    /// Prompt tokens, of all inputs in order where vectors are asked for.
    pub prompt: Vec<u32>,
    /// What the provider core needs of it.
    pub facts: stoa_nodes::provider::Prepared,
    /// Who asks, as far as the engine is to tell: what was computed for one is used again for the same one only.
    pub tenant: Tenant,
    /// What the answer is held to while it is decoded.
    pub grammar: Option<Compiled>,
    pub(crate) model: Option<Held>,
}

/// A model that stays in memory until the work is done.
#[derive(Debug, Clone)]
pub(crate) struct Held(Arc<ExactBackend>);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Held {}

impl Prepared {
    /// Work with its prompt, counted and hashed.
    pub fn new(work: Work, prompt: Vec<u32>) -> Self {
        let facts = stoa_nodes::provider::Prepared {
            input_units: prompt.len() as u64,
            prompt_root: token_root(&prompt),
        };
        Self {
            work,
            prompt,
            facts,
            tenant: Tenant([0; 32]),
            grammar: None,
            model: None,
        }
    }

    /// The same; the model stays in memory as long as this does.
    pub(crate) fn held_by(self, model: Arc<ExactBackend>) -> Self {
        Self {
            model: Some(Held(model)),
            ..self
        }
    }

    /// The model that it was prepared with, where one is held.
    pub(crate) fn model(&self) -> Option<&ExactBackend> {
        self.model.as_ref().map(|held| &*held.0)
    }

    /// The same, asked by an account through a router.
    pub fn asked_by(self, router: Address, account: Address) -> Self {
        let name = [b"stoa.tenant".as_slice(), &router.0, &account.0].concat();
        Self {
            tenant: Tenant(keccak256(&name).0),
            ..self
        }
    }
}

/// How a generation ended. Tokens and text are those that were emitted, no more and no less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Validated tool calls.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Why a generation gave no answer. Nothing may be claimed for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The backend failed, or the model did not give what the work demands.
    #[error("{0}")]
    Failed(String),
    /// The machine failed, not the model: another one might answer the same work.
    #[error("{0}")]
    Machine(String),
    /// Scripts only: the provider must drop its connection without a word.
    #[error("the script drops the connection here")]
    Disconnect,
    /// Somebody else's server gave no answer, or none that may be handed on.
    #[error(transparent)]
    Upstream(#[from] UpstreamFault),
}

impl RunError {
    /// What the model and the work do not allow fails everywhere alike; the rest is this machine's.
    pub(crate) fn of_engine(error: EngineError) -> Self {
        if error.is_of_the_work() {
            Self::Failed(error.to_string())
        } else {
            Self::Machine(error.to_string())
        }
    }
}

/// New tokens with the text that is certain by then.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// Ids in order.
    pub tokens: Vec<u32>,
    /// Text.
    pub text: String,
    /// One entry for each token, where they are asked for.
    pub logprobs: Vec<Logprobs>,
}

impl Piece {
    /// Without log-probabilities.
    pub fn new(tokens: Vec<u32>, text: String) -> Self {
        Self {
            tokens,
            text,
            logprobs: Vec::new(),
        }
    }
}

/// Takes what was made; `Break` when nobody wants more.
pub type Emit<'a> = dyn FnMut(Piece) -> ControlFlow<()> + 'a;

/// Something that answers. Calls block and belong on threads of their own ([`crate::Executor`]).
pub trait Backend: Send + Sync {
    /// What it serves.
    fn facts(&self) -> &ModelFacts;

    /// Tokenizes the prompt and says whether it can be run.
    fn prepare(&self, work: &Work) -> Result<Prepared, RefusalReason>;

    /// Generates. Emits every token once, in order, with the text that is certain by then; all texts together are the answer's
    /// text. Ends soon after `cancel` is raised or `emit` breaks, with [`FinishReason::Cancelled`].
    fn run(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
    ) -> Result<Generation, RunError>;

    /// The same, for a backend whose counts come from elsewhere: it tells them through `counted` as soon as it knows them.
    fn run_counted(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
        counted: &mut dyn FnMut(Counted),
    ) -> Result<Generation, RunError> {
        let _ = counted;
        self.run(prepared, cancel, emit)
    }

    /// Whether it can take work now; the error says why not.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Raised once to stop a generation. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    raised: AtomicBool,
    wake: Notify,
}

impl CancelFlag {
    /// A flag that is down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises it.
    pub fn cancel(&self) {
        self.0.raised.store(true, Ordering::Release);
        self.0.wake.notify_waiters();
    }

    /// Ends when it is raised.
    pub async fn cancelled(&self) {
        let mut woken = std::pin::pin!(self.0.wake.notified());
        // Registered before the look at the flag, so that no raise falls between the two.
        woken.as_mut().enable();
        if !self.is_cancelled() {
            woken.await;
        }
    }

    /// Whether it is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.raised.load(Ordering::Acquire)
    }

    pub(crate) fn atomic(&self) -> &AtomicBool {
        &self.0.raised
    }
}

/// Prepares and runs `work` on the calling thread: what a checker does to recompute an answer. Gives the canonical content, the
/// prompt tokens and the output tokens.
pub fn run_to_end(
    backend: &dyn Backend,
    work: &Work,
) -> Result<(Content, Vec<u32>, Vec<u32>), RerunError> {
    run_unless(backend, work, &CancelFlag::new())
}

/// The same, until `cancel` is raised: the content then says that it was cancelled.
pub fn run_unless(
    backend: &dyn Backend,
    work: &Work,
    cancel: &CancelFlag,
) -> Result<(Content, Vec<u32>, Vec<u32>), RerunError> {
    let prepared = prepare_when_free(backend, work, cancel).map_err(RerunError::Refused)?;
    let (mut output, mut text) = (Vec::new(), String::new());
    let generation = backend.run(&prepared, cancel, &mut |piece| {
        output.extend(piece.tokens);
        text.push_str(&piece.text);
        ControlFlow::Continue(())
    })?;
    let content = Content {
        text,
        tool_calls: generation.tool_calls,
        finish_reason: generation.finish_reason,
        input_units: prepared.facts.input_units,
        output_units: output.len() as u64,
    };
    Ok((content, prepared.prompt, output))
}

/// Prepares work that is to be done again, and so does not go elsewhere: one that is busy is asked again until `cancel` is raised, or for
/// [`BUSY_MAX`].
pub(crate) fn prepare_when_free(
    backend: &dyn Backend,
    work: &Work,
    cancel: &CancelFlag,
) -> Result<Prepared, RefusalReason> {
    let end = Instant::now() + BUSY_MAX;
    loop {
        match backend.prepare(work) {
            Err(RefusalReason::Busy) if !cancel.is_cancelled() && Instant::now() < end => {
                std::thread::sleep(PAUSE);
            }
            prepared => return prepared,
        }
    }
}

/// How long a busy backend is asked again.
const BUSY_MAX: Duration = Duration::from_secs(60);

/// How long a busy backend is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// Why an answer could not be recomputed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RerunError {
    /// The backend does not take this work.
    #[error("the work is refused: {0:?}")]
    Refused(RefusalReason),
    /// It took the work and failed.
    #[error(transparent)]
    Failed(#[from] RunError),
}
