//! The whole way of the money, through the real contracts.

mod common;

use common::*;
use ed25519_dalek::{Signer, SigningKey};
use stoa_chain::*;
use stoa_crypto::{MerkleTree, Words, debit_leaf, endpoint_message, keccak256, payout_leaf};
use stoa_types::{
    Address, Digest, EndpointId, Price, Region, StakeAmount, Tier, Timestamp, TokenAmount,
};

fn pay_root(roots: &PayRoots) -> Digest {
    keccak256(
        Words::new()
            .digest(roots.provider_root)
            .digest(roots.debit_root)
            .as_bytes(),
    )
}

async fn register(network: &Network, provider: &Account<Embedded>) {
    let endpoint = SigningKey::from_bytes(&[7; 32]);
    let message = endpoint_message(
        network.chain.chain_id(),
        network.contracts.provider_registry,
        provider.address(),
    );
    let proof = endpoint.sign(&message.0).to_bytes();
    let id = EndpointId(endpoint.verifying_key().to_bytes());
    provider
        .register_provider(id, proof, Region(*b"XA"), who("payee"))
        .await
        .expect("registers");
    let offer = Offer {
        model_root: keccak256("model"),
        input_price: Price::per_million(units(500_000)),
        output_price: Price::per_million(units(1_500_000)),
        tokens_per_second: 100,
        tier: Tier::Exact,
        name: "stoa-tiny".to_owned(),
    };
    provider.set_loadout(&[offer]).await.expect("offers");
}

/// Two providers and one developer under one payout root.
struct Payout {
    roots: PayRoots,
    providers: MerkleTree,
    debits: MerkleTree,
    gross: TokenAmount,
}

fn payout(router: Address, earned: [(Address, u128); 2], charged: (Address, u128)) -> Payout {
    let leaf = |(provider, gross)| payout_leaf(router, 0, provider, 1, units(gross));
    let providers = MerkleTree::new(earned.map(leaf).to_vec());
    let debits = MerkleTree::new(vec![debit_leaf(router, 0, charged.0, 1, units(charged.1))]);
    let roots = PayRoots {
        provider_root: providers.root(),
        debit_root: debits.root(),
    };
    Payout {
        roots,
        providers,
        debits,
        gross: units(earned[0].1 + earned[1].1),
    }
}

const ROUTER: &str = "router";

async fn post_and_promote(network: &Network, router: &Account<Embedded>, payout: &Payout) {
    let post = Post {
        index: 1,
        job_root: keccak256("jobs"),
        job_count: 3,
        pay_root: pay_root(&payout.roots),
        gross: payout.gross,
        content_id: keccak256("file"),
    };
    assert!(matches!(
        router.post(&post).await.expect("posts"),
        Done::Now(_)
    ));
    // A restarted router asks again: nothing happens twice. A batch out of order is refused.
    assert_eq!(
        router.post(&post).await.expect("stands there"),
        Done::Before
    );
    let early = router
        .post(&Post { index: 3, ..post })
        .await
        .expect_err("out of order");
    assert!(
        matches!(early, PostError::OutOfOrder { index: 3, posts: 1 }),
        "{early}"
    );
    assert_eq!(
        network.view().head(who(ROUTER)).await.expect("readable").0,
        1
    );

    // Too early, and it says so in the contract's words; nothing was sent.
    let nonce = network
        .access()
        .nonce(who(ROUTER), false)
        .await
        .expect("readable");
    let refused = router
        .promote(who(ROUTER))
        .await
        .expect_err("the window is open")
        .to_string();
    assert!(refused.contains("PayRootPending"), "{refused}");
    assert_eq!(
        network
            .access()
            .nonce(who(ROUTER), false)
            .await
            .expect("readable"),
        nonce
    );
    network
        .clock
        .advance(network.profile.settlement.window_seconds);
    assert!(matches!(
        router.promote(who(ROUTER)).await.expect("promotes"),
        Done::Now(_)
    ));
    assert_eq!(
        router.promote(who(ROUTER)).await.expect("promoted"),
        Done::Before
    );
}

