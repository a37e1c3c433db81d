//! The judge of openings: computes one claim of a step once more from proved leaves alone, and compares.

use super::commit::{TokenClaim, entries_leaf, entry_leaf, operator_leaf, output_leaf, state_leaf};
use super::opening::{
    EntriesOpening, Growth, Opening, OpeningError, OutputOpening, Subject, TensorOpening,
};
use super::program::{Kind, Program};
use super::replay::Job;
use super::rules::{Choice, Inputs, Rules, is_refuted};
use super::values::{Cell, Element, Values};
use crate::config::Config;
use crate::fixed::saturate;
use crate::ops::Norm;
use crate::root;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use stoa_crypto::{MerkleFrontier, hash_pair, verify_proof, verify_range};
use stoa_types::Digest;

/// What the opened leaves say of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It follows from them; of a choice: this other token does not refute it.
    Holds,
    /// It does not: whoever claimed it claimed something false.
    False {
        /// What was claimed.
        claimed: Element,
        /// What follows.
        follows: Element,
    },
}

/// The model root that a shape's leaf leads to with these siblings.
pub fn root_over(config: &Config, siblings: &[Digest]) -> Digest {
    let up = |node, sibling: &Digest| hash_pair(node, *sibling);
    siblings.iter().fold(root::config_leaf(config), up)
}

/// An opening with all that judging it needs: what `stoa model judge` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpeningFile {
    /// Root of the model.
    pub model_root: Digest,
    /// Its shape.
    pub config: Config,
    /// Siblings of the shape's leaf under that root.
    pub config_proof: Vec<Digest>,
    /// Whether the root has no output matrix.
    pub tied: bool,
    /// What was asked and answered.
    pub job: Job,
    /// What was claimed of a token's step.
    pub token_root: Digest,
    /// What is opened of it.
    pub opening: Opening,
}

impl OpeningFile {
    /// Judges the opening under the roots of this file, whoever wrote them.
    pub fn judge(&self) -> Result<Verdict, OpeningError> {
        let (config, job) = (self.config.clone(), self.job.clone());
        let judge = Judge::new(config, &self.config_proof, self.tied, self.model_root, job)?;
        judge.judge(self.token_root, &self.opening)
    }
}

/// What judging needs besides an opening: a model root with the shape under it, and the job.
#[derive(Debug, Clone)]
pub struct Judge {
    config: Config,
    tied: bool,
    model_root: Digest,
    job: Job,
}

impl Judge {
    /// `siblings` prove the shape's leaf under the model root. `tied` says that the root has no output matrix (no leaf of tensor 2).
    pub fn new(
        config: Config,
        siblings: &[Digest],
        tied: bool,
        model_root: Digest,
        job: Job,
    ) -> Result<Self, OpeningError> {
        config.check()?;
        if root_over(&config, siblings) != model_root {
            return Err(OpeningError::OtherModel);
        }
        Ok(Self {
            config,
            tied,
            model_root,
            job,
        })
    }

    /// The operators of the step at a position.
    pub fn program(&self, position: usize) -> Result<Program, OpeningError> {
        let known = self.job.token(position).is_some() && position < self.config.context;
        if !known || self.config.architecture.encoder.is_some() {
            return Err(OpeningError::OtherJob);
        }
        let step = self.job.step(position);
        Ok(Program::new(&self.config, self.tied, step))
    }

    /// Whether the state before or after the step of a claim stands in the trace under this root, at its place.
    pub fn state_in_trace(
        &self,
        trace: Digest,
        claim: &TokenClaim,
        after: bool,
        siblings: &[Digest],
    ) -> bool {
        let (state, count) = (
            if after { claim.after } else { claim.before },
            self.job.steps() + 1,
        );
        let index = state.position as usize;
        let leaf = state_leaf(index, count, state.root());
        verify_range(trace, count, index, &[leaf], siblings)
    }

