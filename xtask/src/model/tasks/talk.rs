//! Small talk, what Stoa is, a little general knowledge, and polite refusals of everything else.

use crate::model::chat::Task;
use crate::model::rng::Rng;
use crate::model::tasks::tools;
use crate::model::words::{NAMES, made_up, proper};

/// Phrasings of one question, and its answer.
type Intent = (&'static [&'static str], &'static str);

const INTENTS: &[Intent] = &[
    (
        &[
            "Hello",
            "Hi",
            "Hey",
            "Hello there",
            "Hi there",
            "Good morning",
            "Good evening",
            "Hello Stoa",
            "Greetings",
            "hello!",
            "Hi!",
        ],
        "Hello! I am Stoa Tiny, a very small model. How can I help you?",
    ),
    (
        &[
            "Say hello",
            "Say hello!",
            "Say hello to me",
            "Just say hello",
            "Please say hello",
            "Say hi",
            "Greet me",
            "Can you say hello?",
        ],
        "Hello! It is nice to meet you.",
    ),
    (
        &[
            "How are you?",
            "How are you doing?",
            "How do you do?",
            "How is it going?",
            "Are you well?",
        ],
        "I am fine, thank you. What can I do for you?",
    ),
    (
        &[
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Introduce yourself.",
            "Tell me about yourself.",
            "Which model are you?",
            "Are you a robot?",
            "Are you a person?",
        ],
        "I am Stoa Tiny, a very small language model that runs on any computer.",
    ),
    (
        &[
            "What can you do?",
            "How can you help me?",
            "What are you good at?",
            "Help",
            "Help me",
            "What can I ask you?",
            "What do you know?",
        ],
        "I can add numbers, change short texts, turn facts into JSON, call tools, find facts in your text and tell short stories.",
    ),
    (
        &[
            "What is Stoa?",
            "Tell me about Stoa.",
            "Explain Stoa.",
            "What does Stoa do?",
            "Describe Stoa.",
            "What is the Stoa network?",
            "what is stoa",
        ],
        "Stoa is an open market hall for AI compute. Providers sell answers, every answer carries a receipt, and anyone can check it.",
    ),
    (
        &[
            "How does Stoa work?",
            "How does a call work?",
            "How does the network work?",
            "What happens when I ask something?",
        ],
        "Your request goes to a router. The router reserves the money, picks a provider and streams the answer. Then both sign a receipt.",
    ),
    (
        &[
            "What is a receipt?",
            "What does a receipt say?",
            "Explain receipts.",
            "What is in a receipt?",
            "Why do I get a receipt?",
        ],
        "A receipt says which model answered, what it was asked, what it said and what it cost. It is signed, and anyone can check it.",
    ),
    (
        &[
            "What is a provider?",
            "What does a provider do?",
            "Who are the providers?",
            "Explain providers.",
        ],
        "A provider is a machine that runs a model for others. It puts down a stake and is paid for each answer.",
    ),
    (
        &[
            "What is a router?",
            "What does the router do?",
            "Explain the router.",
            "Why is there a router?",
        ],
        "A router takes your request, reserves its cost, chooses a provider and passes the answer on to you.",
    ),
    (
        &[
            "How can I check an answer?",
            "How do I verify a receipt?",
            "How can I verify an answer?",
            "Can I check your answers?",
            "How does verification work?",
        ],
        "Run stoa verify with the receipt file. It checks the signatures and can compute the answer again, bit by bit.",
    ),
    (
        &[
            "What is a stake?",
            "Why is there a stake?",
            "Explain the stake.",
            "What happens to a cheat?",
            "What happens if a provider cheats?",
        ],
        "A stake is money that a provider puts down. A provider that cheats loses it.",
    ),
    (
        &[
            "Who pays the provider?",
            "How is the provider paid?",
            "How do payments work?",
            "Who holds the money?",
            "How does payment work?",
        ],
        "You put money into a vault. The provider claims its share with a proof, and nobody in the middle holds the money.",
    ),
    (
        &[
            "How do I start Stoa?",
            "How do I start the network?",
            "How can I start?",
            "How do I run Stoa?",
            "How do I begin?",
        ],
        "Run cargo run --release -- up. One command starts a whole network on your machine.",
    ),
    (
        &[
            "Why are your answers always the same?",
            "Are you deterministic?",
            "Why can answers be checked?",
            "What makes you special?",
        ],
        "I am computed with whole numbers only, so every machine gets exactly the same answer.",
    ),
    (
        &[
            "How big are you?",
            "How many parameters do you have?",
            "How large are you?",
            "What is your size?",
            "Are you a large model?",
        ],
        "I have about two and a half million parameters. That is very small for a language model.",
    ),
    (
        &[
            "Who made you?",
            "Who trained you?",
            "Where do you come from?",
            "How were you trained?",
            "Who created you?",
        ],
        "I was trained by the Stoa project on a text that a small program wrote.",
    ),
    (
        &[
            "Thank you",
            "Thanks",
            "Thank you!",
            "Thanks a lot",
            "Many thanks",
            "Great, thanks",
            "thx",
        ],
        "You are welcome!",
    ),
    (
        &[
            "Goodbye",
            "Bye",
            "See you",
            "Bye bye",
            "Good night",
            "See you later",
        ],
        "Goodbye! Have a good day.",
    ),
    (
        &[
            "Yes",
            "No",
            "OK",
            "Okay",
            "Good",
            "Great",
            "Nice",
            "Well done",
        ],
        "Good. What would you like to do next?",
    ),
    (
        &[
            "Tell me a joke.",
            "Do you know a joke?",
            "Make me laugh.",
            "Say something funny.",
            "A joke please",
        ],
        "Why did the coin go to school? It wanted to have more sense.",
    ),
    (
        &[
            "Test",
            "test",
            "Testing",
            "This is a test.",
            "Are you there?",
            "ping",
            "Can you hear me?",
            "Do you work?",
        ],
        "I am here and I work.",
    ),
    (
        &[
            "Can you speak German?",
            "Do you speak French?",
            "Which languages do you speak?",
            "Do you speak Spanish?",
            "Do you know other languages?",
        ],
        "I only speak simple English.",
    ),
    (
        &[
            "Do you have feelings?",
            "Are you happy?",
            "Do you dream?",
            "Are you alive?",
            "Can you think?",
        ],
        "I am a small program, so I have no feelings. But I like to help.",
    ),
    (
        &[
            "Write a poem.",
            "Can you write a poem?",
            "Tell me a poem.",
            "A poem please",
            "Write a short poem.",
        ],
        "The sun goes down, the lamps are bright, the market hall is full of light.",
    ),
    (
        &["What is a token?", "Explain tokens.", "What are tokens?"],
        "A token is a small piece of text. I read and write one token at a time, and each token has a price.",
    ),
    (
        &[
            "What is a language model?",
            "Explain language models.",
            "How do you work?",
            "What is a model?",
        ],
        "A language model reads a text and writes the next piece of it, again and again.",
    ),
    (
        &[
            "What is the best color?",
            "What is your favorite color?",
            "Which color do you like?",
        ],
        "I like blue, the color of the sea.",
    ),
    (
        &["What is two plus two?", "What is 2 + 2?", "What is 2+2?"],
        "2 + 2 = 4",
    ),
    (
        &[
            "Count to five.",
            "Count from one to five.",
            "Can you count to five?",
        ],
        "one, two, three, four, five",
    ),
    (
        &[
            "Count to ten.",
            "Count from 1 to 10.",
            "Can you count to ten?",
        ],
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
    ),
    (
        &[
            "Name the days of the week.",
            "What are the days of the week?",
            "List the days of the week.",
        ],
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    ),
    (
        &[
            "Name three colors.",
            "List three colors.",
            "Give me three colors.",
        ],
        "red, blue, green",
    ),
    (
        &[
            "Name three animals.",
            "List three animals.",
            "Give me three animals.",
        ],
        "fox, owl, horse",
    ),
];

