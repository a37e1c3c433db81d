//! Orders and answers as a cheat would like them to pass.

use proptest::prelude::*;
use stoa_crypto::*;
use stoa_types::*;
use stoa_verify::judge::*;
use stoa_verify::{Content, ToolCall};

const DOMAIN: Domain = Domain {
    chain_id: 31_337,
    vault: Address([9; 20]),
};

fn key(label: &str) -> SecretKey {
    SecretKey::for_tests(label)
}

fn price(units: u128) -> Price {
    Price::per_million(TokenAmount::from_units(units))
}

fn ticket(work: &[u8]) -> Ticket {
    Ticket {
        job_id: JobId([1; 32]),
        account: key("developer").address(),
        router: key("router").address(),
        provider: key("provider").address(),
        model_root: keccak256("model"),
        parameters_digest: keccak256("parameters"),
        request_digest: keccak256("request"),
        work_digest: keccak256(work),
        input_price: price(100),
        output_price: price(200),
        input_units_max: 10,
        output_units_max: 10,
        reserve: TokenAmount::from_units(5),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 2,
        issued_at: Timestamp(1),
        deadline: Timestamp(9),
    }
}

fn receipt(ticket: &Ticket, content: &Content, prompt: &[u32], output: &[u32]) -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        chain_id: DOMAIN.chain_id,
        vault: DOMAIN.vault,
        profile_hash: Digest::ZERO,
        job_id: ticket.job_id,
        account: ticket.account,
        router: ticket.router,
        provider: ticket.provider,
        model_root: ticket.model_root,
        runtime_digest: keccak256("iq8"),
        parameters_digest: ticket.parameters_digest,
        prompt_root: token_root(prompt),
        request_digest: ticket.request_digest,
        output_root: token_root(output),
        response_digest: content.digest(),
        input_units: content.input_units,
        output_units: content.output_units,
        input_price: ticket.input_price,
        output_price: ticket.output_price,
        charge: TokenAmount::from_units(1),
        fee_version: ticket.fee_version,
        paid_by: PaidBy::Allotment,
        tier: ticket.tier,
        evidence_digest: Digest::ZERO,
        ticket_hash: ticket_digest(&DOMAIN, ticket),
        attempt: ticket.attempt,
        segments_root: Digest::ZERO,
        accepted_at: Timestamp(2),
        delivered_at: Timestamp(3),
    }
}

/// A job as it was done: prompt, tokens with their texts, and its end.
#[derive(Debug, Clone)]
struct Done {
    prompt: Vec<u32>,
    pieces: Vec<(u32, String)>,
    finish: FinishReason,
    calls: Vec<ToolCall>,
}

fn done() -> Done {
    let pieces = [(4, "one"), (5, ""), (6, " two é"), (7, "")];
    Done {
        prompt: vec![1, 2, 3],
        pieces: pieces.map(|(id, text)| (id, text.to_owned())).to_vec(),
        finish: FinishReason::Stop,
        calls: Vec::new(),
    }
}

impl Done {
    /// What an auditor recomputes for a receipt of so many tokens: it looks one token further and no more.
    fn replay(&self, counted: u64) -> Replay {
        let mut replay = Replay::of(self.prompt.clone());
        let counted = usize::try_from(counted).expect("small");
        for (id, text) in self.pieces.iter().take(counted.saturating_add(1)) {
            replay.push(*id, text);
        }
        if replay.output.len() == self.pieces.len() {
            replay.end = Some((self.calls.clone(), self.finish));
        }
        replay
    }

    fn content(&self, tokens: usize, finish_reason: FinishReason) -> Content {
        let cut = finish_reason == FinishReason::Cancelled;
        Content {
            text: self.pieces[..tokens].iter().map(|p| p.1.as_str()).collect(),
            tool_calls: if cut { Vec::new() } else { self.calls.clone() },
            finish_reason,
            input_units: self.prompt.len() as u64,
            output_units: tokens as u64,
        }
    }

    fn ids(&self, tokens: usize) -> Vec<u32> {
        self.pieces[..tokens].iter().map(|p| p.0).collect()
    }

    fn receipt(&self, tokens: usize, finish: FinishReason) -> Receipt {
        let content = self.content(tokens, finish);
        receipt(&ticket(b"w"), &content, &self.prompt, &self.ids(tokens))
    }
}

fn answered(receipt: &Receipt, done: &Done) -> Answered {
    compare(receipt, Some(&done.replay(receipt.output_units))).answered
}

#[test]
fn the_right_answer_is_good_whole_or_cut_where_the_client_left() {
    let mut job = done();
    assert_eq!(answered(&job.receipt(4, job.finish), &job), Answered::Good);
    for tokens in 1..=4 {
        let cancelled = job.receipt(tokens, FinishReason::Cancelled);
        assert_eq!(answered(&cancelled, &job), Answered::Good, "{tokens}");
    }
    job.finish = FinishReason::ToolCalls;
    job.calls = vec![ToolCall {
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
    }];
    for (tokens, finish) in [(4, job.finish), (2, FinishReason::Cancelled)] {
        assert_eq!(answered(&job.receipt(tokens, finish), &job), Answered::Good);
    }
    job.pieces.clear();
    job.finish = FinishReason::Length;
    job.calls.clear();
    let empty = job.receipt(0, FinishReason::Length);
    assert_eq!(answered(&empty, &job), Answered::Good);
    let none = job.receipt(0, FinishReason::Cancelled);
    assert_eq!(
        answered(&none, &job),
        Answered::WrongOutput,
        "no receipt is made for nothing"
    );
}

