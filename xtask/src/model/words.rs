//! The closed vocabulary of the corpus, and made-up words for what must be copied rather than known.

use super::rng::Rng;

/// First names.
pub const NAMES: &[&str] = &[
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate",
    "Leo", "Mia", "Noah", "Olivia", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wendy", "Yara",
    "Zoe", "Alice", "Bob", "Carlos", "Diana", "Erik", "Fatima", "Hugo", "Ivan", "Julia", "Lena",
    "Marco", "Nina", "Omar", "Peter", "Sara", "Tom", "Vera",
];
/// Cities.
pub const CITIES: &[&str] = &[
    "Paris", "London", "Berlin", "Rome", "Madrid", "Oslo", "Vienna", "Lisbon", "Dublin", "Athens",
    "Prague", "Warsaw", "Tokyo", "Cairo", "Lima", "Boston", "Chicago", "Denver", "Seattle",
    "Toronto", "Sydney", "Mumbai", "Nairobi", "Seoul", "Zurich", "Milan", "Geneva", "Hamburg",
    "Munich", "Austin",
];
/// Things that can be carried.
pub const THINGS: &[&str] = &[
    "key", "book", "lamp", "ball", "cup", "hat", "bag", "box", "coin", "map", "pen", "ring",
    "clock", "phone", "letter", "umbrella", "guitar", "ticket", "knife", "mirror", "basket",
    "candle", "camera", "blanket", "scarf",
];
/// Places in and around a house.
pub const PLACES: &[&str] = &[
    "kitchen", "garden", "garage", "attic", "cellar", "bedroom", "office", "library", "hall",
    "barn", "car", "drawer", "cupboard", "bathroom", "shed", "school", "tower", "tent", "boat",
    "shop",
];
/// Colours.
pub const COLOURS: &[&str] = &[
    "red", "blue", "green", "yellow", "black", "white", "orange", "purple", "brown", "grey",
    "pink", "silver",
];
/// Animals.
pub const ANIMALS: &[&str] = &[
    "fox", "cat", "dog", "bear", "rabbit", "mouse", "owl", "horse", "frog", "duck", "lion",
    "turtle", "wolf", "goat", "bee", "whale",
];
/// Goods that are sold by the piece.
pub const GOODS: &[&str] = &[
    "apples", "pears", "lemons", "eggs", "books", "pens", "cups", "plates", "chairs", "lamps",
    "tickets", "cards", "stamps", "coins", "shirts", "socks", "candles", "bottles", "flowers",
    "boxes",
];
/// Plain words for text transforms.
pub const WORDS: &[&str] = &[
    "apple", "river", "stone", "green", "light", "house", "table", "bread", "cloud", "dream",
    "earth", "fire", "grass", "heart", "island", "jump", "king", "leaf", "moon", "night", "ocean",
    "paper", "queen", "rain", "snow", "tree", "voice", "water", "yellow", "zebra", "blue", "cold",
    "door", "eagle", "fish", "gold", "happy", "iron", "lamp", "milk", "north", "open", "plant",
    "quiet", "road", "silver", "train", "under", "warm", "young", "sun", "dog", "cat", "red",
    "big", "small", "fast", "slow", "old", "new", "hello", "world", "good", "quick",
];
/// Days of the week.
pub const DAYS: &[&str] = &[
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
/// Months.
pub const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// Jobs that people have.
pub const JOBS: &[&str] = &[
    "teacher", "doctor", "baker", "farmer", "pilot", "nurse", "painter", "singer", "writer",
    "lawyer", "driver", "cook", "gardener", "judge", "sailor",
];
/// Kinds of meetings.
pub const EVENTS: &[&str] = &[
    "meeting",
    "concert",
    "party",
    "lunch",
    "dinner",
    "lesson",
    "game",
    "workshop",
    "call",
    "market",
    "exam",
    "wedding",
    "race",
    "interview",
    "festival",
];

const ONSETS: &[&str] = &[
    "b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "st", "tr", "ch",
    "sh", "pl",
];
const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "a", "e", "o"];
const CODAS: &[&str] = &["", "", "", "n", "r", "l", "s", "t", "x", "m", "k"];

/// A made-up lower-case word of two or three syllables, in practice sometimes four.
pub fn made_up(rng: &mut Rng) -> String {
    let syllables = if rng.practises(20) {
        4
    } else {
        rng.between(2, 3)
    };
    let mut word = String::new();
    for i in 0..syllables {
        word.push_str(rng.pick(ONSETS));
        word.push_str(rng.pick(VOWELS));
        if i + 1 == syllables {
            word.push_str(rng.pick(CODAS));
        }
    }
    word
}

/// The word with a capital first letter.
pub fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
        .unwrap_or_default()
}

/// A word from the list, or in 7 of 100 cases (in practice 25 more) a made-up one with a capital letter.
pub fn proper(rng: &mut Rng, list: &[&'static str]) -> String {
    if rng.practises(25) || rng.chance(7) {
        capital(&made_up(rng))
    } else {
        rng.pick(list).to_string()
    }
}

/// A word from the list, or in 7 of 100 cases (in practice 25 more) a made-up one.
pub fn common(rng: &mut Rng, list: &[&'static str]) -> String {
    if rng.practises(25) || rng.chance(7) {
        made_up(rng)
    } else {
        rng.pick(list).to_string()
    }
}
