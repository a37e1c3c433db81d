//! Claims of non-delivery on a deployed network: calls, events, views.
#![allow(missing_docs)]

mod common;

use common::*;
use stoa_chain::*;
use stoa_crypto::{Domain, acceptance_digest, receipt_digest, ticket_digest};
use stoa_types::*;

const DAY: u64 = 86_400;

fn domain(network: &Network) -> Domain {
    Domain {
        chain_id: network.chain.chain_id(),
        vault: network.contracts.vault,
    }
}

/// A ticket that was due long ago, as the router signed it, and the provider's word that it took it.
fn accepted(network: &Network, job: u8) -> (SignedTicket, SignedAcceptance) {
    let price = Price::per_million(TokenAmount::from_units(1_000_000));
    let ticket = Ticket {
        job_id: JobId([job; 32]),
        account: who("developer"),
        router: who("router"),
        provider: who("provider"),
        model_root: Digest([1; 32]),
        parameters_digest: Digest([2; 32]),
        request_digest: Digest([3; 32]),
        work_digest: Digest([4; 32]),
        input_price: price,
        output_price: price,
        input_units_max: 30,
        output_units_max: 20,
        reserve: units(50),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: Timestamp::from_secs(START),
        deadline: Timestamp::from_secs(START + 120),
    };
    let hash = ticket_digest(&domain(network), &ticket);
    let acceptance = Acceptance {
        ticket: hash,
        accepted_at: Timestamp::from_secs(START + 1),
    };
    let word = acceptance_digest(&domain(network), &acceptance);
    let ticket = SignedTicket {
        signature: key("router").sign(hash),
        ticket,
    };
    let signature = key("provider").sign(word);
    let acceptance = SignedAcceptance {
        acceptance,
        signature,
    };
    (ticket, acceptance)
}

fn receipt(network: &Network, ticket: &SignedTicket) -> Receipt {
    let t = &ticket.ticket;
    Receipt {
        version: RECEIPT_VERSION,
        chain_id: domain(network).chain_id,
        vault: domain(network).vault,
        profile_hash: Digest([5; 32]),
        job_id: t.job_id,
        account: t.account,
        router: t.router,
        provider: t.provider,
        model_root: t.model_root,
        runtime_digest: Digest([6; 32]),
        parameters_digest: t.parameters_digest,
        prompt_root: Digest([7; 32]),
        request_digest: t.request_digest,
        output_root: Digest([8; 32]),
        response_digest: Digest([9; 32]),
        input_units: 3,
        output_units: 2,
        input_price: t.input_price,
        output_price: t.output_price,
        charge: units(5),
        fee_version: 1,
        paid_by: PaidBy::Allotment,
        tier: t.tier,
        evidence_digest: Digest::ZERO,
        ticket_hash: ticket_digest(&domain(network), t),
        attempt: 0,
        segments_root: Digest::ZERO,
        accepted_at: Timestamp::from_secs(START + 1),
        delivered_at: Timestamp::from_secs(START + 2),
    }
}

/// Role accounts with stake, and the router's stake tokens for deposits.
async fn staked(network: &Network) -> (AuditAccount<Embedded>, AuditAccount<Embedded>) {
    let judges = AuditContracts::of_deployer(who("deployer"));
    let admin = network.account("deployer").await;
    let amount = StakeAmount::from_units(20_000 * 10u128.pow(18));
    let mut accounts = Vec::new();
    for (label, role) in [
        ("router", StakeRole::Router),
        ("provider", StakeRole::Provider),
    ] {
        let account = network.account(label).await;
        let gift = StakeAmount::from_units(2 * amount.units());
        admin
            .send_stake_tokens(who(label), gift)
            .await
            .expect("given");
        account.stake(role, amount).await.expect("staked");
        accounts.push(AuditAccount::new(account, judges));
    }
    let provider = accounts.pop().expect("two");
    (accounts.pop().expect("two"), provider)
}

async fn open_claims(network: &Network) -> OpenClaims {
    let judges = AuditContracts::of_deployer(who("deployer"));
    let mut indexer = Indexer::new(
        network.access(),
        network.contracts,
        Cursor::starting_at(0),
        0,
    )
    .with_audits(Some(judges));
    let mut open = OpenClaims::default();
    loop {
        let progress = indexer.step().await.expect("readable");
        for indexed in &progress.events {
            open.take(&indexed.event);
        }
        if progress.at_head {
            return open;
        }
    }
}

#[tokio::test]
async fn a_claim_is_seen_answered_and_refuted_and_silence_is_punished() {
    let network = network().await;
    let judges = AuditContracts::of_deployer(who("deployer"));
    let (router, provider) = staked(&network).await;
    let deposit = network.profile.delivery.deposit;
    let jobs = [1, 2, 3].map(|job| accepted(&network, job));
    network.clock.set(START + 121);
    for (ticket, acceptance) in &jobs {
        router
            .claim_non_delivery(ticket, acceptance, deposit)
            .await
            .expect("claimed");
    }
    let open = open_claims(&network).await;
    assert_eq!(open.against(who("provider")).count(), 3);
    assert_eq!(open.against(who("router")).count(), 0);

    let [first, second, third] = jobs.map(|(ticket, _)| receipt(&network, &ticket));
    let sign = |receipt: &Receipt, label| key(label).sign(receipt_digest(receipt));
    let own = sign(&first, "provider");
    provider
        .answer_claim(&first, &own, None)
        .await
        .expect("answered");
    let both = (sign(&second, "provider"), sign(&second, "router"));
    provider
        .answer_claim(&second, &both.0, Some(&both.1))
        .await
        .expect("refuted");
    let too_early = router.punish_non_delivery(third.ticket_hash).await;
    assert!(
        too_early
            .expect_err("too early")
            .to_string()
            .contains("TooEarly")
    );

    let open = open_claims(&network).await;
    let left: Vec<_> = open.all().map(|claim| claim.ticket).collect();
    assert_eq!(left, [third.ticket_hash]);
    let due = open.all().next().expect("one").answer_by;
    assert!(open.overdue(Timestamp(due.0 - 1)).next().is_none());
    assert_eq!(open.overdue(due).count(), 1);
    network.clock.set(due.secs() + DAY);
    router
        .punish_non_delivery(third.ticket_hash)
        .await
        .expect("punished");
    assert_eq!(open_claims(&network).await, OpenClaims::default());

    let access = network.access();
    let state = async |ticket| {
        let claim = judges.claim(&access, ticket).await.expect("readable");
        claim.map(|claim| claim.state)
    };
    assert_eq!(state(first.ticket_hash).await, Some(ClaimState::Answered));
    assert_eq!(state(second.ticket_hash).await, Some(ClaimState::Refuted));
    assert_eq!(state(third.ticket_hash).await, Some(ClaimState::Punished));
    assert_eq!(state(Digest([77; 32])).await, None);
    let standing = judges.standing(&access, who("provider")).await;
    assert_eq!(standing.expect("readable").reputation, 437_500);
}
