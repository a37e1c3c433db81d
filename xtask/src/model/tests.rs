use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::chat::{Check, Task, Turn, render};
use super::corpus::{
    FAMILIES, Secrets, Trainer, held_out, held_out_line, is_held, may_test, may_train,
};
use super::rng::Rng;

fn draws(count: usize) -> Vec<Task> {
    let mut sources = [Rng::new(7), Rng::practice(7)];
    FAMILIES
        .iter()
        .flat_map(|(_, draw, _, _)| {
            (0..count)
                .map(|i| draw(&mut sources[i % 2]))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_same_seed_writes_the_same_documents_and_another_seed_does_not() {
    let text = |seed| {
        let mut trainer = Trainer::new(seed);
        (0..500)
            .map(|_| trainer.document().line())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
}

#[test]
fn no_held_out_prompt_and_no_held_out_tool_occurs_in_the_training_text() {
    let secrets = Secrets::of(&held_out(37));
    let mut trainer = Trainer::new(34);
    for _ in 0..20_000 {
        assert_eq!(secrets.leaked(&trainer.document().text), None);
    }
}

#[test]
fn a_held_out_prompt_or_tool_in_the_training_text_is_found_wherever_it_stands() {
    let tasks = held_out(37);
    let secrets = Secrets::of(&tasks);
    let other = [Turn::User("x".to_owned()), Turn::Assistant("y".to_owned())];
    for task in &tasks {
        assert!(secrets.leaked(&render(&task.tools, &task.turns)).is_some());
        let later = [&other[..], &task.turns].concat();
        let found = secrets.leaked(&render(&task.tools, &later)).is_some();
        assert!(found || !task.tools.is_empty(), "{task:?}");
        let mut asked = task.turns.clone();
        asked.pop();
        asked.push(Turn::Assistant("a wrong answer".to_owned()));
        assert!(secrets.leaked(&render(&task.tools, &asked)).is_some());
    }
    let tool = tasks
        .iter()
        .flat_map(|task| &task.tools)
        .find(|tool| is_held(&format!("tool {}", tool.name)))
        .expect("calls are held out by their tool");
    assert!(
        secrets
            .leaked(&render(std::slice::from_ref(tool), &other))
            .is_some()
    );
    assert_eq!(secrets.leaked(&render(&[], &other)), None);
}

#[test]
fn practice_changes_the_training_text_and_no_held_out_task() {
    let shipped = std::fs::read_to_string("../models/stoa-tiny/heldout.jsonl")
        .expect("the held-out tasks are in the repository");
    let tasks = held_out(37);
    assert_eq!(tasks.len(), shipped.lines().count());
    for (task, line) in tasks.iter().zip(shipped.lines()) {
        assert_eq!(held_out_line(task), line);
    }
    let (mut plain, mut practice) = (Rng::new(5), Rng::practice(5));
    assert!((0..100).all(|_| !plain.practises(100)));
    assert_eq!(plain.next(), Rng::new(5).next());
    assert!((0..100).any(|_| practice.practises(10)));
}

#[test]
fn no_task_is_on_both_sides_of_the_split() {
    let tasks = draws(500);
    assert!(tasks.iter().any(may_train) && tasks.iter().any(may_test));
    assert!(!tasks.iter().any(|t| may_train(t) && may_test(t)));
}

#[test]
fn held_out_tool_names_are_never_offered_in_training() {
    for task in draws(500).iter().filter(|t| may_train(t)) {
        for tool in &task.tools {
            assert!(!is_held(&format!("tool {}", tool.name)), "{}", tool.name);
        }
    }
}

#[test]
fn every_held_out_call_names_an_offered_tool_with_arguments_that_it_has() {
    for task in held_out(34).iter().filter(|t| t.check == Check::Call) {
        let Some(Turn::Call { name, arguments }) = task.turns.last() else {
            panic!("a call ends in a call")
        };
        let tool = task
            .tools
            .iter()
            .find(|t| &t.name == name)
            .expect("the tool is offered");
        let given: BTreeMap<String, Value> =
            serde_json::from_str(arguments).expect("arguments are JSON");
        for argument in &tool.arguments {
            assert!(
                !argument.required || given.contains_key(&argument.name),
                "{name} lacks {}",
                argument.name
            );
        }
        for (key, value) in &given {
            let argument = tool
                .arguments
                .iter()
                .find(|a| &a.name == key)
                .expect("the argument is declared");
            let kind = if value.is_i64() {
                "integer"
            } else if value.is_boolean() {
                "boolean"
            } else {
                "string"
            };
            assert_eq!(kind, argument.kind.name());
        }
    }
}

#[test]
fn every_extraction_answer_is_a_json_object() {
    for task in draws(500).iter().filter(|t| t.family == "extract") {
        let answer = task.turns.last().expect("an answer").body();
        let object: BTreeMap<String, Value> = serde_json::from_str(&answer).expect("JSON");
        assert!(!object.is_empty());
    }
}

/// The value of `a + b - c ...` or `a * b`, read from left to right.
fn value_of(formula: &str) -> i64 {
    let mut parts = formula.split(' ');
    let mut next = || parts.next().map(str::to_owned);
    let number = |text: Option<String>| text.expect("a number").parse::<i64>().expect("digits");
    let mut value = number(next());
    while let Some(sign) = next() {
        let right = number(next());
        match sign.as_str() {
            "+" => value += right,
            "-" => value -= right,
            _ => value *= right,
        }
    }
    value
}

#[test]
fn every_step_of_every_sum_is_right_and_its_result_is_not_negative() {
    let mut seen = 0;
    for task in draws(500).iter().filter(|t| t.family == "arithmetic") {
        let answer = task.turns.last().expect("an answer").body();
        for step in answer.split([',', ':']) {
            let Some((formula, result)) = step.trim().split_once(" = ") else {
                continue;
            };
            assert_eq!(
                value_of(formula),
                result.parse::<i64>().expect("a number"),
                "{answer}"
            );
            assert!(!result.starts_with('-'), "{answer}");
            seen += 1;
        }
    }
    assert!(seen > 1_000, "{seen}");
}

#[test]
fn the_held_out_file_has_more_than_a_thousand_tasks_of_every_family() {
    let tasks = held_out(34);
    assert!(tasks.len() >= 1_000);
    for (family, _, _, count) in FAMILIES {
        assert_eq!(
            tasks.iter().filter(|t| t.family == *family).count(),
            *count,
            "{family}"
        );
    }
    for task in &tasks {
        let line: Value = serde_json::from_str(&held_out_line(task)).expect("JSON");
        assert!(line["messages"].as_array().is_some_and(|m| !m.is_empty()));
        assert!(!line["answer"].is_null() && !line["check"].is_null());
    }
}

#[test]
fn the_chat_template_writes_what_the_generator_writes() {
    let template = std::fs::read_to_string("../models/stoa-tiny/chat_template.jinja")
        .expect("the template is in the repository");
    let mut environment = minijinja::Environment::new();
    environment
        .add_template("chat", &template)
        .expect("minijinja reads the template");
    let chat = environment.get_template("chat").expect("it was added");
    let write = |messages: &[Value], tools: &[Value], add: bool| {
        let context = json!({ "messages": messages, "tools": tools, "add_generation_prompt": add });
        chat.render(minijinja::value::Serde(context))
            .expect("the template renders")
    };
    for task in draws(60) {
        let messages: Vec<Value> = task.turns.iter().map(Turn::wire).collect();
        let tools: Vec<Value> = task.tools.iter().map(super::chat::Tool::wire).collect();
        let text = write(&messages, &tools, false);
        assert_eq!(text, render(&task.tools, &task.turns));
        let prompt = write(&messages[..messages.len() - 1], &tools, true);
        assert!(text.starts_with(&prompt), "{prompt}");
    }
}