    /// Computes what an opening is about once more, and compares. Nothing but the opening's own leaves, each proved under the token root
    /// or the model root, is taken into account.
    pub fn judge(&self, token_root: Digest, opening: &Opening) -> Result<Verdict, OpeningError> {
        let claim = &opening.claim;
        if claim.root() != token_root {
            return Err(OpeningError::OtherClaim);
        }
        let position = claim.before.position as usize;
        let next = claim.before.position.checked_add(1);
        if next != Some(claim.after.position) || self.job.token(position) != Some(claim.token) {
            return Err(OpeningError::OtherJob);
        }
        let program = self.program(position)?;
        let mut opened = Opened {
            judge: self,
            program: &program,
            claim,
            leaves: BTreeMap::new(),
            roots: BTreeMap::new(),
            entries: BTreeMap::new(),
            frontiers: BTreeMap::new(),
            tensors: BTreeMap::new(),
        };
        opened.take(opening)?;
        let rules = Rules {
            config: &self.config,
            program: &program,
            job: &self.job,
            position,
            token: claim.token,
        };
        match opening.subject {
            Subject::Element { operator, element } => {
                let Some(of) = program.operators.get(operator) else {
                    return Err(OpeningError::Nothing("operator"));
                };
                if element >= of.length {
                    return Err(OpeningError::Nothing("element"));
                }
                let claimed = opened.element(operator, element)?;
                let follows = rules.element(of, element, &mut opened)?;
                Ok(compared(claimed, follows))
            }
            Subject::Choice { other } => choice(&rules, other, &mut opened),
            Subject::Residual => {
                let root = opened.roots.get(&program.residual);
                let root = root.ok_or(OpeningError::Missing {
                    what: "the output of operator",
                    index: program.residual,
                })?;
                let claimed = Element::Root(claim.after.residual);
                Ok(compared(claimed, Element::Root(*root)))
            }
            Subject::Appended { tree } => opened.appended(tree, opening.growth.as_ref()),
        }
    }
}

fn compared(claimed: Element, follows: Element) -> Verdict {
    if claimed == follows {
        Verdict::Holds
    } else {
        Verdict::False { claimed, follows }
    }
}

/// The operator of a step's chosen token, with the operators of the logits and of their largest.
pub(super) fn choice_operands(program: &Program) -> Option<(usize, usize, usize)> {
    let token = program.token?;
    match program.operators[token].kind {
        Kind::Token { logits, largest } => Some((token, logits, largest)),
        _ => None,
    }
}

/// Judges the choice of a token by another.
pub(super) fn choice(
    rules: &Rules<'_>,
    other: u32,
    inputs: &mut impl Inputs,
) -> Result<Verdict, OpeningError> {
    let operands = choice_operands(rules.program);
    let (token, logits, largest) = operands.ok_or(OpeningError::Nothing("choice"))?;
    let claimed = inputs.number(token, 0)?;
    let vocab = rules.config.vocab;
    if other as usize >= vocab {
        return Err(OpeningError::Nothing("token"));
    }
    // What the step chose must be what the answer has.
    let place = (rules.position + 1).checked_sub(rules.job.prompt.len());
    let answered = place.and_then(|place| rules.job.answer.get(place));
    if let Some(answered) = answered.filter(|id| i64::from(**id) != claimed) {
        return Ok(Verdict::False {
            claimed: Element::Number((*answered).into()),
            follows: Element::Number(claimed),
        });
    }
    let follows = Element::Number(other.into());
    let refuted = match u32::try_from(claimed) {
        Ok(id) if (id as usize) < vocab => {
            let mut highest = i64::MIN;
            for part in 0..rules.program.operators[largest].length {
                highest = highest.max(inputs.number(largest, part)?);
            }
            let mut of = |id: u32| -> Result<Choice, OpeningError> {
                let logit = saturate(inputs.number(logits, id as usize)?);
                Ok(Choice { id, logit })
            };
            let (chosen, other) = (of(id)?, of(other)?);
            let position = rules.position as u32 + 1;
            let parameters = &rules.job.parameters;
            is_refuted(chosen, other, saturate(highest), parameters, position)
        }
        // No token of the vocabulary.
        _ => true,
    };
    Ok(match refuted {
        true => Verdict::False {
            claimed: Element::Number(claimed),
            follows,
        },
        false => Verdict::Holds,
    })
}

