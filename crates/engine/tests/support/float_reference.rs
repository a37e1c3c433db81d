//! A plain float32 forward pass of the same checkpoint: what the integer engine is compared with.

use stoa_engine::import::{Checkpoint, Part, Role};
use stoa_engine::{Config, ImportError};

struct Matrix {
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn times(&self, x: &[f32]) -> Vec<f32> {
        self.values
            .chunks_exact(self.columns)
            .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
            .collect()
    }
}

struct Layer {
    attention_norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    output: Matrix,
    ffn_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
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
}

impl FloatReference {
    /// Reads the tensors of a checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, ImportError> {
        let c = checkpoint.config().clone();
        let values = |role| -> Result<Vec<f32>, ImportError> {
            let v = checkpoint.values(role)?;
            let unit = 2f64.powi(-v.fraction);
            Ok(v.x.iter().map(|x| (*x as f64 * unit) as f32).collect())
        };
        let matrix = |role, columns| {
            Ok::<_, ImportError>(Matrix {
                columns,
                values: values(role)?,
            })
        };
        let mut layers = Vec::new();
        for index in 0..c.layers as u32 {
            let part = |part| Role::Layer(index, part);
            layers.push(Layer {
                attention_norm: values(part(Part::AttentionNorm))?,
                query: matrix(part(Part::Query), c.width)?,
                key: matrix(part(Part::Key), c.width)?,
                value: matrix(part(Part::Value), c.width)?,
                output: matrix(part(Part::AttentionOutput), c.query_width())?,
                ffn_norm: values(part(Part::FfnNorm))?,
                gate: matrix(part(Part::Gate), c.width)?,
                up: matrix(part(Part::Up), c.width)?,
                down: matrix(part(Part::Down), c.ffn)?,
                keys: vec![],
                values: vec![],
            });
        }
        let output = checkpoint
            .has(Role::Output)
            .then(|| matrix(Role::Output, c.width))
            .transpose()?;
        Ok(Self {
            embedding: matrix(Role::Embedding, c.width)?,
            norm: values(Role::OutputNorm)?,
            output,
            layers,
            split_halves: checkpoint.split_halves(),
            length: 0,
            config: c,
        })
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
        for layer in &mut self.layers {
            let h = normalise(&x, &layer.attention_norm, epsilon);
            let (mut q, mut k) = (layer.query.times(&h), layer.key.times(&h));
            rotate(&mut q, &turns, self.split_halves);
            rotate(&mut k, &turns, self.split_halves);
            layer.keys.push(k);
            layer.values.push(layer.value.times(&h));
            add(&mut x, &layer.output.times(&attend(c, &q, layer)));
            let h = normalise(&x, &layer.ffn_norm, epsilon);
            let hidden: Vec<f32> = layer
                .gate
                .times(&h)
                .iter()
                .zip(layer.up.times(&h))
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            add(&mut x, &layer.down.times(&hidden));
        }
        self.length += 1;
        let h = normalise(&x, &self.norm, epsilon);
        self.output.as_ref().unwrap_or(&self.embedding).times(&h)
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

fn normalise(x: &[f32], g: &[f32], epsilon: f32) -> Vec<f32> {
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

fn attend(c: &Config, query: &[f32], layer: &Layer) -> Vec<f32> {
    let width = c.head_width;
    let mut out = vec![0.0; query.len()];
    for (head, out) in out.chunks_exact_mut(width).enumerate() {
        let at = head / (c.heads / c.kv_heads) * width;
        let q = &query[head * width..][..width];
        let scores: Vec<f32> = layer
            .keys
            .iter()
            .map(|k| {
                q.iter().zip(&k[at..]).map(|(a, b)| a * b).sum::<f32>() / (width as f32).sqrt()
            })
            .collect();
        let highest = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - highest).exp()).collect();
        let total: f32 = weights.iter().sum();
        for (w, v) in weights.iter().zip(&layer.values) {
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
