//! The operators of a token step, in order, as they follow from a model's shape.

use crate::config::{Config, Experts};
use crate::import::{Part, Role};
use crate::ops::FRACTION;
use crate::quant::BLOCK;
use std::ops::Index;
use std::sync::OnceLock;

/// Elements that one element of a folding operator looks at.
pub const FOLD: usize = 1_024;
/// Positions whose values one element of [`Kind::BlendSums`] looks at.
pub const VALUES_FOLD: usize = 256;
/// Numbers of a leaf.
pub const LEAF: usize = 32;

/// How the elements of an output stand in the leaves of its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// 32 numbers of 32 bits in a leaf.
    Narrow,
    /// 32 numbers of 64 bits in a leaf.
    Wide,
    /// One cell of so many scales and int8 elements in a leaf.
    Cells {
        /// Scales of a cell.
        scales: usize,
        /// Elements of a cell.
        width: usize,
    },
}

impl Form {
    /// A quantised vector: a cell for each block.
    const BLOCKS: Self = Self::Cells {
        scales: 1,
        width: BLOCK,
    };

    /// Elements of a leaf.
    pub fn per_leaf(self) -> usize {
        match self {
            Self::Narrow | Self::Wide => LEAF,
            Self::Cells { .. } => 1,
        }
    }
}

/// Fraction bits of numbers that are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fraction {
    /// Always the same.
    Fixed(i32),
    /// Those that a norm with this tensor's weights leaves.
    OfNorm(u32),
}

/// Neighbouring groups of as many numbers, each folded by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// How many groups.
    pub count: usize,
    /// Numbers of each.
    pub each: usize,
}

impl Groups {
    /// Parts that a group is folded in.
    pub fn parts(self, fold: usize) -> usize {
        self.each.div_ceil(fold)
    }
}

/// Which rows a product has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// Those of a tensor.
    Tensor(u32),
    /// Those of the expert that was chosen in this place.
    Expert {
        /// Operator that chose.
        choice: usize,
        /// Place among the chosen.
        place: usize,
        /// Layer.
        layer: u32,
        /// Which of its matrices.
        part: ExpertPart,
    },
}

/// A matrix of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertPart {
    /// Gate.
    Gate,
    /// Up.
    Up,
    /// Down.
    Down,
}

impl ExpertPart {
    /// The tensor's number in the model root.
    pub fn tensor(self, layer: u32, expert: u32) -> u32 {
        let part = match self {
            Self::Gate => Part::ExpertGate(expert),
            Self::Up => Part::ExpertUp(expert),
            Self::Down => Part::ExpertDown(expert),
        };
        Role::Layer(layer, part).number()
    }
}

