use super::*;
use stoa_types::{SamplingParameters, SignedReceipt};
use stoa_verify::ToolCall;

const MODEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/stoa-tiny/stoa-tiny.Q8_0.gguf"
);

fn parameters() -> SamplingParameters {
    serde_json::from_value(serde_json::json!({
        "max_output_tokens": 24, "min_p": 0, "seed": 7, "stop": [], "temperature": 0,
    }))
    .expect("parameters")
}

/// A file whose receipt says what the model made of `request`, cut after `cut` tokens as if the client had left there. Its
/// signatures are of another receipt: only the recomputing is looked at here.
fn answered(backend: &ExactBackend, request: &str, cut: Option<usize>) -> Bundle {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../../../vectors/receipt.json")).expect("JSON");
    let row = &vectors["receipts"][0];
    let receipt: SignedReceipt = serde_json::from_value(serde_json::json!({
        "receipt": row["receipt"],
        "provider_signature": row["provider_signature"],
        "router_signature": row["router_signature"],
    }))
    .expect("a signed receipt");
    let response = Content {
        text: String::new(),
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Cancelled,
        input_units: 0,
        output_units: cut.map_or(u64::MAX, |cut| cut as u64),
    };
    let mut parameters = parameters();
    // Vectors are ordered whole.
    if let Ok(parsed) = parse_embeddings(request.as_bytes()) {
        let vectors = parsed.request.prompt.vectors();
        parameters.max_output_tokens = vectors.expect("inputs");
    }
    let mut bundle = Bundle {
        receipt,
        proof: None,
        parameters,
        request: request.to_owned(),
        response,
    };
    let made = rerun(&bundle, backend).expect("runs");
    let receipt = &mut bundle.receipt.receipt;
    let facts = backend.facts();
    (receipt.model_root, receipt.runtime_digest) = (facts.model_root, facts.runtime_digest);
    (receipt.prompt_root, receipt.output_root) = (made.prompt_root, made.output_root);
    receipt.output_units = made.content.output_units;
    bundle.response = made.content;
    bundle
}

/// The claims that recomputing finds false.
fn found_false(bundle: &Bundle, backend: &ExactBackend) -> Vec<&'static str> {
    let mut report = Report::default();
    check_rerun(&mut report, bundle, Some(backend));
    assert_eq!(report.checks.len(), 2, "{report}");
    let is_false = |check: &&stoa_verify::Check| matches!(check.outcome, Judged::False(_));
    report
        .checks
        .iter()
        .filter(is_false)
        .map(|c| c.claim)
        .collect()
}

const HELLO: &str = r#"{"model":"stoa-tiny","messages":[{"role":"user","content":"Hello"}]}"#;

#[test]
fn a_whole_and_a_cancelled_answer_are_recomputed_and_every_part_of_them_is_compared() {
    let backend = open_model(Path::new("."), Path::new(MODEL), u32::MAX).expect("opens");
    for cut in [None, Some(5)] {
        let true_one = answered(&backend, HELLO, cut);
        assert_eq!(found_false(&true_one, &backend), [""; 0], "{cut:?}");
        let cancelled = true_one.response.finish_reason == FinishReason::Cancelled;
        assert_eq!(cancelled, cut.is_some());
        type Lie = fn(&mut Content);
        let lies: [Lie; 6] = [
            |content| content.input_units += 1,
            |content| content.text.truncate(content.text.len() - 1),
            |content| content.text.push('!'),
            |content| content.output_units -= 1,
            |content| content.finish_reason = FinishReason::ToolCalls,
            |content| {
                content.tool_calls.push(ToolCall {
                    name: "pay".to_owned(),
                    arguments: "{}".to_owned(),
                });
            },
        ];
        for (number, lie) in lies.into_iter().enumerate() {
            let mut told = true_one.clone();
            lie(&mut told.response);
            let found = found_false(&told, &backend);
            assert_eq!(
                found,
                [RECOMPUTED],
                "lie {number} of an answer cut at {cut:?}"
            );
        }
    }
}

#[test]
fn a_cancelled_answer_may_not_be_longer_than_the_whole_one() {
    let backend = open_model(Path::new("."), Path::new(MODEL), u32::MAX).expect("opens");
    let mut told = answered(&backend, HELLO, Some(5));
    told.response.output_units = 10_000;
    assert_eq!(found_false(&told, &backend), [RECOMPUTED]);
}

