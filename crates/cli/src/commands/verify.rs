//! `stoa verify`: what a receipt file proves, offline; against the chain with `--rpc`; by computing the answer again with `--rerun`.

use super::Outcome;
use super::answer::Answer;
use super::ask::read_bundle;
use crate::apart;
use crate::packs::ModelFile;
use crate::process::say;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use stoa_api::codec::{ParsedRequest, parse_chat, parse_completion, parse_embeddings};
use stoa_chain::{ChainAccess, Rpc};
use stoa_crypto::choice_of_seed;
use stoa_crypto::token_root;
use stoa_ledger::fees::{self, Usage};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{GRAMMAR, Work};
use stoa_runtime::{
    Backend, CancelFlag, ExactBackend, ExactOptions, OpenError, Prepared, RunError,
    upstream_prompt_root,
};
use stoa_types::{Digest, FinishReason, Receipt, Tier, TokenAmount};
use stoa_verify::{Bundle, Content, Outcome as Judged, Report, check_bundle};

/// Arguments of `stoa verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File saved by `stoa ask --save`; with `--request`, a chat's whole answer as the API gave it.
    file: PathBuf,
    /// The exact body that FILE is the answer to.
    #[arg(long, value_name = "BODY")]
    request: Option<PathBuf>,
    /// Asks this chain whether the batch was posted.
    #[arg(long, value_name = "URL")]
    rpc: Option<String>,
    /// Computes the answer again with this model (an imported one, a GGUF file or a safetensors folder).
    #[arg(long, value_name = "MODEL")]
    rerun: Option<PathBuf>,
}

const ON_CHAIN: &str = "the batch stands in the vault on chain";
const RECOMPUTED: &str = "the model computed this answer";
const PROMPT: &str = "the prompt's tokens are the request's";
const SEED: &str = "the seed is that of a choice of the request";

/// Prints what was checked and what was not. An error names the first false thing, or what was asked for and could not be checked.
pub async fn verify(data: &Path, args: &Args) -> Outcome {
    let bundles = match &args.request {
        Some(request) => read_answer(&args.file, request)?,
        None => vec![read_bundle(&args.file)?],
    };
    let model = args
        .rerun
        .as_deref()
        .map(|model| open_model(data, model, longest(&bundles)))
        .transpose()?;
    let mut outcome = Ok(());
    for bundle in &bundles {
        let found = verify_one(bundle, args.rpc.as_deref(), model.as_ref()).await;
        outcome = outcome.and(found);
    }
    outcome
}

/// The receipts' files of an answer, one for each choice.
fn read_answer(file: &Path, request: &Path) -> Outcome<Vec<Bundle>> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let (answer, request) = (read(file)?, read(request)?);
    let answer: Answer = serde_json::from_str(&answer).map_err(|error| {
        let (file, error) = (file.display(), error.to_string());
        format!(
            "{file} is not a chat's whole answer with its receipt: {}",
            error.escape_debug()
        )
    })?;
    let choices = answer.choices(&request)?.into_iter();
    Ok(choices.map(|said| said.bundle).collect())
}

async fn verify_one(bundle: &Bundle, rpc: Option<&str>, model: Option<&ExactBackend>) -> Outcome {
    let mut report = check_bundle(bundle);
    report.check(
        "the charge follows from counts and prices",
        charge(&bundle.receipt.receipt),
    );
    check_chain(&mut report, bundle, rpc).await;
    check_rerun(&mut report, bundle, model);
    let choice = check_seed(&mut report, bundle);
    say(report.to_string().trim_end())?;
    if let Some((choice, choices)) = choice {
        say(format_args!(
            "this is choice {choice} of {choices}, counted from 0"
        ))?;
    }
    if let Some(check) = report.first_false() {
        return Err(format!("false: {}", check.claim).into());
    }
    let asked = |claim| match claim {
        ON_CHAIN => rpc.is_some(),
        PROMPT | RECOMPUTED => model.is_some(),
        _ => false,
    };
    let unchecked = report
        .checks
        .iter()
        .find(|check| matches!(check.outcome, Judged::NotChecked(_)) && asked(check.claim));
    match unchecked {
        Some(check) => Err(format!("not checked, though asked for: {}", check.claim).into()),
        None => Ok(()),
    }
}