/// What an operator does; `docs/trace.md` has the rules. Numbers of operators are of earlier ones in the same step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are the operands, by the names of the rules.
pub enum Kind {
    /// The token's row of the embedding.
    Embedding,
    /// Greatest magnitude of each part.
    Magnitudes { of: usize },
    /// Sum of the squares of each part, cut as RMSNorm says.
    Squares { of: usize, magnitudes: usize },
    /// RMSNorm before it is quantised.
    Normalised {
        of: usize,
        magnitudes: usize,
        squares: usize,
        norm: u32,
    },
    /// A vector as int8.
    Quantised {
        of: usize,
        magnitudes: usize,
        fraction: Fraction,
    },
    /// Rows times a quantised vector; with a bias, or added to the residual `onto`.
    Product {
        of: usize,
        matrix: Matrix,
        bias: Option<u32>,
        onto: Option<usize>,
    },
    /// RMSNorm of each head.
    HeadNorm { of: usize, norm: u32 },
    /// Rotation by the position.
    Turned { of: usize },
    /// Query heads, scaled and quantised.
    Query { of: usize },
    /// Key heads as they are appended to the log.
    Key { of: usize },
    /// Value heads as they are appended to the log.
    Value { of: usize },
    /// Scores of every query head with the positions that are seen.
    Scores { query: usize, key: usize },
    /// Greatest number of each part.
    Largest { of: usize, groups: Groups },
    /// Softmax weights.
    Weights {
        scores: usize,
        largest: usize,
        groups: Groups,
    },
    /// Sum of each part.
    Sums { of: usize, groups: Groups },
    /// Scales of the values that are seen, key head after key head.
    ValueScales { value: usize },
    /// Their exponents.
    ValueExponents { value: usize },
    /// Greatest weight times scale of each part, after the division by powers of two.
    Products {
        weights: usize,
        scales: usize,
        exponents: usize,
        largest_exponents: usize,
    },
    /// Weights times scales as 15-bit numbers.
    BlendWeights {
        weights: usize,
        scales: usize,
        exponents: usize,
        largest_exponents: usize,
        largest: usize,
    },
    /// Values times those, of [`VALUES_FOLD`] positions each.
    BlendSums { weights: usize, value: usize },
    /// Attention of every head.
    Attended {
        sums: usize,
        total: usize,
        largest_exponents: usize,
        largest: usize,
    },
    /// SwiGLU.
    Swiglu { gate: usize, up: usize },
    /// A normalised vector with 16 fraction bits.
    RouterInput { of: usize, norm: u32 },
    /// What the router says of each expert: one row each.
    Router { of: usize, rows: Rows },
    /// The chosen experts and their weights, then the sum of the weights.
    Chosen { router: usize },
    /// Experts joined, added to the residual.
    Mixture {
        outputs: Vec<usize>,
        choice: usize,
        shared: Option<(usize, usize)>,
        onto: usize,
    },
    /// Logits with bias and penalties.
    Adjusted { of: usize },
    /// The chosen token.
    Token { logits: usize, largest: usize },
}

/// Rows of 16-bit numbers that a router has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// One for each expert of a layer.
    Experts(u32),
    /// The shared expert's.
    Shared(u32),
}

impl Rows {
    /// The tensor of a row.
    pub fn tensor(self, row: usize) -> u32 {
        match self {
            Self::Experts(layer) => Role::Layer(layer, Part::ExpertRouter(row as u32)).number(),
            Self::Shared(layer) => Role::Layer(layer, Part::SharedRouter).number(),
        }
    }
}

/// An operator of a token step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// What people call it.
    pub name: String,
    /// Its layer; none before the first and after the last.
    pub layer: Option<u32>,
    /// What it does.
    pub kind: Kind,
    /// How its output stands in leaves.
    pub form: Form,
    /// Elements of its output: numbers or cells.
    pub length: usize,
}

impl Operator {
    /// Leaves of its output's tree.
    pub fn leaves(&self) -> usize {
        self.length.div_ceil(self.form.per_leaf())
    }
}

/// What a step is made for, besides the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Position of its token, from 0.
    pub position: usize,
    /// Whether logits are made of it: of the last token of a prompt and of those of the answer.
    pub logits: bool,
    /// Whether bias or penalties change them.
    pub adjusted: bool,
    /// Whether the choice of the next token follows from them alone: not where a grammar holds the answer.
    pub choice: bool,
}

/// The operators of a token step.
#[derive(Debug, Clone)]
pub struct Program {
    /// In the order of their numbers. No operator needs a later one.
    pub operators: Operators,
    /// The operator whose output is the residual after the last layer.
    pub residual: usize,
    /// The operator of the model's own logits.
    pub logits: Option<usize>,
    /// The operator of the chosen token.
    pub token: Option<usize>,
    /// Of the first layer, the operators whose outputs join the log.
    appended: [usize; 2],
}

impl Program {
    /// The operators of a decoder's step. `tied` says that the embedding is the output matrix too.
    pub fn new(config: &Config, tied: bool, step: Step) -> Self {
        let mut first = Builder::new(config, step, 1);
        let appended = first.layer(0);
        let each = first.operators.len();
        let residual = config.layers * each;
        let mut head = Builder::new(config, step, residual + 1);
        let (logits, token) = head.head(residual, tied);
        Self {
            operators: Operators {
                config: config.clone(),
                step,
                each,
                embedding: embedding(config),
                layers: vec![OnceLock::new(); config.layers],
                head: head.operators,
            },
            residual,
            logits,
            token,
            appended,
        }
    }

