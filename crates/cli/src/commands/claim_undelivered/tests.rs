use super::*;
use crate::launch::Joined;
use crate::launch::devnet::{self, Devnet};
use crate::launch::stake::{StakeSource, ensure, grant};
use crate::roles::router::now;
use serde_json::json;
use std::sync::Arc;
use stoa_chain::{Account, Embedded, StakeRole};
use stoa_crypto::{SecretKey, acceptance_digest, receipt_digest};
use stoa_evm::ManualClock;
use stoa_nodes::receipts::{OrderName, nothing_delivered};
use stoa_types::{Acceptance, Price, SignedAcceptance, SignedTicket, Ticket, Tier, TokenAmount};

/// A network whose time is moved, with a developer and a provider that took its call.
struct Field {
    joined: Joined<Embedded>,
    deployer: Account<Embedded>,
    bench: Bench<Embedded>,
    clock: Arc<ManualClock>,
    start: Timestamp,
    _folder: tempfile::TempDir,
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32]).expect("a key")
}

fn stake(text: &str) -> StakeAmount {
    StakeAmount::parse(text).expect("an amount")
}

const JOB: JobId = JobId([7; 32]);

impl Field {
    async fn open() -> Self {
        let start = Timestamp::from_secs(now().secs());
        let Devnet {
            joined,
            deployer,
            clock,
            folder,
            ..
        } = Devnet::with_moved_time().await;
        let audits = AuditContracts::find(&joined.chain, &joined.contracts).await;
        let audits = audits.expect("read").expect("they judge");
        let rules = audits.claim_rules(&joined.chain).await.expect("read");
        let provider = joined.account(key(3)).await.expect("an account");
        let (role, source) = (StakeRole::Provider, StakeSource::Granted(&deployer));
        ensure(&joined, &provider, role, stake("50000"), &source)
            .await
            .expect("staked");
        let account = joined.account(key(1)).await.expect("an account");
        let bench = Bench {
            account: AuditAccount::new(account, audits),
            view: joined.view(),
            rules: rules.expect("it has claims"),
            domain: joined.domain(),
            pays: true,
        };
        Self {
            joined,
            deployer,
            bench,
            clock,
            start,
            _folder: folder,
        }
    }

    /// Time passes, and a block says so.
    async fn pass(&self, seconds: u64) {
        devnet::pass(&self.deployer, &self.clock, seconds).await;
    }

    fn taken(&self, job: JobId, account: Address) -> Undelivered {
        let price = Price::per_million(TokenAmount::from_units(1_000_000));
        let ticket = Ticket {
            job_id: job,
            account,
            router: key(2).address(),
            provider: key(3).address(),
            model_root: Digest([1; 32]),
            parameters_digest: Digest([2; 32]),
            request_digest: Digest([3; 32]),
            work_digest: Digest([4; 32]),
            input_price: price,
            output_price: price,
            input_units_max: 30,
            output_units_max: 20,
            reserve: TokenAmount::from_units(50),
            fee_version: 1,
            tier: Tier::Exact,
            attempt: 1,
            issued_at: self.start,
            deadline: self.start.plus(Millis::from_secs(120)),
        };
        let domain = self.joined.domain();
        let hash = ticket_digest(&domain, &ticket);
        let acceptance = Acceptance {
            ticket: hash,
            accepted_at: self.start,
        };
        let word = acceptance_digest(&domain, &acceptance);
        Undelivered {
            ticket: SignedTicket {
                signature: key(2).sign(hash),
                ticket,
            },
            acceptance: SignedAcceptance {
                acceptance,
                signature: key(3).sign(word),
            },
        }
    }

    async fn stand(&self, taken: &Undelivered) -> Stand {
        let row = self.bench.carry_on(JOB, taken).await.expect("carried on");
        row.stand
    }

    async fn held(&self) -> StakeAmount {
        let held = self.bench.view.stake_token_balance(self.bench.me()).await;
        held.expect("read")
    }

    async fn give_deposit(&self) {
        let (me, deposit) = (self.bench.me(), self.bench.rules.deposit);
        let source = StakeSource::Granted(&self.deployer);
        grant(&self.joined, me, deposit, &source)
            .await
            .expect("given");
    }
}

