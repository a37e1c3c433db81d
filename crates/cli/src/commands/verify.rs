//! `stoa verify`: what a receipt file proves, offline; against the chain with `--rpc`; by computing the answer again with `--rerun`.

use super::Outcome;
use std::path::{Path, PathBuf};
use stoa_api::codec::{parse_chat, parse_completion};
use stoa_chain::{ChainAccess, Rpc};
use stoa_crypto::token_root;
use stoa_ledger::fees::{self, Usage};
use stoa_nodes::work::Work;
use stoa_runtime::{Backend, ExactBackend, ExactOptions, run_to_end};
use stoa_types::{Digest, FinishReason, Receipt, TokenAmount};
use stoa_verify::{Bundle, Report, check_bundle};

/// Arguments of `stoa verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File saved by `stoa ask --save`.
    file: PathBuf,
    /// Asks this chain whether the batch was posted.
    #[arg(long, value_name = "URL")]
    rpc: Option<String>,
    /// Computes the answer again with this model (GGUF file or safetensors folder).
    #[arg(long, value_name = "MODEL")]
    rerun: Option<PathBuf>,
}

const ON_CHAIN: &str = "the batch stands in the vault on chain";
const RECOMPUTED: &str = "the model computed this answer";
const PROMPT: &str = "the prompt's tokens are the request's";

/// Prints what was checked and what was not; an error names the first false thing.
pub async fn verify(args: &Args) -> Outcome {
    let bytes = std::fs::read(&args.file)
        .map_err(|error| format!("cannot read {}: {error}", args.file.display()))?;
    let bundle = Bundle::parse(&bytes)?;
    let mut report = check_bundle(&bundle);
    report.check(
        "the charge follows from counts and prices",
        charge(&bundle.receipt.receipt),
    );
    check_chain(&mut report, &bundle, args.rpc.as_deref()).await;
    check_rerun(&mut report, &bundle, args.rerun.as_deref());
    print!("{report}");
    match report.first_false() {
        Some(check) => Err(format!("false: {}", check.claim).into()),
        None => Ok(()),
    }
}

/// The reserve is not in the receipt; it can only lower the charge.
fn charge(receipt: &Receipt) -> Result<(), String> {
    let usage = Usage {
        input_units: receipt.input_units,
        output_units: receipt.output_units,
        input_price: receipt.input_price,
        output_price: receipt.output_price,
    };
    let most = fees::charge(&usage, TokenAmount::from_units(u128::MAX))
        .map_err(|error| error.to_string())?;
    if receipt.charge <= most {
        Ok(())
    } else {
        Err(format!(
            "{} is charged, counts and prices give {most}",
            receipt.charge
        ))
    }
}

async fn check_chain(report: &mut Report, bundle: &Bundle, rpc: Option<&str>) {
    match (rpc, &bundle.proof) {
        (None, _) => report.not_checked(ON_CHAIN, "name the chain with --rpc URL"),
        (Some(_), None) => report.not_checked(
            ON_CHAIN,
            "the file holds no proof; put it in with `stoa receipt FILE`",
        ),
        (Some(url), Some(_)) => match posted(bundle, url).await {
            Ok(result) => report.check(ON_CHAIN, result),
            Err(unreachable) => report.not_checked(ON_CHAIN, unreachable),
        },
    }
}

/// Looks for the vault's event of this batch. The outer error means that the chain could not be asked.
async fn posted(bundle: &Bundle, url: &str) -> Result<Result<(), String>, String> {
    let receipt = &bundle.receipt.receipt;
    let Some(proof) = &bundle.proof else {
        return Err("the file holds no proof".to_owned());
    };
    let chain = Rpc::new(url).map_err(|error| error.to_string())?;
    let id = chain.chain_id().await.map_err(|error| error.to_string())?;
    if id != receipt.chain_id {
        return Ok(Err(format!(
            "the receipt is of chain {}, {url} is chain {id}",
            receipt.chain_id
        )));
    }
    let found =
        super::logs::batch_head(&chain, receipt.vault, receipt.router, proof.batch.index).await?;
    Ok(match found {
        Some(head) if head == proof.batch.head() => Ok(()),
        Some(head) => Err(format!(
            "the vault's batch {} leads to head {head}, the file's to {}",
            proof.batch.index,
            proof.batch.head()
        )),
        None => Err(format!(
            "the vault {} holds no batch {} of router {}",
            receipt.vault, proof.batch.index, receipt.router
        )),
    })
}

