//! The architectures that files name, and what each has. Everything else about an architecture stands in the file.

/// What is known of an architecture by its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    /// Its name in a GGUF file (`general.architecture`).
    pub gguf: &'static str,
    /// Its names in a `config.json` (`model_type`).
    pub hugging_face: &'static [&'static str],
    /// Query, key and value have biases.
    pub biases: bool,
    /// Heads pass a norm before they turn.
    pub head_norm: bool,
    /// What it has of experts.
    pub experts: Mixture,
    /// GGUF files keep rotary pairs as split halves, as safetensors do; otherwise side by side.
    pub split_halves: bool,
    /// It reads texts and writes none.
    pub encoder: bool,
}

/// What an architecture has of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mixture {
    /// None.
    Never,
    /// Some, when the file counts any; their weights sum to one.
    MayBe,
    /// Some; unless the file says it, their weights sum to one or not.
    Always {
        /// They do.
        renormalise: bool,
    },
}

const DENSE: Family = Family {
    gguf: "",
    hugging_face: &[],
    biases: false,
    head_norm: false,
    experts: Mixture::Never,
    split_halves: true,
    encoder: false,
};

const FAMILIES: [Family; 7] = [
    Family {
        gguf: "llama",
        hugging_face: &["llama", "mistral", "mixtral"],
        experts: Mixture::MayBe,
        split_halves: false,
        ..DENSE
    },
    Family {
        gguf: "mistral3",
        split_halves: false,
        ..DENSE
    },
    Family {
        gguf: "qwen2",
        hugging_face: &["qwen2"],
        biases: true,
        ..DENSE
    },
    Family {
        gguf: "qwen3",
        hugging_face: &["qwen3"],
        head_norm: true,
        ..DENSE
    },
    Family {
        gguf: "qwen2moe",
        hugging_face: &["qwen2_moe"],
        biases: true,
        experts: Mixture::Always { renormalise: false },
        ..DENSE
    },
    Family {
        gguf: "qwen3moe",
        hugging_face: &["qwen3_moe"],
        head_norm: true,
        experts: Mixture::Always { renormalise: true },
        ..DENSE
    },
    Family {
        gguf: "bert",
        hugging_face: &["bert"],
        // Nothing turns.
        split_halves: false,
        encoder: true,
        ..DENSE
    },
];

/// The architecture of a GGUF file.
pub(super) fn in_gguf(name: &str) -> Option<Family> {
    FAMILIES.into_iter().find(|f| f.gguf == name)
}

/// The architecture of a `config.json`.
pub(super) fn in_config(model_type: &str) -> Option<Family> {
    let mut families = FAMILIES.into_iter();
    families.find(|f| f.hugging_face.contains(&model_type))
}

/// Encoders that are not read, by their names in both kinds of files, and what they have that BERT has not.
const OTHER_ENCODERS: [(&[&str], &str); 10] = [
    (&["nomic-bert", "nomic_bert"], "rotary positions and gates"),
    (&["nomic-bert-moe"], "rotary positions and experts"),
    (&["jina-bert-v2"], "positions by ALiBi and gates"),
    (&["jina-bert-v3"], "rotary positions and adapters"),
    (
        &["modern-bert", "modernbert"],
        "rotary positions, windows and gates",
    ),
    (&["neo-bert", "neobert"], "rotary positions and gates"),
    (&["eurobert"], "rotary positions and gates"),
    (
        &["roberta", "xlm-roberta"],
        "another tokenizer than WordPiece and shifted positions",
    ),
    (&["distilbert"], "no token types and names of its own"),
    (
        &["gemma-embedding"],
        "rotary positions, windows and a projection",
    ),
];

/// What is said of an architecture that is not in the table.
pub(super) fn unknown(name: &str) -> String {
    let known: Vec<&str> = FAMILIES.iter().map(|f| f.gguf).collect();
    let mut encoders = OTHER_ENCODERS.iter();
    let why = match encoders.find(|(names, _)| names.contains(&name)) {
        Some((_, why)) => format!(", an encoder with {why}, which is not supported"),
        None => String::new(),
    };
    format!("is {name}{why}; this engine runs {}", known.join(", "))
}
