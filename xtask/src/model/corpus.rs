//! The corpus: a mix of the families, split so that no held-out combination occurs in the training text.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::chat::{Check, Task, Turn, render};
use super::rng::{Rng, hash_text};
use super::tasks::{extract, facts, story, sums, talk, text, tools};

/// A function that draws one task of a family.
type Draw = fn(&mut Rng) -> Task;

/// The families, their weights in the training text and the number of held-out tasks of each.
pub const FAMILIES: &[(&str, Draw, usize, usize)] = &[
    ("chat", talk::draw, 12, 100),
    ("refusal", talk::draw_refusal, 4, 60),
    ("story", story::draw, 22, 100),
    ("arithmetic", sums::draw, 14, 200),
    ("extract", extract::draw, 8, 160),
    ("transform", text::draw, 10, 160),
    ("lookup", facts::draw, 5, 120),
    ("tool_call", tools::draw, 32, 200),
    ("no_tool", tools::draw_none, 14, 50),
    ("tool_result", tools::draw_result, 2, 60),
    ("passage", facts::draw_passage, 12, 100),
];

const SYSTEM: &[&str] = &[
    "You are a helpful assistant.",
    "You are Stoa Tiny.",
    "You are a friendly assistant. Answer briefly.",
    "Be short and clear.",
    "You are a careful assistant that uses tools when they help.",
    "Answer in simple English.",
    "You answer questions and call tools.",
    "You are a helpful AI assistant. Be concise.",
];

/// One in ten combinations is held out, whatever the seed.
pub fn is_held(key: &str) -> bool {
    hash_text(key).is_multiple_of(10)
}

/// True when a task may be in the training text: none of its keys is held out.
pub fn may_train(task: &Task) -> bool {
    !task.keys.iter().any(|key| is_held(key))
}

/// True when a task may be in the held-out set: its first key is held out.
pub fn may_test(task: &Task) -> bool {
    task.keys.first().is_some_and(|key| is_held(key))
}

/// A document of the training text and the family it counts for.
#[derive(Debug, Clone)]
pub struct Document {
    /// The family of its last task.
    pub family: &'static str,
    /// Its text with role markers.
    pub text: String,
}

impl Document {
    /// The line of the training file.
    pub fn line(&self) -> String {
        json!({ "f": self.family, "t": self.text }).to_string()
    }
}

/// Draws training documents.
#[derive(Debug)]
pub struct Trainer(Rng);

impl Trainer {
    /// A source of documents that starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Rng::practice(seed))
    }

    /// The next document: one task, a conversation of several, or a plain story.
    pub fn document(&mut self) -> Document {
        match self.0.below(100) {
            0 => self.plain_story(),
            1..6 => self.conversation(),
            _ => {
                let task = self.task();
                let mut turns = self.system();
                turns.extend(task.turns);
                Document {
                    family: task.family,
                    text: render(&task.tools, &turns),
                }
            }
        }
    }

    fn task(&mut self) -> Task {
        let total: usize = FAMILIES.iter().map(|f| f.2).sum();
        let mut ticket = self.0.below(total);
        let mut draw = FAMILIES[0].1;
        for family in FAMILIES {
            if ticket < family.2 {
                draw = family.1;
                break;
            }
            ticket -= family.2;
        }
        loop {
            let task = draw(&mut self.0);
            if may_train(&task) {
                return task;
            }
        }
    }

    fn system(&mut self) -> Vec<Turn> {
        if self.0.chance(12) {
            vec![Turn::System(self.0.pick(SYSTEM).to_owned())]
        } else {
            Vec::new()
        }
    }

    /// Several tasks in a row; at most one of them, drawn first, brings its tools.
    fn conversation(&mut self) -> Document {
        let mut turns = self.system();
        let first = self.task();
        let tools = first.tools;
        let mut family = first.family;
        let mut rest = vec![first.turns];
        for _ in 0..self.0.between(1, 4) {
            let task = self.task();
            if task.tools.is_empty() {
                family = task.family;
                rest.push(task.turns);
            }
        }
        self.0.shuffle(&mut rest);
        turns.extend(rest.into_iter().flatten());
        Document {
            family,
            text: render(&tools, &turns),
        }
    }

    /// A story without a question, for plain completion.
    fn plain_story(&mut self) -> Document {
        loop {
            let task = story::draw(&mut self.0);
            if may_train(&task)
                && let Some(Turn::Assistant(text)) = task.turns.last()
            {
                let start = if self.0.chance(50) { "<|bos|>" } else { "" };
                return Document {
                    family: "plain",
                    text: format!("{start}{text}<|end|>"),
                };
            }
        }
    }
}

