//! Tool choice and arguments, and answers from a tool's result.

use serde_json::Value;

use crate::model::chat::{Argument, Check, Kind, Task, Tool, Turn};
use crate::model::rng::Rng;
use crate::model::tasks::{sums, talk};
use crate::model::words::{
    CITIES, COLOURS, DAYS, EVENTS, GOODS, NAMES, PLACES, THINGS, common, made_up, proper,
};

/// What fills an argument.
#[derive(Clone, Copy)]
enum Slot {
    City,
    Name,
    Thing,
    Goods,
    Colour,
    Day,
    Event,
    Place,
    Time,
    Small,
    Amount,
    Phrase,
}

/// A subject that tools deal with: its noun, what such a tool does, verbs, slots and requests.
struct Subject {
    nouns: &'static [&'static str],
    does: &'static str,
    verbs: &'static [&'static str],
    /// Names that the argument may have, what fills it, and whether requests always give it.
    slots: &'static [(&'static [&'static str], Slot, bool)],
    /// Requests with `{0}`, `{1}` for the slots. A request after the first `full` ones leaves out the optional ones.
    full: &'static [&'static str],
    short: &'static [&'static str],
}

const LOOK: &[&str] = &[
    "get", "find", "fetch", "show", "check", "read", "query", "look_up",
];
const MAKE: &[&str] = &["create", "add", "make", "new", "set", "start"];
const SEND: &[&str] = &["send", "write", "post", "deliver"];
const TURN: &[&str] = &["set", "change", "switch", "control", "update"];

