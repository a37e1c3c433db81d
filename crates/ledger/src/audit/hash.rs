//! Every hash that a validator and the contracts must make alike. Golden bytes: `vectors/audit.json`.

use super::Outcome;
use stoa_crypto::{Words, double_keccak, keccak256};
use stoa_types::{Address, Digest, JobId};

const SUBJECT_JOB: u8 = 1;
const SUBJECT_BATCH: u8 = 2;

/// What a verdict about one posted receipt names. It binds the leaf, so that a verdict is about exactly this receipt, and the router that
/// posted it, so that another router that copies the leaf makes a subject of its own.
pub fn job_subject(router: Address, leaf: Digest) -> Digest {
    let words = Words::new().uint(SUBJECT_JOB).address(router).digest(leaf);
    keccak256(words.as_bytes())
}

/// What a verdict about a whole batch names: post `post` of a router, counted from one as the vault counts.
pub fn batch_subject(router: Address, post: u64) -> Digest {
    let words = Words::new().uint(SUBJECT_BATCH).address(router).uint(post);
    keccak256(words.as_bytes())
}

/// The account of a public key, by its two coordinates.
pub fn key_owner((x, y): (Digest, Digest)) -> Address {
    let mut owner = [0; 20];
    owner.copy_from_slice(&keccak256(Words::new().digest(x).digest(y).as_bytes()).0[12..]);
    Address(owner)
}

/// The link of a hash chain above `preimage`. A chain is `n` links over a secret; its top is published when the validator joins, and each
/// round reveals the next link below.
pub fn link(preimage: Digest) -> Digest {
    keccak256(preimage.as_bytes())
}

/// What a revealed preimage adds to the round's mix. Hashed with its validator, so that equal preimages do not cancel.
pub fn contribution(validator: Address, preimage: Digest) -> Digest {
    let words = Words::new().address(validator).digest(preimage);
    keccak256(words.as_bytes())
}

/// The mix with one more contribution. The order of reveals does not matter.
pub fn mixed(mix: Digest, contribution: Digest) -> Digest {
    let mut bytes = mix.0;
    for (byte, other) in bytes.iter_mut().zip(contribution.0) {
        *byte ^= other;
    }
    Digest(bytes)
}

/// The beacon of a round.
pub fn beacon(round: u64, block_hash: Digest, mix: Digest) -> Digest {
    let words = Words::new().uint(round).digest(block_hash).digest(mix);
    keccak256(words.as_bytes())
}

/// What a validator commits: its ballot's root, hidden by a salt that nobody can guess.
pub fn commitment(round: u64, validator: Address, root: Digest, salt: Digest) -> Digest {
    let words = Words::new()
        .uint(round)
        .address(validator)
        .digest(root)
        .digest(salt);
    keccak256(words.as_bytes())
}

/// The leaf of one verdict in a ballot.
pub fn verdict_leaf(subject: Digest, outcome: Outcome, digest: Digest) -> Digest {
    let words = Words::new()
        .digest(subject)
        .uint(outcome.code())
        .digest(digest);
    double_keccak(words.as_bytes())
}

/// What a planter stores before the round opens.
pub fn plant_commitment(job: JobId, account: Address, salt: Digest) -> Digest {
    let words = Words::new()
        .digest(Digest(job.0))
        .address(account)
        .digest(salt);
    keccak256(words.as_bytes())
}

/// What the paying account of a plant signs, so that no planter can shield a job that somebody else paid.
pub fn plant_digest(chain_id: u64, rounds: Address, job: JobId) -> Digest {
    let words = Words::new()
        .uint(chain_id)
        .address(rounds)
        .digest(Digest(job.0));
    keccak256(words.as_bytes())
}

/// `kind` of a fault that is not an [`Outcome`], in [`fault_id`] and in the counting of repeats.
pub mod kind {
    /// A preimage was not revealed in time.
    pub const MISSED_REVEAL: u8 = 16;
    /// A ballot was not committed, or not shown.
    pub const MISSED_BALLOT: u8 = 17;
    /// A verdict other than the ruling, or none.
    pub const DISSENT: u8 = 18;
    /// A charge above what counts and prices give.
    pub const OVERCHARGE: u8 = 19;
    /// Two leaves for one job.
    pub const DOUBLE_POST: u8 = 20;
    /// A job was accepted and not delivered, and nobody answered.
    pub const NON_DELIVERY: u8 = 21;
    /// A router claimed that a job was not delivered whose receipt it had signed.
    pub const FALSE_CLAIM: u8 = 22;
}

/// The id under which a fault is slashed once.
pub fn fault_id(kind: u8, offender: Address, about: Digest) -> Digest {
    let words = Words::new().uint(kind).address(offender).digest(about);
    keccak256(words.as_bytes())
}

/// The id of a missed duty: it belongs to a round, not to a subject.
pub fn round_digest(round: u64) -> Digest {
    keccak256(Words::new().uint(round).as_bytes())
}

/// `value mod divisor` of a digest read as a 256-bit number; `None` when the divisor is zero or above 2^120.
pub fn modulo(value: Digest, divisor: u128) -> Option<u128> {
    if divisor == 0 || divisor > 1 << 120 {
        return None;
    }
    let step = |rest: u128, byte: &u8| (rest * 256 + u128::from(*byte)) % divisor;
    Some(value.0.iter().fold(0, step))
}
