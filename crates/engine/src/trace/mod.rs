//! Traces: what a model computed for a token, operator by operator, as Merkle roots and openings that a contract can check.
//!
//! Nothing of it runs while a model serves. A [`Replay`] takes a job through the model once more and keeps the state before and after each
//! token; [`Replay::step`] makes all operators of one token's step in plain code. `docs/trace.md` states operators, rules and every byte that
//! is hashed.

mod checkpoint;
mod commit;
mod descent;
mod judge;
mod log;
mod open;
mod opening;
mod program;
mod record;
mod replay;
mod rules;
mod values;

pub use checkpoint::{checkpoint, checkpoint_of_all};
pub use commit::{
    LogTrees, State, TRACE, TokenClaim, entries_leaf, entry_leaf, operator_leaf, output_leaf,
    output_tree, state_leaf, step_tree, trace_tree,
};
pub use descent::{ARITY, Descent, DescentError};
pub use judge::{Judge, OpeningFile, Verdict, root_over};
pub use log::Log;
pub use open::ModelTree;
pub use opening::{
    EntriesOpening, Growth, Opening, OpeningError, OutputOpening, Run, Subject, TensorOpening,
};
pub use program::{
    ExpertPart, FOLD, Form, Fraction, Groups, Kind, LEAF, Matrix, Operator, Operators, Program,
    Rows, Step, VALUES_FOLD,
};
pub use replay::{Job, Replay, StepTrace};
pub use values::{Cell, Element, Values};

use crate::error::EngineError;

/// Why there is no trace, or none of that. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// An encoder reads whole texts at once.
    #[error(
        "this model reads texts and writes none: its work is no sequence of token steps and has no trace"
    )]
    Encoder,
    /// A job without a prompt.
    #[error("there is no prompt: give the tokens that the job began with")]
    NoPrompt,
    /// A position without a step.
    #[error("there is no step at position {position}: the job has {steps}, counted from 0")]
    NoStep {
        /// What was asked for.
        position: usize,
        /// How many there are.
        steps: usize,
    },
    /// What is asked for can not be opened.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// The engine refused the job.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
