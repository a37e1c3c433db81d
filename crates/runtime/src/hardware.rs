//! What this machine is (RG-3). No accelerator is fine.
//!
//! Processor, cores and memory are read from the kernel, and honour affinity and control groups. Accelerators are asked of their
//! vendors' tools. No GPU was at hand when this was written: the readers of these tools' outputs are tested on texts that were
//! written after the vendors' documentation, not on a running card.

use crate::memory::MemoryView;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use stoa_types::{Accelerator, Hardware};

/// A vendor tool that hangs (a lost card) is given up after this.
const TOOL_PATIENCE: Duration = Duration::from_secs(5);
/// A vendor tool's output is cut here.
const TOOL_BYTES_MAX: u64 = 1 << 20;
/// Most accelerators that one tool is believed: what a provider says of itself has to fit into its first message.
const CARDS_MAX: usize = 64;
/// Longest name of a processor or card.
const NAME_CHARS_MAX: usize = 120;

/// Finds processor, cores, memory and accelerators. Blocks while vendor tools run, 10 s at most.
pub fn discover_hardware() -> Hardware {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = MemoryView::read(Path::new("/")).map_or(0, |view| view.total >> 20);
    Hardware {
        cpu: cpu_name(&cpuinfo).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_mib: memory,
        accelerators: accelerators(),
    }
}

fn accelerators() -> Vec<Accelerator> {
    let nvidia = tool_output(
        "nvidia-smi",
        &[
            "--query-gpu=name,memory.total,compute_cap",
            "--format=csv,noheader,nounits",
        ],
        TOOL_PATIENCE,
    );
    let amd = tool_output(
        "rocm-smi",
        &["--showproductname", "--showmeminfo", "vram", "--json"],
        TOOL_PATIENCE,
    );
    let mut found = nvidia.as_deref().map_or_else(Vec::new, parse_nvidia_smi);
    found.extend(amd.as_deref().map_or_else(Vec::new, parse_rocm_smi));
    found
}

/// Reads `nvidia-smi --query-gpu=name,memory.total,compute_cap --format=csv,noheader,nounits`: one card per line. Lines that are
/// not of this form (messages of a driver that does not run) are left out.
pub fn parse_nvidia_smi(output: &str) -> Vec<Accelerator> {
    let card = |line: &str| {
        // Names may hold commas; the last two fields do not.
        let mut fields = line.rsplitn(3, ',').map(str::trim);
        let (capability, memory, name) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Accelerator {
            name: printable(name)?,
            memory_mib: memory.parse().ok()?,
            compute_capability: is_version(capability).then(|| capability.to_owned()),
        })
    };
    output.lines().filter_map(card).take(CARDS_MAX).collect()
}

/// Reads `rocm-smi --showproductname --showmeminfo vram --json`: an object with one entry per card. The keys' capitals differ
/// between releases.
pub fn parse_rocm_smi(output: &str) -> Vec<Accelerator> {
    // Warnings may stand before the object.
    let json = output.find('{').map_or("", |at| &output[at..]);
    let Ok(Value::Object(cards)) = serde_json::from_str(json) else {
        return Vec::new();
    };
    let mut cards: Vec<_> = cards
        .iter()
        .filter_map(|(name, card)| Some((name.strip_prefix("card")?.parse::<u32>().ok()?, card)))
        .collect();
    cards.sort_by_key(|(number, _)| *number);
    cards
        .into_iter()
        .filter_map(|(_, card)| rocm_card(card))
        .take(CARDS_MAX)
        .collect()
}

fn rocm_card(card: &Value) -> Option<Accelerator> {
    let field = |wanted: &str| {
        let (_, value) = card
            .as_object()?
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(wanted))?;
        value.as_str()
    };
    let bytes: u64 = field("VRAM Total Memory (B)")?.trim().parse().ok()?;
    Some(Accelerator {
        name: printable(field("Card Series").or_else(|| field("Card Model"))?)?,
        memory_mib: bytes >> 20,
        compute_capability: None,
    })
}

fn printable(name: &str) -> Option<String> {
    let name: String = name
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(NAME_CHARS_MAX)
        .collect();
    (!name.is_empty()).then_some(name)
}

/// `9.0`, not `[N/A]`.
fn is_version(text: &str) -> bool {
    text.split_once('.').is_some_and(|(major, minor)| {
        [major, minor]
            .iter()
            .all(|part| matches!(part.len(), 1..=3) && part.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    let value = |key: &str| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim())
        })
    };
    printable(
        value("model name")
            .or_else(|| value("Model"))
            .or_else(|| value("Hardware"))?,
    )
}