#[test]
fn an_end_that_is_not_the_model_s_is_wrong() {
    let job = done();
    for (tokens, finish) in [
        (3, FinishReason::Stop),
        (3, FinishReason::Length),
        (4, FinishReason::Length),
        (4, FinishReason::ToolCalls),
    ] {
        assert_eq!(
            answered(&job.receipt(tokens, finish), &job),
            Answered::WrongOutput
        );
    }
    let mut calls = job.clone();
    calls.calls = vec![ToolCall {
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
    }];
    let claimed = calls.receipt(4, FinishReason::Stop);
    assert_eq!(answered(&claimed, &job), Answered::WrongOutput);
    let hidden = job.receipt(4, FinishReason::Stop);
    assert_eq!(answered(&hidden, &calls), Answered::WrongOutput);
}

#[test]
fn work_that_the_model_does_not_take_has_no_right_answer() {
    let job = done();
    let finding = compare(&job.receipt(4, job.finish), None);
    assert_eq!(finding.answered, Answered::WrongOutput);
    assert_eq!(finding.digest, Digest::ZERO);
}

#[test]
fn an_answer_that_fails_at_its_end_may_only_have_been_left_before_it() {
    let job = done();
    let mut failed = job.replay(9);
    failed.end = None;
    let cut = compare(&job.receipt(2, FinishReason::Cancelled), Some(&failed));
    assert_eq!(cut.answered, Answered::Good);
    let whole = compare(&job.receipt(4, job.finish), Some(&failed));
    assert_eq!(whole.answered, Answered::WrongOutput);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_altered_token_text_or_count_is_found(at in 0usize..4, tokens in 1usize..=4, kind in 0..5, more in 1u64..5) {
        let job = done();
        let (finish, at) = (if tokens == 4 { job.finish } else { FinishReason::Cancelled }, at % tokens);
        let (mut content, mut ids, mut prompt) = (job.content(tokens, finish), job.ids(tokens), job.prompt.clone());
        let expected = match kind {
            0 => { ids[at] += 1; Answered::WrongOutput }
            1 => { content.text.push('!'); Answered::WrongOutput }
            2 => { content.input_units += more; Answered::WrongCount }
            3 => { prompt.extend(std::iter::repeat_n(9, usize::try_from(more).expect("small"))); Answered::WrongCount }
            _ => {
                ids.extend(std::iter::repeat_n(9, usize::try_from(more).expect("small")));
                content.output_units += more;
                if ids.len() > job.pieces.len() { Answered::WrongCount } else { Answered::WrongOutput }
            }
        };
        let lie = receipt(&ticket(b"w"), &content, &prompt, &ids);
        let finding = compare(&lie, Some(&job.replay(lie.output_units)));
        prop_assert_eq!(finding.answered, expected);
        prop_assert_eq!(finding, compare(&lie, Some(&job.replay(lie.output_units))), "two judges differ");
    }
}

fn signed(receipt: Receipt, by: &str) -> SignedReceipt {
    let digest = receipt_digest(&receipt);
    SignedReceipt {
        provider_signature: key(by).sign(digest),
        router_signature: key("router").sign(digest),
        receipt,
    }
}

fn ordered(ticket: Ticket, by: &str) -> SignedTicket {
    let signature = key(by).sign(ticket_digest(&DOMAIN, &ticket));
    SignedTicket { ticket, signature }
}

#[test]
fn an_order_is_believed_only_as_provider_and_router_signed_it() {
    let job = done();
    let good = job.receipt(4, job.finish);
    let check = |receipt: &SignedReceipt, ticket: &SignedTicket, work: &[u8]| {
        check_order(&DOMAIN, key("router").address(), receipt, ticket, work)
    };
    let sound = ordered(ticket(b"w"), "router");
    let receipt = signed(good.clone(), "provider");
    assert_eq!(check(&receipt, &sound, b"w"), Ok(()));
    let forged = |result| matches!(result, Err(OrderFault::Forged(_)));
    let withheld = |result| matches!(result, Err(OrderFault::Withheld(_)));
    assert!(forged(check(&signed(good.clone(), "router"), &sound, b"w")));
    assert!(forged(check(
        &receipt,
        &ordered(ticket(b"w"), "provider"),
        b"w"
    )));
    assert!(withheld(check(&receipt, &sound, b"other work")));
    assert!(withheld(check(
        &receipt,
        &ordered(ticket(b"x"), "router"),
        b"x"
    )));
}

#[test]
fn a_receipt_that_does_not_follow_from_its_ticket_is_the_router_s_forgery() {
    let job = done();
    let changes: [fn(&mut Receipt); 15] = [
        |r| r.chain_id += 1,
        |r| r.vault = Address([1; 20]),
        |r| r.router = Address([1; 20]),
        |r| r.job_id = JobId([2; 32]),
        |r| r.account = Address([1; 20]),
        |r| r.attempt += 1,
        |r| r.model_root = Digest([1; 32]),
        |r| r.parameters_digest = Digest([1; 32]),
        |r| r.request_digest = Digest([1; 32]),
        |r| r.tier = Tier::None,
        |r| r.input_price = price(101),
        |r| r.output_price = price(201),
        |r| r.fee_version += 1,
        |r| r.output_units = 11,
        |r| r.charge = TokenAmount::from_units(6),
    ];
    let order = ordered(ticket(b"w"), "router");
    for (number, change) in changes.iter().enumerate() {
        let mut receipt = job.receipt(4, job.finish);
        change(&mut receipt);
        let result = check_order(
            &DOMAIN,
            key("router").address(),
            &signed(receipt, "provider"),
            &order,
            b"w",
        );
        assert!(
            matches!(result, Err(OrderFault::Forged(_))),
            "change {number}: {result:?}"
        );
    }
}
