//! A plain float32 forward pass of the same checkpoint: what the integer engine is compared with.

use std::collections::BTreeMap;
use stoa_engine::import::{Checkpoint, Kind, Part, Role};
use stoa_engine::{Config, ImportError};

pub(super) struct Matrix {
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
    /// What a vector is rounded to before the product.
    pub(super) vectors: Rounding,
}

impl Matrix {
    pub(super) fn times(&self, x: &[f32]) -> Vec<f32> {
        let x = self.vectors.of(x, self.columns);
        self.values
            .chunks_exact(self.columns)
            .map(|row| dot(row, &x))
            .collect()
    }
}

/// A product of vectors in eight sums, which the compiler keeps side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (mut sums, (a, a_rest), (b, b_rest)) = ([0.0; 8], a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// A format that values are rounded to and read back from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rounding {
    /// None.
    #[default]
    Exact,
    /// binary16.
    Half,
    /// Q8_0: blocks of 32 int8 with a binary16 scale.
    Blocks,
    /// int8 with one scale, which is not rounded, for each head.
    Heads,
}

impl Rounding {
    fn of(self, x: &[f32], head: usize) -> Vec<f32> {
        match self {
            Self::Exact => x.to_vec(),
            Self::Half => x.iter().map(|v| half(*v)).collect(),
            Self::Blocks => int8(x, 32, half),
            Self::Heads => int8(x, head, |scale| scale),
        }
    }
}

fn int8(x: &[f32], block: usize, scale: fn(f32) -> f32) -> Vec<f32> {
    let blocks = x.chunks(block).flat_map(|block| {
        let exact = block.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
        let stored = scale(exact);
        let inverse = if exact == 0.0 { 0.0 } else { 1.0 / exact };
        block.iter().map(move |v| (v * inverse).round() * stored)
    });
    blocks.collect()
}

/// The nearest binary16 number, to even between two.
fn half(value: f32) -> f32 {
    // What lies below the format's 11 digits, or below its smallest number, is rounded off by a sum.
    let exponent = (value.abs().to_bits() >> 23).max(127 - 14);
    let shift = f32::from_bits((exponent + 23 - 10) << 23);
    let rounded = (value.abs() + shift) - shift;
    assert!(rounded <= 65_504.0, "{value} is beyond binary16");
    rounded.copysign(value)
}

/// What a float engine rounds. Norms, routers and sums stay float32.
#[derive(Debug, Clone, Copy, Default)]
pub struct Roundings {
    /// Weights of matrices.
    pub weights: Rounding,
    /// Vectors before they are multiplied by a matrix.
    pub vectors: Rounding,
    /// Queries, once they have turned.
    pub queries: Rounding,
    /// Keys in the cache.
    pub keys: Rounding,
    /// Values in the cache.
    pub values: Rounding,
}

impl Roundings {
    /// As llama.cpp computes with a Q8_0 file: weights and vectors in Q8_0, queries and cache in binary16.
    pub const Q8_0: Self = Self {
        weights: Rounding::Blocks,
        vectors: Rounding::Blocks,
        queries: Rounding::Half,
        keys: Rounding::Half,
        values: Rounding::Half,
    };
    /// The same with a cache in Q8_0.
    pub const Q8_0_CACHE: Self = Self {
        queries: Rounding::Blocks,
        keys: Rounding::Blocks,
        values: Rounding::Blocks,
        ..Self::Q8_0
    };
}

/// Gate, up and down; without a gate it is GELU.
pub(super) struct Network {
    gate: Option<Matrix>,
    up: Matrix,
    down: Matrix,
}

impl Network {
    pub(super) fn run(&self, x: &[f32], up_bias: &[f32]) -> Vec<f32> {
        let up = with(self.up.times(x), up_bias);
        let hidden: Vec<f32> = match &self.gate {
            Some(gate) => {
                let gates = gate.times(x);
                let all = gates.iter().zip(up);
                all.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
            }
            None => up.iter().map(|u| gelu(*u)).collect(),
        };
        self.down.times(&hidden)
    }
}

/// The router, the experts, and the shared one with its own router.
pub(super) struct Mixture {
    routers: Vec<Matrix>,
    experts: Vec<Network>,
    shared: Option<(Matrix, Network)>,
}

pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    pub(super) value: Matrix,
    pub(super) output: Matrix,
    pub(super) ffn_norm: Vec<f32>,
    pub(super) network: Option<Network>,
    pub(super) mixture: Option<Mixture>,
    /// Norms of heads and all biases; empty where there is none.
    pub(super) vectors: BTreeMap<Part, Vec<f32>>,
    pub(super) keys: Vec<Vec<f32>>,
    pub(super) values: Vec<Vec<f32>>,
}

impl Layer {
    pub(super) fn vector(&self, part: Part) -> &[f32] {
        self.vectors.get(&part).map_or(&[], Vec::as_slice)
    }

    /// All matrices but the routers.
    fn matrices(&mut self) -> Vec<&mut Matrix> {
        let mut all = vec![&mut self.query, &mut self.key, &mut self.value];
        all.push(&mut self.output);
        let mut networks: Vec<_> = self.network.iter_mut().collect();
        if let Some(mixture) = &mut self.mixture {
            networks.extend(&mut mixture.experts);
            networks.extend(mixture.shared.as_mut().map(|(_, network)| network));
        }
        for network in networks {
            all.extend(&mut network.gate);
            all.extend([&mut network.up, &mut network.down]);
        }
        all
    }
}

/// The model in float32 with its own KV cache.
pub struct FloatReference {
    config: Config,
    split_halves: bool,
    embedding: Matrix,
    norm: Vec<f32>,
    output: Option<Matrix>,
    layers: Vec<Layer>,
    length: usize,
    roundings: Roundings,
}

/// Reads tensors of a checkpoint.
pub(super) struct Tensors<'a>(pub(super) &'a Checkpoint);

impl Tensors<'_> {
    pub(super) fn values(&self, role: Role) -> Result<Vec<f32>, ImportError> {
        let v = self.0.values(role)?;
        let unit = 2f64.powi(-v.fraction);
        Ok(v.x.iter().map(|x| (*x as f64 * unit) as f32).collect())
    }

    pub(super) fn matrix(&self, role: Role) -> Result<Matrix, ImportError> {
        Ok(Matrix {
            columns: role.shape(self.0.config()).1,
            values: self.values(role)?,
            vectors: Rounding::Exact,
        })
    }

    fn network(
        &self,
        role: impl Fn(Part) -> Role,
        parts: [Part; 3],
    ) -> Result<Network, ImportError> {
        let [gate, up, down] = parts.map(role);
        let gate = self.0.has(gate).then(|| self.matrix(gate)).transpose()?;
        Ok(Network {
            gate,
            up: self.matrix(up)?,
            down: self.matrix(down)?,
        })
    }

    fn mixture(&self, role: impl Fn(Part) -> Role + Copy) -> Result<Option<Mixture>, ImportError> {
        let Some(experts) = self.0.config().architecture.experts else {
            return Ok(None);
        };
        let expert = |e| [Part::ExpertGate(e), Part::ExpertUp(e), Part::ExpertDown(e)];
        let shared = [Part::SharedGate, Part::SharedUp, Part::SharedDown];
        let shared = (experts.shared != 0).then(|| -> Result<_, ImportError> {
            let router = self.matrix(role(Part::SharedRouter))?;
            Ok((router, self.network(role, shared)?))
        });
        let all = (0..experts.count as u32).map(|e| self.network(role, expert(e)));
        Ok(Some(Mixture {
            routers: (0..experts.count as u32)
                .map(|e| self.matrix(role(Part::ExpertRouter(e))))
                .collect::<Result<_, _>>()?,
            experts: all.collect::<Result<_, _>>()?,
            shared: shared.transpose()?,
        }))
    }

    pub(super) fn layer(&self, index: u32) -> Result<Layer, ImportError> {
        let role = |part| Role::Layer(index, part);
        let mixture = self.mixture(role)?;
        let dense = [Part::Gate, Part::Up, Part::Down];
        let network = match &mixture {
            Some(_) => None,
            None => Some(self.network(role, dense)?),
        };
        let all = Part::all(self.0.config());
        let is_vector = |part: &Part| role(*part).kind() != Kind::Matrix;
        let vectors = all.into_iter().filter(is_vector);
        let vectors = vectors.map(|part| Ok((part, self.values(role(part))?)));
        Ok(Layer {
            attention_norm: self.values(role(Part::AttentionNorm))?,
            query: self.matrix(role(Part::Query))?,
            key: self.matrix(role(Part::Key))?,
            value: self.matrix(role(Part::Value))?,
            output: self.matrix(role(Part::AttentionOutput))?,
            ffn_norm: self.values(role(Part::FfnNorm))?,
            vectors: vectors.collect::<Result<_, ImportError>>()?,
            network,
            mixture,
            keys: vec![],
            values: vec![],
        })
    }
}

