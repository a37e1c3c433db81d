//! Events of the contracts in Stoa's words.

use alloy_primitives::{B256, FixedBytes};
use alloy_sol_types::SolEventInterface;
use stoa_crypto::{EndpointProofError, PublicKey, verify_endpoint_proof};
use stoa_ledger::audit::Outcome;
use stoa_types::{
    Address, Digest, EndpointId, JobId, Price, Region, StakeAmount, Tier, Timestamp, TokenAmount,
};

use crate::access::RawLog;
use crate::bindings::PaymentVault::PaymentVaultEvents as Vault;
use crate::bindings::ProviderRegistry::ProviderRegistryEvents as Registry;
use crate::bindings::StakeRegistry::StakeRegistryEvents as Stake;
use crate::convert::{address, digest, evm_digest, tokens};
use crate::deploy::Contracts;

/// One model that a provider offers on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Root of the model pack; zero for an upstream server.
    pub model_root: Digest,
    /// Price of input tokens.
    pub input_price: Price,
    /// Price of output tokens.
    pub output_price: Price,
    /// Claimed output tokens per second.
    pub tokens_per_second: u32,
    /// How answers can be checked.
    pub tier: Tier,
    /// Name that clients ask for.
    pub name: String,
}

/// What holds stake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum StakeRole {
    /// Runs models.
    Provider = 1,
    /// Takes calls.
    Router = 2,
    /// Checks answers.
    Validator = 3,
}

impl StakeRole {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Provider, Self::Router, Self::Validator]
            .into_iter()
            .find(|role| *role as u8 == code)
    }
}

