//! Questions about facts that the prompt states: several facts of different kinds, or a passage in which several facts are of one
//! kind, and a question about each of some.

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

/// How many more kinds there are for practice: with little between a name and what belongs to it.
const NEAR: usize = 3;

/// Those that are about a person.
const OF_PEOPLE: &[usize] = &[1, 3, 5, 6];

/// One look-up task: a question, and often one more about each of the other facts.
pub fn draw(rng: &mut Rng) -> Task {
    let mut kinds: Vec<usize> = (0..KINDS).collect();
    rng.shuffle(&mut kinds);
    kinds.truncate(rng.between(2, 4));
    let facts: Vec<Fact> = kinds
        .into_iter()
        .map(|kind| {
            let (name, thing) = (proper(rng, NAMES), common(rng, THINGS));
            fact(rng, kind, &name, &thing)
        })
        .collect();
    ask("lookup", rng, &facts)
}

/// Facts of one kind about two to four subjects, or facts of two kinds about two or three people.
pub fn draw_passage(rng: &mut Rng) -> Task {
    let near = rng.practises(40);
    let mut kinds = vec![if near {
        KINDS + rng.below(NEAR)
    } else {
        rng.below(KINDS)
    }];
    let mut count = if rng.practises(40) {
        2
    } else {
        rng.between(2, 4)
    };
    if !near && rng.chance(30) {
        kinds = OF_PEOPLE.to_vec();
        rng.shuffle(&mut kinds);
        kinds.truncate(2);
        count = rng.between(2, 3);
    }
    let names = different(rng, count, |rng| proper(rng, NAMES));
    let things = different(rng, count, |rng| common(rng, THINGS));
    let mut facts = Vec::new();
    for (name, thing) in names.iter().zip(&things) {
        facts.extend(kinds.iter().map(|kind| fact(rng, *kind, name, thing)));
    }
    ask("passage", rng, &facts)
}

/// `count` words, no two the same.
fn different(rng: &mut Rng, count: usize, draw: impl Fn(&mut Rng) -> String) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    while words.len() < count {
        let word = draw(rng);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// The facts in their order, and a question about one of them, often one more about each of the others.
fn ask(family: &'static str, rng: &mut Rng, facts: &[Fact]) -> Task {
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
        family,
        format!("{family} {story}"),
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

fn fact(rng: &mut Rng, kind: usize, name: &str, thing: &str) -> Fact {
    let first = rng.chance(60);
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
        7 => (
            format!("{name}: {}.", rng.pick(ANIMALS)),
            [format!("{name}?"), format!("Which animal is {name}?")],
        ),
        8 => (
            format!("{name} likes {}.", rng.pick(COLOURS)),
            [
                format!("What does {name} like?"),
                format!("Which color does {name} like?"),
            ],
        ),
        9 => (
            format!("{name} is a {}.", rng.pick(JOBS)),
            [format!("What is {name}?"), format!("Who is {name}?")],
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
