//! The tests that need no board: formatting, lints, unit and property tests, Miri.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::Tally;
use crate::paths;
use crate::process::Program;
use crate::setup::BARE_METAL;

/// What runs without an operating system and so is linted for its own target.
const BARE_METAL_PACKAGES: [&str; 3] = ["ballast", "ballast-bare-metal", "ballast-driver"];

/// Modules of the core that Miri is through with in two minutes. The others read whole device trees or model whole
/// boards, and are for `--long`.
const INTERPRETED: [&str; 12] = [
    "addr::",
    "log::",
    "monitor::",
    "pl011::",
    "psci::",
    "smccc::",
    "stage2::",
    "frames::",
    "fault::",
    "exit::",
    "archive::",
    "image::",
];

/// A host test: its name, and what runs it by its name and whether `--long` was given.
pub type Step = (&'static str, fn(&str, bool) -> Result<Tally>);

/// All of them, the quick ones first.
pub const STEPS: [Step; 5] = [
    ("host-fmt", |name, _| {
        Ok(step(name, cargo(&["fmt", "--all", "--check"])))
    }),
    ("host-clippy", |name, _| {
        Ok(step(
            name,
            cargo(&["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]),
        ))
    }),
    ("host-clippy-bare-metal", |name, _| {
        let mut lint = vec!["clippy", "--quiet", "--release", "--target", BARE_METAL];
        lint.extend(
            BARE_METAL_PACKAGES
                .iter()
                .flat_map(|package| ["--package", package]),
        );
        lint.extend(["--", "-D", "warnings"]);
        Ok(step(name, cargo(&lint)))
    }),
    ("host-unit", |name, _| {
        counted(name, cargo(&["test", "--no-fail-fast"]))
    }),
    ("host-miri", miri),
];

fn cargo(arguments: &[&str]) -> Program {
    // Not $CARGO: rustup's proxy understands `+nightly`, and is what the user would type.
    Program::new("cargo").args(arguments).dir(paths::root())
}

/// One test: a program that succeeds or shows why not.
fn step(name: &str, program: Program) -> Tally {
    let line = program.line();
    match program.capture() {
        Ok(_) => {
            println!("{name} ... ok");
            Tally {
                passed: 1,
                ..Tally::default()
            }
        }
        Err(error) => {
            println!("{name} ... FAILED\n{error:#}\n  again: {line}");
            Tally {
                failed: 1,
                ..Tally::default()
            }
        }
    }
}

/// Runs something that ends in `cargo test`'s lines, shows it, and adds up its counts.
fn counted(name: &str, program: Program) -> Result<Tally> {
    println!("{name}:");
    let line = program.line();
    let mut child = program
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo")?;
    let mut tally = Tally::default();
    for text in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
        let text = text.context("cargo's output")?;
        if let Some(counts) = text.strip_prefix("test result: ") {
            tally.add(counts_of(counts));
        } else if !is_progress(&text) {
            println!("  {text}");
        }
    }
    if !child.wait().context("cargo")?.success() {
        println!("  FAILED; again: {line}");
        tally.failed = tally.failed.max(1);
    }
    println!(
        "{name} ... {} passed, {} failed",
        tally.passed, tally.failed
    );
    Ok(tally)
}

/// Lines of a test run that say nothing when all is well.
fn is_progress(line: &str) -> bool {
    let quiet = ["... ok", "... ignored"]
        .iter()
        .any(|end| line.ends_with(end));
    quiet
        || line.trim().is_empty()
        || line.starts_with("running ")
        || line.contains("doctests ran in")
}

/// Reads `ok. 3 passed; 0 failed; 1 ignored; …`.
fn counts_of(text: &str) -> Tally {
    let count = |word: &str| {
        let at = text.find(word).map(|at| &text[..at]).unwrap_or_default();
        at.split_whitespace()
            .next_back()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    Tally {
        passed: count(" passed"),
        failed: count(" failed"),
        skipped: count(" ignored"),
    }
}

fn miri(name: &str, long: bool) -> Result<Tally> {
    let installed = || cargo(&["+nightly", "miri", "--version"]).capture().is_ok();
    if !installed() {
        println!("Adding Miri to the nightly toolchain with rustup");
        let add = [
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "miri,rust-src",
        ];
        if let Err(error) = Program::new("rustup").args(add).capture() {
            println!(
                "{name} ... skipped: no nightly toolchain with Miri, and rustup cannot add one: {error:#}"
            );
            return Ok(Tally {
                skipped: 1,
                ..Tally::default()
            });
        }
    }
    let modules: &[&str] = if long { &[] } else { &INTERPRETED };
    // Property tests run a few cases only: Miri is some hundred times slower.
    let program = cargo(&[
        "+nightly",
        "miri",
        "test",
        "--package",
        "ballast-core",
        "--lib",
        "--",
    ])
    .args(modules)
    .env(
        "MIRIFLAGS",
        "-Zmiri-disable-isolation -Zmiri-permissive-provenance",
    )
    .env("PROPTEST_CASES", "2");
    counted(name, program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_counts_of_cargo_test() {
        let line =
            "ok. 12 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(
            counts_of(line),
            Tally {
                passed: 12,
                failed: 1,
                skipped: 3
            }
        );
    }
}
