//! `stoa backup` and `stoa restore`: a stopped role's data folder as one file, and back.

use super::Outcome;
use crate::archive::{self, ArchiveError, Size};
use crate::data::DataDir;
use crate::process::say;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `stoa backup` and `stoa restore`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The copy. It holds keys: whoever reads it owns the role's accounts.
    file: PathBuf,
    /// Prints one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Copies the data folder of a stopped role into a file.
pub fn backup(data: &Path, args: &Args) -> Outcome {
    if !data.is_dir() {
        return Err(ArchiveError::NoFolder(data.to_owned()).into());
    }
    // Held until the copy is whole: no role may write meanwhile.
    let _lock = DataDir::open(data)?;
    let size = archive::write(data, &args.file)?;
    tell(args, "copied", data, size)?;
    if !args.json {
        say(
            "It holds secret keys and is not encrypted: keep it where nobody else reads, and off this disk.",
        )?;
    }
    Ok(())
}

/// Makes a data folder of a copy.
pub fn restore(data: &Path, args: &Args) -> Outcome {
    let size = archive::restore(&args.file, data)?;
    tell(args, "restored", data, size)?;
    if !args.json {
        for (part, warning) in WARNINGS {
            if data.join(part).exists() {
                say(format_args!("\n{warning}"))?;
            }
        }
    }
    Ok(())
}

/// What is known by which part of a folder, and what an older copy of it means.
const WARNINGS: &[(&str, &str)] = &[
    (
        "chain.redb",
        "Chain: blocks since the copy are gone. Routers that saw them take no calls on it; restore the newest copy only.",
    ),
    (
        "router/journal",
        "Router: if it ran since the copy, its books are old. When it posted since, it will find that on the chain and take no calls; when it \
         did not, charges since the copy are lost. Never run it while another process has its key.",
    ),
    (
        "validator-0",
        "Validator: it must not vote twice. An older copy does not know what it voted since: do not start it before the round of the copy is \
         over, and never while another process has its key.",
    ),
];

fn tell(args: &Args, what: &str, data: &Path, size: Size) -> std::io::Result<()> {
    let (file, folder) = (args.file.display().to_string(), data.display().to_string());
    let Size { files, bytes } = size;
    if args.json {
        return say(
            json!({what: true, "file": file, "data": folder, "files": files, "bytes": bytes}),
        );
    }
    let (from, to) = match what {
        "restored" => (file, folder),
        _ => (folder, file),
    };
    say(format_args!(
        "{from} {what} to {to}: {files} files, {bytes} bytes"
    ))
}
