//! EIP-712 digests of receipt, ticket and acceptance. The vault is the verifying contract, so that nothing signed for one network is valid in
//! another.

use crate::{Words, double_keccak, keccak256};
use stoa_types::{Acceptance, Address, Digest, Receipt, Ticket};

const DOMAIN_TYPE: &str =
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
const RECEIPT_TYPE: &str = "Receipt(uint16 version,uint256 chainId,address vault,bytes32 profileHash,bytes32 jobId,address account,\
address router,address provider,bytes32 modelRoot,bytes32 runtimeDigest,bytes32 parametersDigest,bytes32 promptRoot,\
bytes32 requestDigest,bytes32 outputRoot,bytes32 responseDigest,uint64 inputUnits,uint64 outputUnits,uint128 inputPrice,\
uint128 outputPrice,uint128 charge,uint16 feeVersion,uint8 paidBy,uint8 tier,bytes32 evidenceDigest,bytes32 ticketHash,\
uint32 attempt,bytes32 segmentsRoot,uint64 acceptedAt,uint64 deliveredAt)";
const TICKET_TYPE: &str = "Ticket(bytes32 jobId,address account,address router,address provider,bytes32 modelRoot,\
bytes32 parametersDigest,bytes32 requestDigest,bytes32 workDigest,uint128 inputPrice,uint128 outputPrice,uint64 inputUnitsMax,\
uint64 outputUnitsMax,uint128 reserve,uint16 feeVersion,uint8 tier,uint32 attempt,uint64 issuedAt,uint64 deadline)";
const ACCEPTANCE_TYPE: &str = "Acceptance(bytes32 ticketHash,uint64 acceptedAt)";

/// Signing domain of one network: its chain and its vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Domain {
    /// Chain id.
    pub chain_id: u64,
    /// PaymentVault.
    pub vault: Address,
}

impl Domain {
    /// EIP-712 domain separator.
    pub fn separator(&self) -> Digest {
        let words = Words::new()
            .digest(keccak256(DOMAIN_TYPE))
            .digest(keccak256("Stoa"))
            .digest(keccak256("1"))
            .uint(self.chain_id)
            .address(self.vault);
        keccak256(words.as_bytes())
    }

    fn digest(&self, struct_hash: Digest) -> Digest {
        let mut bytes = vec![0x19, 0x01];
        bytes.extend(self.separator().0);
        bytes.extend(struct_hash.0);
        keccak256(bytes)
    }
}

fn receipt_words(words: Words, r: &Receipt) -> Words {
    words
        .uint(r.version)
        .uint(r.chain_id)
        .address(r.vault)
        .digest(r.profile_hash)
        .digest(Digest(r.job_id.0))
        .address(r.account)
        .address(r.router)
        .address(r.provider)
        .digest(r.model_root)
        .digest(r.runtime_digest)
        .digest(r.parameters_digest)
        .digest(r.prompt_root)
        .digest(r.request_digest)
        .digest(r.output_root)
        .digest(r.response_digest)
        .uint(r.input_units)
        .uint(r.output_units)
        .uint(r.input_price.amount_per_million().units())
        .uint(r.output_price.amount_per_million().units())
        .uint(r.charge.units())
        .uint(r.fee_version)
        .uint(r.paid_by.code())
        .uint(r.tier.code())
        .digest(r.evidence_digest)
        .digest(r.ticket_hash)
        .uint(r.attempt)
        .digest(r.segments_root)
        .uint(r.accepted_at.0)
        .uint(r.delivered_at.0)
}

/// What provider and router sign.
pub fn receipt_digest(receipt: &Receipt) -> Digest {
    let words = receipt_words(Words::new().digest(keccak256(RECEIPT_TYPE)), receipt);
    Domain {
        chain_id: receipt.chain_id,
        vault: receipt.vault,
    }
    .digest(keccak256(words.as_bytes()))
}

/// `abi.encode(receipt)`: what a contract takes as evidence, and what the leaf hashes.
pub fn receipt_bytes(receipt: &Receipt) -> Vec<u8> {
    receipt_words(Words::new(), receipt).as_bytes().to_vec()
}

/// Leaf of the receipt in a batch's job tree: `keccak256(keccak256(abi.encode(receipt)))`.
pub fn receipt_leaf(receipt: &Receipt) -> Digest {
    double_keccak(receipt_words(Words::new(), receipt).as_bytes())
}

fn ticket_words(words: Words, t: &Ticket) -> Words {
    words
        .digest(Digest(t.job_id.0))
        .address(t.account)
        .address(t.router)
        .address(t.provider)
        .digest(t.model_root)
        .digest(t.parameters_digest)
        .digest(t.request_digest)
        .digest(t.work_digest)
        .uint(t.input_price.amount_per_million().units())
        .uint(t.output_price.amount_per_million().units())
        .uint(t.input_units_max)
        .uint(t.output_units_max)
        .uint(t.reserve.units())
        .uint(t.fee_version)
        .uint(t.tier.code())
        .uint(t.attempt)
        .uint(t.issued_at.0)
        .uint(t.deadline.0)
}

/// What the router signs when it orders work; also the receipt's `ticket_hash`.
pub fn ticket_digest(domain: &Domain, ticket: &Ticket) -> Digest {
    let words = ticket_words(Words::new().digest(keccak256(TICKET_TYPE)), ticket);
    domain.digest(keccak256(words.as_bytes()))
}

/// What the provider signs when it takes a ticket.
pub fn acceptance_digest(domain: &Domain, a: &Acceptance) -> Digest {
    let words = Words::new()
        .digest(keccak256(ACCEPTANCE_TYPE))
        .digest(a.ticket)
        .uint(a.accepted_at.0);
    domain.digest(keccak256(words.as_bytes()))
}

/// `abi.encode(ticket)`: what a contract takes as evidence of an order.
pub fn ticket_bytes(ticket: &Ticket) -> Vec<u8> {
    ticket_words(Words::new(), ticket).as_bytes().to_vec()
}
