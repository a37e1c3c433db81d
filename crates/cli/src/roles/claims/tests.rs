use super::losses::Lost;
use super::made::{Claimed, FAULT};
use super::watch::{block_since, read_back};
use super::*;
use crate::roles::owed::tests::owed as order;
use crate::roles::test_ticket;
use std::path::Path;
use stoa_chain::ContractEvent;
use stoa_runtime::{Fault, Script, ScriptedBackend};
use stoa_types::{Acceptance, SignedAcceptance, SignedTicket, StakeAmount, Ticket, Tier};

const PROVIDER: Address = Address([3; 20]);
const ROUTER: Address = Address([2; 20]);
const DEVELOPER: Address = Address([1; 20]);
const TICKET: Digest = Digest([8; 32]);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

#[test]
fn what_fails_is_tried_again_at_growing_intervals() {
    let (mut tried, start) = (Tried::default(), Instant::now());
    let mut times = Vec::new();
    for second in 0..=200 {
        if tried.again(TICKET, start + Duration::from_secs(second)) {
            times.push(second);
        }
    }
    assert_eq!(times, [0, 5, 15, 35, 75, 135, 195]);
    tried.forget(TICKET);
    assert!(tried.again(TICKET, start + Duration::from_secs(196)));
}

#[test]
fn who_was_seen_lately_is_not_away_nor_is_anybody_for_who_has_only_begun_to_look() {
    let least = Millis::from_secs(100);
    let mut presence = Presence::new(at(0));
    let away = |presence: &Presence, now| presence.is_away(PROVIDER, at(50), least, at(now));
    assert!(!away(&presence, 149));
    assert!(away(&presence, 150));
    presence.see([PROVIDER].into_iter(), at(49));
    assert!(away(&presence, 150), "seen before the deadline only");
    presence.see([PROVIDER].into_iter(), at(51));
    assert!(!away(&presence, 250), "it was there a while ago");
    assert!(away(&presence, 251), "and left for good");
    // Started anew after the deadline: whom it would have seen before is not known.
    let presence = Presence::new(at(500));
    assert!(!away(&presence, 699));
    assert!(away(&presence, 700));
}

#[test]
fn a_restart_only_delays_a_claim_whoever_was_seen_before_it() {
    let (deadline, least) = (3, Millis::from_secs(2));
    let mut delayed = 0;
    // Each bit is a second in which the provider is connected.
    for connected in 0_u32..1 << 8 {
        for restart in 0..8 {
            let (mut whole, mut anew) = (Presence::new(at(0)), Presence::new(at(restart)));
            for second in 0..14 {
                let here = (connected >> second & 1 == 1).then_some(PROVIDER);
                whole.see(here.into_iter(), at(second));
                if second >= restart {
                    anew.see(here.into_iter(), at(second));
                }
                let away = |presence: &Presence| {
                    presence.is_away(PROVIDER, at(deadline), least, at(second))
                };
                if second >= restart && away(&anew) {
                    assert!(away(&whole), "{connected:b}, {restart}, {second}");
                }
                delayed += u32::from(away(&whole) && !away(&anew));
            }
        }
    }
    assert!(delayed > 0);
}

/// What was taken for a ticket, and not delivered until then.
fn lost(ticket: Digest, provider: Address, deadline: Timestamp) -> Undelivered {
    let signature = Signature([9; 65]);
    let named = Ticket {
        provider,
        ..test_ticket(ticket.0[0], 0, deadline.0)
    };
    Undelivered {
        ticket: SignedTicket {
            ticket: named,
            signature,
        },
        acceptance: SignedAcceptance {
            acceptance: Acceptance {
                ticket,
                accepted_at: at(0),
            },
            signature,
        },
    }
}

fn covers(made: &Made, provider: Address, deadline: Timestamp) -> bool {
    made.covers(&lost(Digest([99; 32]), provider, deadline))
}

#[test]
fn what_a_provider_lost_within_a_day_of_a_claim_is_not_claimed_again() {
    let day = 86_400;
    let mut made = Made::default();
    made.take(Claimed::Stands, &lost(TICKET, PROVIDER, at(2 * day)));
    for (deadline, covered) in [
        (day, false),
        (day + 1, true),
        (2 * day, true),
        (3 * day - 1, true),
        (3 * day, false),
    ] {
        assert_eq!(covers(&made, PROVIDER, at(deadline)), covered, "{deadline}");
    }
    assert!(!covers(&made, Address([4; 20]), at(2 * day)));
}

