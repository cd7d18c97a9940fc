//! Rust targets, through rustup when it is there.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Need;
use crate::process::Program;

/// The target of everything that runs without an operating system. Soft float: EL2 must leave the guests'
/// FP and SIMD registers alone.
pub const BARE_METAL: &str = "aarch64-unknown-none-softfloat";
/// The target of small static programs inside Linux guests.
pub const LINUX_GUEST: &str = "aarch64-unknown-linux-musl";

/// Adds the targets that `needs` asks for and that the active toolchain lacks.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let wanted = [
        (Need::BareMetalTarget, BARE_METAL),
        (Need::LinuxGuestTarget, LINUX_GUEST),
    ];
    let wanted: Vec<&str> = wanted
        .iter()
        .filter(|(need, _)| needs.contains(need))
        .map(|(_, t)| *t)
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let sysroot = Program::new("rustc")
        .args(["--print", "sysroot"])
        .capture()?;
    let installed = |target: &str| {
        Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(target)
            .join("lib")
            .is_dir()
    };
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|target| !installed(target))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if which::which("rustup").is_err() {
        bail!(
            "the Rust target {} is missing and there is no rustup to add it: install rustup, or your \
             distribution's package of that target (Fedora: rust-std-static-{}; else build with rust-src and \
             -Zbuild-std)",
            missing.join(" and "),
            missing[0]
        );
    }
    println!(
        "Adding the Rust target {} with rustup",
        missing.join(" and ")
    );
    Program::new("rustup")
        .args(["target", "add"])
        .args(&missing)
        .show()
        .with_context(|| {
            format!(
                "could not add {}: is rustup's server within reach? Try again, or add it by hand",
                missing.join(", ")
            )
        })
}
