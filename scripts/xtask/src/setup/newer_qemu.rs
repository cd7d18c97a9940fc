//! A QEMU that has the board asked for, where this machine's own is too old: the Raspberry Pi 4 came with QEMU 9.
//!
//! It is unpacked into the cache together with every library it needs and the loader of those libraries, so that
//! nothing is installed, no apt source changes, and this machine's own versions do not matter.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::{self, PrivateApt, spinner};
use super::debian::by_version;
use crate::paths;
use crate::process::Program;

const PROGRAM: &str = "qemu-system-aarch64";
/// The first version with `-M raspi4b`.
const RASPI4B_SINCE: u32 = 9;

/// A QEMU to run: `program` followed by `arguments`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Qemu {
    /// This machine's own.
    pub fn of_host() -> Self {
        Self {
            program: PROGRAM.into(),
            arguments: Vec::new(),
        }
    }

    /// One that has `-M raspi4b`: this machine's own if it is new enough, else the one in the cache.
    pub fn with_raspi4b() -> Result<Self> {
        let own = Self::of_host();
        if own.has_raspi4b() {
            return Ok(own);
        }
        newest_in(&folder()?).context(
            "this machine's QEMU is older than version 9, the first that can be a Raspberry Pi 4, and the cache has \
             none: run `cargo xtask setup`",
        )
    }

    /// Starts a command line of it.
    pub fn start(&self) -> Program {
        Program::new(&self.program).args(&self.arguments)
    }

    fn has_raspi4b(&self) -> bool {
        self.start()
            .arg("--version")
            .capture()
            .ok()
            .and_then(|text| major(&text))
            .is_some_and(|major| major >= RASPI4B_SINCE)
    }
}

/// Makes sure that [`Qemu::with_raspi4b`] finds one; with `refresh`, looks for a newer one in the archive.
pub fn ensure(refresh: bool, mirror: Option<&str>) -> Result<()> {
    if Qemu::of_host().has_raspi4b() || (!refresh && Qemu::with_raspi4b().is_ok()) {
        return Ok(());
    }
    let folder = folder()?;
    println!(
        "A QEMU with the Raspberry Pi 4 is unpacked into {} (this machine's own stays as it is)",
        folder.display()
    );
    let apt = PrivateApt::open(mirror)?;
    let package = apt.show(&format!("qemu-system-arm:{}", apt.host_arch))?;
    // 1:10.0.2+ds-2+deb13u1~bpo12+1: epoch, upstream's version, the packaging's.
    let upstream = package
        .version
        .split_once(':')
        .map_or(package.version.as_str(), |(_, v)| v);
    if major(&format!("version {upstream}")).is_none_or(|major| major < RASPI4B_SINCE) {
        bail!(
            "the newest QEMU of this Debian archive is {upstream}; the Raspberry Pi 4 needs {RASPI4B_SINCE} or newer: \
             install one on this machine"
        );
    }
    let done = folder.join(upstream);
    if program_in(&done).is_some() {
        return Ok(());
    }
    fs::create_dir_all(&folder).with_context(|| format!("in {}", folder.display()))?;
    let work = tempfile::Builder::new()
        .prefix(".unpack-")
        .tempdir_in(&folder)
        .context("cannot write to the cache")?;
    apt.download_with_dependencies("qemu-system-arm", work.path())?;
    let progress = spinner("Unpacking");
    let root = work.path().join("root");
    apt::unpack(work.path(), &root)?;
    progress.finish_and_clear();
    if program_in(&root).is_none() {
        bail!("Debian's qemu-system-arm {upstream} has no program or loader where they used to be");
    }
    // Another run may have put the same one there meanwhile; either serves.
    if let Err(error) = fs::rename(&root, &done)
        && program_in(&done).is_none()
    {
        return Err(error).with_context(|| format!("cannot move QEMU to {}", done.display()));
    }
    println!("Unpacked QEMU {upstream}");
    Ok(())
}

fn folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join("qemu"))
}

/// The major version that `qemu --version` or a package's version gives.
fn major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

fn newest_in(folder: &Path) -> Option<Qemu> {
    let mut versions: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .collect();
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    versions.retain(|path| !name(path).starts_with('.'));
    versions.sort_by(|a, b| by_version(&name(b), &name(a)));
    versions.iter().find_map(|root| program_in(root))
}

/// The QEMU of an unpacked root: run by the root's own loader, with the root's own libraries and data.
fn program_in(root: &Path) -> Option<Qemu> {
    let program = root.join("usr/bin").join(PROGRAM);
    let libraries: Vec<PathBuf> = ["lib", "usr/lib"]
        .iter()
        .flat_map(|dir| fs::read_dir(root.join(dir)).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu"))
        .collect();
    // The link at the absolute path that programs name leads out of this root, to the machine's own loader.
    let loader = libraries
        .iter()
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ld-linux") && path.is_file()
        })?;
    if !program.is_file() {
        return None;
    }
    let mut path = OsString::new();
    for dir in &libraries {
        if !path.is_empty() {
            path.push(":");
        }
        path.push(dir);
    }
    // Its modules are looked for in the machine's own folder first, where those of another version may lie.
    let modules = libraries
        .iter()
        .map(|dir| dir.join("qemu"))
        .find(|dir| dir.is_dir())
        .unwrap_or_else(|| root.to_owned());
    let mut setting = OsString::from("QEMU_MODULE_DIR=");
    setting.push(modules);
    Some(Qemu {
        program: "env".into(),
        arguments: vec![
            setting,
            loader.into(),
            "--library-path".into(),
            path,
            program.into(),
            "-L".into(),
            root.join("usr/share/qemu").into(),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(
            major("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\n"),
            Some(7)
        );
        assert_eq!(major("version 10.0.2+ds-2+deb13u1~bpo12+1"), Some(10));
        assert_eq!(major("something else"), None);
    }

    #[test]
    fn an_unpacked_root_runs_by_its_own_loader() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        write("usr/bin/qemu-system-aarch64");
        assert!(program_in(root.path()).is_none(), "no loader, no QEMU");
        write("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
        write("usr/lib/x86_64-linux-gnu/libglib-2.0.so.0");
        let line = program_in(root.path()).unwrap().start().line();
        assert!(
            line.contains("ld-linux-x86-64.so.2 --library-path"),
            "{line}"
        );
        assert!(line.contains("usr/lib/x86_64-linux-gnu"), "{line}");
        assert!(line.ends_with("usr/share/qemu"), "{line}");
    }
}