    /// The operators of a layer whose outputs join the log: keys and values.
    pub fn appended(&self, layer: usize) -> Option<[usize; 2]> {
        let operators = &self.operators;
        let there = layer < operators.layers.len();
        there.then(|| self.appended.map(|first| first + layer * operators.each))
    }
}

/// Operators by their numbers. Every layer has as many, and a layer's are made when one of them is first looked at: whoever judges a claim
/// needs those of a layer or two, and a forged shape may have half a million.
#[derive(Debug, Clone)]
pub struct Operators {
    config: Config,
    step: Step,
    /// Operators of a layer.
    each: usize,
    embedding: Operator,
    layers: Vec<OnceLock<Vec<Operator>>>,
    head: Vec<Operator>,
}

impl Operators {
    /// How many there are.
    pub fn len(&self) -> usize {
        1 + self.layers.len() * self.each + self.head.len()
    }

    /// Never: every step begins with a token's embedding.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// One of them.
    pub fn get(&self, number: usize) -> Option<&Operator> {
        let Some(number) = number.checked_sub(1) else {
            return Some(&self.embedding);
        };
        let (layer, within) = (number / self.each, number % self.each);
        match self.layers.get(layer) {
            Some(made) => made.get_or_init(|| self.layer(layer)).get(within),
            None => self.head.get(number - self.layers.len() * self.each),
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Operator> + Clone {
        (0..self.len()).map(|number| &self[number])
    }

    fn layer(&self, layer: usize) -> Vec<Operator> {
        let mut builder = Builder::new(&self.config, self.step, 1 + layer * self.each);
        builder.layer(layer as u32);
        builder.operators
    }
}

impl Index<usize> for Operators {
    type Output = Operator;

    fn index(&self, number: usize) -> &Operator {
        self.get(number)
            .expect("a step has an operator of this number")
    }
}

fn embedding(config: &Config) -> Operator {
    Operator {
        name: "embedding".to_owned(),
        layer: None,
        kind: Kind::Embedding,
        form: Form::Narrow,
        length: config.width,
    }
}

/// Operators of one layer, or those after the last.
struct Builder<'a> {
    config: &'a Config,
    step: Step,
    layer: Option<u32>,
    /// Number of the first.
    first: usize,
    operators: Vec<Operator>,
}

impl<'a> Builder<'a> {
    fn new(config: &'a Config, step: Step, first: usize) -> Self {
        Self {
            config,
            step,
            layer: None,
            first,
            operators: Vec::new(),
        }
    }

    /// All of a layer, which follow the residual before it; the last is the residual after it. Those whose outputs join the log.
    fn layer(&mut self, layer: u32) -> [usize; 2] {
        self.layer = Some(layer);
        let (after, log) = self.attention(layer, self.first - 1);
        self.feed_forward(layer, after);
        log
    }

    fn push(&mut self, name: impl Into<String>, kind: Kind, form: Form, length: usize) -> usize {
        self.operators.push(Operator {
            name: name.into(),
            layer: self.layer,
            kind,
            form,
            length,
        });
        self.first + self.operators.len() - 1
    }

    /// Elements of an operator: one of these, or the residual that they follow.
    fn length(&self, of: usize) -> usize {
        match of.checked_sub(self.first) {
            Some(at) => self.operators[at].length,
            None => self.config.width,
        }
    }

    /// Magnitudes of a whole vector.
    fn magnitudes(&mut self, name: &str, of: usize) -> usize {
        let parts = self.length(of).div_ceil(FOLD);
        let name = format!("{name} magnitudes");
        self.push(name, Kind::Magnitudes { of }, Form::Wide, parts)
    }

    fn quantised(&mut self, name: &str, of: usize, fraction: Fraction) -> usize {
        let magnitudes = self.magnitudes(name, of);
        let blocks = self.length(of) / BLOCK;
        let kind = Kind::Quantised {
            of,
            magnitudes,
            fraction,
        };
        self.push(format!("{name} quantised"), kind, Form::BLOCKS, blocks)
    }

