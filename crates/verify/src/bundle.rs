//! The file that `stoa verify` takes (DECISIONS 10): receipt, parameters, exact request body, response content, settlement proof.

use crate::{Content, Report, SettlementProof};
use serde::{Deserialize, Serialize};
use stoa_crypto::{keccak256, receipt_digest, receipt_leaf, recover};
use stoa_types::{
    Address, Digest, PaidBy, RECEIPT_VERSION, Receipt, SamplingParameters, Signature,
    SignedReceipt, Tier,
};

/// Why a file is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It does not parse.
    #[error("the file is not a receipt file: {}", printable(.0))]
    Malformed(#[from] serde_json::Error),
    /// It parses but its bytes are not the one canonical form.
    #[error(
        "the file is not canonical: byte {position} differs from the canonical form (order of keys, white space, escapes)"
    )]
    NotCanonical {
        /// First byte that differs.
        position: usize,
    },
}

/// An error's text quotes the file, which may hold control characters of a terminal.
fn printable(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Everything a third party needs to check an answer without trusting anyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// With both signatures.
    pub receipt: SignedReceipt,
    /// Settlement proof; null until the batch is posted.
    pub proof: Option<SettlementProof>,
    /// Sampling parameters, seed included.
    pub parameters: SamplingParameters,
    /// Exact body of the client's request.
    pub request: String,
    /// Content of the answer.
    pub response: Content,
}

impl Bundle {
    /// Reads a bundle; refuses any bytes but the canonical ones, so that no byte can change unnoticed. One final line end is part
    /// of the canonical form.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let bundle: Self = serde_json::from_slice(bytes)?;
        let canonical = bundle.to_bytes();
        if canonical != bytes {
            let position = canonical
                .iter()
                .zip(bytes)
                .take_while(|(a, b)| a == b)
                .count();
            return Err(BundleError::NotCanonical { position });
        }
        Ok(bundle)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec(self).expect("a bundle holds only values that JSON can write");
        bytes.push(b'\n');
        bytes
    }
}

/// Checks one signature over a digest.
fn signed_by(digest: Digest, signature: &Signature, by: Address) -> Result<(), String> {
    match recover(digest, signature) {
        Ok(signer) if signer == by => Ok(()),
        Ok(signer) => Err(format!(
            "signed by {signer}, not by {by}, or a signed field was changed"
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks provider's and router's signatures.
pub fn check_signatures(signed: &SignedReceipt) -> Result<(), String> {
    let digest = receipt_digest(&signed.receipt);
    signed_by(digest, &signed.provider_signature, signed.receipt.provider)
        .map_err(|e| format!("provider: {e}"))?;
    signed_by(digest, &signed.router_signature, signed.receipt.router)
        .map_err(|e| format!("router: {e}"))
}

fn equal<T: PartialEq + std::fmt::Display>(what: &str, found: T, receipt: T) -> Result<(), String> {
    if found == receipt {
        Ok(())
    } else {
        Err(format!("{what} gives {found}, the receipt says {receipt}"))
    }
}

fn well_formed(r: &Receipt) -> Result<(), String> {
    equal("this program's receipt version", RECEIPT_VERSION, r.version)?;
    if r.delivered_at < r.accepted_at {
        return Err("delivered before it was accepted".to_owned());
    }
    if r.paid_by != PaidBy::Allotment {
        return Err("paid by a voucher, which this version does not know".to_owned());
    }
    let evidence = matches!(r.tier, Tier::None | Tier::Exact);
    if evidence && !r.evidence_digest.is_zero() {
        return Err(format!(
            "tier `{}` has no evidence, but the receipt names some",
            r.tier
        ));
    }
    if r.tier == Tier::Exact && r.model_root.is_zero() {
        return Err("tier `exact` names no model".to_owned());
    }
    equal("a receipt of one segment", Digest::ZERO, r.segments_root)
}

/// Whose receipt this is, for the reader to compare: keys, contracts and chains are as good as whoever vouches for them.
fn about(r: &Receipt) -> Vec<(&'static str, String)> {
    let vault = format!("{} on chain {}", r.vault, r.chain_id);
    vec![
        ("job", r.job_id.to_string()),
        ("account", r.account.to_string()),
        ("provider", r.provider.to_string()),
        ("router", r.router.to_string()),
        ("vault", vault),
        ("profile", r.profile_hash.to_string()),
    ]
}

/// Every check that needs nothing but the receipt and its place in a batch.
pub fn check_receipt(signed: &SignedReceipt, proof: Option<&SettlementProof>) -> Report {
    let r = &signed.receipt;
    let mut report = signatures(signed);
    in_batch(&mut report, r, proof);
    evidence(&mut report, r);
    report
}

fn signatures(signed: &SignedReceipt) -> Report {
    let r = &signed.receipt;
    let digest = receipt_digest(r);
    let mut report = Report {
        about: about(r),
        ..Report::default()
    };
    report.check("the receipt is well formed", well_formed(r));
    report.check(
        "the provider signed it",
        signed_by(digest, &signed.provider_signature, r.provider),
    );
    report.check(
        "the router signed it",
        signed_by(digest, &signed.router_signature, r.router),
    );
    report
}

fn in_batch(report: &mut Report, r: &Receipt, proof: Option<&SettlementProof>) {
    match proof {
        Some(proof) => report.check(
            "it is in a batch that the router signed",
            proof.check(receipt_leaf(r), r.chain_id, r.vault, r.router),
        ),
        None => report.not_checked(
            "it is in a batch that the router signed",
            "the file holds no proof yet; fetch it once the job is settled",
        ),
    }
}

fn evidence(report: &mut Report, r: &Receipt) {
    match r.tier {
        Tier::Exact => {}
        Tier::None => report.not_checked(
            "the model computed this answer",
            "tier `none`: a float backend, nothing to recompute",
        ),
        Tier::Statistical | Tier::Tee | Tier::Zk => report.not_checked(
            "its evidence holds",
            format!("this version cannot check evidence of tier `{}`", r.tier),
        ),
    }
}

/// Every check that needs nothing but the file. The charge is checked by the caller, who knows the rounding rule.
pub fn check_bundle(bundle: &Bundle) -> Report {
    let (r, signed) = (&bundle.receipt.receipt, &bundle.receipt);
    let mut report = signatures(signed);
    report.check(
        "it is for this request",
        equal(
            "the request body",
            keccak256(&bundle.request),
            r.request_digest,
        ),
    );
    let parameters = keccak256(bundle.parameters.canonical_bytes());
    report.check(
        "it is for these sampling parameters",
        equal("the parameters", parameters, r.parameters_digest),
    );
    report.check(
        "it is for this answer",
        equal("the answer", bundle.response.digest(), r.response_digest),
    );
    report.check(
        "its input count is the answer's",
        equal("the answer", bundle.response.input_units, r.input_units),
    );
    report.check(
        "its output count is the answer's",
        equal("the answer", bundle.response.output_units, r.output_units),
    );
    in_batch(&mut report, r, bundle.proof.as_ref());
    evidence(&mut report, r);
    report
}