#[test]
fn a_body_that_both_routes_can_read_is_taken_as_the_one_that_it_was_sent_to() {
    let backend = open_model(Path::new("."), Path::new(MODEL), u32::MAX).expect("opens");
    let both =
        r#"{"model":"m","prompt":"Once upon","messages":[{"role":"user","content":"Hello"}]}"#;
    let as_chat = answered(&backend, both, Some(4));
    let mut as_completion = answered(&backend, r#"{"model":"m","prompt":"Once upon"}"#, Some(4));
    as_completion.request = both.to_owned();
    let root = |bundle: &Bundle| bundle.receipt.receipt.prompt_root;
    assert_ne!(root(&as_chat), root(&as_completion));
    assert_eq!(found_false(&as_chat, &backend), [""; 0]);
    assert_eq!(found_false(&as_completion, &backend), [""; 0]);
}

#[test]
fn another_model_says_nothing_about_a_receipt() {
    let backend = open_model(Path::new("."), Path::new(MODEL), u32::MAX).expect("opens");
    let mut other = answered(&backend, HELLO, Some(4));
    other.receipt.receipt.model_root = Digest::ZERO;
    let mut report = Report::default();
    check_rerun(&mut report, &other, Some(&backend));
    assert!(report.holds(), "{report}");
    let open = |check: &stoa_verify::Check| matches!(check.outcome, Judged::NotChecked(_));
    assert!(report.checks.iter().all(open), "{report}");
}

#[test]
fn a_receipt_of_tier_none_is_for_the_prompt_of_the_request() {
    let backend = open_model(Path::new("."), Path::new(MODEL), u32::MAX).expect("opens");
    let mut bundle = answered(&backend, HELLO, Some(1));
    let receipt = &mut bundle.receipt.receipt;
    (receipt.tier, receipt.model_root) = (Tier::None, Digest::ZERO);
    let prompt = works(&bundle).expect("readable").remove(0).prompt;
    bundle.receipt.receipt.prompt_root = upstream_prompt_root(&prompt);
    let mut report = Report::default();
    check_rerun(&mut report, &bundle, None);
    assert!(report.first_false().is_none(), "{report}");
    assert_eq!(report.checks.len(), 1, "nothing is recomputed");
    bundle.request = HELLO.replace("Hello", "Hallo");
    let mut report = Report::default();
    check_rerun(&mut report, &bundle, None);
    assert_eq!(report.first_false().map(|check| check.claim), Some(PROMPT));
}

#[test]
fn vectors_are_recomputed_whole_or_cut_and_one_changed_bit_is_found() {
    let backend = open_model(Path::new("."), Path::new(MODEL), u32::MAX).expect("opens");
    let request = r#"{"model":"stoa-tiny","input":["a cat","the dog","x"],"dimensions":8}"#;
    for cut in [None, Some(2)] {
        let mut bundle = answered(&backend, request, cut);
        assert_eq!(bundle.response.text.lines().count(), cut.unwrap_or(3));
        assert_eq!(found_false(&bundle, &backend), [""; 0], "{cut:?}");
        let mut vectors = stoa_verify::read_vectors(&bundle.response.text).expect("vectors");
        vectors[1][7] ^= 1;
        let line = |vector: &Vec<u32>| {
            let bytes: Vec<u8> = vector.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            stoa_verify::vector_line(&bytes)
        };
        bundle.response.text = vectors.iter().map(line).collect();
        assert_eq!(found_false(&bundle, &backend), [RECOMPUTED], "{cut:?}");
    }
    let mut moved = answered(&backend, request, None);
    moved.request = request.replace("a cat", "a dog");
    assert_eq!(found_false(&moved, &backend), [PROMPT, RECOMPUTED]);
}

#[test]
fn where_memory_has_no_room_for_the_whole_context_there_is_for_the_answers() {
    let need = |context| {
        let estimate = stoa_engine::Model::memory_estimate_within(MODEL, context).expect("a model");
        estimate.weights + estimate.cache.max(estimate.loading)
    };
    let answers = need(Some(200));
    assert!(answers < need(None));
    let options = |memory| ExactOptions {
        memory_limit: Some(memory),
        ..ExactOptions::default()
    };
    let open = |memory| open_for(Path::new(MODEL), options(memory), 200);
    let backend = open(answers).expect("room for 200 tokens");
    assert_eq!(backend.facts().context, 200);
    let made = answered(&backend, HELLO, None);
    assert_eq!(found_false(&made, &backend), [""; 0]);
    let mut understated = made;
    let more = understated.request.replace("Hello", &"Hello ".repeat(200));
    understated.request = more;
    let mut report = Report::default();
    check_rerun(&mut report, &understated, Some(&backend));
    let said = report.to_string();
    assert!(
        said.contains("FALSE") && said.contains("more tokens than the receipt says"),
        "{said}"
    );
    let error = open(answers - 1).expect_err("no room").to_string();
    assert!(error.contains("bytes of memory"), "{error}");
    assert!(open(need(None)).expect("room for all").facts().context > 200);
}
