//! Replays: a job's tokens through the model once more, with the states before and after each, and all operators of any one.

use super::TraceError;
use super::checkpoint::checkpoint;
use super::commit::{State, TokenClaim, output_tree, step_tree};
use super::log::Log;
use super::program::{Program, Step};
use super::record::{Taken, record};
use super::values::Values;
use crate::cache::Sequence;
use crate::model::Model;
use crate::pass::{Entry, ROWS, Runner, Wanted};
use crate::sampler::adjusts;
use crate::threads::Threads;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use stoa_crypto::MerkleTree;
use stoa_types::{Digest, SamplingParameters};

/// What was asked and answered: all that a trace follows from, besides the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Tokens of the answer, its end token included.
    pub answer: Vec<u32>,
    /// How the answer was chosen.
    pub parameters: SamplingParameters,
}

impl Job {
    /// Token steps: of every token after which another was chosen. The answer's last takes none.
    pub fn steps(&self) -> usize {
        self.prompt.len() + self.answer.len().saturating_sub(1)
    }

    /// The token at a position.
    pub fn token(&self, position: usize) -> Option<u32> {
        let all = self.prompt.iter().chain(&self.answer);
        all.take(self.steps()).nth(position).copied()
    }

    /// What the step of a position is made for.
    pub fn step(&self, position: usize) -> Step {
        Step {
            position,
            logits: position + 1 >= self.prompt.len(),
            adjusted: adjusts(&self.parameters),
            choice: self.parameters.grammar.is_empty(),
        }
    }

    /// How often each token stands in the answer before the choice that follows a position.
    pub fn counts(&self, position: usize) -> BTreeMap<u32, u32> {
        let before = (position + 1).saturating_sub(self.prompt.len());
        let mut counts = BTreeMap::new();
        for id in self.answer.iter().take(before) {
            *counts.entry(*id).or_default() += 1;
        }
        counts
    }
}

/// A job's tokens through the model once more.
#[derive(Debug)]
pub struct Replay {
    model: Arc<Model>,
    job: Job,
    log: Log,
    /// Before the first token and after each.
    states: Vec<State>,
    /// Of each token of the answer.
    checkpoints: Vec<[u8; 32]>,
}

/// All operators of one token's step.
#[derive(Debug, Clone)]
pub struct StepTrace {
    /// The operators.
    pub program: Program,
    /// Their outputs.
    pub values: Vec<Values>,
    /// Trees of the outputs.
    pub outputs: Vec<MerkleTree>,
    /// Tree over their roots.
    pub tree: MerkleTree,
    /// Roots of all that.
    pub claim: TokenClaim,
}

impl Replay {
    /// Takes all tokens of a job through the model, as serving does. Refused for encoders, whose texts are no steps.
    pub fn new(model: &Arc<Model>, job: Job, threads: Threads) -> Result<Self, TraceError> {
        let config = model.config();
        if config.architecture.encoder.is_some() {
            return Err(TraceError::Encoder);
        }
        if job.prompt.is_empty() {
            return Err(TraceError::NoPrompt);
        }
        let mut runner = Runner::new(model, threads);
        let mut sequence = Sequence::new(config);
        let tokens: Vec<u32> = (0..job.steps()).filter_map(|p| job.token(p)).collect();
        runner.check(&sequence, &tokens)?;
        let mut residual_roots = vec![Digest::ZERO];
        let (mut residuals, mut logits) = (Vec::new(), Vec::new());
        let mut checkpoints = Vec::with_capacity(job.answer.len());
        for part in tokens.chunks(ROWS) {
            runner.run(&mut [Entry {
                sequence: &mut sequence,
                tokens: part,
                wanted: Wanted::Residuals {
                    residuals: &mut residuals,
                    logits: &mut logits,
                },
            }])?;
            let each = residuals.chunks_exact(config.width);
            let chosen = each.clone().enumerate();
            let chosen = chosen.filter(|(i, _)| residual_roots.len() + i >= job.prompt.len());
            checkpoints.extend(chosen.map(|(_, residual)| checkpoint(residual)));
            let roots = each.map(|r| output_tree(&Values::Narrow(r.to_vec())).root());
            residual_roots.extend(roots);
        }
        checkpoints.truncate(job.answer.len());
        let mut log = Log::new(config);
        log.extend(&sequence, config);
        let mut trees = log.trees_at(0);
        let mut states = Vec::with_capacity(residual_roots.len());
        for (position, residual) in residual_roots.into_iter().enumerate() {
            states.push(State {
                position: position as u32,
                residual,
                log: trees.root(),
            });
            if position < tokens.len() {
                trees.append(log.position(position));
            }
        }
        Ok(Self {
            model: Arc::clone(model),
            job,
            log,
            states,
            checkpoints,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What is replayed.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Keys and values of all tokens.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The states before the first token and after each.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// Checkpoints of the answer's tokens, as serving makes them where it is asked to.
    pub fn checkpoints(&self) -> &[[u8; 32]] {
        &self.checkpoints
    }

    /// Roots of the states.
    pub fn state_roots(&self) -> Vec<Digest> {
        self.states.iter().map(State::root).collect()
    }

    /// The trace root: over the roots of the states.
    pub fn root(&self) -> Digest {
        super::commit::trace_tree(&self.state_roots()).root()
    }

    /// All operators of the step at a position. What the step leaves behind is made from its own outputs.
    pub fn step(&self, position: usize) -> Result<StepTrace, TraceError> {
        self.step_altered(position, |_, _| {})
    }

    /// The step of a machine that computes something else: `alter` may change the output of each operator, by its number, before the next
    /// is made of it. For tests of disputes, and for whoever wants to see one.
    pub fn step_altered(
        &self,
        position: usize,
        alter: impl FnMut(usize, &mut Values),
    ) -> Result<StepTrace, TraceError> {
        let Some(token) = self.job.token(position) else {
            return Err(TraceError::NoStep {
                position,
                steps: self.job.steps(),
            });
        };
        let tied = self.model.weights().output.is_none();
        let program = Program::new(self.model.config(), tied, self.job.step(position));
        let taken = Taken {
            token,
            position,
            log: &self.log,
            parameters: &self.job.parameters,
            counts: &self.job.counts(position),
        };
        let values = record(&self.model, &program, &taken, alter);
        Ok(self.assembled(program, token, position, values))
    }

    fn assembled(
        &self,
        program: Program,
        token: u32,
        position: usize,
        values: Vec<Values>,
    ) -> StepTrace {
        let outputs: Vec<MerkleTree> = values.iter().map(output_tree).collect();
        let roots: Vec<Digest> = outputs.iter().map(MerkleTree::root).collect();
        let tree = step_tree(&roots);
        let claim = TokenClaim {
            token,
            before: self.states[position],
            step: tree.root(),
            after: State {
                position: position as u32 + 1,
                residual: roots[program.residual],
                log: Digest::ZERO,
            },
        };
        let mut step = StepTrace {
            program,
            values,
            outputs,
            tree,
            claim,
        };
        let mut trees = self.log.trees_at(position);
        trees.append(step.appended(self.model.config()));
        step.claim.after.log = trees.root();
        step
    }
}