/// Leaves of an opening that were found under their roots.
struct Opened<'a> {
    judge: &'a Judge,
    program: &'a Program,
    claim: &'a TokenClaim,
    leaves: BTreeMap<(usize, usize), Values>,
    roots: BTreeMap<usize, Digest>,
    entries: BTreeMap<(usize, usize), Cell>,
    /// Trees of the log before the step whose last entry was opened alone.
    frontiers: BTreeMap<usize, MerkleFrontier>,
    tensors: BTreeMap<(u32, Option<usize>, bool), &'a TensorOpening>,
}

impl<'a> Opened<'a> {
    fn take(&mut self, opening: &'a Opening) -> Result<(), OpeningError> {
        for output in &opening.outputs {
            self.take_output(output)?;
        }
        for entries in &opening.entries {
            self.take_entries(entries)?;
        }
        for tensor in &opening.tensors {
            let leaf = root::opened_leaf(tensor.tensor, tensor.row, tensor.bias, &tensor.bytes);
            if !verify_proof(self.judge.model_root, leaf, &tensor.siblings) {
                return Err(OpeningError::NotUnderRoot("the model"));
            }
            let key = (tensor.tensor, tensor.row, tensor.bias);
            self.tensors.insert(key, tensor);
        }
        Ok(())
    }

    fn take_output(&mut self, output: &OutputOpening) -> Result<(), OpeningError> {
        let operators = &self.program.operators;
        let Some(operator) = operators.get(output.operator) else {
            return Err(OpeningError::Nothing("operator"));
        };
        let (index, count) = (output.operator, operators.len());
        let leaf = operator_leaf(index, count, output.root);
        let forged = OpeningError::NotUnderRoot("the step");
        if !verify_range(self.claim.step, count, index, &[leaf], &output.siblings) {
            return Err(forged);
        }
        let (total, each) = (operator.leaves(), operator.form.per_leaf());
        for run in &output.runs {
            run.check(total, "an output")?;
            let leaves = (run.first..).zip(&run.leaves);
            let digests = leaves
                .clone()
                .map(|(i, bytes)| output_leaf(i, total, bytes));
            let digests: Vec<Digest> = digests.collect();
            if !verify_range(output.root, total, run.first, &digests, &run.siblings) {
                return Err(OpeningError::NotUnderRoot("an output"));
            }
            for (i, bytes) in leaves {
                let elements = each.min(operator.length - i * each);
                let values = Values::of_leaf(operator.form, elements, bytes);
                let values = values.ok_or(OpeningError::NotUnderRoot("an output"))?;
                self.leaves.insert((output.operator, i), values);
            }
        }
        self.roots.insert(output.operator, output.root);
        Ok(())
    }

    fn take_entries(&mut self, opening: &EntriesOpening) -> Result<(), OpeningError> {
        let c = &self.judge.config;
        let (trees, count) = (
            2 * c.layers * c.kv_heads,
            self.claim.before.position as usize,
        );
        let leaf = entries_leaf(opening.tree, trees, count, opening.root);
        let root = self.claim.before.log;
        if !verify_range(root, trees, opening.tree, &[leaf], &opening.siblings) {
            return Err(OpeningError::NotUnderRoot("the log"));
        }
        let key = opening.tree.is_multiple_of(2);
        let scales = if key { c.head_width / 32 } else { 1 };
        for run in &opening.runs {
            run.check(count, "the log")?;
            let mut digests = Vec::with_capacity(run.leaves.len());
            for (position, bytes) in (run.first..).zip(&run.leaves) {
                let cell = Cell::from_bytes(bytes, scales, c.head_width);
                let cell = cell.ok_or(OpeningError::NotUnderRoot("the log"))?;
                digests.push(entry_leaf(position, &cell));
                self.entries.insert((opening.tree, position), cell);
            }
            if !verify_range(opening.root, count, run.first, &digests, &run.siblings) {
                return Err(OpeningError::NotUnderRoot("the log"));
            }
            if let ([last], true) = (&digests[..], run.first + 1 == count) {
                let frontier = MerkleFrontier::of_last_leaf(count as u64, *last, &run.siblings);
                self.frontiers.extend(frontier.map(|f| (opening.tree, f)));
            }
        }
        Ok(())
    }