impl FloatReference {
    /// Reads the tensors of a decoder's checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, ImportError> {
        let c = checkpoint.config().clone();
        let tensors = Tensors(checkpoint);
        let layers = (0..c.layers as u32).map(|index| tensors.layer(index));
        let output = checkpoint.has(Role::Output);
        let output = output.then(|| tensors.matrix(Role::Output)).transpose()?;
        Ok(Self {
            embedding: tensors.matrix(Role::Embedding)?,
            norm: tensors.values(Role::OutputNorm)?,
            output,
            layers: layers.collect::<Result<_, _>>()?,
            split_halves: checkpoint.split_halves(),
            length: 0,
            config: c,
            roundings: Roundings::default(),
        })
    }

    /// The same model with these roundings.
    pub fn rounded(mut self, roundings: Roundings) -> Self {
        let layers = self.layers.iter_mut().flat_map(Layer::matrices);
        let ends = [&mut self.embedding].into_iter().chain(&mut self.output);
        for matrix in layers.chain(ends) {
            matrix.values = roundings.weights.of(&matrix.values, matrix.columns);
            matrix.vectors = roundings.vectors;
        }
        self.roundings = roundings;
        self
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.length = 0;
        for layer in &mut self.layers {
            layer.keys.clear();
            layer.values.clear();
        }
    }

    /// Logits after one more token.
    pub fn step(&mut self, token: u32) -> Vec<f32> {
        let c = &self.config;
        let epsilon = c.epsilon_q32 as f32 / 2f32.powi(32);
        let mut x = self.embedding.values[token as usize * c.width..][..c.width].to_vec();
        let turns: Vec<f64> = c
            .rotary
            .iter()
            .map(|f| *f as f64 / 2f64.powi(64) * self.length as f64)
            .collect();
        let gain = c.rotary_gain_q16 as f32 / 65_536.0;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let h = normalise(&x, &layer.attention_norm, epsilon);
            let mut q = with(layer.query.times(&h), layer.vector(Part::QueryBias));
            let mut k = with(layer.key.times(&h), layer.vector(Part::KeyBias));
            let value = with(layer.value.times(&h), layer.vector(Part::ValueBias));
            for (heads, norm) in [(&mut q, Part::QueryNorm), (&mut k, Part::KeyNorm)] {
                if c.architecture.head_norm {
                    let heads = heads.chunks_exact_mut(c.head_width);
                    let norm = layer.vector(norm);
                    heads.for_each(|h| h.copy_from_slice(&normalise(h, norm, epsilon)));
                }
                rotate(heads, &turns, self.split_halves);
                heads.iter_mut().for_each(|v| *v *= gain);
            }
            let (r, width) = (self.roundings, c.head_width);
            let q = r.queries.of(&q, width);
            layer.keys.push(r.keys.of(&k, width));
            layer.values.push(r.values.of(&value, width));
            add(&mut x, &layer.output.times(&attend(c, index, &q, layer)));
            let h = normalise(&x, &layer.ffn_norm, epsilon);
            if let Some(network) = &layer.network {
                add(&mut x, &network.run(&h, &[]));
            }
            if let Some(mixture) = &layer.mixture {
                add(&mut x, &mix(c, mixture, &h));
            }
        }
        self.length += 1;
        let h = normalise(&x, &self.norm, epsilon);
        self.output.as_ref().unwrap_or(&self.embedding).times(&h)
    }
}

