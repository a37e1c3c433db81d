//! What a router keeps of a job for audits, and how a validator asks for it (docs/audits.md).

use crate::payout::PayoutRequest;
use crate::validator::Voted;
use crate::work::Work;
use serde::{Deserialize, Serialize};
use stoa_crypto::{
    Domain, MerkleTree, OpenError, PublicKey, SealError, Sealed, SecretKey, Words, keccak256,
    receipt_leaf, recover, ticket_digest,
};
use stoa_ledger::audit::place::Post;
use stoa_ledger::book::LeafFile;
use stoa_types::{Address, Digest, JobId, Signature, SignedTicket};

/// The order of a job and its work, sealed to validators. Whoever holds it without one of their keys knows nothing of the prompt but its
/// length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptWork {
    /// What was ordered.
    pub ticket: SignedTicket,
    /// Canonical bytes of [`Sealed`].
    pub sealed: Vec<u8>,
}

impl KeptWork {
    /// Seals the canonical bytes of a work to `validators`. `fresh` must be random and used once.
    pub fn seal(
        domain: &Domain,
        ticket: SignedTicket,
        work: &[u8],
        validators: &[PublicKey],
        fresh: [u8; 32],
    ) -> Result<Self, SealError> {
        let context = ticket_digest(domain, &ticket.ticket);
        let sealed = Sealed::seal(work, context, validators, fresh)?.to_bytes();
        Ok(Self { ticket, sealed })
    }

    /// The work's canonical bytes; whether they are what the ticket orders is for the caller to check.
    pub fn open(&self, domain: &Domain, key: &SecretKey) -> Result<Vec<u8>, OpenError> {
        let context = ticket_digest(domain, &self.ticket.ticket);
        Sealed::parse(&self.sealed)?.open(key, context)
    }

    /// Whether the router can show the work at all: made by the router itself before it lets go of the plain bytes.
    pub fn is_for(&self, work: &Work) -> bool {
        self.ticket.ticket.work_digest == work.digest()
    }
}

/// A validator asks a router for what it kept of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkRequest {
    /// Who asks.
    pub validator: Address,
    /// For which round; the router looks up whether the validator sits on the panel.
    pub round: u64,
    /// For which job.
    pub job: JobId,
    /// Over all of it, and the router that is asked.
    pub signature: Signature,
}

impl WorkRequest {
    /// Signs a request to `router`.
    pub fn sign(key: &SecretKey, router: Address, round: u64, job: JobId) -> Self {
        let validator = key.address();
        Self {
            validator,
            round,
            job,
            signature: key.sign(request_digest(router, validator, round, job)),
        }
    }

    /// Whether its validator signed it, for this router.
    pub fn is_signed_for(&self, router: Address) -> bool {
        let digest = request_digest(router, self.validator, self.round, self.job);
        recover(digest, &self.signature) == Ok(self.validator)
    }
}

/// What anyone may ask of a router about its batches, what a provider may ask about its own earnings, and what a validator may leave
/// with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// The leaf file of one of its posts: public, for its content id is.
    Leaves {
        /// Which post.
        post: u64,
    },
    /// What it kept of a job; for members of the panel alone.
    Work(WorkRequest),
    /// A ballot that its validator left here.
    Ballot {
        /// The round.
        round: u64,
        /// Whose.
        validator: Address,
    },
    /// Leaves a ballot for others to fetch; taken where the contract shows its root for this validator.
    Show {
        /// Whose.
        validator: Address,
        /// What it says.
        voted: Voted,
    },
    /// What a provider can claim; for the provider alone.
    Payouts(PayoutRequest),
}

/// A leaf file that is the one of its post.
pub(crate) struct PostedFile {
    pub(crate) file: LeafFile,
    /// Its leaves' hashes, in their order.
    pub(crate) hashes: Vec<Digest>,
    pub(crate) tree: MerkleTree,
}

/// Reads the leaf file of a post. Anything else than what was posted is nothing, and is not even read.
pub(crate) fn posted_file(
    bytes: &[u8],
    (router, index): (Address, u64),
    posted: &Post,
) -> Option<PostedFile> {
    if LeafFile::id_of(bytes) != posted.content_id {
        return None;
    }
    let file = LeafFile::decode(bytes).ok()?;
    let hashes = file.leaves.iter();
    let hashes: Vec<_> = hashes
        .map(|(signed, _)| receipt_leaf(&signed.receipt))
        .collect();
    let tree = MerkleTree::new(hashes.clone());
    let same = (file.router, file.index) == (router, index)
        && u32::try_from(file.leaves.len()) == Ok(posted.job_count)
        && tree.root() == posted.job_root;
    same.then_some(PostedFile { file, hashes, tree })
}

fn request_digest(router: Address, validator: Address, round: u64, job: JobId) -> Digest {
    let words = Words::new()
        .digest(keccak256("stoa.audit.work.v1"))
        .address(router)
        .address(validator)
        .uint(round)
        .digest(Digest(job.0));
    keccak256(words.as_bytes())
}