/// Something that happened in a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are those of the contracts' events, documented there.
pub enum ContractEvent {
    /// Money came into a developer's free balance.
    Deposited {
        developer: Address,
        payer: Address,
        amount: TokenAmount,
    },
    /// A developer took free money home.
    Withdrawn {
        developer: Address,
        amount: TokenAmount,
    },
    /// A new allotment.
    Allotted {
        developer: Address,
        router: Address,
        generation: u32,
        cap: TokenAmount,
        expiry: Timestamp,
    },
    /// An allotment has this cap and expiry from now on.
    ToppedUp {
        developer: Address,
        router: Address,
        generation: u32,
        cap: TokenAmount,
        expiry: Timestamp,
    },
    /// An allotment ends then.
    Revoked {
        developer: Address,
        router: Address,
        generation: u32,
        expiry: Timestamp,
    },
    /// The rest of an allotment went back; the generation is closed.
    Released {
        developer: Address,
        router: Address,
        generation: u32,
        released: TokenAmount,
    },
    /// Post number `index` of a router, counted from 1.
    BatchPosted {
        router: Address,
        index: u64,
        job_root: Digest,
        job_count: u32,
        pay_root: Digest,
        gross: TokenAmount,
        content_id: Digest,
        chain_head: Digest,
    },
    /// A payout root became claimable.
    Promoted {
        router: Address,
        pay_root: Digest,
        gross: TokenAmount,
    },
    /// A pending payout root was cancelled by verdict.
    PendingVoided {
        router: Address,
        pay_root: Digest,
        gross: TokenAmount,
    },
    /// The booked debit of an allotment.
    DebitSynced {
        router: Address,
        developer: Address,
        generation: u32,
        lifetime_debit: TokenAmount,
    },
    /// A claim was credited.
    Claimed {
        router: Address,
        provider: Address,
        fee_version: u16,
        lifetime_claimed: TokenAmount,
        gross: TokenAmount,
        net: TokenAmount,
    },
    /// What somebody was owed was paid out.
    Collected {
        who: Address,
        to: Address,
        amount: TokenAmount,
    },
    /// The three pools were paid out.
    ProtocolCollected {
        treasury: TokenAmount,
        validators: TokenAmount,
        buyback: TokenAmount,
    },
    /// Leaves may name this fee version from now on.
    FeeVersionAdded { version: u16 },
    /// A provider registered or changed its record. Check the proof before dialling: [`Self::check_endpoint`].
    ProviderRegistered {
        provider: Address,
        endpoint: EndpointId,
        proof: Vec<u8>,
        region: Region,
        payee: Address,
    },
    /// A provider's whole offer from now on.
    LoadoutSet {
        provider: Address,
        offers: Vec<Offer>,
    },
    /// A provider takes no new jobs.
    ProviderLeaving { provider: Address },
    /// A router registered or changed its record. Check the proof before dialling: [`Self::check_endpoint`].
    RouterRegistered {
        router: Address,
        endpoint: EndpointId,
        proof: Vec<u8>,
        addresses: String,
    },
    /// Stake came in.
    Staked {
        role: StakeRole,
        who: Address,
        amount: StakeAmount,
        active: StakeAmount,
    },
    /// Stake began to leave.
    UnbondRequested {
        role: StakeRole,
        who: Address,
        amount: StakeAmount,
        withdrawable_at: Timestamp,
    },
    /// Stake left.
    StakeWithdrawn {
        role: StakeRole,
        who: Address,
        amount: StakeAmount,
    },
    /// Stake was taken: `sigma = developer + challenger + burned`.
    Slashed {
        fault: Digest,
        offender: Address,
        role: StakeRole,
        severity_bps: u16,
        sigma: StakeAmount,
        developer: StakeAmount,
        challenger: StakeAmount,
        burned: StakeAmount,
    },
    /// A share of a slash is owed to somebody.
    Awarded {
        fault: Digest,
        who: Address,
        amount: StakeAmount,
    },
    /// Awards were paid out.
    AwardsCollected { who: Address, amount: StakeAmount },
    /// A validator took a seat. Work is sealed to its key, which is its account's: the contract compares them.
    Joined {
        validator: Address,
        tip: Digest,
        key: PublicKey,
    },
    /// A validator published the top of another hash chain.
    Renewed { validator: Address, tip: Digest },
    /// A validator has no seat any more.
    Left { validator: Address },
    /// A router's posts are audited from now on.
    Enrolled { router: Address },
    /// A router's posts are not audited any more.
    Struck { router: Address },
    /// A round of audits opened; its committee never changes.
    RoundOpened {
        round: u64,
        committee: u32,
        plants_due: u32,
    },
    /// A round covers so many posts of a router, those under its snapshot of round `previous` left out.
    Covered {
        round: u64,
        router: Address,
        posts: u64,
        previous: u64,
    },
    /// A validator revealed the link below its top.
    Revealed {
        round: u64,
        validator: Address,
        preimage: Digest,
    },
    /// A round has its beacon.
    Drawn { round: u64, beacon: Digest },
    /// A validator committed a ballot.
    BallotCommitted {
        round: u64,
        validator: Address,
        commitment: Digest,
    },
    /// A validator showed the root of its ballot.
    BallotUnsealed {
        round: u64,
        validator: Address,
        root: Digest,
    },
    /// A plant was stored.
    Planted {
        planter: Address,
        commitment: Digest,
    },
    /// A plant was named. It is one in all rounds from `first` on; `round`, in which it was named, `waited` for it or not.
    PlantNamed {
        round: u64,
        job: JobId,
        account: Address,
        first: u64,
        waited: bool,
    },
    /// A panel ruled.
    Ruled {
        round: u64,
        subject: Digest,
        outcome: Outcome,
        plant: bool,
    },
    /// An account does not owe a charge any more.
    JobReversed {
        job: JobId,
        router: Address,
        account: Address,
        charge: TokenAmount,
    },
    /// A fault was punished.
    Convicted {
        fault: Digest,
        offender: Address,
        kind: u8,
        severity_bps: u16,
    },
    /// A validator found something else than was ruled, which is no fault here.
    Differed {
        subject: Digest,
        validator: Address,
        outcome: Outcome,
    },
    /// A verdict changed a provider's reputation.
    ProviderRated {
        provider: Address,
        reputation_ppm: u32,
        verified: u32,
    },
    /// Somebody says that a provider took a ticket and delivered nothing; it has until `answer_by`.
    DeliveryClaimed {
        ticket: Digest,
        provider: Address,
        router: Address,
        claimant: Address,
        job: JobId,
        answer_by: Timestamp,
    },
    /// The provider's receipt was shown; the deposit went to it.
    ClaimAnswered { ticket: Digest, provider: Address },
    /// A receipt with both signatures was shown; `accused` where the router had claimed, and was slashed.
    ClaimRefuted {
        ticket: Digest,
        provider: Address,
        router: Address,
        accused: bool,
    },
    /// Nobody answered. Not `slashed` where the provider had been for a deadline less than a day away.
    NonDeliveryPunished {
        ticket: Digest,
        provider: Address,
        slashed: bool,
    },
    /// A claim that nobody decided was taken back.
    ClaimTakenBack { ticket: Digest, claimant: Address },
    /// An administrative change; the text names it.
    Administration { what: String },
}

