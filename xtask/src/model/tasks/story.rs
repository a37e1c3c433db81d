//! Short stories about a named animal.

use crate::model::chat::{Check, Task};
use crate::model::rng::Rng;
use crate::model::words::{ANIMALS, COLOURS, NAMES, THINGS};

const FEELINGS: &[&str] = &[
    "happy", "brave", "curious", "kind", "clever", "shy", "quiet", "friendly",
];
const HOMES: &[&str] = &[
    "forest", "village", "valley", "garden", "farm", "city", "harbour", "mountain",
];

/// One story task.
pub fn draw(rng: &mut Rng) -> Task {
    let name = rng.pick(NAMES);
    let animal = rng.pick(ANIMALS);
    let friend = friend_of(rng, name);
    let thing = rng.pick(THINGS);
    let (question, must) = request(rng, name, animal, thing);
    let answer = tell(rng, name, animal, friend, thing);
    let key = format!("story {}", must.join(" "));
    let mut task = if must.is_empty() {
        Task::train_only("story", question, answer)
    } else {
        Task::ask("story", key, question, answer)
    };
    task.check = Check::Story(must.into_iter().map(str::to_owned).collect());
    task
}

/// Another name. In practice each name has three friends: among forty a small model would guess, and often take the same name again.
fn friend_of(rng: &mut Rng, name: &str) -> &'static str {
    if rng.practises(100) {
        let place = NAMES.iter().position(|n| *n == name).unwrap_or_default();
        return NAMES[(place + rng.between(1, 3)) % NAMES.len()];
    }
    loop {
        let other = rng.pick(NAMES);
        if other != name {
            return other;
        }
    }
}

fn request<'a>(
    rng: &mut Rng,
    name: &'a str,
    animal: &'a str,
    thing: &'a str,
) -> (String, Vec<&'a str>) {
    let tell = rng.pick(&[
        "Tell me a story about",
        "Tell a short story about",
        "Write a story about",
        "Write a short story about",
    ]);
    match rng.below(8) {
        0 => (format!("{tell} a {animal}."), vec![animal]),
        1 => (format!("{tell} {name}."), vec![name]),
        2 => (
            format!("{tell} a {animal} and a {thing}."),
            vec![animal, thing],
        ),
        3 => (
            format!("{tell} a {animal} called {name}."),
            vec![name, animal],
        ),
        4 => (format!("{tell} {name} the {animal}."), vec![name, animal]),
        5 => (
            format!("{tell} a {animal} named {name} and a {thing}."),
            vec![name, animal, thing],
        ),
        6 => (
            rng.pick(&[
                "Tell me a story.",
                "Write a story.",
                "Tell a short story.",
                "Tell me something nice.",
            ])
            .to_owned(),
            vec![],
        ),
        _ => (
            format!("{tell} a {animal} named {name}."),
            vec![name, animal],
        ),
    }
}

fn tell(rng: &mut Rng, name: &str, animal: &str, friend: &str, thing: &str) -> String {
    let (feeling, home, colour) = (rng.pick(FEELINGS), rng.pick(HOMES), rng.pick(COLOURS));
    let start = match rng.below(3) {
        0 => format!(
            "Once upon a time there was a {feeling} {animal} named {name}. {name} lived in a small {home}."
        ),
        1 => format!("In a small {home} lived a {feeling} {animal} named {name}."),
        _ => format!("{name} was a {feeling} {animal} who lived near a {home}."),
    };
    let find = match rng.below(3) {
        0 => format!("One day {name} found a {colour} {thing} by the road."),
        1 => format!("One morning {name} saw a {colour} {thing} under a tree."),
        _ => format!("One evening {name} found a {colour} {thing} near the river."),
    };
    let middle = match rng.below(3) {
        0 => format!(
            "\"Whose {thing} is this?\" asked {name}. \"It is mine,\" said {friend}. \"I lost it.\""
        ),
        1 => format!(
            "{name} asked everyone who had lost the {thing}. At last {friend} came. \"That is my {thing}!\" said {friend}."
        ),
        _ => format!(
            "{name} wanted to keep the {thing}. Then {friend} came and looked very sad. \"I lost my {thing},\" said {friend}."
        ),
    };
    let end = match rng.below(4) {
        0 => format!(
            "{name} gave the {thing} back. From that day on, {name} and {friend} were friends."
        ),
        1 => format!("{name} gave the {thing} to {friend}, and both of them were happy."),
        2 => format!(
            "{name} smiled and gave it back. {friend} said thank you, and they played until night."
        ),
        _ => format!(
            "So {name} gave the {thing} back, and {friend} shared a warm bread with {name}."
        ),
    };
    format!("{start} {find} {middle} {end}")
}