async fn sync_and_claim(network: &Network, provider: &Account<Embedded>, payout: &Payout) {
    let view = network.view();
    let debits = [Debit {
        developer: who("developer"),
        generation: 1,
        lifetime_debit: units(3_000_000),
        proof: payout.debits.proof(0).expect("there"),
    }];
    // Anyone may sync: here the provider does.
    assert_eq!(
        provider
            .sync_debits(who(ROUTER), &payout.roots, &debits)
            .await
            .expect("syncs")
            .len(),
        1
    );
    assert_eq!(
        provider
            .sync_debits(who(ROUTER), &payout.roots, &debits)
            .await
            .expect("synced")
            .len(),
        0
    );
    let claim = Claim {
        router: who(ROUTER),
        provider: provider.address(),
        fee_version: 1,
        lifetime_gross: units(2_000_000),
        roots: payout.roots,
        proof: payout.providers.proof(0).expect("there"),
    };
    provider.claim(&claim).await.expect("claims");
    let again = provider
        .claim(&claim)
        .await
        .expect_err("nothing is left")
        .to_string();
    assert!(again.contains("BelowMinimum"), "{again}");
    // 1.5 % router, three times 0.5 %.
    assert_eq!(
        view.owed(provider.address()).await.expect("readable"),
        units(1_940_000)
    );
    assert_eq!(
        view.owed(who(ROUTER)).await.expect("readable"),
        units(30_000)
    );
    assert_eq!(
        view.owed_protocol().await.expect("readable"),
        [units(10_000); 3]
    );
    provider
        .collect(provider.address())
        .await
        .expect("collects");
    assert_eq!(
        view.token_balance(who("payee")).await.expect("readable"),
        units(1_940_000)
    );
    provider.collect_protocol().await.expect("collects");
    assert_eq!(
        view.token_balance(who("treasury")).await.expect("readable"),
        units(10_000)
    );
}

/// All that was deposited is free, allotted, claimable, owed or paid out.
async fn check_conservation(network: &Network) {
    let view = network.view();
    let totals = view.totals(who(ROUTER)).await.expect("readable");
    let held = view
        .token_balance(network.contracts.vault)
        .await
        .expect("readable")
        .units();
    let free = view.free(who("developer")).await.expect("readable").units();
    let bound = totals.allotted.units() - totals.debited.units() - totals.released.units();
    let claimable = totals.debited.units() - totals.claimed.units();
    let owed = view.owed(who(ROUTER)).await.expect("readable").units();
    assert_eq!(held, free + bound + claimable + owed);
    assert_eq!(held, 100_000_000 - 1_940_000 - 30_000);
}

#[tokio::test]
async fn money_goes_from_the_developer_to_the_provider_and_the_sums_agree() {
    let network = network().await;
    let view = network.view();
    let developer = network.developer("developer", 100_000_000).await;
    let router = network.account(ROUTER).await;
    let provider = network.account("provider").await;
    register(&network, &provider).await;
    let expiry = Timestamp::from_secs(START + 86_400);
    developer
        .allot(who(ROUTER), units(50_000_000), expiry)
        .await
        .expect("allots");
    let allotment = view
        .allotment(developer.address(), who(ROUTER))
        .await
        .expect("readable");
    assert_eq!(
        (allotment.generation, allotment.cap, allotment.live),
        (1, units(50_000_000), true)
    );
    assert_eq!(
        view.free(developer.address()).await.expect("readable"),
        units(50_000_000)
    );

    let earned = [(provider.address(), 2_000_000), (who("other"), 1_000_000)];
    let payout = payout(who(ROUTER), earned, (developer.address(), 3_000_000));
    post_and_promote(&network, &router, &payout).await;
    sync_and_claim(&network, &provider, &payout).await;
    check_conservation(&network).await;

    // The developer leaves.
    developer.revoke(who(ROUTER)).await.expect("revokes");
    let settlement = &network.profile.settlement;
    network
        .clock
        .advance(settlement.notice_seconds + settlement.settle_delay_seconds);
    developer
        .release(developer.address(), who(ROUTER))
        .await
        .expect("releases");
    developer
        .withdraw(units(97_000_000))
        .await
        .expect("withdraws");
    assert_eq!(
        view.token_balance(developer.address())
            .await
            .expect("readable"),
        units(97_000_000)
    );
    check_events(&network, provider.address()).await;
}