    /// RMSNorm of a residual: before it is quantised, and after.
    fn norm(&mut self, name: &str, of: usize, norm: Role) -> (usize, usize) {
        let (norm, width) = (norm.number(), self.config.width);
        let magnitudes = self.magnitudes(&format!("{name} input"), of);
        let squares = Kind::Squares { of, magnitudes };
        let parts = width.div_ceil(FOLD);
        let squares = self.push(format!("{name} squares"), squares, Form::Wide, parts);
        let kind = Kind::Normalised {
            of,
            magnitudes,
            squares,
            norm,
        };
        let normalised = self.push(name, kind, Form::Wide, width);
        let quantised = self.quantised(name, normalised, Fraction::OfNorm(norm));
        (normalised, quantised)
    }

    fn product(
        &mut self,
        name: impl Into<String>,
        of: usize,
        matrix: Matrix,
        bias: Option<Role>,
        rows: usize,
    ) -> usize {
        let kind = Kind::Product {
            of,
            matrix,
            bias: bias.map(Role::number),
            onto: None,
        };
        self.push(name, kind, Form::Narrow, rows)
    }

    /// A product of a residual's width, added to it.
    fn product_onto(&mut self, name: &str, of: usize, tensor: Role, onto: usize) -> usize {
        let kind = Kind::Product {
            of,
            matrix: Matrix::Tensor(tensor.number()),
            bias: None,
            onto: Some(onto),
        };
        self.push(name, kind, Form::Narrow, self.config.width)
    }

    /// Query, key or value of all heads, up to its rotation.
    fn heads(
        &mut self,
        name: &str,
        of: usize,
        [matrix, bias]: [Role; 2],
        norm: Option<Role>,
    ) -> usize {
        let c = self.config;
        let rows = if name == "query" {
            c.query_width()
        } else {
            c.kv_width()
        };
        let bias = c.architecture.biases.then_some(bias);
        let mut heads = self.product(name, of, Matrix::Tensor(matrix.number()), bias, rows);
        if let Some(norm) = norm.filter(|_| c.architecture.head_norm) {
            let kind = Kind::HeadNorm {
                of: heads,
                norm: norm.number(),
            };
            heads = self.push(format!("{name} head norm"), kind, Form::Narrow, rows);
        }
        if name != "value" {
            let kind = Kind::Turned { of: heads };
            heads = self.push(format!("{name} rotation"), kind, Form::Narrow, rows);
        }
        heads
    }

    /// The residual after attention, and what joins the log.
    fn attention(&mut self, layer: u32, residual: usize) -> (usize, [usize; 2]) {
        let c = self.config;
        let role = |part| Role::Layer(layer, part);
        let (_, x) = self.norm("attention norm", residual, role(Part::AttentionNorm));
        let parts = [role(Part::Query), role(Part::QueryBias)];
        let query = self.heads("query", x, parts, Some(role(Part::QueryNorm)));
        let parts = [role(Part::Key), role(Part::KeyBias)];
        let key = self.heads("key", x, parts, Some(role(Part::KeyNorm)));
        let parts = [role(Part::Value), role(Part::ValueBias)];
        let value = self.heads("value", x, parts, None);
        let (width, blocks) = (c.head_width, c.head_width / BLOCK);
        let cells = c.heads * blocks;
        let kind = Kind::Query { of: query };
        let query = self.push("query quantised", kind, Form::BLOCKS, cells);
        let form = |scales| Form::Cells { scales, width };
        let kind = Kind::Key { of: key };
        let key = self.push("key appended", kind, form(blocks), c.kv_heads);
        let kind = Kind::Value { of: value };
        let value = self.push("value appended", kind, form(1), c.kv_heads);
        let attended = self.attend(query, key, value, c.window(layer as usize));
        let vector = self.quantised("attended", attended, Fraction::Fixed(FRACTION));
        let output = role(Part::AttentionOutput);
        let after = self.product_onto("attention residual", vector, output, residual);
        (after, [key, value])
    }

