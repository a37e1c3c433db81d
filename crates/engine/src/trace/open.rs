//! Making openings: a rule is run over the whole trace, and what it looked at is proved.

use super::TraceError;
use super::commit::trace_tree;
use super::judge::choice;
use super::opening::{
    EntriesOpening, Growth, Opening, OpeningError, OutputOpening, Run, Subject, TensorOpening,
};
use super::program::Program;
use super::replay::{Replay, StepTrace};
use super::rules::{Inputs, Rules};
use super::values::{Cell, Element, Values};
use crate::config::Config;
use crate::model::{Model, Tensor};
use crate::ops::Norm;
use crate::root;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use stoa_crypto::MerkleTree;
use stoa_types::Digest;

/// A model's root with all levels of its tree, for proofs.
#[derive(Debug)]
pub struct ModelTree {
    model: Arc<Model>,
    tree: MerkleTree,
    /// First leaf of each tensor.
    places: BTreeMap<u32, usize>,
}

impl ModelTree {
    /// Hashes every weight: about a third of a second per 100 MB.
    pub fn new(model: &Arc<Model>) -> Self {
        let (tree, places) = model.root_tree();
        Self {
            model: Arc::clone(model),
            tree,
            places,
        }
    }

    /// The model root.
    pub fn root(&self) -> Digest {
        self.tree.root()
    }

    /// The model's shape with the siblings of its leaf, and whether the embedding is the output matrix too.
    pub fn shape(&self) -> (Config, Vec<Digest>, bool) {
        let tied = self.model.weights().output.is_none();
        let siblings = self.tree.proof(0).unwrap_or_default();
        (self.model.config().clone(), siblings, tied)
    }

    fn open(&self, key: TensorKey, tensor: Tensor<'_>) -> Option<TensorOpening> {
        let leaf = self.places.get(&key.tensor)? + key.row.unwrap_or(0);
        Some(TensorOpening {
            tensor: key.tensor,
            row: key.row,
            bias: matches!(tensor, Tensor::Bias(_)),
            bytes: root::opened_bytes(tensor, key.row.unwrap_or(0)),
            siblings: self.tree.proof(leaf)?,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TensorKey {
    tensor: u32,
    row: Option<usize>,
}

impl Replay {
    /// Siblings that prove the state of a position in the trace.
    pub fn state_proof(&self, position: usize) -> Option<Vec<Digest>> {
        trace_tree(&self.state_roots()).proof(position)
    }

    /// What an element of a step must be, given the others: the rule alone, without proofs.
    pub fn follows(
        &self,
        step: &StepTrace,
        operator: usize,
        element: usize,
    ) -> Result<Element, TraceError> {
        let of = step.program.operators.get(operator);
        let of = of.ok_or(OpeningError::Nothing("operator"))?;
        let mut seen = self.seen(step);
        Ok(self.rules(step).element(of, element, &mut seen)?)
    }

    fn seen<'a>(&'a self, step: &'a StepTrace) -> Seen<'a> {
        Seen {
            replay: self,
            step,
            tensors: self.model().weights().tensors().into_iter().collect(),
            leaves: BTreeMap::new(),
            entries: BTreeMap::new(),
            opened: BTreeSet::new(),
        }
    }

    fn rules<'a>(&'a self, step: &'a StepTrace) -> Rules<'a> {
        Rules {
            config: self.model().config(),
            program: &step.program,
            job: self.job(),
            position: step.claim.before.position as usize,
            token: step.claim.token,
        }
    }

    /// Opens what a claim of a step follows from. `step` may be another machine's claim of the same step.
    pub fn open(
        &self,
        weights: &ModelTree,
        step: &StepTrace,
        subject: Subject,
    ) -> Result<Opening, TraceError> {
        let (mut seen, rules) = (self.seen(step), self.rules(step));
        let position = rules.position;
        let mut growth = None;
        match subject {
            Subject::Element { operator, element } => {
                let of = step.program.operators.get(operator);
                let of = of.ok_or(OpeningError::Nothing("operator"))?;
                if element >= of.length {
                    return Err(OpeningError::Nothing("element").into());
                }
                seen.touch(operator, element);
                rules.element(of, element, &mut seen)?;
            }
            Subject::Choice { other } => {
                choice(&rules, other, &mut seen)?;
            }
            Subject::Residual => seen.touch(step.program.residual, 0),
            Subject::Appended { tree } => {
                let (operator, head) = appended(&step.program, self.model().config(), tree)
                    .ok_or(OpeningError::Nothing("tree of the log"))?;
                seen.touch(operator, head);
                if let Some(last) = position.checked_sub(1) {
                    seen.entries.entry(tree).or_default().insert(last);
                }
                growth = Some(self.growth(step, tree)?);
            }
        }
        let entries = seen.entries(position)?;
        Ok(Opening {
            claim: step.claim,
            subject,
            outputs: seen.outputs()?,
            entries,
            tensors: seen.tensors(weights)?,
            growth,
        })
    }

    fn growth(&self, step: &StepTrace, tree: usize) -> Result<Growth, OpeningError> {
        let mut trees = self.log().trees_at(step.claim.before.position as usize);
        let nothing = OpeningError::Nothing("tree of the log");
        trees.append(step.appended(self.model().config()));
        let root = trees.tree(tree).map(stoa_crypto::MerkleFrontier::root);
        let after = trees.tree_of_roots().proof(tree);
        match (root, after) {
            (Some(root), Some(after)) => Ok(Growth { root, after }),
            _ => Err(nothing),
        }
    }
}

/// The operator and head whose cell joins a tree of the log.
fn appended(program: &Program, config: &Config, tree: usize) -> Option<(usize, usize)> {
    let (layer, rest) = (tree / (2 * config.kv_heads), tree % (2 * config.kv_heads));
    let operators = program.appended(layer)?;
    Some((operators[rest % 2], rest / 2))
}

/// A whole trace that remembers what was looked at.
struct Seen<'a> {
    replay: &'a Replay,
    step: &'a StepTrace,
    tensors: BTreeMap<u32, Tensor<'a>>,
    leaves: BTreeMap<usize, BTreeSet<usize>>,
    entries: BTreeMap<usize, BTreeSet<usize>>,
    opened: BTreeSet<TensorKey>,
}

impl Seen<'_> {
    fn touch(&mut self, operator: usize, index: usize) {
        let each = self.step.program.operators[operator].form.per_leaf();
        self.leaves
            .entry(operator)
            .or_default()
            .insert(index / each);
    }

    fn outputs(&self) -> Result<Vec<OutputOpening>, OpeningError> {
        let missing = OpeningError::Nothing("leaf");
        let output = |(operator, leaves): (&usize, &BTreeSet<usize>)| {
            let (tree, bytes) = (
                &self.step.outputs[*operator],
                self.step.values[*operator].leaves(),
            );
            Some(OutputOpening {
                operator: *operator,
                root: tree.root(),
                siblings: self.step.tree.proof(*operator)?,
                runs: runs(tree, leaves, |leaf| bytes[leaf].clone())?,
            })
        };
        let all: Option<_> = self.leaves.iter().map(output).collect();
        all.ok_or(missing)
    }

    fn entries(&self, position: usize) -> Result<Vec<EntriesOpening>, OpeningError> {
        if self.entries.is_empty() {
            return Ok(Vec::new());
        }
        let log = self.replay.log();
        let roots = log.trees_at(position).tree_of_roots();
        let opening = |(tree, positions): (&usize, &BTreeSet<usize>)| {
            let merkle = log.merkle(*tree, position);
            let entries = log.tree(*tree);
            Some(EntriesOpening {
                tree: *tree,
                root: merkle.root(),
                siblings: roots.proof(*tree)?,
                runs: runs(&merkle, positions, |at| entries[at].bytes())?,
            })
        };
        let all: Option<_> = self.entries.iter().map(opening).collect();
        all.ok_or(OpeningError::Nothing("entry of the log"))
    }

    fn tensors(&self, weights: &ModelTree) -> Result<Vec<TensorOpening>, OpeningError> {
        let open = |key: &TensorKey| weights.open(*key, *self.tensors.get(&key.tensor)?);
        let all: Option<_> = self.opened.iter().map(open).collect();
        all.ok_or(OpeningError::NoTensor)
    }

    fn tensor(&mut self, tensor: u32, row: Option<usize>) -> Result<Tensor<'_>, OpeningError> {
        let found = self.tensors.get(&tensor).copied();
        let found = found.ok_or(OpeningError::NoTensor)?;
        self.opened.insert(TensorKey { tensor, row });
        Ok(found)
    }
}

/// Neighbouring leaves together.
fn runs(
    tree: &MerkleTree,
    leaves: &BTreeSet<usize>,
    bytes: impl Fn(usize) -> Vec<u8>,
) -> Option<Vec<Run>> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for leaf in leaves {
        match spans.last_mut() {
            Some((first, count)) if *first + *count == *leaf => *count += 1,
            _ => spans.push((*leaf, 1)),
        }
    }
    let run = |(first, count): (usize, usize)| {
        Some(Run {
            first,
            leaves: (first..first + count).map(&bytes).collect(),
            siblings: tree.range_proof(first, count)?,
        })
    };
    spans.into_iter().map(run).collect()
}

