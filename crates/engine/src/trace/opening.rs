//! Openings: the few leaves that one claim of a step follows from, each with its proof. They need neither model nor trace.

use super::commit::TokenClaim;
use super::program::Form;
use crate::error::ImportError;
use serde::{Deserialize, Serialize};
use stoa_types::Digest;

/// Why an opening was not judged. It proves nothing, for or against anybody.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// The config is not the model's.
    #[error("this shape is not the one under the model root: it proves nothing of that model")]
    OtherModel,
    /// The config is none that the semantics covers.
    #[error(transparent)]
    Shape(#[from] ImportError),
    /// The claim is not the one under the token root.
    #[error(
        "the states and step of this opening are not those under the token root: it speaks of another claim"
    )]
    OtherClaim,
    /// The step is none of the job.
    #[error(
        "the opening's position or token is not one of the job: check that both belong together"
    )]
    OtherJob,
    /// There is no such operator, element or tree.
    #[error("the step has no {0} of this number")]
    Nothing(&'static str),
    /// A leaf does not lie under its root.
    #[error(
        "a leaf of {0} does not lie under its root, or is no leaf of it: the opening is damaged or forged"
    )]
    NotUnderRoot(&'static str),
    /// The rule needs a leaf that is not opened.
    #[error("the opening lacks {what} {index}: the claim can not be judged without it")]
    Missing {
        /// Of what.
        what: &'static str,
        /// Its number.
        index: usize,
    },
    /// The model has no such tensor.
    #[error("the step names a tensor that the model does not have")]
    NoTensor,
    /// The claim follows from no element alone.
    #[error("the choice of a token is judged by a token that should have come before it: name one")]
    NoRule,
}

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Subject {
    /// An element of an operator's output.
    Element {
        /// Its operator.
        operator: usize,
        /// Its number.
        element: usize,
    },
    /// The choice of the token: that the answer has it, and that this other one should not have come before it.
    Choice {
        /// What should have come before it.
        other: u32,
    },
    /// That the state after the step holds the last residual.
    Residual,
    /// That a tree of the log grew by what the step appended.
    Appended {
        /// Number of the tree.
        tree: usize,
    },
}

/// Neighbouring leaves of a tree with the siblings that prove them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Number of the first.
    pub first: usize,
    /// Bytes of each, as hexadecimal digits.
    #[serde(with = "hexadecimal")]
    pub leaves: Vec<Vec<u8>>,
    /// Siblings, level by level.
    pub siblings: Vec<Digest>,
}

impl Run {
    /// Refuses leaves beyond those of the tree.
    pub(super) fn check(&self, total: usize, tree: &'static str) -> Result<(), OpeningError> {
        let end = self.first.checked_add(self.leaves.len());
        end.filter(|end| *end <= total)
            .map(|_| ())
            .ok_or(OpeningError::NotUnderRoot(tree))
    }
}

/// Leaves of an operator's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputOpening {
    /// Number of the operator.
    pub operator: usize,
    /// Root of its output.
    pub root: Digest,
    /// Siblings of that root's leaf under the step root.
    pub siblings: Vec<Digest>,
    /// The leaves.
    pub runs: Vec<Run>,
}

/// Entries of a tree of the log before the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntriesOpening {
    /// Number of the tree.
    pub tree: usize,
    /// Its root.
    pub root: Digest,
    /// Siblings of that root's leaf under the log's root.
    pub siblings: Vec<Digest>,
    /// The entries.
    pub runs: Vec<Run>,
}

/// A leaf of the model root: a row of a matrix, or a norm, router row or bias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorOpening {
    /// Number of the tensor.
    pub tensor: u32,
    /// Row of a matrix.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub row: Option<usize>,
    /// Whether it is a bias; otherwise, without a row, 16-bit weights.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub bias: bool,
    /// The leaf's bytes from the exponent on (of a bias all its numbers), as hexadecimal digits.
    #[serde(with = "hexadecimal_one")]
    pub bytes: Vec<u8>,
    /// Siblings under the model root.
    pub siblings: Vec<Digest>,
}

/// How a tree of the log grew. How it was before is proved by its last entry before the step, among the opened entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// The tree's root after the step.
    pub root: Digest,
    /// Siblings of that root's leaf under the log's root after the step.
    pub after: Vec<Digest>,
}

/// The leaves that a claim follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// What the token root hashes.
    pub claim: TokenClaim,
    /// What is judged.
    pub subject: Subject,
    /// Opened outputs, that of the subject among them.
    pub outputs: Vec<OutputOpening>,
    /// Opened entries of the log.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub entries: Vec<EntriesOpening>,
    /// Opened weights.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tensors: Vec<TensorOpening>,
    /// Of a tree of the log that grew.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub growth: Option<Growth>,
}

impl Opening {
    /// Bytes of leaves and digests: what a transaction with it would carry, numbers of places left out.
    pub fn bytes(&self) -> usize {
        let run =
            |run: &Run| run.leaves.iter().map(Vec::len).sum::<usize>() + 32 * run.siblings.len();
        let outputs = self.outputs.iter();
        let outputs: usize = outputs
            .map(|o| 32 + 32 * o.siblings.len() + o.runs.iter().map(run).sum::<usize>())
            .sum();
        let entries = self.entries.iter();
        let entries: usize = entries
            .map(|e| 32 + 32 * e.siblings.len() + e.runs.iter().map(run).sum::<usize>())
            .sum();
        let tensors = self.tensors.iter();
        let tensors: usize = tensors.map(|t| t.bytes.len() + 32 * t.siblings.len()).sum();
        let growth = self.growth.as_ref().map_or(0, |g| 32 * (1 + g.after.len()));
        // Token, two positions, two states of two roots, the step's root.
        12 + 5 * 32 + outputs + entries + tensors + growth
    }
}

/// Form of an operator's leaf, for those who print openings.
impl Form {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Narrow => "32-bit numbers",
            Self::Wide => "64-bit numbers",
            Self::Cells { .. } => "cells",
        }
    }
}

/// Byte strings as hexadecimal digits.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(all: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        all.iter()
            .map(hex::encode)
            .collect::<Vec<_>>()
            .serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let all = Vec::<String>::deserialize(from)?;
        let all = all
            .iter()
            .map(|text| hex::decode(text).map_err(D::Error::custom));
        all.collect()
    }
}

/// One byte string as hexadecimal digits.
mod hexadecimal_one {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        hex::decode(text).map_err(D::Error::custom)
    }
}
