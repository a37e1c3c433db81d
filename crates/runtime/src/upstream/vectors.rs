//! Vectors of texts from an upstream server (0026): asked for whole, judged whole, then handed on in the one form that a receipt commits
//! to. The server's numbers become the nearest 32-bit floats, which is what nearly every server computes with.

use super::job::{Answer, Job, Stopped, counts, unless};
use super::outlet::Outlet;
use super::stream::Usage;
use super::{Shared, UpstreamFault};
use crate::backend::Generation;
use serde::Deserialize;
use stoa_nodes::work::Prompt;
use stoa_types::FinishReason;
use stoa_verify::{VECTOR_BYTES_MAX, VECTORS_BYTES_MAX, vector_line};

/// Largest answer that is read: as many numbers as [`VECTORS_BYTES_MAX`] hold, with 24 letters for each.
const ANSWER_BYTES_MAX: usize = 28 << 20;

#[derive(Debug, Deserialize)]
struct Told {
    data: Vec<One>,
    usage: Option<Used>,
}

#[derive(Debug, Deserialize)]
struct One {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Debug, Deserialize)]
struct Used {
    prompt_tokens: u64,
}

/// The vectors in the order of their inputs, each with the line that stands for it, and the tokens that the server counted.
fn judge(answer: &[u8], prompt: &Prompt) -> Result<(Vec<(u32, String)>, u64), UpstreamFault> {
    let malformed = |what| UpstreamFault::Malformed { what };
    let mut told: Told = serde_json::from_slice(answer)
        .map_err(|_| malformed("an answer that holds no list of vectors"))?;
    let used = told.usage.ok_or(UpstreamFault::MissingUsage)?;
    told.data.sort_by_key(|one| one.index);
    let in_order = told.data.iter().map(|one| one.index).eq(0..told.data.len());
    if !in_order || prompt.vectors().map(|n| n as usize) != Some(told.data.len()) {
        return Err(malformed("not one vector for each input"));
    }
    let size = told.data.first().map(|one| one.embedding.len());
    if let Prompt::Embed { dimensions, .. } = prompt
        && *dimensions > 0
        && size != Some(*dimensions as usize)
    {
        // llama.cpp's server for one knows no `dimensions`: the request's doing, not a failure.
        return Err(rejected(200, "another_size", "dimensions"));
    }
    let mut left = VECTORS_BYTES_MAX;
    let mut lines = Vec::with_capacity(told.data.len());
    for One { embedding, .. } in told.data {
        if embedding.is_empty() || Some(embedding.len()) != size {
            return Err(malformed("vectors of several sizes, or of none"));
        }
        if !embedding.iter().all(|number| number.is_finite()) {
            return Err(malformed(
                "a vector with an element that is no finite number",
            ));
        }
        let bytes: Vec<u8> = embedding.iter().flat_map(|n| n.to_le_bytes()).collect();
        let line = vector_line(&bytes);
        if line.len() > VECTOR_BYTES_MAX || line.len() > left {
            return Err(UpstreamFault::TooLong {
                limit: VECTORS_BYTES_MAX,
            });
        }
        left -= line.len();
        let elements = u32::try_from(embedding.len());
        lines.push((elements.unwrap_or(u32::MAX), line));
    }
    Ok((lines, used.prompt_tokens))
}

fn rejected(status: u16, kind: &str, parameter: &str) -> UpstreamFault {
    UpstreamFault::Rejected {
        status,
        kind: kind.to_owned(),
        parameter: Some(parameter.to_owned()),
    }
}

impl Shared {
    /// All vectors of one call.
    pub(super) async fn vectors(&self, job: &Job, outlet: &mut Outlet) -> Result<Answer, Stopped> {
        let body = job.body.with_limit(0);
        let asked = self
            .client
            .post_json(job.body.route, body, ANSWER_BYTES_MAX);
        let asked = tokio::time::timeout(self.timeouts.first_event, asked);
        let answer = unless(&job.cancel, asked)
            .await?
            .map_err(|_| self.silent(true))?;
        let answer = answer.map_err(|fault| self.declined(fault))?;
        let prompt = job.work.prompt.clone();
        // Millions of numbers, while the streams beside it want the lane.
        let judged = tokio::task::spawn_blocking(move || judge(&answer, &prompt));
        let judged = judged.await.map_err(|_| UpstreamFault::Malformed {
            what: "vectors on which their reader failed",
        })?;
        let (lines, tokens) = judged?;
        let told = Usage {
            prompt_tokens: tokens,
            completion_tokens: lines.len() as u64,
        };
        let billed = Usage {
            prompt_tokens: tokens.min(job.request.input_bound),
            ..told
        };
        outlet.counted(counts(billed.prompt_tokens, None)).await?;
        for (elements, line) in lines {
            // One by one: each line is a vector of its own.
            outlet.text(vec![elements], &line).await?;
            outlet.flush().await?;
        }
        Ok(Answer {
            generation: Generation {
                tool_calls: Vec::new(),
                finish_reason: FinishReason::Stop,
            },
            told,
            billed,
        })
    }

    /// A server that makes no vectors declines: it did not fail.
    fn declined(&self, fault: UpstreamFault) -> UpstreamFault {
        let rejected = |status, kind: &str| rejected(status, kind, "input");
        let context = u64::from(self.facts.context);
        match fault {
            UpstreamFault::NotFound => rejected(404, "no_embeddings"),
            UpstreamFault::Server { status: 501 } => rejected(501, "no_embeddings"),
            UpstreamFault::ContextLength { tokens, .. } if tokens > context => {
                UpstreamFault::ContextLength { tokens, context }
            }
            UpstreamFault::ContextLength { .. } => rejected(400, "context_length_exceeded"),
            UpstreamFault::Rejected { status, kind, .. } => rejected(status, &kind),
            other => other,
        }
    }
}
