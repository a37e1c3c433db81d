//! What a provider's machine is (RG-3).

use serde::{Deserialize, Serialize};

/// One accelerator as its vendor tool reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// Vendor's product name.
    pub name: String,
    /// Device memory in MiB.
    pub memory_mib: u64,
    /// Compute capability such as `9.0`, where the vendor has one.
    pub compute_capability: Option<String>,
}

/// Found hardware of one provider.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hardware {
    /// Processor name.
    pub cpu: String,
    /// Usable cores.
    pub cores: u32,
    /// Usable memory in MiB.
    pub memory_mib: u64,
    /// Accelerators; none is fine.
    pub accelerators: Vec<Accelerator>,
}