fn mix(c: &Config, mixture: &Mixture, x: &[f32]) -> Vec<f32> {
    let experts = c.architecture.experts.expect("it has some");
    let logits: Vec<f32> = mixture.routers.iter().map(|r| r.times(x)[0]).collect();
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    let weights: Vec<f32> = logits.iter().map(|l| (l - highest).exp()).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let chosen = &order[..experts.chosen];
    let total: f32 = match experts.renormalise {
        true => chosen.iter().map(|e| weights[*e]).sum(),
        false => weights.iter().sum(),
    };
    let mut out = vec![0.0; x.len()];
    for expert in chosen {
        let y = mixture.experts[*expert].run(x, &[]);
        let share = weights[*expert] / total;
        out.iter_mut().zip(y).for_each(|(o, y)| *o += share * y);
    }
    if let Some((router, shared)) = &mixture.shared {
        let share = 1.0 / (1.0 + (-router.times(x)[0]).exp());
        let y = shared.run(x, &[]);
        out.iter_mut().zip(y).for_each(|(o, y)| *o += share * y);
    }
    out
}

pub(super) fn with(mut values: Vec<f32>, bias: &[f32]) -> Vec<f32> {
    add(&mut values, bias);
    values
}

/// GELU by the error function (Abramowitz and Stegun 7.1.26, within 2e-7).
fn gelu(x: f32) -> f32 {
    let z = f64::from(x).abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let terms = [
        1.061_405_429,
        -1.453_152_027,
        1.421_413_741,
        -0.284_496_736,
        0.254_829_592,
    ];
    let tail = terms.iter().fold(0.0, |sum, a| (sum + a) * t) * (-z * z).exp();
    let share = if x < 0.0 {
        tail / 2.0
    } else {
        1.0 - tail / 2.0
    };
    (f64::from(x) * share) as f32
}

pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

pub(super) fn normalise(x: &[f32], g: &[f32], epsilon: f32) -> Vec<f32> {
    let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    let factor = 1.0 / (mean + epsilon).sqrt();
    x.iter().zip(g).map(|(v, g)| v * factor * g).collect()
}

fn rotate(heads: &mut [f32], turns: &[f64], split_halves: bool) {
    let half = turns.len();
    for head in heads.chunks_exact_mut(2 * half) {
        for (i, turn) in turns.iter().enumerate() {
            let (a, b) = if split_halves {
                (i, i + half)
            } else {
                (2 * i, 2 * i + 1)
            };
            let (sin, cos) = (turn.fract() * std::f64::consts::TAU).sin_cos();
            let (sin, cos) = (sin as f32, cos as f32);
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
        }
    }
}

pub(super) fn attend(c: &Config, index: usize, query: &[f32], layer: &Layer) -> Vec<f32> {
    let width = c.head_width;
    let first = layer.keys.len().saturating_sub(c.window(index));
    let mut out = vec![0.0; query.len()];
    for (head, out) in out.chunks_exact_mut(width).enumerate() {
        let at = head / (c.heads / c.kv_heads) * width;
        let q = &query[head * width..][..width];
        let scores: Vec<f32> = layer.keys[first..]
            .iter()
            .map(|k| {
                q.iter().zip(&k[at..]).map(|(a, b)| a * b).sum::<f32>() / (width as f32).sqrt()
            })
            .collect();
        let highest = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - highest).exp()).collect();
        let total: f32 = weights.iter().sum();
        for (w, v) in weights.iter().zip(&layer.values[first..]) {
            for (o, v) in out.iter_mut().zip(&v[at..]) {
                *o += w / total * v;
            }
        }
    }
    out
}

/// KL divergence in nats of the engine's distribution (16-bit fixed-point logits) from the reference's, and whether both have
/// the same first choice.
pub fn compare(reference: &[f32], logits: &[i32]) -> (f64, bool) {
    let a = log_softmax(
        reference
            .iter()
            .take(logits.len())
            .map(|l| f64::from(*l))
            .collect(),
    );
    let b = log_softmax(logits.iter().map(|l| f64::from(*l) / 65_536.0).collect());
    let kl = a.iter().zip(&b).map(|(a, b)| a.exp() * (a - b)).sum();
    let first = |l: &[f64]| (0..l.len()).max_by(|i, j| l[*i].total_cmp(&l[*j]));
    (kl, first(&a) == first(&b))
}

/// Natural logarithms of the softmax.
pub fn log_softmax(mut logits: Vec<f64>) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::MIN, f64::max);
    let total: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
    for l in &mut logits {
        *l -= highest + total.ln();
    }
    logits
}