    fn tensor(
        &self,
        tensor: u32,
        row: Option<usize>,
        bias: bool,
    ) -> Result<&'a [u8], OpeningError> {
        let found = self.tensors.get(&(tensor, row, bias));
        let found = found.map(|opening| &opening.bytes[..]);
        found.ok_or(OpeningError::Missing {
            what: "a leaf of tensor",
            index: tensor as usize,
        })
    }

    /// Whether a tree of the log grew by what the step appended.
    fn appended(&mut self, tree: usize, growth: Option<&Growth>) -> Result<Verdict, OpeningError> {
        let c = &self.judge.config;
        let trees = 2 * c.layers * c.kv_heads;
        if tree >= trees {
            return Err(OpeningError::Nothing("tree of the log"));
        }
        let growth = growth.ok_or(OpeningError::Missing {
            what: "the growth of tree",
            index: tree,
        })?;
        let (before, after) = (&self.claim.before, &self.claim.after);
        let mut grown = match before.position {
            0 => MerkleFrontier::default(),
            _ => {
                let frontier = self.frontiers.get(&tree).cloned();
                frontier.ok_or(OpeningError::Missing {
                    what: "the last entry before the step of tree",
                    index: tree,
                })?
            }
        };
        let leaf = entries_leaf(tree, trees, after.position as usize, growth.root);
        if !verify_range(after.log, trees, tree, &[leaf], &growth.after) {
            return Err(OpeningError::NotUnderRoot("the log"));
        }
        let (layer, rest) = (tree / (2 * c.kv_heads), tree % (2 * c.kv_heads));
        let operators = self.program.appended(layer);
        let operators = operators.ok_or(OpeningError::Nothing("tree of the log"))?;
        let cell = self.cell(operators[rest % 2], rest / 2)?;
        grown.push(entry_leaf(before.position as usize, &cell));
        let claimed = Element::Root(growth.root);
        Ok(compared(claimed, Element::Root(grown.root())))
    }
}

impl Inputs for Opened<'_> {
    fn element(&mut self, operator: usize, index: usize) -> Result<Element, OpeningError> {
        let missing = OpeningError::Missing {
            what: "an element of operator",
            index: operator,
        };
        let Some(of) = self.program.operators.get(operator) else {
            return Err(OpeningError::Nothing("operator"));
        };
        let each = of.form.per_leaf();
        let leaf = self.leaves.get(&(operator, index / each));
        leaf.and_then(|leaf| leaf.element(index % each))
            .ok_or(missing)
    }

    fn entry(&mut self, tree: usize, position: usize) -> Result<Cell, OpeningError> {
        let cell = self.entries.get(&(tree, position)).cloned();
        cell.ok_or(OpeningError::Missing {
            what: "an entry of the log at position",
            index: position,
        })
    }

    fn row(&mut self, tensor: u32, row: usize) -> Result<Cell, OpeningError> {
        let bytes = self.tensor(tensor, Some(row), false)?;
        // Exponent, then for each block a scale of 2 bytes and 32 elements.
        let blocks = bytes.len().saturating_sub(4) / (32 + 2);
        Cell::from_bytes(bytes, blocks, 32 * blocks).ok_or(OpeningError::NoTensor)
    }

    fn norm(&mut self, tensor: u32) -> Result<Norm, OpeningError> {
        let bytes = self.tensor(tensor, None, false)?;
        let (exponent, weights) = bytes.split_first_chunk().ok_or(OpeningError::NoTensor)?;
        let weights = weights.chunks_exact(2);
        Ok(Norm {
            exponent: i32::from_be_bytes(*exponent),
            g: weights.map(|g| i16::from_be_bytes([g[0], g[1]])).collect(),
        })
    }

    fn bias(&mut self, tensor: u32) -> Result<Vec<i32>, OpeningError> {
        let bytes = self.tensor(tensor, None, true)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(numbers.iter().map(|n| i32::from_be_bytes(*n)).collect())
    }
}
