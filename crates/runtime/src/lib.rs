//! What a provider runs on and how: backends, their threads, its policy, its hardware.
//!
//! A [`Backend`] turns [`stoa_nodes::work::Work`] into tokens: [`ExactBackend`] with the integer engine, [`UpstreamBackend`] with
//! somebody else's inference server, [`ScriptedBackend`] for tests of everything around it. [`Executor`] runs them on as many threads
//! as the provider has slots, so that no generation ever blocks the network, and [`Paced`] puts text together that comes faster than
//! anybody reads. [`ProviderPolicy`] says when a provider takes work; [`discover_hardware`] says what it runs on.

mod answer;
mod apart;
mod backend;
mod cheat;
mod control;
mod exact;
mod executor;
mod grammars;
mod hardware;
mod judge;
mod memory;
mod models;
mod pace;
mod policy;
mod prompt;
mod scripted;
mod serving;
mod templates;
mod tools;
mod trial;
mod upstream;
mod vectors;

pub use apart::{Apart, ApartError, Times};
pub use backend::{
    Backend, CancelFlag, Emit, Generation, ModelFacts, Piece, Prepared, RerunError, RunError,
    run_to_end, run_unless,
};
pub use cheat::{Cheat, CheatingBackend};
pub use exact::{ExactBackend, ExactOptions, OpenError};
pub use executor::{Busy, Event, Executor};
pub use grammars::{Grammars, serve_grammars};
pub use hardware::{discover_hardware, parse_nvidia_smi, parse_rocm_smi};
pub use judge::ExactJudge;
pub use memory::{MemoryView, available_memory};
pub use models::{ModelEntry, ModelView, Models, ModelsError, PooledBackend};
pub use pace::Paced;
pub use policy::{LocalTime, PolicyError, ProviderPolicy, Weekday, Window};
pub use scripted::{Fault, Script, ScriptedBackend};
pub use templates::{RenderError, Templates, serve_renderings};
pub use trial::template_fault;
pub use upstream::{
    Probe, ServerKind, UpstreamBackend, UpstreamError, UpstreamFault, UpstreamInfo,
    UpstreamOptions, UpstreamTimeouts, upstream_prompt_root,
};
