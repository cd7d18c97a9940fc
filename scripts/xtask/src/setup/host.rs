//! Host programs: which are missing, which package has each, and installing them where that is apt's business.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Consent, Need};
use crate::process::Program;

/// A program that a command runs, and the package it comes from.
struct HostTool {
    need: Need,
    program: &'static str,
    purpose: &'static str,
    debian: &'static str,
    fedora: &'static str,
    brew: Option<&'static str>,
}

const TOOLS: &[HostTool] = &[
    HostTool {
        need: Need::Qemu,
        program: "qemu-system-aarch64",
        purpose: "runs the board",
        debian: "qemu-system-arm",
        fedora: "qemu-system-aarch64-core",
        brew: Some("qemu"),
    },
    HostTool {
        need: Need::DeviceTree,
        program: "dtc",
        purpose: "compiles partition overlays",
        debian: "device-tree-compiler",
        fedora: "dtc",
        brew: Some("dtc"),
    },
    HostTool {
        need: Need::DeviceTree,
        program: "fdtoverlay",
        purpose: "merges overlays into the board's tree",
        debian: "device-tree-compiler",
        fedora: "dtc",
        brew: Some("dtc"),
    },
    HostTool {
        need: Need::CrossCompiler,
        program: "aarch64-linux-gnu-gcc",
        purpose: "builds the Linux module",
        debian: "gcc-aarch64-linux-gnu",
        fedora: "gcc-aarch64-linux-gnu",
        brew: None,
    },
    HostTool {
        need: Need::CrossCompiler,
        program: "aarch64-linux-gnu-ld",
        purpose: "links the Linux module",
        debian: "binutils-aarch64-linux-gnu",
        fedora: "binutils-aarch64-linux-gnu",
        brew: None,
    },
    HostTool {
        need: Need::CrossCompiler,
        program: "make",
        purpose: "drives the module's build",
        debian: "make",
        fedora: "make",
        brew: None,
    },
    HostTool {
        need: Need::RootFilesystem,
        program: "mke2fs",
        purpose: "makes a card's root filesystem",
        debian: "e2fsprogs",
        fedora: "e2fsprogs",
        brew: Some("e2fsprogs"),
    },
    HostTool {
        need: Need::RootFilesystem,
        program: "debugfs",
        purpose: "gives its files to root",
        debian: "e2fsprogs",
        fedora: "e2fsprogs",
        brew: Some("e2fsprogs"),
    },
];

/// Finds the programs that `needs` asks for, and installs the missing ones after saying so.
pub fn ensure(needs: &[Need], consent: Consent) -> Result<()> {
    let missing: Vec<&HostTool> = TOOLS
        .iter()
        .filter(|t| needs.contains(&t.need) && find(t.program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("These programs are missing on this machine:");
    for tool in &missing {
        eprintln!("  {:<24}{}", tool.program, tool.purpose);
    }
    if which::which("apt-get").is_err() {
        bail!("{}", how_to_get(&missing));
    }
    install_with_apt(&names(&missing, |t| Some(t.debian)), consent)
}

/// Where `program` is: in the path, or among the administrator's programs, which are not in everybody's.
pub fn find(program: &str) -> Option<PathBuf> {
    let in_path = which::which(program).ok();
    let elsewhere = ["/usr/sbin", "/sbin"];
    in_path.or_else(|| {
        let mut places = elsewhere.iter().map(|dir| Path::new(dir).join(program));
        places.find(|path| path.is_file())
    })
}

fn names(
    tools: &[&HostTool],
    name: impl Fn(&HostTool) -> Option<&'static str>,
) -> Vec<&'static str> {
    let mut names: Vec<_> = tools.iter().filter_map(|t| name(t)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn how_to_get(missing: &[&HostTool]) -> String {
    if which::which("dnf").is_ok() {
        return format!(
            "install them with: sudo dnf install {}",
            names(missing, |t| Some(t.fedora)).join(" ")
        );
    }
    if cfg!(target_os = "macos") {
        let mut text = format!(
            "install them with: brew install {}",
            names(missing, |t| t.brew).join(" ")
        );
        if missing.iter().any(|t| t.brew.is_none()) {
            text += "\nthe Linux module cannot be built on macOS: build it on Linux, or give guests without it";
        }
        return text;
    }
    let programs: Vec<_> = missing.iter().map(|t| t.program).collect();
    format!(
        "install your distribution's packages that have {}",
        programs.join(", ")
    )
}

fn install_with_apt(packages: &[&str], consent: Consent) -> Result<()> {
    let elevate = match (is_root()?, which::which("sudo").is_ok()) {
        (true, _) => None,
        (false, true) => Some("sudo"),
        (false, false) => bail!(
            "as root, run: apt-get install --no-install-recommends {}",
            packages.join(" ")
        ),
    };
    let as_root = |arguments: &[&str]| {
        let program = match elevate {
            Some(sudo) => {
                Program::new(sudo).args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
            }
            None => Program::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive"),
        };
        program.args(arguments)
    };
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(packages);
    println!("To install them, this will run (no apt source is changed):");
    println!(
        "  {}\n  {}",
        as_root(&["update"]).line(),
        as_root(&install).line()
    );
    if !consent.obtain("Go on?") {
        bail!("not installed: agree, give --yes, or run the commands above yourself");
    }
    // Old package lists name versions that have left the archive; a failed update may still leave usable ones.
    if let Err(error) = as_root(&["update"]).show() {
        eprintln!("warning: {error:#}");
    }
    as_root(&install)
        .show()
        .context("could not install the host packages")
}

fn is_root() -> Result<bool> {
    Ok(Program::new("id").arg("-u").capture()?.trim() == "0")
}

/// A field of /etc/os-release, unquoted; nothing where there is no such file or field.
pub fn os_release(field: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix('='))?;
    Some(value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_named_once() {
        let all: Vec<&HostTool> = TOOLS.iter().collect();
        let packages = names(&all, |t| Some(t.debian));
        assert_eq!(
            packages
                .iter()
                .filter(|p| **p == "device-tree-compiler")
                .count(),
            1
        );
        assert!(names(&all, |t| t.brew).len() < packages.len());
    }
}