/// Output of a tool, `None` if it is absent, fails or hangs.
fn tool_output(tool: &str, arguments: &[&str], patience: Duration) -> Option<String> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let output = child.stdout.take()?;
    let (sender, text) = std::sync::mpsc::channel();
    // Read beside the wait: a full pipe would keep the tool from ending. Not joined: something that the tool left behind may hold
    // the pipe open for ever.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.take(TOOL_BYTES_MAX).read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()));
    });
    let until = Instant::now() + patience;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let text = text.recv_timeout(until.saturating_duration_since(Instant::now()));
    match (status, text) {
        (Some(status), Ok(text)) => text.ok().filter(|_| status.success()),
        _ => {
            tracing::warn!(tool, "no answer in time; its accelerators are not offered");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(name: &str, memory_mib: u64, capability: Option<&str>) -> Accelerator {
        Accelerator {
            name: name.to_owned(),
            memory_mib,
            compute_capability: capability.map(str::to_owned),
        }
    }

    #[test]
    fn recorded_nvidia_cards_are_listed_in_order() {
        let output = "NVIDIA H100 80GB HBM3, 81559, 9.0\nNVIDIA GeForce RTX 3090, 24576, 8.6\n";
        assert_eq!(
            parse_nvidia_smi(output),
            [
                card("NVIDIA H100 80GB HBM3", 81_559, Some("9.0")),
                card("NVIDIA GeForce RTX 3090", 24_576, Some("8.6")),
            ]
        );
    }

    #[test]
    fn recorded_nvidia_troubles_give_no_card() {
        for output in [
            "",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n",
            "No devices were found\n",
            "NVIDIA GB10, [N/A], 12.1\n",
        ] {
            assert_eq!(parse_nvidia_smi(output), [], "{output}");
        }
        assert_eq!(
            parse_nvidia_smi("Tesla K80, 11441, [N/A]\n"),
            [card("Tesla K80", 11_441, None)]
        );
    }

    #[test]
    fn recorded_amd_cards_are_listed_by_number() {
        let output = r#"WARNING: AMD GPU device(s) is/are in a low-power state.
{"card10": {"Card Series": "AMD Instinct MI250X", "VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "10960896"},
 "card2": {"Card series": "Radeon RX 7900 XTX", "Card model": "0x744c", "VRAM Total Memory (B)": "25753026560"},
 "system": {"Driver version": "6.7.0"}}"#;
        assert_eq!(
            parse_rocm_smi(output),
            [
                card("Radeon RX 7900 XTX", 24_560, None),
                card("AMD Instinct MI250X", 65_520, None)
            ]
        );
        assert_eq!(parse_rocm_smi("ERROR:root:Driver not initialized"), []);
    }

    #[test]
    fn recorded_processors_have_a_name() {
        let x86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R) Platinum 8488C\n";
        assert_eq!(
            cpu_name(x86).as_deref(),
            Some("Intel(R) Xeon(R) Platinum 8488C")
        );
        let pi = "processor\t: 0\nBogoMIPS\t: 108.00\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n";
        assert_eq!(
            cpu_name(pi).as_deref(),
            Some("Raspberry Pi 4 Model B Rev 1.4")
        );
        assert_eq!(cpu_name("processor\t: 0\n"), None);
    }

    #[test]
    fn this_machine_is_found_without_any_accelerator_being_needed() {
        let hardware = discover_hardware();
        assert!(hardware.cores >= 1);
        assert!(!hardware.cpu.is_empty());
        assert!(!cfg!(target_os = "linux") || hardware.memory_mib > 0);
    }

    #[test]
    fn hostile_output_gives_short_names_few_cards_and_no_panic() {
        let long = format!("{}\u{7}\u{202e}, 1, 9.0\n", "x".repeat(100_000)).repeat(200);
        let cards = parse_nvidia_smi(&long);
        assert_eq!(cards.len(), 64);
        assert!(cards[0].name.chars().count() <= 120);
        let digits = format!("card, 1, {}.0\n", "9".repeat(100_000));
        assert_eq!(parse_nvidia_smi(&digits), [card("card", 1, None)]);
        for odd in [
            ",,,",
            ",1,9.0",
            "a,-1,9.0",
            "a,99999999999999999999,9.0",
            "\0",
        ] {
            assert_eq!(parse_nvidia_smi(odd), [], "{odd:?}");
        }
        let many: Vec<_> = (0..200)
            .map(|n| {
                format!(r#""card{n}":{{"Card Series":"r","VRAM Total Memory (B)":"1048576"}}"#)
            })
            .collect();
        assert_eq!(parse_rocm_smi(&format!("{{{}}}", many.join(","))).len(), 64);
        for odd in [
            r#"{"card0":null,"card1":{"Card Series":1},"card4294967296":{}}"#.to_owned(),
            r#"{"card0":{"Card Series":"r","VRAM Total Memory (B)":"-1"}}"#.to_owned(),
            format!(r#"{{"card0":{}"#, "[".repeat(100_000)),
        ] {
            assert_eq!(parse_rocm_smi(&odd), []);
        }
    }

    #[test]
    fn a_tool_that_is_absent_fails_or_hangs_is_survived() {
        let patience = Duration::from_millis(500);
        assert_eq!(tool_output("stoa-no-such-tool", &[], patience), None);
        if cfg!(unix) {
            assert_eq!(tool_output("false", &[], TOOL_PATIENCE), None);
            let echo = tool_output("echo", &["a"], TOOL_PATIENCE);
            assert_eq!(echo.as_deref(), Some("a\n"));
            let begun = Instant::now();
            assert_eq!(tool_output("sleep", &["20"], patience), None);
            // It ends at once, but what it left behind keeps its output open.
            assert_eq!(tool_output("sh", &["-c", "sleep 20 &"], patience), None);
            assert!(begun.elapsed() < Duration::from_secs(10));
            let cut = tool_output("printf", &["a\\377b"], TOOL_PATIENCE);
            assert_eq!(cut.as_deref(), Some("a\u{fffd}b"));
        }
    }
}