    fn attend(&mut self, query: usize, key: usize, value: usize, window: usize) -> usize {
        let c = self.config;
        let seen = (self.step.position + 1).min(window);
        let all = Groups {
            count: c.heads,
            each: seen,
        };
        let shared = Groups {
            count: c.kv_heads,
            each: seen,
        };
        let parts = c.heads * all.parts(FOLD);
        let kind = Kind::Scores { query, key };
        let scores = self.push("scores", kind, Form::Narrow, c.heads * seen);
        let kind = Kind::Largest {
            of: scores,
            groups: all,
        };
        let largest = self.push("largest scores", kind, Form::Wide, parts);
        let kind = Kind::Weights {
            scores,
            largest,
            groups: all,
        };
        let weights = self.push("softmax weights", kind, Form::Narrow, c.heads * seen);
        let kind = Kind::Sums {
            of: weights,
            groups: all,
        };
        let total = self.push("softmax sums", kind, Form::Wide, parts);
        let numbers = c.kv_heads * seen;
        let scales = self.push(
            "value scales",
            Kind::ValueScales { value },
            Form::Narrow,
            numbers,
        );
        let kind = Kind::ValueExponents { value };
        let exponents = self.push("value exponents", kind, Form::Narrow, numbers);
        let kind = Kind::Largest {
            of: exponents,
            groups: shared,
        };
        let of_shared = c.kv_heads * shared.parts(FOLD);
        let largest_exponents = self.push("largest value exponents", kind, Form::Wide, of_shared);
        let kind = Kind::Products {
            weights,
            scales,
            exponents,
            largest_exponents,
        };
        let largest = self.push("largest blend products", kind, Form::Wide, parts);
        let kind = Kind::BlendWeights {
            weights,
            scales,
            exponents,
            largest_exponents,
            largest,
        };
        let weights = self.push("blend weights", kind, Form::Narrow, c.heads * seen);
        let kind = Kind::BlendSums { weights, value };
        let sums = c.query_width() * all.parts(VALUES_FOLD);
        let sums = self.push("blend sums", kind, Form::Wide, sums);
        let kind = Kind::Attended {
            sums,
            total,
            largest_exponents,
            largest,
        };
        self.push("attended", kind, Form::Narrow, c.query_width())
    }

    fn feed_forward(&mut self, layer: u32, residual: usize) -> usize {
        let role = |part| Role::Layer(layer, part);
        let norm = role(Part::FfnNorm);
        let (normalised, x) = self.norm("feed-forward norm", residual, norm);
        if let Some(experts) = self.config.architecture.experts {
            return self.experts(layer, residual, normalised, x, &experts);
        }
        let matrix = |part| Matrix::Tensor(role(part).number());
        let matrices = [matrix(Part::Gate), matrix(Part::Up)];
        let hidden = self.gated("", x, matrices, self.config.ffn);
        self.product_onto("feed-forward residual", hidden, role(Part::Down), residual)
    }

    /// What gate and up make of a vector, quantised.
    fn gated(&mut self, prefix: &str, x: usize, [gate, up]: [Matrix; 2], width: usize) -> usize {
        let gate = self.product(format!("{prefix}gate"), x, gate, None, width);
        let up = self.product(format!("{prefix}up"), x, up, None, width);
        let kind = Kind::Swiglu { gate, up };
        let name = format!("{prefix}hidden");
        let hidden = self.push(&*name, kind, Form::Wide, width);
        self.quantised(&name, hidden, Fraction::Fixed(2 * FRACTION))
    }

    fn experts(
        &mut self,
        layer: u32,
        residual: usize,
        normalised: usize,
        x: usize,
        experts: &Experts,
    ) -> usize {
        let width = self.config.width;
        let role = |part| Role::Layer(layer, part);
        let kind = Kind::RouterInput {
            of: normalised,
            norm: role(Part::FfnNorm).number(),
        };
        let input = self.push("router input", kind, Form::Narrow, width);
        let kind = Kind::Router {
            of: input,
            rows: Rows::Experts(layer),
        };
        let router = self.push("router", kind, Form::Narrow, experts.count);
        let kind = Kind::Chosen { router };
        let choice = self.push("chosen experts", kind, Form::Wide, 2 * experts.chosen + 1);
        let mut outputs = Vec::with_capacity(experts.chosen);
        for place in 0..experts.chosen {
            let matrix = |part| Matrix::Expert {
                choice,
                place,
                layer,
                part,
            };
            let prefix = format!("expert {place} ");
            let matrices = [matrix(ExpertPart::Gate), matrix(ExpertPart::Up)];
            let hidden = self.gated(&prefix, x, matrices, experts.width);
            let down = matrix(ExpertPart::Down);
            outputs.push(self.product(format!("{prefix}down"), hidden, down, None, width));
        }
        let shared = (experts.shared > 0).then(|| {
            let kind = Kind::Router {
                of: input,
                rows: Rows::Shared(layer),
            };
            let says = self.push("shared router", kind, Form::Narrow, 1);
            let matrix = |part| Matrix::Tensor(role(part).number());
            let matrices = [matrix(Part::SharedGate), matrix(Part::SharedUp)];
            let hidden = self.gated("shared ", x, matrices, experts.shared);
            let down = matrix(Part::SharedDown);
            (self.product("shared down", hidden, down, None, width), says)
        });
        let kind = Kind::Mixture {
            outputs,
            choice,
            shared,
            onto: residual,
        };
        self.push("feed-forward residual", kind, Form::Narrow, width)
    }