/// The held-out tasks, each prompt once, in the order of the families.
pub fn held_out(seed: u64) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (index, (_, draw, _, count)) in FAMILIES.iter().enumerate() {
        let mut rng = Rng::new(seed ^ hash_text(&format!("held out {index}")));
        let mut seen = BTreeSet::new();
        while seen.len() < *count {
            let task = draw(&mut rng);
            if may_test(&task)
                && seen.insert(render(&task.tools, &task.turns[..task.turns.len() - 1]))
            {
                tasks.push(task);
            }
        }
    }
    tasks
}

/// What no training document may contain: the prompts of the held-out tasks, with their answers, and the held-out tool names.
#[derive(Debug)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// Those of `tasks`.
    pub fn of(tasks: &[Task]) -> Self {
        let pair = |task: &Task| {
            let split = task.turns.len() - 1;
            let prompt = render(&task.tools, &task.turns[..split]);
            let prompt = prompt.trim_start_matches("<|bos|>").to_owned();
            (prompt, task.turns[split].body())
        };
        Self(tasks.iter().map(pair).collect())
    }

    /// What a document gives away: a held-out tool name, a held-out prompt at its start or after a system prompt, or a held-out
    /// prompt with its answer anywhere in a conversation. A request behind tools may be a held-out one without: it is another task.
    pub fn leaked(&self, text: &str) -> Option<String> {
        let answers: Vec<usize> = text.match_indices("<|assistant|>").map(|m| m.0).collect();
        for from in ["<|tools|>", "<|system|>", "<|user|>"]
            .iter()
            .flat_map(|mark| text.match_indices(mark).map(|m| m.0))
        {
            for to in answers.iter().filter(|to| **to > from) {
                let (prompt, after) = (&text[from..*to], &text[to + "<|assistant|>".len()..]);
                let Some(answer) = self.0.get(prompt) else {
                    continue;
                };
                let alone = !text[..from].contains("<|tools|>");
                if alone || after.starts_with(&format!("{answer}<|end|>")) {
                    return Some(prompt.to_owned());
                }
            }
        }
        held_tool(text).map(str::to_owned)
    }
}

/// A held-out tool name that a document offers.
fn held_tool(text: &str) -> Option<&str> {
    let (_, offer) = text.split_once("<|tools|>")?;
    let (offer, _) = offer.split_once("<|end|>")?;
    let mut names = offer.lines().filter_map(|line| line.split('(').next());
    names.find(|name| is_held(&format!("tool {name}")))
}

/// The line of the held-out file: messages and tools in the wire format, the expected answer and how it is judged.
pub fn held_out_line(task: &Task) -> String {
    let split = task.turns.len() - 1;
    let messages: Vec<Value> = task.turns[..split].iter().map(Turn::wire).collect();
    let mut line = json!({ "family": task.family, "messages": messages });
    if !task.tools.is_empty() {
        line["tools"] = task.tools.iter().map(super::chat::Tool::wire).collect();
    }
    match &task.turns[split] {
        Turn::Call { name, arguments } => {
            line["check"] = json!("call");
            line["answer"] = json!({ "name": name, "arguments": arguments });
        }
        answer => {
            line["check"] = json!("exact");
            line["answer"] = json!(answer.body());
        }
    }
    if let Check::Story(words) = &task.check {
        line["check"] = json!("story");
        line["words"] = json!(words);
    }
    // The file has a hash that is written down; it must not depend on the order that a build gives to the members of values.
    line.sort_all_objects();
    line.to_string()
}