/// What is tried of three orders of one day, where these come of the first.
async fn tried_of_three(made: &mut Made, first: Claimed) -> Vec<u8> {
    let due = [1, 2, 3].map(|n| lost(Digest([n; 32]), PROVIDER, at(u64::from(n))));
    let tried = std::cell::RefCell::new(Vec::new());
    let claim = |order: Undelivered| {
        let n = order.acceptance.acceptance.ticket.0[0];
        tried.borrow_mut().push(n);
        let came = if n == 1 { first } else { Claimed::Stands };
        async move { Ok(came) }
    };
    made.claim_each(&due, &Losses::default(), |_| true, claim)
        .await;
    tried.into_inner()
}

#[tokio::test]
async fn a_claim_that_may_still_get_into_a_block_keeps_its_router_from_a_second_deposit() {
    let unknown = Err::<(), _>(SendError::Unknown {
        hash: TICKET,
        waited: Duration::from_secs(10),
        last: "it waits for a block".to_owned(),
    });
    let taken = Err::<(), _>(SendError::NonceTaken {
        account: Address([1; 20]),
        nonce: 7,
    });
    let mut used_by_itself = Made::default();
    let first = Claimed::sent(&taken);
    assert_eq!(tried_of_three(&mut used_by_itself, first).await, [1]);
    let reason = AccessError::Refused("an earlier transaction is still pending".to_owned());
    let unsent = Err::<(), _>(SendError::NotSent(reason));
    let mut made = Made::default();
    let first = Claimed::sent(&unknown);
    assert_eq!(tried_of_three(&mut made, first).await, [1]);
    // Looked at again, alone, whatever keeps that from being told.
    assert_eq!(tried_of_three(&mut made, first).await, [1]);
    let first = Claimed::sent(&unsent);
    assert_eq!(tried_of_three(&mut made, first).await, [1]);
    let mut in_block = made;
    let first = Claimed::sent(&Ok(()));
    assert_eq!(tried_of_three(&mut in_block, first).await, [1]);
    assert_eq!(tried_of_three(&mut in_block, first).await, [0_u8; 0]);
    // What never was handed over keeps nothing back.
    let mut made = Made::default();
    let first = Claimed::sent(&unsent);
    assert_eq!(tried_of_three(&mut made, first).await, [1, 2]);
}

#[tokio::test]
async fn a_claim_that_can_be_made_no_more_keeps_nothing_back() {
    let mut made = Made::default();
    assert_eq!(tried_of_three(&mut made, Claimed::Perhaps).await, [1]);
    let later = lost(Digest([2; 32]), PROVIDER, at(2));
    assert!(made.covers(&later));
    made.keep_due(std::slice::from_ref(&later));
    assert!(!made.covers(&later));
}

#[tokio::test]
async fn a_claim_of_others_that_was_answered_shields_the_provider_from_no_other_one() {
    let read = |claimant, state| {
        let claim = ClaimView {
            claimant,
            state,
            ..claim()
        };
        Claimed::already(&claim, ROUTER)
    };
    for (state, tried) in [
        (ClaimState::Open, vec![1]),
        (ClaimState::Punished, vec![1]),
        (ClaimState::Answered, vec![1, 2]),
        (ClaimState::Refuted, vec![1, 2]),
        (ClaimState::TakenBack, vec![1, 2]),
    ] {
        let mut made = Made::default();
        let first = read(DEVELOPER, state);
        assert_eq!(tried_of_three(&mut made, first).await, tried, "{state:?}");
        let mut made = Made::default();
        let first = read(ROUTER, state);
        assert_eq!(tried_of_three(&mut made, first).await, [1], "{state:?}");
    }
    // Answered before any event told of it.
    let mut made = Made::default();
    let open = read(DEVELOPER, ClaimState::Open);
    assert_eq!(tried_of_three(&mut made, open).await, [1]);
    let answered = read(DEVELOPER, ClaimState::Answered);
    assert_eq!(tried_of_three(&mut made, answered).await, [1, 2]);
}

fn claimed(ticket: Digest) -> ContractEvent {
    claimed_by(ROUTER, ROUTER, ticket)
}