const SUBJECTS: &[Subject] = &[
    Subject {
        nouns: &["weather", "forecast", "current_weather"],
        does: "Gives the weather of a city.",
        verbs: LOOK,
        slots: &[
            (&["city", "location", "place", "town"], Slot::City, true),
            (&["day", "date"], Slot::Day, false),
        ],
        full: &[
            "What is the weather in {0} on {1}?",
            "How will the weather be in {0} on {1}?",
            "Weather in {0} on {1}?",
        ],
        short: &[
            "What is the weather in {0}?",
            "How is the weather in {0}?",
            "Weather in {0}",
            "What is the weather like in {0} today?",
            "Is it raining in {0}?",
        ],
    },
    Subject {
        nouns: &["time", "local_time", "clock"],
        does: "Tells the time in a city.",
        verbs: LOOK,
        slots: &[(&["city", "location", "zone", "place"], Slot::City, true)],
        full: &[
            "What time is it in {0}?",
            "Tell me the time in {0}.",
            "How late is it in {0}?",
        ],
        short: &[],
    },
    Subject {
        nouns: &["email", "mail", "message"],
        does: "Sends a message to a person.",
        verbs: SEND,
        slots: &[
            (&["to", "recipient", "name"], Slot::Name, true),
            (&["text", "body", "message"], Slot::Phrase, true),
        ],
        full: &[
            "Send a message to {0}: {1}",
            "Write to {0}: {1}",
            "Tell {0} this: {1}",
            "Send {0} the text \"{1}\".",
        ],
        short: &[],
    },
    Subject {
        nouns: &["reminder", "alarm", "note"],
        does: "Sets a reminder.",
        verbs: MAKE,
        slots: &[
            (&["text", "title", "about"], Slot::Event, true),
            (&["time", "hour", "at"], Slot::Time, true),
        ],
        full: &[
            "Remind me of the {0} at {1}.",
            "Set a reminder for the {0} at {1}.",
            "Do not let me forget the {0} at {1}.",
        ],
        short: &[],
    },
    Subject {
        nouns: &["event", "appointment", "calendar"],
        does: "Puts an event into the calendar.",
        verbs: MAKE,
        slots: &[
            (&["title", "name", "event"], Slot::Event, true),
            (&["day", "date"], Slot::Day, true),
            (&["time", "start", "hour"], Slot::Time, false),
        ],
        full: &[
            "Plan a {0} on {1} at {2}.",
            "Put a {0} into my calendar on {1} at {2}.",
            "Add the {0} on {1} at {2}.",
        ],
        short: &[
            "Plan a {0} on {1}.",
            "Put a {0} into my calendar on {1}.",
            "Add the {0} on {1}.",
        ],
    },
    Subject {
        nouns: &["price", "cost", "quote"],
        does: "Tells the price of a product.",
        verbs: LOOK,
        slots: &[(&["product", "item", "article"], Slot::Goods, true)],
        full: &[
            "What is the price of {0}?",
            "How much are {0}?",
            "What do {0} cost?",
            "Price of {0}",
        ],
        short: &[],
    },
    Subject {
        nouns: &["stock", "inventory", "supply"],
        does: "Tells how many pieces are in stock.",
        verbs: LOOK,
        slots: &[(&["product", "item", "article"], Slot::Goods, true)],
        full: &[
            "How many {0} are in stock?",
            "Do we have {0} in stock?",
            "Are there {0} left in the store?",
        ],
        short: &[],
    },
    Subject {
        nouns: &["order", "purchase", "cart_item"],
        does: "Orders a product.",
        verbs: &["create", "place", "add", "make", "submit"],
        slots: &[
            (&["product", "item", "article"], Slot::Goods, true),
            (&["count", "quantity", "number"], Slot::Small, true),
        ],
        full: &[
            "Order {1} {0}.",
            "Buy {1} {0}.",
            "I want {1} {0}.",
            "Please order {1} {0} for me.",
        ],
        short: &[],
    },
    Subject {
        nouns: &["light", "lamp", "light_color"],
        does: "Changes the color of a light.",
        verbs: TURN,
        slots: &[
            (&["room", "place", "area"], Slot::Place, true),
            (&["color", "shade"], Slot::Colour, true),
        ],
        full: &[
            "Make the light in the {0} {1}.",
            "Set the light in the {0} to {1}.",
            "I want {1} light in the {0}.",
        ],
        short: &[],
    },
    Subject {
        nouns: &["temperature", "heating", "thermostat"],
        does: "Sets the temperature of a room.",
        verbs: TURN,
        slots: &[
            (&["room", "place", "area"], Slot::Place, true),
            (&["degrees", "value", "level"], Slot::Small, true),
        ],
        full: &[
            "Set the {0} to {1} degrees.",
            "Heat the {0} to {1} degrees.",
            "Make it {1} degrees in the {0}.",
        ],
        short: &[],
    },
    Subject {
        nouns: &["music", "song", "player"],
        does: "Plays music.",
        verbs: &["play", "start", "run", "stream"],
        slots: &[
            (&["artist", "singer", "name"], Slot::Name, true),
            (&["room", "place"], Slot::Place, false),
        ],
        full: &[
            "Play music by {0} in the {1}.",
            "Play {0} in the {1}.",
            "I want to hear {0} in the {1}.",
        ],
        short: &[
            "Play music by {0}.",
            "Play something by {0}.",
            "I want to hear {0}.",
        ],
    },
    Subject {
        nouns: &["route", "directions", "way"],
        does: "Finds the way between two cities.",
        verbs: LOOK,
        slots: &[
            (&["from", "origin", "start"], Slot::City, true),
            (&["to", "target", "goal"], Slot::City, true),
        ],
        full: &[
            "How do I get from {0} to {1}?",
            "Show me the way from {0} to {1}.",
            "Route from {0} to {1}",
        ],
        short: &[],
    },
    Subject {
        nouns: &["flight", "train", "bus", "ticket"],
        does: "Books a trip.",
        verbs: &["book", "reserve", "buy", "order"],
        slots: &[
            (&["to", "city", "target"], Slot::City, true),
            (&["day", "date"], Slot::Day, true),
            (&["seats", "people", "persons"], Slot::Small, false),
        ],
        full: &[
            "Book a trip to {0} on {1} for {2} people.",
            "I need {2} seats to {0} on {1}.",
            "Reserve {2} seats to {0} on {1}.",
        ],
        short: &[
            "Book a trip to {0} on {1}.",
            "I want to travel to {0} on {1}.",
            "Take me to {0} on {1}.",
        ],
    },
    Subject {
        nouns: &["contact", "person", "user"],
        does: "Looks up a person.",
        verbs: LOOK,
        slots: &[(&["name", "person", "who"], Slot::Name, true)],
        full: &[
            "What is the phone number of {0}?",
            "Find the contact of {0}.",
            "Who is {0}?",
            "How can I reach {0}?",
        ],
        short: &[],
    },
    Subject {
        nouns: &["payment", "money", "transfer"],
        does: "Pays money to a person.",
        verbs: &["send", "make", "start", "create"],
        slots: &[
            (&["to", "recipient", "payee"], Slot::Name, true),
            (&["amount", "dollars", "sum"], Slot::Amount, true),
        ],
        full: &[
            "Pay {1} dollars to {0}.",
            "Send {0} {1} dollars.",
            "Transfer {1} dollars to {0}.",
            "Give {0} {1} dollars.",
        ],
        short: &[],
    },
    Subject {
        nouns: &["item", "object", "thing"],
        does: "Finds a lost thing.",
        verbs: &["find", "locate", "search", "track"],
        slots: &[(&["object", "thing", "what"], Slot::Thing, true)],
        full: &[
            "Where is my {0}?",
            "Find my {0}.",
            "I lost my {0}.",
            "Search for the {0}.",
        ],
        short: &[],
    },
    Subject {
        nouns: &["table", "restaurant", "seat"],
        does: "Reserves a table.",
        verbs: &["book", "reserve", "request", "order"],
        slots: &[
            (&["people", "guests", "persons"], Slot::Small, true),
            (&["time", "hour", "at"], Slot::Time, true),
        ],
        full: &[
            "Reserve a table for {0} people at {1}.",
            "Book a table at {1} for {0} guests.",
            "A table for {0} at {1}",
        ],
        short: &[],
    },
    Subject {
        nouns: &["timer", "countdown", "stopwatch"],
        does: "Starts a timer.",
        verbs: MAKE,
        slots: &[(&["minutes", "duration", "length"], Slot::Small, true)],
        full: &[
            "Set a timer for {0} minutes.",
            "Start a timer of {0} minutes.",
            "Wake me in {0} minutes.",
        ],
        short: &[],
    },
    Subject {
        nouns: &["web", "documents", "index"],
        does: "Searches for a text.",
        verbs: &["search", "query", "scan", "browse"],
        slots: &[
            (&["query", "text", "term"], Slot::Phrase, true),
            (&["limit", "count", "max"], Slot::Small, false),
        ],
        full: &[
            "Search for {0} and show {1} results.",
            "Show {1} results for {0}.",
        ],
        short: &[
            "Search for {0}.",
            "Look for {0}.",
            "Search the web for {0}.",
        ],
    },
];