    /// Logits and the choice, where the step has them.
    fn head(&mut self, residual: usize, tied: bool) -> (Option<usize>, Option<usize>) {
        if !self.step.logits {
            return (None, None);
        }
        let (_, x) = self.norm("output norm", residual, Role::OutputNorm);
        let output = if tied { Role::Embedding } else { Role::Output };
        let vocab = self.config.vocab;
        let logits = self.product("logits", x, Matrix::Tensor(output.number()), None, vocab);
        if !self.step.choice {
            return (Some(logits), None);
        }
        let mut adjusted = logits;
        if self.step.adjusted {
            let kind = Kind::Adjusted { of: logits };
            adjusted = self.push("adjusted logits", kind, Form::Narrow, vocab);
        }
        let groups = Groups {
            count: 1,
            each: vocab,
        };
        let kind = Kind::Largest {
            of: adjusted,
            groups,
        };
        let largest = self.push("largest logits", kind, Form::Wide, groups.parts(FOLD));
        let kind = Kind::Token {
            logits: adjusted,
            largest,
        };
        let token = self.push("token", kind, Form::Wide, 1);
        (Some(logits), Some(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Architecture, ONE_Q16};

    #[test]
    fn of_half_a_million_operators_those_of_the_layers_that_are_looked_at_are_made() {
        let experts = Experts {
            count: 1 << 10,
            chosen: 1 << 6,
            width: 32,
            shared: 32,
            renormalise: true,
        };
        let config = Config {
            vocab: 10,
            width: 32,
            layers: 1 << 10,
            heads: 1,
            kv_heads: 1,
            head_width: 32,
            ffn: 32,
            context: 8,
            epsilon_q32: 1,
            rotary: vec![0; 16],
            rotary_gain_q16: ONE_Q16,
            architecture: Architecture {
                experts: Some(experts),
                ..Architecture::default()
            },
        };
        config.check().expect("the semantics covers it");
        let step = Step {
            position: 0,
            logits: true,
            adjusted: true,
            choice: true,
        };
        let program = Program::new(&config, false, step);
        let operators = &program.operators;
        assert!(operators.len() > 400_000, "{}", operators.len());
        let residual = &operators[program.residual];
        assert_eq!(residual.name, "feed-forward residual");
        assert_eq!(residual.layer, Some(1023));
        let [key, value] = program.appended(511).expect("a layer");
        assert_eq!(operators[key].name, "key appended");
        assert_eq!((operators[value].layer, value), (Some(511), key + 1));
        assert_eq!(operators[operators.len() - 1].name, "token");
        assert_eq!(program.token, Some(operators.len() - 1));
        assert_eq!(operators.get(operators.len()), None);
        assert_eq!(operators[0].name, "embedding");
        let made = operators.layers.iter().filter(|l| l.get().is_some());
        assert_eq!(made.count(), 2);
        // Each needs earlier ones alone, those of its own layer or the residual before it.
        let first = 1 + 511 * operators.each;
        let quantised = (first..key).find_map(|number| match operators[number].kind {
            Kind::Squares { of, magnitudes } => Some((of, magnitudes)),
            _ => None,
        });
        assert_eq!(quantised, Some((first - 1, first)));
    }
}