impl ContractEvent {
    /// Reads an event of one of these contracts; those that judge are read by [`crate::AuditContracts::decode`]. `None` for other contracts and for what does not decode.
    pub fn decode(contracts: &Contracts, log: &RawLog) -> Option<Self> {
        let topics: Vec<B256> = log.topics.iter().map(|topic| evm_digest(*topic)).collect();
        if log.address == contracts.vault {
            vault(Vault::decode_raw_log(&topics, &log.data).ok()?)
        } else if log.address == contracts.provider_registry {
            registry(Registry::decode_raw_log(&topics, &log.data).ok()?)
        } else if log.address == contracts.stake_registry {
            stake(Stake::decode_raw_log(&topics, &log.data).ok()?)
        } else {
            None
        }
    }

    /// Whether the endpoint in a registration agreed to belong to its account. Other events have none: `Ok`.
    pub fn check_endpoint(
        &self,
        chain_id: u64,
        registry: Address,
    ) -> Result<(), EndpointProofError> {
        match self {
            Self::ProviderRegistered {
                provider: account,
                endpoint,
                proof,
                ..
            }
            | Self::RouterRegistered {
                router: account,
                endpoint,
                proof,
                ..
            } => verify_endpoint_proof(*endpoint, chain_id, registry, *account, proof),
            _ => Ok(()),
        }
    }
}

fn vault(event: Vault) -> Option<ContractEvent> {
    use ContractEvent as E;
    Some(match event {
        Vault::Deposited(e) => E::Deposited {
            developer: address(e.developer),
            payer: address(e.payer),
            amount: tokens(e.amount),
        },
        Vault::Withdrawn(e) => E::Withdrawn {
            developer: address(e.developer),
            amount: tokens(e.amount),
        },
        Vault::Allotted(e) => E::Allotted {
            developer: address(e.developer),
            router: address(e.router),
            generation: e.generation,
            cap: tokens(e.cap),
            expiry: Timestamp::from_secs(e.expiry),
        },
        Vault::ToppedUp(e) => E::ToppedUp {
            developer: address(e.developer),
            router: address(e.router),
            generation: e.generation,
            cap: tokens(e.cap),
            expiry: Timestamp::from_secs(e.expiry),
        },
        Vault::Revoked(e) => E::Revoked {
            developer: address(e.developer),
            router: address(e.router),
            generation: e.generation,
            expiry: Timestamp::from_secs(e.expiry),
        },
        Vault::Released(e) => E::Released {
            developer: address(e.developer),
            router: address(e.router),
            generation: e.generation,
            released: tokens(e.released),
        },
        Vault::BatchPosted(e) => E::BatchPosted {
            router: address(e.router),
            index: e.index,
            job_root: digest(e.jobRoot),
            job_count: e.jobCount,
            pay_root: digest(e.payRoot),
            gross: tokens(e.gross),
            content_id: digest(e.contentId),
            chain_head: digest(e.chainHead),
        },
        other => return settlement(other),
    })
}