#[tokio::test]
async fn a_developer_claims_when_it_may_and_has_who_is_silent_punished_and_its_share_collected() {
    let mut field = Field::open().await;
    let me = field.bench.me();
    let taken = field.taken(JOB, me);
    let from = taken.ticket.ticket.deadline;
    let rules = field.bench.rules;
    let until = from.plus(Millis::from_secs(rules.claim_seconds));
    assert_eq!(field.stand(&taken).await, Stand::TooEarly { from, until });
    field.pass(121).await;
    let poor = Stand::NoDeposit {
        held: StakeAmount::ZERO,
        deposit: rules.deposit,
        until,
    };
    assert_eq!(field.stand(&taken).await, poor);
    field.give_deposit().await;
    field.bench.pays = false;
    let asked = field.bench.carry_on(JOB, &taken).await.expect("asked");
    let unconfirmed = Stand::Unconfirmed {
        deposit: rules.deposit,
        until,
    };
    assert_eq!(asked.stand, unconfirmed);
    assert!(asked.is_failure(), "the status says that nothing was done");
    let said = asked.stand.to_string();
    assert!(
        said.contains("lost") && said.contains("--yes"),
        "it says what it costs: {said}"
    );
    assert_eq!(field.held().await, rules.deposit, "nothing was paid");
    field.bench.pays = true;
    let claimed = field.stand(&taken).await;
    let answer_by = field
        .start
        .plus(Millis::from_secs(121 + rules.answer_seconds));
    let open = |now| Stand::Open {
        now,
        claimant: me,
        answer_by,
    };
    assert_eq!(claimed, open(true));
    assert!(field.held().await.is_zero(), "the deposit is paid");
    // Run again it is looked at, and no second deposit is paid.
    field.give_deposit().await;
    assert_eq!(field.stand(&taken).await, open(false));
    assert_eq!(field.held().await, rules.deposit);
    assert!(field.bench.collect().await.expect("read").is_zero());

    field.pass(rules.answer_seconds).await;
    assert_eq!(field.stand(&taken).await, Stand::Punished { now: true });
    let awarded = field.bench.collect().await.expect("collected");
    // A fifth of one percent of 50,000, by decision 0030.
    assert_eq!(awarded, stake("100"));
    let both = rules.deposit.checked_add(rules.deposit);
    let all = both.and_then(|both| both.checked_add(awarded));
    assert_eq!(Some(field.held().await), all);
    assert_eq!(field.stand(&taken).await, Stand::Punished { now: false });
    assert!(field.bench.collect().await.expect("read").is_zero());
}

#[tokio::test]
async fn an_answer_ends_the_claim_and_who_is_too_late_or_claims_another_s_call_pays_nothing() {
    let field = Field::open().await;
    let taken = field.taken(JOB, field.bench.me());
    field.give_deposit().await;
    field.pass(121).await;
    for wrong in [
        field.taken(JobId([8; 32]), field.bench.me()),
        field.taken(JOB, Address([9; 20])),
    ] {
        let refused = field.bench.carry_on(JOB, &wrong).await;
        let refused = refused.expect_err("not its call").to_string();
        assert!(refused.contains("nothing was claimed"), "{refused}");
    }
    field.stand(&taken).await;
    let provider = field.joined.account(key(3)).await.expect("an account");
    let provider = AuditAccount::new(provider, *field.bench.account.contracts());
    let ordered = &taken.ticket.ticket;
    let order = OrderName {
        ticket: taken.acceptance.acceptance.ticket,
        job: JOB,
        account: ordered.account,
        router: ordered.router,
        provider: ordered.provider,
    };
    let domain = field.joined.domain();
    let receipt = nothing_delivered(&domain, field.joined.profile.hash, &order, field.start);
    let signature = key(3).sign(receipt_digest(&receipt));
    let answered = provider.answer_claim(&receipt, &signature, None).await;
    answered.expect("answered");
    assert_eq!(field.stand(&taken).await, Stand::Answered);
    assert!(field.held().await.is_zero(), "the provider has the deposit");

    let mut late = field.taken(JOB, field.bench.me());
    late.ticket.ticket.attempt = 2;
    let rules = field.bench.rules;
    field.pass(rules.claim_seconds + 1).await;
    let since = ordered
        .deadline
        .plus(Millis::from_secs(rules.claim_seconds));
    assert_eq!(field.stand(&late).await, Stand::TooLate { since });
}

#[test]
fn what_was_taken_is_found_in_an_explanation_and_in_the_error_of_a_call() {
    for told in [
        json!({"undelivered": []}),
        json!({"error": {"message": "…", "stoa": {"undelivered": []}}}),
    ] {
        assert_eq!(taken_in(&told), Some(Vec::new()));
    }
    for told in [json!({}), json!({"undelivered": [1]}), json!({"error": {}})] {
        assert_eq!(taken_in(&told), None);
    }
}