fn claimed_by(claimant: Address, router: Address, ticket: Digest) -> ContractEvent {
    ContractEvent::DeliveryClaimed {
        ticket,
        provider: PROVIDER,
        router,
        claimant,
        job: JobId([1; 32]),
        answer_by: at(9),
    }
}

#[test]
fn a_reorganisation_takes_back_what_it_undid_and_nothing_is_told_before_the_head_is_read() {
    let [first, second] = [1, 2].map(|n| Digest([n; 32]));
    let watch = ClaimsWatch::default();
    {
        let mut followed = watch.lock();
        followed.take(10, claimed(first));
        followed.take(11, claimed(second));
        let provider = PROVIDER;
        let ticket = first;
        followed.take(12, ContractEvent::ClaimAnswered { ticket, provider });
    }
    assert_eq!(watch.all(), [], "what looks open may be decided already");
    watch.lock().caught_up = true;
    let open = || {
        let open = watch.all();
        open.into_iter().map(|claim| claim.ticket)
    };
    assert_eq!(open().collect::<Vec<_>>(), [second]);
    watch.lock().roll_back(12);
    assert_eq!(open().collect::<Vec<_>>(), [first, second]);
    watch.lock().roll_back(11);
    assert_eq!(open().collect::<Vec<_>>(), [first]);
}

#[tokio::test]
async fn a_router_that_starts_anew_claims_nothing_before_it_knows_what_it_claimed_before() {
    let tickets: [Digest; 6] = std::array::from_fn(|n| Digest([n as u8; 32]));
    let watch = ClaimsWatch::default();
    let provider = PROVIDER;
    {
        let mut followed = watch.lock();
        let stranger = Address([6; 20]);
        // Its own, decided and not; another router's; and a developer's on its orders: open, punished, shown to be untrue.
        followed.take(10, claimed(tickets[0]));
        followed.take(11, claimed_by(stranger, stranger, tickets[1]));
        for ticket in &tickets[2..5] {
            followed.take(12, claimed_by(DEVELOPER, ROUTER, *ticket));
        }
        let [ticket, punished, refuted] = [0, 3, 4].map(|n| tickets[n]);
        followed.take(13, ContractEvent::ClaimAnswered { ticket, provider });
        followed.take(
            13,
            ContractEvent::NonDeliveryPunished {
                ticket: punished,
                provider,
                slashed: true,
            },
        );
        followed.take(
            13,
            ContractEvent::ClaimRefuted {
                ticket: refuted,
                provider,
                router: ROUTER,
                accused: false,
            },
        );
        followed.take(14, claimed(tickets[5]));
    }
    assert_eq!(
        watch.made(ROUTER),
        None,
        "the newest may not have been read"
    );
    watch.lock().caught_up = true;
    let known = watch.made(ROUTER).expect("read");
    let of_router = [0, 2, 3, 5].map(|n| tickets[n]);
    assert_eq!(known.iter().copied().collect::<Vec<_>>(), of_router);

    let mut made = Made::default();
    let view = ClaimView {
        provider: PROVIDER,
        deadline: at(1_000),
        ..claim()
    };
    let away = |_| async { Err(AccessError::Unreachable("away".to_owned())) };
    assert!(!made.recall(&known, away).await);
    let read = |_| async move { Ok(Some(view)) };
    assert!(!made.recall(&known, |_| async { Ok(None) }).await);
    assert!(made.recall(&known, read).await);
    assert!(covers(&made, PROVIDER, at(999)) && covers(&made, PROVIDER, at(1_001)));
    assert!(!covers(&made, PROVIDER, at(1_000).plus(FAULT)));
    // What is known is not read again, and what was taken back stands no more; what was sent just now does.
    watch.lock().roll_back(0);
    let none = watch.made(ROUTER).expect("read");
    made.take(Claimed::Stands, &lost(TICKET, Address([5; 20]), at(1_000)));
    assert!(made.recall(&none, away).await);
    assert!(!covers(&made, PROVIDER, at(1_000)));
    assert!(covers(&made, Address([5; 20]), at(1_000)));
}

