//! CPUs as sysfs has them.

use std::fs;
use std::path::PathBuf;

use ballast_balloon::{CpuError, CpuState};

/// `errno` of a CPU that PSCI denies: EPERM.
const DENIED: i32 = 1;

fn switch(cpu: u32) -> PathBuf {
    format!("/sys/devices/system/cpu/cpu{cpu}/online").into()
}

/// CPUs have numbers below this.
pub fn count() -> u32 {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = possible.trim().rsplit(['-', ',']).next();
    last.and_then(|last| last.parse::<u32>().ok())
        .map_or(1, |last| last + 1)
}

/// What a CPU does now. One that has no switch cannot be stopped.
pub fn state(cpu: u32) -> CpuState {
    match fs::read_to_string(switch(cpu)) {
        Ok(text) if text.trim() == "1" => CpuState::Online,
        Ok(_) => CpuState::Offline,
        Err(_) if cpu == 0 => CpuState::Online,
        Err(_) => CpuState::Absent,
    }
}

/// Starts or stops a CPU.
pub fn set(cpu: u32, online: bool) -> Result<(), CpuError> {
    if !switch(cpu).exists() {
        return Err(CpuError::Failed);
    }
    fs::write(switch(cpu), if online { "1" } else { "0" }).map_err(|error| {
        if error.raw_os_error() == Some(DENIED) {
            CpuError::Denied
        } else {
            CpuError::Failed
        }
    })
}
