//! Transforms of a short text: echo, reverse, pick, join, repeat.

use crate::model::chat::Task;
use crate::model::rng::Rng;
use crate::model::words::{WORDS, common, made_up};

/// One transform task.
pub fn draw(rng: &mut Rng) -> Task {
    let words = some_words(rng);
    let text = words.join(" ");
    let (question, answer) = match rng.below(100) {
        0..32 => echo(rng, &text),
        32..52 => reverse(rng, &words),
        52..68 => pick(rng, &words),
        68..86 => join(rng, &words),
        _ => repeat(rng),
    };
    let key = format!("transform {answer} {}", question.len());
    Task::ask("transform", key, question, answer)
}

fn some_words(rng: &mut Rng) -> Vec<String> {
    let count = rng.between(2, 4);
    let mut words: Vec<String> = rng
        .pick_distinct(WORDS, count)
        .into_iter()
        .map(str::to_owned)
        .collect();
    if rng.practises(30) {
        for word in &mut words {
            if rng.chance(60) {
                *word = made_up(rng);
            }
        }
    } else if rng.chance(7) {
        let place = rng.below(words.len());
        words[place] = made_up(rng);
    }
    words
}

/// Write the text as a user would: after a colon, or in quotes.
fn quoted(rng: &mut Rng, before: &str, text: &str) -> String {
    if rng.chance(65) {
        format!("{before}: {text}")
    } else {
        format!("{before} \"{text}\"")
    }
}

fn echo(rng: &mut Rng, text: &str) -> (String, String) {
    let before = rng.pick(&[
        "Say",
        "Repeat",
        "Repeat after me",
        "Echo",
        "Repeat this text",
        "Copy this",
    ]);
    if rng.chance(60) {
        return (quoted(rng, before, text), text.to_owned());
    }
    let mut words = vec![rng.pick(&["The", "A", "My", "This", "I", "We"]).to_owned()];
    for _ in 0..rng.between(2, 4) {
        words.push(common(rng, WORDS));
    }
    let sentence = words.join(" ") + rng.pick(&[".", "!", "?", ""]);
    (quoted(rng, before, &sentence), sentence)
}

fn reverse(rng: &mut Rng, words: &[String]) -> (String, String) {
    let before = rng.pick(&[
        "Reverse the words",
        "Reverse the order of the words",
        "Write the words backwards",
        "Reverse the word order of",
    ]);
    let back: Vec<&str> = words.iter().rev().map(String::as_str).collect();
    (quoted(rng, before, &words.join(" ")), back.join(" "))
}

fn pick(rng: &mut Rng, words: &[String]) -> (String, String) {
    let (rank, index) = match rng.below(3) {
        0 => ("first", 0),
        1 => ("last", words.len() - 1),
        _ => ("second", 1),
    };
    let before = match rng.below(3) {
        0 => format!("What is the {rank} word of"),
        1 => format!("Give me the {rank} word"),
        _ => format!("The {rank} word of"),
    };
    (quoted(rng, &before, &words.join(" ")), words[index].clone())
}

fn join(rng: &mut Rng, words: &[String]) -> (String, String) {
    let (name, mark) = match rng.below(3) {
        0 => ("commas", ", "),
        1 => ("hyphens", "-"),
        _ => ("plus signs", " + "),
    };
    let before = match rng.below(2) {
        0 => format!("Join the words with {name}"),
        _ => format!("Put {name} between the words"),
    };
    (quoted(rng, &before, &words.join(" ")), words.join(mark))
}

fn repeat(rng: &mut Rng) -> (String, String) {
    let word = if rng.practises(40) || rng.chance(8) {
        made_up(rng)
    } else {
        rng.pick(WORDS).to_owned()
    };
    let (times, count) = *rng_pick(
        rng,
        &[
            ("two times", 2),
            ("three times", 3),
            ("four times", 4),
            ("twice", 2),
            ("3 times", 3),
            ("2 times", 2),
        ],
    );
    let before = match rng.below(2) {
        0 => format!("Say {times}"),
        _ => format!("Write {times}"),
    };
    (quoted(rng, &before, &word), vec![word; count].join(" "))
}

fn rng_pick<'a, T>(rng: &mut Rng, list: &'a [T]) -> &'a T {
    &list[rng.below(list.len())]
}