/// Providers of which a router claims what it lost to each at this deadline, knowing of the chain what this watch does.
async fn claimed_of(watch: &ClaimsWatch, deadline: Timestamp, now: Timestamp) -> Vec<Address> {
    let mut losses = Losses::default();
    let known = watch.lost(ROUTER).expect("read");
    losses.set(&known, StakeAmount::from_units(10), now);
    let due = [PROVIDER, Address([4; 20])].map(|to| lost(Digest([to.0[0]; 32]), to, deadline));
    let tried = std::cell::RefCell::new(Vec::new());
    let claim = |order: Undelivered| {
        tried.borrow_mut().push(order.ticket.ticket.provider);
        async { Ok(Claimed::Nothing) }
    };
    let mut made = Made::default();
    made.claim_each(&due, &losses, |_| true, claim).await;
    tried.into_inner()
}

#[tokio::test]
async fn a_provider_that_answered_a_claim_gets_no_second_deposit_for_a_month() {
    let (provider, other, ticket) = (PROVIDER, Address([4; 20]), TICKET);
    let watch = ClaimsWatch::default();
    watch.lock().take(10, claimed(ticket));
    assert_eq!(
        watch.lost(ROUTER),
        None,
        "the answer may not have been read"
    );
    watch.lock().caught_up = true;
    let later = at(2 * 86_400);
    assert_eq!(claimed_of(&watch, later, later).await, [provider, other]);
    let refuted = ContractEvent::ClaimRefuted {
        ticket,
        provider,
        router: ROUTER,
        accused: true,
    };
    for answer in [ContractEvent::ClaimAnswered { ticket, provider }, refuted] {
        watch.lock().take(11, answer);
        assert_eq!(claimed_of(&watch, later, later).await, [other]);
        // It was to be answered by second 9.
        let end = at(9).plus(HELD_BACK);
        assert_eq!(claimed_of(&watch, end, Timestamp(end.0 - 1)).await, [other]);
        assert_eq!(claimed_of(&watch, end, end).await, [provider, other]);
        // A reorganisation may take the answer back.
        watch.lock().roll_back(11);
        assert_eq!(claimed_of(&watch, later, later).await, [provider, other]);
    }
}

#[tokio::test]
async fn only_a_deposit_of_its_own_that_went_to_the_provider_keeps_a_router_from_claiming() {
    let (provider, later) = (PROVIDER, at(2 * 86_400));
    let [developer, punished, back, both] = [1, 2, 3, 4].map(|n| Digest([n; 32]));
    let watch = ClaimsWatch::default();
    {
        let mut followed = watch.lock();
        followed.caught_up = true;
        followed.take(10, claimed_by(DEVELOPER, ROUTER, developer));
        for ticket in [punished, back, both] {
            followed.take(10, claimed(ticket));
        }
        let slashed = |ticket| ContractEvent::NonDeliveryPunished {
            ticket,
            provider,
            slashed: true,
        };
        for ticket in [punished, both] {
            followed.take(11, slashed(ticket));
        }
        let (ticket, claimant) = (back, ROUTER);
        followed.take(11, ContractEvent::ClaimTakenBack { ticket, claimant });
        let ticket = developer;
        followed.take(12, ContractEvent::ClaimAnswered { ticket, provider });
        // Shown after it was punished: the deposit is back already.
        let shown = ContractEvent::ClaimRefuted {
            ticket: both,
            provider,
            router: ROUTER,
            accused: true,
        };
        followed.take(12, shown);
    }
    let all = [provider, Address([4; 20])];
    assert_eq!(claimed_of(&watch, later, later).await, all);
    let counts = watch.lost(DEVELOPER).expect("read");
    let answer_by = at(9);
    let known = Lost {
        provider,
        answer_by,
    };
    assert_eq!(counts, BTreeMap::from([(developer, known)]));
}

#[test]
fn whoever_claims_reads_back_every_claim_whose_answer_still_keeps_it_from_one() {
    let day = 86_400;
    let rules = ClaimRules {
        claim_seconds: day,
        answer_seconds: day,
        deposit: StakeAmount::from_units(10),
    };
    assert_eq!(read_back(&rules, Millis(0)), Millis::from_secs(8 * day));
    assert_eq!(read_back(&rules, HELD_BACK), Millis::from_secs(31 * day));
}