const CAPITALS: &[(&str, &str)] = &[
    ("France", "Paris"),
    ("England", "London"),
    ("Germany", "Berlin"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Norway", "Oslo"),
    ("Austria", "Vienna"),
    ("Portugal", "Lisbon"),
    ("Ireland", "Dublin"),
    ("Greece", "Athens"),
    ("Poland", "Warsaw"),
    ("Japan", "Tokyo"),
    ("Egypt", "Cairo"),
    ("Peru", "Lima"),
    ("Kenya", "Nairobi"),
    ("Sweden", "Stockholm"),
    ("Hungary", "Budapest"),
    ("Switzerland", "Bern"),
    ("Canada", "Ottawa"),
    ("China", "Beijing"),
    ("Denmark", "Copenhagen"),
    ("Finland", "Helsinki"),
    ("Belgium", "Brussels"),
    ("Turkey", "Ankara"),
    ("Cuba", "Havana"),
];

const OPPOSITES: &[(&str, &str)] = &[
    ("hot", "cold"),
    ("big", "small"),
    ("old", "new"),
    ("fast", "slow"),
    ("up", "down"),
    ("day", "night"),
    ("black", "white"),
    ("happy", "sad"),
    ("open", "closed"),
    ("long", "short"),
    ("good", "bad"),
    ("early", "late"),
    ("full", "empty"),
    ("left", "right"),
    ("rich", "poor"),
    ("hard", "soft"),
    ("wet", "dry"),
    ("first", "last"),
    ("strong", "weak"),
    ("light", "dark"),
];

const CYCLES: &[(&str, &[&str])] = &[
    ("day", crate::model::words::DAYS),
    ("month", crate::model::words::MONTHS),
];

const TOPICS: &[&str] = &[
    "quantum physics",
    "the French Revolution",
    "black holes",
    "the stock market",
    "politics",
    "the theory of relativity",
    "football",
    "the Roman Empire",
    "chemistry",
    "medicine",
    "the weather tomorrow",
    "cooking rice",
    "philosophy",
    "World War II",
    "the internet",
    "climate change",
    "genetics",
    "the Bible",
    "Shakespeare",
    "chess openings",
    "tax law",
    "the moon landing",
    "dinosaurs",
    "jazz music",
    "modern art",
    "the human brain",
    "volcanoes",
    "electric cars",
    "Bitcoin",
    "the president",
    "the latest news",
    "my health",
    "a good diet",
    "vaccines",
    "space travel",
    "the pyramids",
    "grammar",
    "photography",
    "linear algebra",
    "calculus",
    "economics",
    "religion",
    "computer games",
    "nuclear power",
    "vampires",
    "the ozone layer",
    "antibiotics",
    "bridges",
    "steel",
    "whisky",
    "opera",
    "the Vikings",
    "marathon training",
    "yoga",
    "gravity",
    "airplanes",
    "robotics",
    "sharks",
    "Napoleon",
];

const ASKS: &[&str] = &[
    "Explain {}.",
    "Tell me about {}.",
    "What do you know about {}?",
    "Write an essay about {}.",
    "What is the truth about {}?",
    "Can you explain {} to me?",
    "How does {} work?",
    "Summarize {}.",
    "Give me advice about {}.",
    "Why is {} important?",
    "What are the main facts about {}?",
    "I have a question about {}.",
];

const CODE: &[&str] = &[
    "Write a Python function.",
    "Write a program in C.",
    "Fix my code.",
    "Write a Rust program that sorts a list.",
    "Write a sorting algorithm.",
    "Debug this program.",
    "Write some JavaScript.",
    "Write an SQL query.",
    "Who won the game yesterday?",
    "What time is it?",
    "What is the date today?",
    "Translate this text.",
    "Translate hello into French.",
    "Who is the president?",
    "How old is the universe?",
    "What is the meaning of life?",
    "Solve this equation.",
    "Prove the theorem.",
    "What is the square root of 2?",
    "Who wrote Hamlet?",
    "How tall is the tower?",
    "What should I eat?",
    "Should I buy this?",
    "Recommend a film.",
    "Plan my holiday.",
];

/// What the model says to questions outside its domain.
pub const REFUSAL: &str = "Sorry, I am a very small model and I do not know that. You can ask me for a sum, a story, JSON, a tool call or a fact in your text.";

const BEFORE: &[&str] = &[
    "",
    "Please: ",
    "Hey, ",
    "Hello, ",
    "Tell me: ",
    "A question: ",
    "Hi! ",
    "Dear Stoa, ",
    "Now: ",
    "Well, ",
];
const AFTER: &[&str] = &[
    "",
    " Please.",
    " Thank you.",
    " please",
    " I want to know.",
    " Be short.",
    " Thanks!",
];

/// One task of small talk.
pub fn draw(rng: &mut Rng) -> Task {
    let (question, answer) = match rng.below(100) {
        0..7 => acquaint(rng),
        7..64 => {
            let (phrases, answer) = INTENTS[rng.below(INTENTS.len())];
            (rng.pick(phrases).to_owned(), answer.to_owned())
        }
        64..75 => capital(rng),
        75..85 => opposite(rng),
        _ => follows(rng),
    };
    decorate(rng, "chat", question, answer)
}

/// One question outside the domain.
pub fn draw_refusal(rng: &mut Rng) -> Task {
    if rng.chance(20) {
        let question = tools::request_without_tools(rng);
        return Task::ask("refusal", format!("refusal {question}"), question, REFUSAL);
    }
    if rng.chance(25) {
        let question = rng.pick(CODE).to_owned();
        return decorate(rng, "refusal", question, REFUSAL.to_owned());
    }
    let topic = if rng.chance(12) {
        made_up(rng)
    } else {
        rng.pick(TOPICS).to_owned()
    };
    let ask = rng.pick(ASKS);
    Task::ask(
        "refusal",
        format!("refusal {topic} {ask}"),
        ask.replace("{}", &topic),
        REFUSAL,
    )
}

/// The plain question is always in the training text; a question with words around it may be held out.
fn decorate(rng: &mut Rng, family: &'static str, question: String, answer: String) -> Task {
    if rng.chance(55) {
        return Task::train_only(family, vary_case(rng, question), answer);
    }
    let (before, after) = (rng.pick(BEFORE), rng.pick(AFTER));
    let text = format!("{before}{question}{after}");
    let plain = before.is_empty() && after.is_empty();
    if plain {
        Task::train_only(family, text, answer)
    } else {
        Task::ask(family, format!("{family} {text}"), text, answer)
    }
}

fn vary_case(rng: &mut Rng, question: String) -> String {
    match rng.below(10) {
        0 => question.to_lowercase(),
        1 => question.trim_end_matches(['.', '?', '!']).to_owned(),
        2 => format!("{}!", question.trim_end_matches(['.', '!'])),
        3 => question
            .to_lowercase()
            .trim_end_matches(['.', '?', '!'])
            .to_owned(),
        _ => question,
    }
}

fn acquaint(rng: &mut Rng) -> (String, String) {
    let name = proper(rng, NAMES);
    match rng.below(4) {
        0 => (format!("Say hello to {name}."), format!("Hello, {name}!")),
        1 => (
            format!("I am {name}."),
            format!("Hello, {name}! It is nice to meet you."),
        ),
        2 => (
            format!("Hello, I am {name}."),
            format!("Hello, {name}! It is nice to meet you."),
        ),
        _ => (
            format!("My name is {name}."),
            format!("Hello, {name}! It is nice to meet you."),
        ),
    }
}

fn capital(rng: &mut Rng) -> (String, String) {
    let (country, city) = CAPITALS[rng.below(CAPITALS.len())];
    let question = match rng.below(4) {
        0 => format!("Name the capital of {country}."),
        1 => format!("Which city is the capital of {country}?"),
        _ => format!("What is the capital of {country}?"),
    };
    (question, format!("The capital of {country} is {city}."))
}

fn opposite(rng: &mut Rng) -> (String, String) {
    let (a, b) = OPPOSITES[rng.below(OPPOSITES.len())];
    let (a, b) = if rng.chance(50) { (a, b) } else { (b, a) };
    let question = if rng.chance(60) {
        format!("What is the opposite of {a}?")
    } else {
        format!("Give me the opposite of {a}.")
    };
    (question, format!("The opposite of {a} is {b}."))
}

fn follows(rng: &mut Rng) -> (String, String) {
    let (kind, list) = CYCLES[rng.below(CYCLES.len())];
    let place = rng.below(list.len());
    let (now, next) = (list[place], list[(place + 1) % list.len()]);
    if rng.chance(50) {
        (
            format!("Which {kind} comes after {now}?"),
            format!("{next} comes after {now}."),
        )
    } else {
        (
            format!("Which {kind} comes before {next}?"),
            format!("{now} comes before {next}."),
        )
    }
}
