//! Exact integer inference (IQ8): Llama models whose answers are the same bits on every machine.
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
//! };
//! let answer = generate(&model, &ids, &parameters, TextOptions::default(), &AtomicBool::new(false), |event| {
//!     print!("{}", event.text);
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(()) }
//! ```
//!
//! Layers, bottom up: [`fixed`] and [`tables`] (arithmetic), [`quant`] and [`packed`] (formats), [`kernel`] (inner loops; the one
//! module with unsafe code), [`ops`] (operators), [`import`] (files), [`Model`], [`Session`], [`generate`].

pub mod cache;
mod chat;
mod config;
mod error;
pub mod fixed;
mod generate;
pub mod import;
pub mod kernel;
mod model;
pub mod ops;
pub mod packed;
mod pooling;
pub mod quant;
mod random_model;
mod root;
pub mod sampler;
mod session;
pub mod tables;
mod tokenizer;

pub use chat::ChatTemplate;
pub use config::{Config, Rotary, RotaryScaling};
pub use error::{EngineError, ImportError};
pub use generate::{Answer, Finish, StopScanner, TextOptions, TokenEvent, generate, generate_in};
pub use import::MemoryEstimate;
pub use kernel::Kernel;
pub use model::{LoadOptions, Model, ModelInfo};
pub use pooling::{TextVector, text_vector};
pub use random_model::RandomModel;
pub use root::{SEMANTICS, semantics_digest};
pub use session::Session;
pub use tokenizer::{Detokenizer, Tokenizer, TokenizerSource};
