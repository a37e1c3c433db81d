//! Fields of a sentence as a JSON object.

use crate::model::chat::Task;
use crate::model::rng::Rng;
use crate::model::words::{
    CITIES, COLOURS, DAYS, EVENTS, GOODS, JOBS, NAMES, THINGS, common, proper,
};

/// A field and its value as JSON text.
type Field = (&'static str, String);

/// One extraction task.
pub fn draw(rng: &mut Rng) -> Task {
    let (text, mut fields) = match rng.below(5) {
        0 => person(rng),
        1 => order(rng),
        2 => event(rng),
        3 => thing(rng),
        _ => contact(rng),
    };
    let key = format!(
        "extract {}",
        fields
            .iter()
            .map(|f| f.1.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    );
    if rng.chance(35) {
        rng.shuffle(&mut fields);
        let keep = rng.between(1, fields.len());
        fields.truncate(keep);
    }
    let names: Vec<&str> = fields.iter().map(|f| f.0).collect();
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    Task::ask(
        "extract",
        key,
        request(rng, &names, &text),
        format!("{{{}}}", pairs.join(",")),
    )
}

fn listing(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [start @ .., last] => format!("{} and {last}", start.join(", ")),
    }
}

fn request(rng: &mut Rng, names: &[&str], text: &str) -> String {
    let list = listing(names);
    match rng.below(5) {
        0 => format!("Extract {list} as JSON: {text}"),
        1 => format!("Extract the {list} as JSON. {text}"),
        2 => format!("Return JSON with {list}. Text: {text}"),
        3 => format!("{text} Give {list} as JSON."),
        _ => format!("Give me a JSON object with the fields {list}: {text}"),
    }
}

fn quote(text: &str) -> String {
    format!("\"{text}\"")
}

fn person(rng: &mut Rng) -> (String, Vec<Field>) {
    let (name, city, job, age) = (
        proper(rng, NAMES),
        proper(rng, CITIES),
        rng.pick(JOBS),
        rng.between(10, 99),
    );
    let text = match rng.below(5) {
        0 => format!("{name} is {age} years old and lives in {city}."),
        1 => format!("My name is {name}, I am {age} and I live in {city}."),
        2 => format!("{name}, {age}, from {city}."),
        3 => format!("{name} from {city} is {age} years old and works as a {job}."),
        _ => format!("{name} lives in {city} and is a {job}. {name} is {age}."),
    };
    let mut fields = vec![
        ("name", quote(&name)),
        ("age", age.to_string()),
        ("city", quote(&city)),
    ];
    if text.contains(job) {
        fields.push(("job", quote(job)));
    }
    (text, fields)
}

fn order(rng: &mut Rng) -> (String, Vec<Field>) {
    let (name, item, count, price) = (
        proper(rng, NAMES),
        common(rng, GOODS),
        rng.between(2, 99),
        rng.between(2, 99),
    );
    let text = match rng.below(3) {
        0 => format!("{name} bought {count} {item} for {price} dollars."),
        1 => format!("Order by {name}: {count} {item}, {price} dollars."),
        _ => format!("{name} ordered {count} {item} and paid {price} dollars."),
    };
    (
        text,
        vec![
            ("name", quote(&name)),
            ("item", quote(&item)),
            ("quantity", count.to_string()),
            ("price", price.to_string()),
        ],
    )
}

fn event(rng: &mut Rng) -> (String, Vec<Field>) {
    let (event, day, city) = (rng.pick(EVENTS), rng.pick(DAYS), proper(rng, CITIES));
    let time = format!(
        "{}:{}{}",
        rng.between(8, 22),
        rng.below(6),
        if rng.chance(50) { 0 } else { 5 }
    );
    let text = match rng.below(3) {
        0 => format!("The {event} is on {day} at {time} in {city}."),
        1 => format!("Come to the {event} in {city} on {day} at {time}."),
        _ => format!("On {day} at {time} there is a {event} in {city}."),
    };
    (
        text,
        vec![
            ("event", quote(event)),
            ("day", quote(day)),
            ("time", quote(&time)),
            ("city", quote(&city)),
        ],
    )
}

fn thing(rng: &mut Rng) -> (String, Vec<Field>) {
    let (item, colour, price) = (common(rng, THINGS), rng.pick(COLOURS), rng.between(2, 99));
    let text = match rng.below(3) {
        0 => format!("The {item} is {colour} and costs {price} dollars."),
        1 => format!("For sale: a {colour} {item} for {price} dollars."),
        _ => format!("A {colour} {item} costs {price} dollars."),
    };
    (
        text,
        vec![
            ("item", quote(&item)),
            ("color", quote(colour)),
            ("price", price.to_string()),
        ],
    )
}

fn contact(rng: &mut Rng) -> (String, Vec<Field>) {
    let name = proper(rng, NAMES);
    let phone: String = (0..6)
        .map(|_| char::from(b'0' + rng.below(10) as u8))
        .collect();
    let text = match rng.below(3) {
        0 => format!("Call {name} at {phone}."),
        1 => format!("{name} has the phone number {phone}."),
        _ => format!("Call {phone} and ask for {name}."),
    };
    (text, vec![("name", quote(&name)), ("phone", quote(&phone))])
}