#[tokio::test]
async fn claims_are_read_from_the_first_block_that_is_not_too_old() {
    let made = |number| async move { Ok(Some(at(10 * number))) };
    for (since, block) in [(0, 0), (1, 1), (10, 1), (500, 50), (995, 100), (5_000, 100)] {
        let found = block_since(100, at(since), made).await;
        assert_eq!(found.expect("read"), block, "{since}");
    }
}

fn backend(fault: Option<Fault>, tier: Tier) -> Arc<dyn Backend> {
    let script = Script {
        fault,
        ..Script::default()
    };
    let scripted = ScriptedBackend::named("script-fixed-1", script).expect("known");
    Arc::new(scripted.claiming(|facts| {
        facts.model_root = Digest([4; 32]);
        facts.tier = tier;
    }))
}

fn maker(folder: &Path, backends: Vec<Arc<dyn Backend>>) -> AnswerMaker {
    let key = SecretKey::for_tests("provider");
    let owed = OwedFolder::open(&folder.join("owed"), key.clone(), Millis(1_000)).expect("opens");
    AnswerMaker {
        key,
        domain: Domain {
            chain_id: 31_337,
            vault: Address([9; 20]),
        },
        profile_hash: Digest([5; 32]),
        earnings: Arc::new(Earnings::open(&folder.join("receipts")).expect("opens")),
        owed,
        backends,
    }
}

fn claim() -> ClaimView {
    ClaimView {
        claimant: Address([7; 20]),
        claimed_at: at(0),
        state: ClaimState::Open,
        provider: SecretKey::for_tests("provider").address(),
        deadline: at(0),
        router: Address([2; 20]),
        account: Address([1; 20]),
        job: JobId([1; 32]),
    }
}

/// What the contract asks of an answer.
fn check_answers(shown: &Shown, ticket: Digest) {
    let (receipt, claim) = (&shown.receipt, claim());
    assert_eq!(
        (receipt.chain_id, receipt.vault),
        (31_337, Address([9; 20]))
    );
    assert_eq!(
        (receipt.ticket_hash, receipt.job_id, receipt.account),
        (ticket, claim.job, claim.account)
    );
    assert_eq!(receipt.router, claim.router);
    let signer = stoa_crypto::recover(receipt_digest(receipt), &shown.provider);
    assert_eq!(signer, Ok(claim.provider));
    assert_eq!(shown.router, None);
}

#[tokio::test]
async fn an_order_that_cannot_be_computed_is_answered_with_nothing_delivered_whatever_its_tier() {
    let hour = Duration::from_secs(3_600);
    let stalls = Some(Fault::StallAfter(0));
    for (how, backends, limit) in [
        (
            "it fails",
            vec![backend(Some(Fault::FailAfter(0)), Tier::Exact)],
            hour,
        ),
        (
            "it panics",
            vec![backend(Some(Fault::PanicAfter(0)), Tier::Exact)],
            hour,
        ),
        (
            "refused",
            vec![backend(
                Some(Fault::Refuse(stoa_nodes::message::RefusalReason::Policy)),
                Tier::None,
            )],
            hour,
        ),
        ("not served any more", Vec::new(), hour),
        (
            "it takes for ever",
            vec![backend(stalls, Tier::Exact)],
            Duration::from_millis(50),
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let answers = maker(folder.path(), backends);
        let owed = order(5_000_000);
        let Holds::Work(work) = owed.holds.clone() else {
            panic!("an order");
        };
        let taken = (Box::new(owed), work);
        let shown = answers.compute(TICKET, &claim(), taken, limit).await;
        check_answers(&shown, TICKET);
        assert!(shown.receipt.charge.is_zero(), "{how}");
        assert_eq!(shown.receipt.tier, Tier::None, "{how}: nobody can post it");
    }
}

#[tokio::test]
async fn a_claim_on_an_order_that_is_not_in_the_folder_is_answered_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let answers = maker(folder.path(), Vec::new());
    let Found::Shown(shown) = answers.find(TICKET, &claim()).await else {
        panic!("nothing to compute");
    };
    check_answers(&shown, TICKET);
    // Nor does a journal that cannot be read end the answer.
    std::fs::remove_dir_all(folder.path().join("receipts")).expect("removed");
    std::fs::write(folder.path().join("receipts"), "no folder").expect("written");
    let Found::Shown(shown) = answers.find(TICKET, &claim()).await else {
        panic!("nothing to compute");
    };
    check_answers(&shown, TICKET);
}
