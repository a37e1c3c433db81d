//! Questions about facts that the prompt states: several facts of different kinds, and a question about each of some.

use crate::model::chat::{Task, Turn};
use crate::model::rng::Rng;
use crate::model::words::{ANIMALS, CITIES, COLOURS, JOBS, NAMES, PLACES, THINGS, common, proper};

/// A fact and a question that it answers.
struct Fact {
    statement: String,
    question: String,
}

/// How many kinds of facts there are.
const KINDS: usize = 7;

/// One look-up task: a question, and often one more about each of the other facts.
pub fn draw(rng: &mut Rng) -> Task {
    let mut kinds: Vec<usize> = (0..KINDS).collect();
    rng.shuffle(&mut kinds);
    kinds.truncate(rng.between(2, 4));
    let facts: Vec<Fact> = kinds.into_iter().map(|kind| fact(rng, kind)).collect();
    let story = facts
        .iter()
        .map(|f| f.statement.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    let mut order: Vec<usize> = (0..facts.len()).collect();
    rng.shuffle(&mut order);
    let first = &facts[order[0]];
    let text = match rng.below(4) {
        0 => format!("{} {story}", first.question),
        1 => format!("Read this: {story} {}", first.question),
        2 => format!("{story}\n{}", first.question),
        _ => format!("{story} {}", first.question),
    };
    let mut task = Task::ask(
        "lookup",
        format!("lookup {story}"),
        text,
        first.statement.clone(),
    );
    if rng.chance(50) {
        for &more in &order[1..] {
            task.turns.push(Turn::User(facts[more].question.clone()));
            task.turns
                .push(Turn::Assistant(facts[more].statement.clone()));
        }
    }
    task
}

fn fact(rng: &mut Rng, kind: usize) -> Fact {
    let (name, thing, first) = (proper(rng, NAMES), common(rng, THINGS), rng.chance(60));
    let (statement, questions) = match kind {
        0 => (
            format!("The {thing} is in the {}.", rng.pick(PLACES)),
            [
                format!("Where is the {thing}?"),
                format!("In which place is the {thing}?"),
            ],
        ),
        1 => (
            format!("{name} lives in {}.", proper(rng, CITIES)),
            [
                format!("Where does {name} live?"),
                format!("In which city does {name} live?"),
            ],
        ),
        2 => (
            format!("The {thing} is {}.", rng.pick(COLOURS)),
            [
                format!("What color is the {thing}?"),
                format!("Which color does the {thing} have?"),
            ],
        ),
        3 => (
            format!("{name} works as a {}.", rng.pick(JOBS)),
            [
                format!("What is the job of {name}?"),
                format!("What does {name} work as?"),
            ],
        ),
        4 => (
            format!("The {thing} costs {} dollars.", rng.between(1, 999)),
            [
                format!("How much does the {thing} cost?"),
                format!("What is the price of the {thing}?"),
            ],
        ),
        5 => (
            format!("{name} is {} years old.", rng.between(10, 99)),
            [
                format!("How old is {name}?"),
                format!("What is the age of {name}?"),
            ],
        ),
        _ => (
            format!("{name} has a pet {}.", rng.pick(ANIMALS)),
            [
                format!("Which pet does {name} have?"),
                format!("What pet does {name} have?"),
            ],
        ),
    };
    let [one, other] = questions;
    Fact {
        statement,
        question: if first { one } else { other },
    }
}
