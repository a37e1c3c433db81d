//! A plain float32 encoder of the same checkpoint.

use super::float_reference::{Layer, Matrix, Tensors, add, attend, normalise, with};
use stoa_engine::import::{Checkpoint, Part, Role};
use stoa_engine::{Config, ImportError};

/// The model in float32.
pub struct EncoderReference {
    config: Config,
    embedding: Matrix,
    positions: Matrix,
    types: Vec<f32>,
    norm: [Vec<f32>; 2],
    layers: Vec<Layer>,
}

impl EncoderReference {
    /// Reads the tensors of an encoder's checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, ImportError> {
        let c = checkpoint.config().clone();
        let tensors = Tensors(checkpoint);
        let layers = (0..c.layers as u32).map(|index| tensors.layer(index));
        let norm = tensors.values(Role::EmbeddingNorm)?;
        Ok(Self {
            embedding: tensors.matrix(Role::Embedding)?,
            positions: tensors.matrix(Role::Positions)?,
            types: tensors.values(Role::TokenTypes)?,
            norm: [norm, tensors.values(Role::EmbeddingNormBias)?],
            layers: layers.collect::<Result<_, _>>()?,
            config: c,
        })
    }

    /// The sum of the states of a text.
    pub fn mean(&mut self, tokens: &[u32]) -> Vec<f32> {
        let c = &self.config;
        let row = |table: &[f32], at: usize| table[at * c.width..][..c.width].to_vec();
        let embed = |(position, token): (usize, &u32)| {
            let mut x = row(&self.embedding.values, *token as usize);
            add(&mut x, &row(&self.positions.values, position));
            add(&mut x, &row(&self.types, 0));
            layer_norm(&x, &self.norm[0], &self.norm[1])
        };
        let mut rows: Vec<Vec<f32>> = tokens.iter().enumerate().map(embed).collect();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.keys = rows
                .iter()
                .map(|x| with(layer.key.times(x), layer.vector(Part::KeyBias)))
                .collect();
            layer.values = rows
                .iter()
                .map(|x| with(layer.value.times(x), layer.vector(Part::ValueBias)))
                .collect();
            for x in &mut rows {
                let q = with(layer.query.times(x), layer.vector(Part::QueryBias));
                let seen = layer.output.times(&attend(c, index, &q, layer));
                add(x, &with(seen, layer.vector(Part::AttentionOutputBias)));
                let bias = layer.vector(Part::AttentionNormBias);
                *x = layer_norm(x, &layer.attention_norm, bias);
                if let Some(network) = &layer.network {
                    let y = network.run(x, layer.vector(Part::UpBias));
                    add(x, &with(y, layer.vector(Part::DownBias)));
                }
                *x = layer_norm(x, &layer.ffn_norm, layer.vector(Part::FfnNormBias));
            }
        }
        let mut sum = vec![0.0; c.width];
        rows.iter().for_each(|x| add(&mut sum, x));
        sum
    }
}

fn layer_norm(x: &[f32], g: &[f32], bias: &[f32]) -> Vec<f32> {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let centred: Vec<f32> = x.iter().map(|v| v - mean).collect();
    with(normalise(&centred, g, 1e-12), bias)
}