/// A tool with the slots that its arguments came from, in the order of the subject.
struct Built {
    tool: Tool,
    subject: usize,
    names: Vec<String>,
}

fn kind_of(slot: Slot) -> Kind {
    match slot {
        Slot::Small | Slot::Amount => Kind::Integer,
        _ => Kind::Text,
    }
}

fn build(rng: &mut Rng, subject: usize) -> Built {
    let s = &SUBJECTS[subject];
    let (verb, noun) = (rng.pick(s.verbs), rng.pick(s.nouns));
    let name = if rng.practises(75) {
        unusual_name(rng, verb, noun)
    } else {
        format!("{verb}_{noun}")
    };
    let mut names: Vec<String> = Vec::new();
    // At most one: of two that say nothing, nobody could tell which takes what.
    let invented = rng.practises(30).then(|| rng.below(s.slots.len()));
    for (slot, (options, _, _)) in s.slots.iter().enumerate() {
        let free: Vec<&str> = options
            .iter()
            .copied()
            .filter(|o| !names.iter().any(|n| n == o))
            .collect();
        names.push(if invented == Some(slot) {
            made_up(rng)
        } else {
            rng.pick(&free).to_owned()
        });
    }
    let mut arguments: Vec<Argument> = s
        .slots
        .iter()
        .zip(&names)
        .map(|((_, slot, required), name)| Argument {
            name: name.clone(),
            kind: kind_of(*slot),
            required: *required,
        })
        .collect();
    arguments.sort_by(|a, b| a.name.cmp(&b.name));
    Built {
        tool: Tool {
            name,
            description: s.does.to_owned(),
            arguments,
        },
        subject,
        names,
    }
}

/// A name that says nothing of what the tool does, so that it can only be copied from the offer.
fn unusual_name(rng: &mut Rng, verb: &str, noun: &str) -> String {
    match rng.below(9) {
        0 => format!("{verb}_{}", made_up(rng)),
        1 => format!("{}_{noun}", made_up(rng)),
        2 => made_up(rng),
        _ => {
            let (one, other) = (rng.below(SUBJECTS.len()), rng.below(SUBJECTS.len()));
            let (verb, noun) = (
                rng.pick(SUBJECTS[one].verbs),
                rng.pick(SUBJECTS[other].nouns),
            );
            format!("{verb}_{noun}")
        }
    }
}

