//! Exact integer inference (IQ8): language models whose answers are the same bits on every machine.
//!
//! After import there is no floating point: weights and activations are int8 in blocks of 32, sums are exact integers, and every
//! rounding is stated in `docs/iq8.md`. Hence batch size, thread count and vector width cannot change an answer, and anyone can
//! recompute one to check a receipt.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::sync::{Arc, atomic::AtomicBool};
//! use stoa_engine::{Model, TextOptions, generate};
//! use stoa_types::{Q16, SamplingParameters};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Arc::new(Model::open("model.gguf")?);
//! let prompt = model.render_chat(r#"[{"role":"user","content":"Hello"}]"#, None, true)?;
//! let ids = model.tokenizer().encode(&prompt, true)?;
//! let parameters = SamplingParameters {
//!     temperature: Q16(45_875), // 0.7
//!     min_p: Q16(3_277),        // 0.05
//!     seed: 1,
//!     max_output_tokens: 64,
//!     stop: vec![],
//!     ..SamplingParameters::default()
//! };
//! let answer = generate(&model, &ids, &parameters, TextOptions::default(), &AtomicBool::new(false), |event| {
//!     print!("{}", event.text);
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(()) }
//! ```
//!
//! Layers, bottom up: [`fixed`] and [`tables`] (arithmetic), [`quant`] and [`packed`] (formats), [`kernel`] (inner loops; unsafe code
//! is there and in [`mapping`]), [`ops`] (operators), [`import`] (files), [`Model`], [`Sequence`] (cache), [`Runner`] (passes of many
//! sequences), [`Session`] (one sequence), [`generate`]. Beside them, for disputes: [`trace`].

mod cache;
mod chat;
mod config;
mod constraint;
mod error;
pub mod experts;
pub mod fixed;
mod generate;
pub mod import;
pub mod kernel;
pub mod logprob;
pub mod mapping;
mod model;
pub mod norms;
pub mod ops;
pub mod pack;
pub mod packed;
mod parallel;
mod pass;
mod pooling;
pub mod quant;
mod random_model;
mod root;
pub mod sampler;
mod scheduler;
mod sentence_pieces;
mod session;
mod source;
pub mod storage;
pub mod tables;
mod threads;
mod tokenizer;
mod tokenizer_parts;
pub mod trace;
mod word_pieces;

pub use cache::{PAGE, Sequence};
pub use chat::{ChatTemplate, Rendering};
pub use config::{Architecture, Config, Encoder, Experts, Pooling, Rotary, RotaryScaling};
pub use constraint::{Constraint, ConstraintError, TokenSet};
pub use error::{EngineError, ImportError};
pub use generate::{
    Answer, Finish, Generation, StopScanner, TextOptions, TokenEvent, drive, generate, generate_in,
};
pub use import::{Loss, MemoryEstimate};
pub use kernel::Kernel;
pub use model::{LoadOptions, Model, ModelInfo};
pub use pass::{Entry, ROWS, Runner, Wanted};
pub use pooling::{TextVector, text_vector};
pub use random_model::RandomModel;
pub use root::{SEMANTICS, semantics_digest};
pub use scheduler::{Ended, Request, Scheduler, SchedulerOptions, Sink, Stats, Tenant};
pub use session::Session;
pub use source::Source;
pub use threads::{THREADS_MAX, Threads};
pub use tokenizer::{Detokenizer, Tokenizer, TokenizerSource};