/// The reserve is not in the receipt; it can only lower the charge.
pub fn charge(receipt: &Receipt) -> Result<(), String> {
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
        crate::logs::batch_head(&chain, receipt.vault, receipt.router, proof.batch.index).await?;
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

/// Which choice the receipt is of, and of how many, where the request asked for several: the one whose seed its parameters name.
fn check_seed(report: &mut Report, bundle: &Bundle) -> Option<(u32, u32)> {
    let body = bundle.request.as_bytes();
    let readings = [parse_chat(body), parse_completion(body)];
    let mut several = readings.into_iter().flatten();
    let request = several.find(|reading| reading.request.choices > 1)?.request;
    let Some(seed) = request.seed else {
        report.not_checked(
            SEED,
            "the request names no seed; the router drew the one that the choices' seeds follow from",
        );
        return None;
    };
    let found = bundle.parameters.seed;
    let choice = choice_of_seed(seed, request.choices, found);
    report.check(
        SEED,
        choice.map(drop).ok_or_else(|| {
            let choices = request.choices;
            format!("the parameters name {found}, which no choice of {choices} with the request's seed {seed} has")
        }),
    );
    Some((choice?, request.choices))
}

/// Most tokens of prompt and answer together that an answer was ordered with.
fn longest(bundles: &[Bundle]) -> u32 {
    let of = |bundle: &Bundle| {
        let units = bundle.receipt.receipt.input_units;
        units.saturating_add(bundle.parameters.max_output_tokens.into())
    };
    let longest = bundles.iter().map(of).max().unwrap_or(0);
    u32::try_from(longest).unwrap_or(u32::MAX)
}

/// A model that cannot be opened says nothing about the receipt: that is an error of its own.
fn open_model(data: &Path, model: &Path, longest: u32) -> Outcome<ExactBackend> {
    let model = ModelFile::named(data, model)?;
    let options = ExactOptions {
        name: None,
        slots: 1,
        context_max: None,
        memory_limit: None,
        threads: 0,
        trust_root: model.trusted,
        templates: apart::templates()?,
        grammars: apart::grammars()?,
    };
    Ok(open_for(&model.path, options, longest)?)
}

/// Opens a model with its whole context, or with as much of it as the `longest` answer needs where there is no memory for all.
fn open_for(path: &Path, options: ExactOptions, longest: u32) -> Result<ExactBackend, OpenError> {
    let bounded = ExactOptions {
        context_max: Some(longest.max(1)),
        ..options.clone()
    };
    match ExactBackend::open(path, &options) {
        Err(OpenError::TooLarge { .. }) => ExactBackend::open(path, &bounded),
        opened => opened,
    }
}

fn check_rerun(report: &mut Report, bundle: &Bundle, model: Option<&ExactBackend>) {
    if bundle.receipt.receipt.tier == Tier::None {
        // Nobody knows the server's tokens: the root stands over the prompt's own bytes, which the file holds (0021).
        report.check(PROMPT, prompt_bytes(bundle));
        return;
    }
    let Some(backend) = model else {
        report.not_checked(PROMPT, "name the model with --rerun MODEL");
        return report.not_checked(RECOMPUTED, "name the model with --rerun MODEL");
    };
    let receipt = &bundle.receipt.receipt;
    let facts = backend.facts();
    let other = if facts.model_root != receipt.model_root {
        let (named, given) = (receipt.model_root, facts.model_root);
        Some(format!(
            "the receipt names the model of root {named}, the file given has root {given}"
        ))
    } else if facts.runtime_digest != receipt.runtime_digest {
        Some(
            "this program has another version of the engine's semantics than the receipt"
                .to_owned(),
        )
    } else if !["", GRAMMAR].contains(&bundle.parameters.grammar.as_str()) {
        Some(format!(
            "the answer was held to a grammar by the rules {:?}, this program has {GRAMMAR:?}",
            bundle.parameters.grammar
        ))
    } else {
        None
    };
    if let Some(reason) = other {
        report.not_checked(PROMPT, reason.clone());
        return report.not_checked(RECOMPUTED, reason);
    }
    match rerun(bundle, backend) {
        Ok(found) => {
            report.check(PROMPT, found.prompt(receipt));
            report.check(RECOMPUTED, found.answer(bundle));
        }
        Err(NotRerun::False(reason)) => report.check(RECOMPUTED, Err(reason)),
        Err(NotRerun::Here(reason)) => {
            report.not_checked(PROMPT, reason.clone());
            report.not_checked(RECOMPUTED, reason);
        }
    }
}

/// Why there is nothing to compare with.
#[derive(Debug)]
enum NotRerun {
    /// The model does not take the request, or not so.
    False(String),
    /// This machine, or its limits.
    Here(String),
}

impl From<String> for NotRerun {
    fn from(reason: String) -> Self {
        Self::False(reason)
    }
}

/// The same work done again, as far as the answer goes.
struct Rerun {
    prompt_root: Digest,
    output_root: Digest,
    content: Content,
}

impl Rerun {
    fn prompt(&self, receipt: &Receipt) -> Result<(), String> {
        same("the prompt", self.prompt_root, receipt.prompt_root)
    }

    fn answer(&self, bundle: &Bundle) -> Result<(), String> {
        let (found, said) = (&self.content, &bundle.response);
        same(
            "the recomputed answer",
            self.output_root,
            bundle.receipt.receipt.output_root,
        )?;
        let differs = [
            ("text", found.text != said.text),
            ("tool calls", found.tool_calls != said.tool_calls),
            ("finish reason", found.finish_reason != said.finish_reason),
            ("input count", found.input_units != said.input_units),
            ("output count", found.output_units != said.output_units),
        ];
        match differs.iter().find(|(_, differs)| *differs) {
            Some((what, _)) => Err(format!("the recomputed {what} differs")),
            None => Ok(()),
        }
    }
}

fn same(what: &str, found: Digest, said: Digest) -> Result<(), String> {
    if found == said {
        return Ok(());
    }
    Err(format!("{what} has root {found}, the receipt says {said}"))
}

/// Runs the first reading of the body that gives the receipt's prompt, or else the first one that can be run.
fn rerun(bundle: &Bundle, backend: &dyn Backend) -> Result<Rerun, NotRerun> {
    let (mut first, mut refused, mut here) = (None, None, None);
    for work in works(bundle)? {
        match backend.prepare(&work) {
            Ok(prepared) if token_root(&prepared.prompt) == bundle.receipt.receipt.prompt_root => {
                return run(bundle, backend, &prepared);
            }
            Ok(prepared) => first = first.or(Some(prepared)),
            // The context has room for what the receipt says ([`open_for`]).
            Err(RefusalReason::Limit { parameter, reason })
                if ["max_tokens", "input"].contains(&parameter.as_str()) =>
            {
                refused = Some(format!(
                    "the request has more tokens than the receipt says: {reason}"
                ));
            }
            Err(
                reason @ (RefusalReason::UnknownModel
                | RefusalReason::Busy
                | RefusalReason::Limit { .. }),
            ) => {
                let reason = format!("the answer cannot be computed again here: {reason:?}");
                here = Some(NotRerun::Here(reason));
            }
            Err(reason) => {
                refused = Some(format!("the model does not take the request: {reason:?}"))
            }
        }
    }
    match (first, here) {
        (Some(prepared), None) => run(bundle, backend, &prepared),
        // It may be the reading that gives the receipt's prompt.
        (_, Some(here)) => Err(here),
        (None, None) => {
            let unread = || "the request cannot be read".to_owned();
            Err(refused.unwrap_or_else(unread).into())
        }
    }
}

/// Generates the answer. One that was cancelled is the beginning of the whole one: it is cut where the receipt's is.
fn run(bundle: &Bundle, backend: &dyn Backend, prepared: &Prepared) -> Result<Rerun, NotRerun> {
    let said = &bundle.response;
    let cancelled = said.finish_reason == FinishReason::Cancelled;
    let (mut output, mut text) = (Vec::new(), String::new());
    let made = backend.run(prepared, &CancelFlag::new(), &mut |piece| {
        output.extend(piece.tokens);
        text.push_str(&piece.text);
        if cancelled && output.len() as u64 >= said.output_units {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let made = made.map_err(|error| match error {
        RunError::Failed(reason) => NotRerun::False(reason),
        other => NotRerun::Here(format!("the answer was not computed again here: {other}")),
    })?;
    let cut = cancelled && output.len() as u64 == said.output_units;
    let content = Content {
        text,
        tool_calls: if cut { Vec::new() } else { made.tool_calls },
        finish_reason: if cut {
            FinishReason::Cancelled
        } else {
            made.finish_reason
        },
        input_units: prepared.facts.input_units,
        output_units: output.len() as u64,
    };
    Ok(Rerun {
        prompt_root: token_root(&prepared.prompt),
        output_root: token_root(&output),
        content,
    })
}

/// Whether one of the readings of the body has the prompt that the receipt names.
fn prompt_bytes(bundle: &Bundle) -> Result<(), String> {
    let named = bundle.receipt.receipt.prompt_root;
    let roots: Vec<_> = works(bundle)?
        .iter()
        .map(|work| upstream_prompt_root(&work.prompt))
        .collect();
    match roots.first() {
        Some(first) if !roots.contains(&named) => same("the prompt", *first, named),
        _ => Ok(()),
    }
}

/// The works that the router may have made of the client's body: a pure function of its bytes and the receipt's parameters. The
/// receipt does not say on which of the routes it came.
fn works(bundle: &Bundle) -> Result<Vec<Work>, String> {
    let body = bundle.request.as_bytes();
    let readings = [
        parse_chat(body),
        parse_completion(body),
        parse_embeddings(body),
    ];
    let work = |parsed: ParsedRequest| Work {
        prompt: parsed.request.prompt,
        sampling: bundle.parameters.clone(),
        answer: parsed.request.answer,
    };
    let error = readings.iter().find_map(|reading| reading.as_ref().err());
    let error = error.map(|error| format!("the request cannot be read: {error}"));
    let works: Vec<Work> = readings.into_iter().flatten().map(work).collect();
    match error {
        Some(error) if works.is_empty() => Err(error),
        _ => Ok(works),
    }
}

#[cfg(test)]
mod tests;