async fn check_events(network: &Network, provider: Address) {
    let mut indexer = Indexer::new(network.access(), network.contracts, Cursor::default(), 0);
    let progress = indexer.step().await.expect("reads");
    assert!(progress.at_head && progress.rolled_back_to.is_none());
    let name = |event: &ContractEvent| {
        format!("{event:?}")
            .split([' ', '{'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let names: Vec<String> = progress
        .events
        .iter()
        .map(|indexed| name(&indexed.event))
        .collect();
    let expected = [
        "Administration",
        "Administration",
        "FeeVersionAdded",
        // Deploying ends with naming the verdict to stake registry and vault.
        "Administration",
        "Administration",
        "Deposited",
        "ProviderRegistered",
        "LoadoutSet",
        "Allotted",
        "BatchPosted",
        "Promoted",
        "DebitSynced",
        "Claimed",
        "Collected",
        "ProtocolCollected",
        "Revoked",
        "Released",
        "Withdrawn",
    ];
    assert_eq!(names, expected);
    let registered = &progress.events[6].event;
    registered
        .check_endpoint(
            network.chain.chain_id(),
            network.contracts.provider_registry,
        )
        .expect("proved");
    assert!(
        registered
            .check_endpoint(1, network.contracts.provider_registry)
            .is_err(),
        "of another chain"
    );
    let ContractEvent::LoadoutSet {
        provider: offering,
        offers,
    } = &progress.events[7].event
    else {
        panic!()
    };
    assert_eq!(
        (*offering, offers[0].name.as_str(), offers[0].tier),
        (provider, "stoa-tiny", Tier::Exact)
    );
    let ContractEvent::BatchPosted {
        index,
        job_count,
        chain_head,
        ..
    } = &progress.events[9].event
    else {
        panic!()
    };
    let head = network.view().head(who("router")).await.expect("readable");
    assert_eq!((*index, *job_count, *chain_head), (1, 3, head.1));
    assert_eq!(progress.events[9].at, Timestamp::from_secs(START));
    // Nothing new; the cursor survives being written down.
    let cursor: Cursor =
        serde_json::from_str(&serde_json::to_string(indexer.cursor()).expect("json"))
            .expect("json");
    let mut resumed = Indexer::new(network.access(), network.contracts, cursor, 0);
    assert_eq!(
        resumed.step().await.expect("reads"),
        Progress {
            at_head: true,
            ..Progress::default()
        }
    );
}

#[tokio::test]
async fn stake_reaches_the_minimum_and_leaves_after_unbonding() {
    let network = network().await;
    let view = network.view();
    let admin = network.account("deployer").await;
    let provider = network.account("provider").await;
    register(&network, &provider).await;
    let before = view
        .stake(StakeRole::Provider, provider.address())
        .await
        .expect("readable");
    assert!(!before.is_active && before.minimum > StakeAmount::ZERO);
    admin
        .send_stake_tokens(provider.address(), before.minimum)
        .await
        .expect("sends");
    provider
        .stake(StakeRole::Provider, before.minimum)
        .await
        .expect("stakes");
    let after = view
        .stake(StakeRole::Provider, provider.address())
        .await
        .expect("readable");
    assert!(after.is_active && after.active == before.minimum);
    provider
        .request_unbond(StakeRole::Provider, before.minimum)
        .await
        .expect("asks");
    let early = provider
        .withdraw_stake(StakeRole::Provider)
        .await
        .expect_err("unbonding")
        .to_string();
    assert!(early.contains("StillUnbonding"), "{early}");
    network
        .clock
        .advance(network.profile.stake.unbonding_seconds);
    provider
        .withdraw_stake(StakeRole::Provider)
        .await
        .expect("leaves");
    assert_eq!(
        view.stake_token_balance(provider.address())
            .await
            .expect("readable"),
        before.minimum
    );
}

#[tokio::test]
async fn a_deployment_is_found_again_and_goes_on_where_it_stopped() {
    let (chain, _clock, _folder) = empty_chain();
    let access = Embedded(chain.clone());
    let deployer = sender(access.clone(), "deployer").await;
    // The first two creations happened; then the process was killed.
    let expected = Contracts::of_deployer(deployer.address());
    for bytecode in [
        bindings::TestDollar::BYTECODE.to_vec(),
        [
            &bindings::StoaToken::BYTECODE[..],
            &[0; 12],
            &deployer.address().0,
        ]
        .concat(),
    ] {
        deployer
            .turn()
            .await
            .expect("idle")
            .send(None, bytecode)
            .await
            .expect("creates");
    }
    let contracts = deploy(&deployer, &profile(), &beneficiaries())
        .await
        .expect("goes on");
    assert_eq!(contracts, expected);
    let blocks = chain.head().number;
    assert_eq!(
        deploy(&deployer, &profile(), &beneficiaries())
            .await
            .expect("is there"),
        contracts
    );
    assert_eq!(chain.head().number, blocks, "nothing is deployed twice");
    let supply = View::new(access, contracts)
        .stake_token_balance(who("deployer"))
        .await
        .expect("readable");
    assert_eq!(supply, profile().stake.supply);

    // An account that did something else first is refused with a reason.
    let used = sender(Embedded(chain.clone()), "used").await;
    used.turn()
        .await
        .expect("idle")
        .send(Some(who("anyone")), Vec::new())
        .await
        .expect("sends");
    let error = deploy(&used, &profile(), &beneficiaries())
        .await
        .expect_err("refused");
    assert!(
        matches!(
            error,
            DeployError::Foreign {
                contract: "TestDollar",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn revert_data_is_explained() {
    use alloy_sol_types::SolError;
    let error = bindings::PaymentVault::Insolvent {
        gross: 5,
        covered: 4,
    };
    let text = explain_revert(&error.abi_encode());
    assert!(
        text.contains("Insolvent") && text.contains("gross: 5") && text.contains("covered: 4"),
        "{text}"
    );
    assert_eq!(explain_revert(&[]), "without a reason");
    assert_eq!(explain_revert(&[1, 2, 3, 4]), "0x01020304");
}

#[tokio::test]
async fn a_router_covers_what_came_too_late_once_and_says_what_it_lacks() {
    let network = network().await;
    let router = network.account("router").await;
    let (now, end) = (
        Timestamp::from_secs(START),
        Timestamp::from_secs(START + 1_000),
    );
    let short = router.cover_late(0, units(70), end, now, false).await;
    assert!(
        matches!(&short, Err(CoverError::Short { lacking, .. }) if *lacking == units(70)),
        "{short:?}"
    );
    router
        .mint_test_dollars(router.address(), units(30))
        .await
        .expect("mints");
    let sent = router.cover_late(0, units(70), end, now, true).await;
    assert!(matches!(sent.expect("covers"), Done::Now(_)));
    let held = async || {
        let view = network.view();
        let own = view.allotment(router.address(), router.address()).await;
        own.expect("readable")
    };
    assert_eq!((held().await.generation, held().await.cap), (1, units(70)));
    // Asked again, before or after its event arrived: nothing more.
    for known in [0, 1] {
        let again = router.cover_late(known, units(70), end, now, true).await;
        assert_eq!(again.expect("answers"), Done::Before);
    }
    let more = router.cover_late(1, units(100), end, now, true).await;
    assert!(matches!(more.expect("tops up"), Done::Now(_)));
    assert_eq!((held().await.generation, held().await.cap), (1, units(100)));
    // One that ended comes back before the next is made.
    let late = START + 1_000 + network.profile.settlement.settle_delay_seconds;
    network.clock.set(late);
    let late = Timestamp::from_secs(late);
    for wanted in [false, true] {
        let next = Timestamp(late.0 + 500_000);
        let sent = router.cover_late(1, units(120), next, late, true).await;
        assert!(matches!(sent.expect("sends"), Done::Now(_)));
        assert_eq!(held().await.live, wanted);
    }
    assert_eq!((held().await.generation, held().await.cap), (2, units(120)));
}