impl Inputs for Seen<'_> {
    fn element(&mut self, operator: usize, index: usize) -> Result<Element, OpeningError> {
        let element = self.step.values[operator].element(index);
        let element = element.ok_or(OpeningError::Nothing("element"))?;
        self.touch(operator, index);
        Ok(element)
    }

    fn entry(&mut self, tree: usize, position: usize) -> Result<Cell, OpeningError> {
        self.entries.entry(tree).or_default().insert(position);
        Ok(self.replay.log().tree(tree)[position].clone())
    }

    fn row(&mut self, tensor: u32, row: usize) -> Result<Cell, OpeningError> {
        match self.tensor(tensor, Some(row))? {
            Tensor::Matrix(matrix) => {
                let (q, scales) = matrix.row(row);
                Ok(Cell {
                    exponent: matrix.exponent,
                    scales,
                    q,
                })
            }
            _ => Err(OpeningError::NoTensor),
        }
    }

    fn norm(&mut self, tensor: u32) -> Result<Norm, OpeningError> {
        match self.tensor(tensor, None)? {
            Tensor::Norm(norm) => Ok(norm.clone()),
            _ => Err(OpeningError::NoTensor),
        }
    }

    fn bias(&mut self, tensor: u32) -> Result<Vec<i32>, OpeningError> {
        match self.tensor(tensor, None)? {
            Tensor::Bias(bias) => Ok(bias.to_vec()),
            _ => Err(OpeningError::NoTensor),
        }
    }
}

impl StepTrace {
    /// What the step appends to the log, a cell for each tree in order.
    pub fn appended<'a>(&'a self, config: &Config) -> impl Iterator<Item = &'a Cell> {
        let heads = config.kv_heads;
        let layers = (0..config.layers).filter_map(|layer| self.program.appended(layer));
        layers.flat_map(move |operators| {
            let [keys, values] = operators.map(|operator| match &self.values[operator] {
                Values::Cells(cells) => &cells[..],
                _ => &[],
            });
            (0..heads).flat_map(move |head| [&keys[head], &values[head]])
        })
    }
}