fn check_rerun(report: &mut Report, bundle: &Bundle, model: Option<&Path>) {
    let Some(path) = model else {
        report.not_checked(PROMPT, "name the model with --rerun MODEL");
        return report.not_checked(RECOMPUTED, "name the model with --rerun MODEL");
    };
    match Rerun::of(bundle, path) {
        Ok(rerun) => rerun.report(report, bundle),
        Err(reason) => report.check(RECOMPUTED, Err(reason)),
    }
}

/// The same work done again.
struct Rerun {
    prompt_root: Digest,
    output_root: Digest,
    text_agrees: bool,
}

impl Rerun {
    fn of(bundle: &Bundle, path: &Path) -> Result<Self, String> {
        let receipt = &bundle.receipt.receipt;
        let backend = ExactBackend::open(
            path,
            &ExactOptions {
                name: None,
                slots: 1,
                memory_limit: None,
            },
        )
        .map_err(|e| e.to_string())?;
        let facts = backend.facts();
        if facts.model_root != receipt.model_root {
            return Err(format!(
                "{} has model root {}, the receipt names {}",
                path.display(),
                facts.model_root,
                receipt.model_root
            ));
        }
        if facts.runtime_digest != receipt.runtime_digest {
            return Err(
                "this program has another version of the engine's semantics than the receipt"
                    .to_owned(),
            );
        }
        let work = work(bundle)?;
        let (content, prompt, output) =
            run_to_end(&backend, &work).map_err(|error| error.to_string())?;
        // A cancelled answer is the beginning of the whole one.
        let cancelled = bundle.response.finish_reason == FinishReason::Cancelled;
        let count = usize::try_from(receipt.output_units).unwrap_or(usize::MAX);
        let output = if cancelled {
            output.get(..count).unwrap_or_default()
        } else {
            &output[..]
        };
        let text_agrees = if cancelled {
            content.text.starts_with(&bundle.response.text)
        } else {
            content == bundle.response
        };
        Ok(Self {
            prompt_root: token_root(&prompt),
            output_root: token_root(output),
            text_agrees,
        })
    }

    fn report(&self, report: &mut Report, bundle: &Bundle) {
        let receipt = &bundle.receipt.receipt;
        let same = |what: &str, found: Digest, said: Digest| {
            if found == said {
                Ok(())
            } else {
                Err(format!("{what} has root {found}, the receipt says {said}"))
            }
        };
        report.check(
            PROMPT,
            same("the prompt", self.prompt_root, receipt.prompt_root),
        );
        let tokens = same(
            "the recomputed answer",
            self.output_root,
            receipt.output_root,
        );
        let text = if self.text_agrees {
            Ok(())
        } else {
            Err("the recomputed text differs".to_owned())
        };
        report.check(RECOMPUTED, tokens.and(text));
    }
}

/// The work that the router made of the client's body: a pure function of its bytes and the receipt's parameters.
fn work(bundle: &Bundle) -> Result<Work, String> {
    let body = bundle.request.as_bytes();
    let parsed = parse_chat(body)
        .or_else(|_| parse_completion(body))
        .map_err(|error| format!("the request cannot be read: {error}"))?;
    Ok(Work {
        prompt: parsed.request.prompt,
        sampling: bundle.parameters.clone(),
        answer: parsed.request.answer,
    })
}
