//! An encoder behind the backend: it makes vectors, and says by name that it writes nothing.

use crate::support::{Family, Shape, Storage, Toy, write_folder};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, Input, Prompt, Work};
use stoa_runtime::{Backend, ExactBackend, ExactOptions, run_to_end};
use stoa_types::{FinishReason, Q16, SamplingParameters};
use stoa_verify::read_vectors;

fn work(prompt: Prompt, units: u32) -> Work {
    Work {
        sampling: SamplingParameters {
            temperature: Q16(0),
            max_output_tokens: units,
            ..SamplingParameters::default()
        },
        prompt,
        answer: AnswerShape::Any,
    }
}

#[test]
fn an_encoder_makes_vectors_of_texts_and_refuses_to_write() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let toy = Toy::encoder(Shape::of(Family::Bert), 3);
    let path = write_folder(&toy, folder.path(), Storage::F16);
    let backend = ExactBackend::open(path, &ExactOptions::default()).expect("opens");
    let inputs = ["hello world", "a cab", "hello world"].map(|text| Input::Text(text.to_owned()));
    let dimensions = 0;
    let prompt = Prompt::Embed {
        inputs: inputs.to_vec(),
        dimensions,
    };
    let (content, prompt, output) = run_to_end(&backend, &work(prompt, 3)).expect("runs");
    let (cls, sep) = (2, 3);
    assert_eq!(prompt.iter().filter(|id| **id == cls).count(), 3);
    assert_eq!((prompt[0], prompt.last()), (cls, Some(&sep)));
    assert_eq!(output, [96; 3]);
    assert_eq!(content.finish_reason, FinishReason::Stop);
    let vectors = read_vectors(&content.text).expect("vectors");
    assert_eq!(vectors[0], vectors[2]);
    assert_ne!(vectors[0], vectors[1]);
    // What is counted beside the bytes of a text covers what stands around it.
    assert!(backend.facts().message_overhead >= 2);
    let texts = [
        Prompt::Text("hello".to_owned()),
        Prompt::Tokens(vec![4, 5]),
        Prompt::Chat {
            messages: r#"[{"role":"user","content":"hello"}]"#.to_owned(),
            tools: String::new(),
            arguments: String::new(),
        },
    ];
    for prompt in texts {
        match backend.prepare(&work(prompt, 5)).expect_err("refused") {
            RefusalReason::Unsupported { parameter, .. } => assert_eq!(parameter, "model"),
            other => panic!("{other:?}"),
        }
    }
}
