//! Questions about facts that the prompt states.

use crate::model::chat::Task;
use crate::model::rng::Rng;
use crate::model::words::{ANIMALS, CITIES, COLOURS, JOBS, NAMES, PLACES, THINGS, made_up};

/// One look-up task.
pub fn draw(rng: &mut Rng) -> Task {
    let kind = rng.below(6);
    let count = rng.between(2, 4);
    let subjects = subjects(rng, kind, count);
    let values = values(rng, kind, count);
    let facts: Vec<String> = subjects
        .iter()
        .zip(&values)
        .map(|(s, v)| statement(kind, s, v))
        .collect();
    let target = rng.below(count);
    let question = question(rng, kind, &subjects[target]);
    let story = facts.join(" ");
    let text = match rng.below(4) {
        0 => format!("{question} {story}"),
        1 => format!("Read this: {story} {question}"),
        2 => format!("{story}\n{question}"),
        _ => format!("{story} {question}"),
    };
    Task::ask(
        "lookup",
        format!("lookup {story}"),
        text,
        facts[target].clone(),
    )
}

fn subjects(rng: &mut Rng, kind: usize, count: usize) -> Vec<String> {
    let list = match kind {
        0 | 2 | 4 => THINGS,
        _ => NAMES,
    };
    rng.pick_distinct(list, count)
        .into_iter()
        .map(str::to_owned)
        .collect()
}

fn values(rng: &mut Rng, kind: usize, count: usize) -> Vec<String> {
    let mut values: Vec<String> = match kind {
        0 => rng
            .pick_distinct(PLACES, count)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        1 => rng
            .pick_distinct(CITIES, count)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        2 => rng
            .pick_distinct(COLOURS, count)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        3 => rng
            .pick_distinct(JOBS, count)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        4 => (0..count)
            .map(|_| rng.between(1, 999).to_string())
            .collect(),
        _ => rng
            .pick_distinct(ANIMALS, count)
            .into_iter()
            .map(str::to_owned)
            .collect(),
    };
    if kind == 1 && rng.chance(20) {
        values[0] = crate::model::words::capital(&made_up(rng));
    }
    values
}

fn statement(kind: usize, subject: &str, value: &str) -> String {
    match kind {
        0 => format!("The {subject} is in the {value}."),
        1 => format!("{subject} lives in {value}."),
        2 => format!("The {subject} is {value}."),
        3 => format!("{subject} works as a {value}."),
        4 => format!("The {subject} costs {value} dollars."),
        _ => format!("{subject} has a pet {value}."),
    }
}

fn question(rng: &mut Rng, kind: usize, subject: &str) -> String {
    let second = rng.chance(40);
    match (kind, second) {
        (0, false) => format!("Where is the {subject}?"),
        (0, true) => format!("In which place is the {subject}?"),
        (1, false) => format!("Where does {subject} live?"),
        (1, true) => format!("In which city does {subject} live?"),
        (2, false) => format!("What color is the {subject}?"),
        (2, true) => format!("Which color does the {subject} have?"),
        (3, false) => format!("What is the job of {subject}?"),
        (3, true) => format!("What does {subject} work as?"),
        (4, false) => format!("How much does the {subject} cost?"),
        (4, true) => format!("What is the price of the {subject}?"),
        (_, false) => format!("Which pet does {subject} have?"),
        _ => format!("What pet does {subject} have?"),
    }
}