fn settlement(event: Vault) -> Option<ContractEvent> {
    use ContractEvent as E;
    Some(match event {
        Vault::Promoted(e) => E::Promoted {
            router: address(e.router),
            pay_root: digest(e.payRoot),
            gross: tokens(e.gross),
        },
        Vault::PendingVoided(e) => E::PendingVoided {
            router: address(e.router),
            pay_root: digest(e.payRoot),
            gross: tokens(e.gross),
        },
        Vault::DebitSynced(e) => E::DebitSynced {
            router: address(e.router),
            developer: address(e.developer),
            generation: e.generation,
            lifetime_debit: tokens(e.lifetimeDebit),
        },
        Vault::Claimed(e) => E::Claimed {
            router: address(e.router),
            provider: address(e.provider),
            fee_version: e.feeVersion,
            lifetime_claimed: tokens(e.lifetimeClaimed),
            gross: tokens(e.gross),
            net: tokens(e.net),
        },
        Vault::Collected(e) => E::Collected {
            who: address(e.who),
            to: address(e.to),
            amount: tokens(e.amount),
        },
        Vault::ProtocolCollected(e) => E::ProtocolCollected {
            treasury: tokens(e.treasury),
            validators: tokens(e.validators),
            buyback: tokens(e.buyback),
        },
        Vault::FeeVersionAdded(e) => E::FeeVersionAdded { version: e.version },
        Vault::VerdictSet(e) => E::Administration {
            what: format!("the vault's verdict contract is {}", e.verdict),
        },
        Vault::AdminSet(e) => E::Administration {
            what: format!("the vault's admin is {}", e.admin),
        },
        _ => return None,
    })
}

fn registry(event: Registry) -> Option<ContractEvent> {
    use ContractEvent as E;
    Some(match event {
        Registry::ProviderRegistered(e) => E::ProviderRegistered {
            provider: address(e.provider),
            endpoint: EndpointId(e.endpointId.0),
            proof: e.endpointProof.to_vec(),
            region: region(e.region)?,
            payee: address(e.payee),
        },
        Registry::LoadoutSet(e) => E::LoadoutSet {
            provider: address(e.provider),
            offers: e
                .offers
                .into_iter()
                .map(|offer| {
                    Some(Offer {
                        model_root: digest(offer.modelRoot),
                        input_price: Price::per_million(tokens(offer.inputPrice)),
                        output_price: Price::per_million(tokens(offer.outputPrice)),
                        tokens_per_second: offer.tps,
                        tier: Tier::from_code(offer.tier)?,
                        name: offer.name,
                    })
                })
                .collect::<Option<_>>()?,
        },
        Registry::ProviderLeaving(e) => E::ProviderLeaving {
            provider: address(e.provider),
        },
        Registry::RouterRegistered(e) => E::RouterRegistered {
            router: address(e.router),
            endpoint: EndpointId(e.endpointId.0),
            proof: e.endpointProof.to_vec(),
            addresses: e.addresses,
        },
    })
}

fn region(bytes: FixedBytes<2>) -> Option<Region> {
    Region::try_from(String::from_utf8(bytes.to_vec()).ok()?).ok()
}

fn stake(event: Stake) -> Option<ContractEvent> {
    use ContractEvent as E;
    let units = StakeAmount::from_units;
    let role = StakeRole::from_code;
    Some(match event {
        Stake::Staked(e) => E::Staked {
            role: role(e.role)?,
            who: address(e.who),
            amount: units(e.amount),
            active: units(e.active),
        },
        Stake::UnbondRequested(e) => E::UnbondRequested {
            role: role(e.role)?,
            who: address(e.who),
            amount: units(e.amount),
            withdrawable_at: Timestamp::from_secs(e.withdrawableAt),
        },
        Stake::StakeWithdrawn(e) => E::StakeWithdrawn {
            role: role(e.role)?,
            who: address(e.who),
            amount: units(e.amount),
        },
        Stake::Slashed(e) => E::Slashed {
            fault: digest(e.faultId),
            offender: address(e.offender),
            role: role(e.role)?,
            severity_bps: e.severityBps,
            sigma: units(e.sigma),
            developer: units(e.developer),
            challenger: units(e.challenger),
            burned: units(e.burned),
        },
        Stake::Awarded(e) => E::Awarded {
            fault: digest(e.faultId),
            who: address(e.who),
            amount: units(e.amount),
        },
        Stake::AwardsCollected(e) => E::AwardsCollected {
            who: address(e.who),
            amount: units(e.amount),
        },
        Stake::SlasherSet(e) => E::Administration {
            what: format!("the slasher is {}", e.slasher),
        },
        Stake::StakePriceSet(e) => E::Administration {
            what: format!("the stake price is {}", e.stakePrice),
        },
        Stake::AdminSet(e) => E::Administration {
            what: format!("the stake registry's admin is {}", e.admin),
        },
    })
}
