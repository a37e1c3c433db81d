//! Sums and differences of numbers below 100, small products and comparisons.

use crate::model::chat::Task;
use crate::model::rng::Rng;
use crate::model::words::{GOODS, NAMES};

/// One arithmetic task.
pub fn draw(rng: &mut Rng) -> Task {
    match rng.below(100) {
        0..45 => sum(rng),
        45..82 => difference(rng),
        82..90 => product(rng),
        _ => larger(rng),
    }
}

fn operand(rng: &mut Rng) -> usize {
    if rng.chance(15) {
        rng.below(10)
    } else {
        rng.between(10, 99)
    }
}

fn sum(rng: &mut Rng) -> Task {
    let (a, b) = (operand(rng), operand(rng));
    let (name, goods) = (rng.pick(NAMES), rng.pick(GOODS));
    let question = match rng.below(10) {
        0 => format!("What is {a} + {b}?"),
        1 => format!("{a} + {b}"),
        2 => format!("{a}+{b}="),
        3 => format!("What is {a} plus {b}?"),
        4 => format!("Add {a} and {b}."),
        5 => format!("Calculate {a} + {b}."),
        6 => format!("What is the sum of {a} and {b}?"),
        7 => {
            format!("{name} has {a} {goods} and gets {b} more. How many {goods} does {name} have?")
        }
        8 => format!("How much is {a} and {b}?"),
        _ => format!("what is {a}+{b}?"),
    };
    let key = format!("sum {} {}", a.min(b), a.max(b));
    Task::ask("arithmetic", key, question, sum_in_steps(a, b))
}

fn difference(rng: &mut Rng) -> Task {
    let (x, y) = (operand(rng), operand(rng));
    let (a, b) = (x.max(y), x.min(y));
    let (name, goods) = (rng.pick(NAMES), rng.pick(GOODS));
    let question = match rng.below(9) {
        0 => format!("What is {a} - {b}?"),
        1 => format!("{a} - {b}"),
        2 => format!("{a}-{b}="),
        3 => format!("What is {a} minus {b}?"),
        4 => format!("Subtract {b} from {a}."),
        5 => format!("Calculate {a} - {b}."),
        6 => format!("Take {b} away from {a}."),
        7 => {
            format!("{name} has {a} {goods} and gives away {b}. How many {goods} are left?")
        }
        _ => format!("what is {a}-{b}?"),
    };
    let key = format!("difference {a} {b}");
    Task::ask("arithmetic", key, question, difference_in_steps(a, b))
}

/// Ones first, then tens with what is carried, then the result: each step is a small table, which a small model can learn.
fn sum_in_steps(a: usize, b: usize) -> String {
    let result = format!("{a} + {b} = {}", a + b);
    if a < 10 && b < 10 {
        return result;
    }
    let ones = a % 10 + b % 10;
    let carried = ones / 10;
    let tens = a / 10 + b / 10 + carried;
    format!(
        "{} + {} = {ones}, {} + {} + {carried} = {tens}: {result}",
        a % 10,
        b % 10,
        a / 10,
        b / 10
    )
}

/// The same with what is borrowed; `a` is at least `b`.
fn difference_in_steps(a: usize, b: usize) -> String {
    let result = format!("{a} - {b} = {}", a - b);
    if a < 10 {
        return result;
    }
    let borrowed = usize::from(a % 10 < b % 10);
    let from = a % 10 + 10 * borrowed;
    let (ones, tens) = (from - b % 10, a / 10 - b / 10 - borrowed);
    format!(
        "{from} - {} = {ones}, {} - {} - {borrowed} = {tens}: {result}",
        b % 10,
        a / 10,
        b / 10
    )
}

/// Products up to 10 x 10 are a closed table to be learnt by heart, so they are never held out.
fn product(rng: &mut Rng) -> Task {
    let (a, b) = (rng.between(1, 10), rng.between(1, 10));
    let question = match rng.below(4) {
        0 => format!("What is {a} times {b}?"),
        1 => format!("What is {a} * {b}?"),
        2 => format!("Multiply {a} by {b}."),
        _ => format!("{a} * {b}"),
    };
    Task::train_only("arithmetic", question, format!("{a} * {b} = {}", a * b))
}

fn larger(rng: &mut Rng) -> Task {
    let a = rng.between(1, 99);
    let b = (a + rng.between(0, 97)) % 99 + 1;
    let (top, low) = (a.max(b), a.min(b));
    let question = match rng.below(4) {
        0 => format!("Which is larger, {a} or {b}?"),
        1 => format!("Which number is larger: {a} or {b}?"),
        2 => format!("Compare {a} and {b}."),
        _ => format!("Is {a} larger than {b}?"),
    };
    let answer = match (top == low, question.starts_with("Is"), a > b) {
        (true, _, _) => format!("{a} and {b} are equal."),
        (_, true, true) => format!("Yes, {a} is larger than {b}."),
        (_, true, false) => format!("No, {b} is larger than {a}."),
        _ => format!("{top} is larger than {low}."),
    };
    Task::ask("arithmetic", format!("larger {a} {b}"), question, answer)
}