fn fill(rng: &mut Rng, slot: Slot) -> Value {
    let text = match slot {
        Slot::City => proper(rng, CITIES),
        Slot::Name => proper(rng, NAMES),
        Slot::Thing => common(rng, THINGS),
        Slot::Goods => common(rng, GOODS),
        Slot::Colour => rng.pick(COLOURS).to_owned(),
        Slot::Day => rng.pick(DAYS).to_owned(),
        Slot::Event => rng.pick(EVENTS).to_owned(),
        Slot::Place => rng.pick(PLACES).to_owned(),
        Slot::Time => format!(
            "{}:{}{}",
            rng.between(6, 22),
            rng.below(6),
            if rng.chance(50) { 0 } else { 5 }
        ),
        Slot::Small => return Value::from(rng.between(2, 60)),
        Slot::Amount => return Value::from(rng.between(2, 999)),
        Slot::Phrase => {
            let count = rng.between(1, 4);
            let mut words: Vec<String> = rng
                .pick_distinct(crate::model::words::WORDS, count)
                .into_iter()
                .map(str::to_owned)
                .collect();
            if rng.practises(25) || rng.chance(8) {
                words[0] = made_up(rng);
            }
            words.join(" ")
        }
    };
    Value::from(text)
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// One of several offered tools, other subjects beside it, in random order.
fn offer(rng: &mut Rng) -> (Vec<Built>, usize) {
    let count = [1, 2, 2, 3][rng.below(4)];
    let all: Vec<usize> = (0..SUBJECTS.len()).collect();
    let mut order = all;
    rng.shuffle(&mut order);
    let offered: Vec<Built> = order
        .into_iter()
        .take(count)
        .map(|s| build(rng, s))
        .collect();
    let chosen = rng.below(offered.len());
    (offered, chosen)
}

/// The request to the chosen tool, and the call it should lead to.
fn request(rng: &mut Rng, built: &Built) -> (String, Turn, Vec<Value>) {
    let s = &SUBJECTS[built.subject];
    let values: Vec<Value> = s.slots.iter().map(|slot| fill(rng, slot.1)).collect();
    let short = !s.short.is_empty() && rng.chance(50);
    let mut text = rng.pick(if short { s.short } else { s.full }).to_owned();
    for (i, value) in values.iter().enumerate() {
        text = text.replace(&format!("{{{i}}}"), &plain(value));
    }
    let given: Vec<(String, Value)> = built
        .names
        .iter()
        .zip(s.slots)
        .zip(&values)
        .filter(|((_, slot), _)| !short || slot.2)
        .map(|((name, _), value)| (name.clone(), value.clone()))
        .collect();
    (text, call(&built.tool.name, given), values)
}

/// A call with its arguments sorted by name, as compact JSON.
fn call(name: &str, mut given: Vec<(String, Value)>) -> Turn {
    given.sort_by(|a, b| a.0.cmp(&b.0));
    let pairs: Vec<String> = given.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
    Turn::Call {
        name: name.to_owned(),
        arguments: format!("{{{}}}", pairs.join(",")),
    }
}

fn keys(offered: &[Built], chosen: usize) -> Vec<String> {
    let mut names: Vec<String> = offered
        .iter()
        .map(|b| format!("tool {}", b.tool.name))
        .collect();
    names.swap(0, chosen);
    names
}

/// One task that needs a tool call.
pub fn draw(rng: &mut Rng) -> Task {
    if rng.chance(14) {
        return explicit(rng);
    }
    let (offered, chosen) = offer(rng);
    let (text, call, _) = request(rng, &offered[chosen]);
    Task {
        family: "tool_call",
        keys: keys(&offered, chosen),
        tools: offered.into_iter().map(|b| b.tool).collect(),
        turns: vec![Turn::User(text), call],
        check: Check::Call,
    }
}

/// A made-up tool that the user names together with its arguments.
fn explicit(rng: &mut Rng) -> Task {
    let count = rng.between(1, 3);
    let mut tools = Vec::new();
    for _ in 0..count {
        let name = match rng.below(3) {
            0 => made_up(rng),
            1 => format!("{}_{}", made_up(rng), rng.pick(THINGS)),
            _ => format!("{}_{}", rng.pick(LOOK), made_up(rng)),
        };
        let mut names = vec!["value", "name", "text", "level", "item", "note", "id", "on"];
        rng.shuffle(&mut names);
        names.truncate(rng.between(1, 2));
        names.sort_unstable();
        let arguments = names
            .iter()
            .map(|n| Argument {
                name: (*n).to_owned(),
                kind: explicit_kind(n),
                required: true,
            })
            .collect();
        tools.push(Tool {
            description: format!("Runs {name}."),
            name,
            arguments,
        });
    }
    let chosen = rng.below(count);
    let given: Vec<(String, Value)> = tools[chosen]
        .arguments
        .iter()
        .map(|a| (a.name.clone(), explicit_value(rng, a.kind)))
        .collect();
    let words: Vec<String> = given
        .iter()
        .map(|(n, v)| format!("{n} {}", plain(v)))
        .collect();
    let verb = rng.pick(&["Use", "Call", "Run", "Please use", "Start"]);
    let text = format!(
        "{verb} {} with {}.",
        tools[chosen].name,
        words.join(" and ")
    );
    let mut keys: Vec<String> = tools.iter().map(|t| format!("tool {}", t.name)).collect();
    keys.swap(0, chosen);
    let turns = vec![Turn::User(text), call(&tools[chosen].name, given)];
    Task {
        family: "tool_call",
        keys,
        tools,
        turns,
        check: Check::Call,
    }
}

fn explicit_kind(name: &str) -> Kind {
    match name {
        "value" | "level" | "id" => Kind::Integer,
        "on" => Kind::Flag,
        _ => Kind::Text,
    }
}

fn explicit_value(rng: &mut Rng, kind: Kind) -> Value {
    match kind {
        Kind::Integer => Value::from(rng.between(1, 999)),
        Kind::Flag => Value::from(rng.chance(50)),
        Kind::Text => Value::from(common(rng, THINGS)),
    }
}

/// A request that only a tool could answer, for a conversation that offers none.
pub fn request_without_tools(rng: &mut Rng) -> String {
    let subject = rng.below(SUBJECTS.len());
    let built = build(rng, subject);
    request(rng, &built).0
}

/// Tools are offered, but the question needs none, or one that is not there.
pub fn draw_none(rng: &mut Rng) -> Task {
    let (mut offered, chosen) = offer(rng);
    let question = if rng.practises(50) { 1 } else { rng.below(4) };
    let mut task = match question {
        0 => sums::draw(rng),
        1 if offered.len() > 1 => {
            let missing = offered.remove(chosen);
            let question = request(rng, &missing).0;
            let refusal = format!("refusal {question}");
            let key = format!("no tool {question}");
            let mut task = Task::ask("no_tool", key, question, talk::REFUSAL);
            task.keys.push(refusal);
            task
        }
        _ => talk::draw(rng),
    };
    task.family = "no_tool";
    task.keys
        .extend(offered.iter().map(|b| format!("tool {}", b.tool.name)));
    task.tools = offered.into_iter().map(|b| b.tool).collect();
    task
}

/// The call was made and the tool has answered: say what it answered.
pub fn draw_result(rng: &mut Rng) -> Task {
    let (offered, chosen) = offer(rng);
    let (text, call, values) = request(rng, &offered[chosen]);
    let (result, answer) = match rng.below(4) {
        0 => {
            let (number, word) = (
                rng.between(1, 99),
                rng.pick(&["temperature", "price", "count", "minutes", "stock"]),
            );
            (
                format!("{{\"{word}\":{number}}}"),
                format!("The {word} is {number}."),
            )
        }
        1 => {
            let word = rng.pick(&[
                "sunny", "rainy", "cloudy", "windy", "cold", "warm", "done", "open", "closed",
            ]);
            let field = rng.pick(&["weather", "status", "state", "result"]);
            (
                format!("{{\"{field}\":\"{word}\"}}"),
                format!("The {field} is {word}."),
            )
        }
        2 => ("{\"ok\":true}".to_owned(), "Done. It worked.".to_owned()),
        _ => (
            "{\"ok\":false}".to_owned(),
            "Sorry, the tool reported an error.".to_owned(),
        ),
    };
    let mut keys = keys(&offered, chosen);
    keys.push(format!(
        "result {result} {}",
        values.iter().map(plain).collect::<Vec<_>>().join(" ")
    ));
    Task {
        family: "tool_result",
        keys,
        tools: offered.into_iter().map(|b| b.tool).collect(),
        turns: vec![
            Turn::User(text),
            call,
            Turn::Result(result),
            Turn::Assistant(answer),
        ],
        check: Check::Exact,
    }
}
