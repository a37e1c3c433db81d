//! Where a posted receipt stands: its leaf in a job root, the job root in the router's chain, the chain under a round's snapshot.

use super::rounds::AuditRounds;
use crate::vault::{CHECKPOINT_EVERY, Vault};
use stoa_crypto::{chain_head, hash_pair, verify_proof};
use stoa_types::{Address, Digest};

/// The most posts that a proof walks; between two stored heads there are no more.
pub const MAX_STEPS: usize = CHECKPOINT_EVERY as usize;

/// One post, as its `BatchPosted` event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Post {
    /// Root over the leaves.
    pub job_root: Digest,
    /// Leaves.
    pub job_count: u32,
    /// BLAKE3 of the leaf file.
    pub content_id: Digest,
}

/// A way from a leaf to a head that the chain stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Who posted.
    pub router: Address,
    /// The stored head where the walk starts, by its number of posts: that of the router's snapshot before, or a checkpoint above it.
    pub from: u64,
    /// The posts after it, up to the next stored head: a checkpoint, or the round's own.
    pub posts: Vec<Post>,
    /// Which of them holds the leaf.
    pub at: usize,
    /// Siblings of the leaf.
    pub proof: Vec<Digest>,
}

/// Why a place was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each field is named in its sentence
pub enum PlaceError {
    /// Nothing of this router is under this round.
    #[error("round {round} covers no post of {router}")]
    NotCovered { round: u64, router: Address },
    /// Too many, none, or the leaf in none of them.
    #[error("{posts} posts were given; a walk has 1 to 64, and the leaf is in one of them")]
    BadWalk { posts: usize },
    /// No head is stored there.
    #[error("no head is stored at {posts} posts within the round")]
    NoHead { posts: u64 },
    /// Other posts than the router's.
    #[error("these posts lead to {found}, not to the stored head")]
    WrongHead { found: Digest },
    /// Not in the tree.
    #[error("the leaf {leaf} is not under the job root")]
    NotInRoot { leaf: Digest },
}

impl Place {
    /// The post that holds the leaf, counted from one.
    pub fn post(&self) -> u64 {
        self.from.saturating_add(self.at as u64).saturating_add(1)
    }

    /// Whether this place and another of the same leaf in the same post are two positions: their proofs differ, or the tree has twin
    /// branches on the way, in which each position has the other's proof.
    pub fn is_beside(&self, other: &Self, leaf: Digest) -> bool {
        let twin = |node: &mut Digest, sibling: &Digest| {
            let same = *node == *sibling;
            *node = hash_pair(*node, *sibling);
            Some(same)
        };
        self.proof != other.proof || self.proof.iter().scan(leaf, twin).any(|same| same)
    }

    /// Checks the way from `leaf` to the heads that `round` covers.
    pub fn check(
        &self,
        rounds: &AuditRounds,
        vault: &Vault,
        round: u64,
        leaf: Digest,
    ) -> Result<(), PlaceError> {
        let router = self.router;
        let here = rounds.snapshot(round, router);
        if here.posts == 0 {
            return Err(PlaceError::NotCovered { round, router });
        }
        let before = rounds.snapshot(here.previous, router);
        let posts = self.posts.len();
        if posts > MAX_STEPS || self.at >= posts {
            return Err(PlaceError::BadWalk { posts });
        }
        let stored = |posts: u64| {
            if posts == before.posts {
                return Ok(before.head);
            }
            if posts == here.posts {
                return Ok(here.head);
            }
            let inside = posts > before.posts && posts < here.posts;
            if !inside || !posts.is_multiple_of(CHECKPOINT_EVERY) {
                return Err(PlaceError::NoHead { posts });
            }
            let heads = vault.totals(router).checkpoints;
            let head = heads.get(&(posts / CHECKPOINT_EVERY)).copied();
            Ok(head.unwrap_or(Digest::ZERO))
        };
        let start = stored(self.from)?;
        let end = stored(self.from.saturating_add(posts as u64))?;
        let found = self.posts.iter().fold(start, |head, post| {
            chain_head(head, post.job_root, post.job_count, post.content_id)
        });
        if found != end {
            return Err(PlaceError::WrongHead { found });
        }
        if !verify_proof(self.posts[self.at].job_root, leaf, &self.proof) {
            return Err(PlaceError::NotInRoot { leaf });
        }
        Ok(())
    }
}
