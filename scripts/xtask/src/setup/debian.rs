//! The guests' Linux: Debian's arm64 kernels, the headers to build a module for them, and a static busybox,
//! unpacked from packages into the cache. The version is whatever is newest in the suite on the day.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::{self, PrivateApt, spinner};
use crate::paths;

/// Which of Debian's arm64 kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// `cloud-arm64`: small, for guests that have no hardware but what Ballast gives them.
    Cloud,
    /// `arm64`: with the drivers and device trees of boards, for a guest that has the board's devices.
    Full,
    /// `arm64-16k`: as [`Flavour::Full`], with pages of 16 KiB.
    Pages16k,
}

impl Flavour {
    fn metapackage(self) -> &'static str {
        match self {
            Flavour::Cloud => "linux-image-cloud-arm64",
            Flavour::Full => "linux-image-arm64",
            Flavour::Pages16k => "linux-image-arm64-16k",
        }
    }

    /// The folder of the cache that has its releases.
    fn folder(self) -> Result<PathBuf> {
        Ok(paths::cache()?.join(match self {
            Flavour::Cloud => "linux",
            Flavour::Full => "linux-full",
            Flavour::Pages16k => "linux-16k",
        }))
    }
}

/// A kernel in the cache.
pub struct Kernel {
    /// Its release as `uname -r` gives it.
    pub release: String,
    /// The arm64 Image.
    pub image: PathBuf,
    /// The build tree for modules.
    pub headers: PathBuf,
    /// Its modules: what belongs at `/lib/modules/<release>`.
    pub modules: PathBuf,
    /// The device trees of the boards that it knows, by vendor.
    pub device_trees: PathBuf,
}

/// The newest kernel of this flavour in the cache.
pub fn kernel(flavour: Flavour) -> Result<Kernel> {
    let dir = flavour.folder()?;
    let newest = fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_whole(path))
        .max_by(|a, b| by_version(name(a), name(b)));
    let Some(path) = newest else {
        bail!("no kernel in {}: run `cargo xtask setup`", dir.display());
    };
    let release = name(&path).to_owned();
    Ok(Kernel {
        image: path.join("vmlinuz"),
        headers: path.join("headers"),
        modules: path.join("lib/modules").join(&release),
        device_trees: path.join(format!("usr/lib/linux-image-{release}")),
        release,
    })
}

/// Whether a folder has all of a kernel: what an older version of this tool left may have no modules.
fn is_whole(kernel: &Path) -> bool {
    let modules = kernel.join("lib/modules").join(name(kernel));
    kernel.join("vmlinuz").is_file()
        && kernel.join("headers/Makefile").is_file()
        && modules.is_dir()
}

/// The static arm64 busybox in the cache.
pub fn busybox() -> Result<PathBuf> {
    let path = paths::cache()?.join("busybox/busybox");
    if !path.is_file() {
        bail!("no busybox at {}: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

/// Fetches a kernel with its headers, and busybox, unless they are in the cache; with `refresh`, looks for newer.
pub fn ensure(flavour: Flavour, refresh: bool, mirror: Option<&str>) -> Result<()> {
    if !refresh && kernel(flavour).is_ok() && busybox().is_ok() {
        return Ok(());
    }
    println!(
        "Debian's arm64 kernel, its headers and busybox are unpacked into {}",
        paths::cache()?.display()
    );
    println!("(nothing of them is installed on this machine)");
    let apt = PrivateApt::open(mirror)?;
    let release = release_of(&apt, flavour.metapackage(), "linux-image-")?;
    let headers = apt.show(&format!("linux-headers-{release}"))?;
    let dependency = |prefix: &str| {
        headers
            .depends
            .iter()
            .find(|d| d.starts_with(prefix))
            .cloned()
            .with_context(|| {
                format!(
                    "{} does not depend on {prefix}…: the packages' layout has changed",
                    headers.name
                )
            })
    };
    let common = dependency("linux-headers-")?;
    // The tools that the kernel's build runs must be this machine's.
    let kbuild = format!("{}:{}", dependency("linux-kbuild-")?, apt.host_arch);
    let image = apt.show(&format!("linux-image-{release}"))?;
    let packages = vec![
        image,
        apt.show(&common)?,
        apt.show(&kbuild)?,
        apt.show("busybox-static")?,
        headers,
    ];

    let cache = paths::cache()?;
    let work = tempfile::Builder::new()
        .prefix("unpack-")
        .tempdir_in(&cache)
        .context("cannot write to the cache")?;
    let what = "Debian's arm64 kernel, headers and busybox";
    apt.download(what, &packages, work.path())?;
    let progress = spinner("Unpacking");
    let unpacked = work.path().join("root");
    apt::unpack(work.path(), &unpacked)?;
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .map(|p| unpacked.join(p))
        .into_iter()
        .find(|p| p.is_file());
    let busybox = busybox.context("Debian's busybox-static has no busybox where it used to be")?;
    fs::create_dir_all(cache.join("busybox"))?;
    fs::rename(busybox, cache.join("busybox/busybox"))
        .context("cannot move busybox into the cache")?;
    install_kernel(&unpacked, &release, &flavour.folder()?)?;
    progress.finish_and_clear();
    println!("Unpacked Linux {release}");
    Ok(())
}

/// The kernel release that a metapackage stands for, from the package it depends on.
fn release_of(apt: &PrivateApt, metapackage: &str, prefix: &str) -> Result<String> {
    let package = apt.show(metapackage)?;
    let release = package.depends.iter().find_map(|d| d.strip_prefix(prefix));
    Ok(release
        .with_context(|| format!("{metapackage} {} depends on no {prefix}…", package.version))?
        .to_owned())
}

/// Lays one kernel out in `folder` of the cache, whole or not at all.
fn install_kernel(unpacked: &Path, release: &str, folder: &Path) -> Result<()> {
    let done = folder.join(release);
    if is_whole(&done) {
        // The newest is here already, and a build may be using it.
        return Ok(());
    }
    let staged = folder.join(format!(".{release}"));
    let _ = fs::remove_dir_all(&staged);
    fs::create_dir_all(&staged)?;
    fs::rename(
        unpacked.join(format!("boot/vmlinuz-{release}")),
        staged.join("vmlinuz"),
    )
    .with_context(|| {
        format!("Debian's linux-image-{release} has no vmlinuz where it used to be")
    })?;
    fs::rename(unpacked.join("usr"), staged.join("usr"))?;
    // Until Debian merged /usr the modules were in /lib, since then they are below usr already.
    let modules = if unpacked.join("lib/modules").is_dir() {
        fs::create_dir_all(staged.join("lib"))?;
        fs::rename(unpacked.join("lib/modules"), staged.join("lib/modules"))
    } else {
        std::os::unix::fs::symlink("usr/lib", staged.join("lib"))
    };
    modules.context("cannot lay out the kernel's modules")?;
    let headers = format!("usr/src/linux-headers-{release}");
    std::os::unix::fs::symlink(&headers, staged.join("headers"))?;

    // The headers' Makefile includes the common part by its absolute path on an installed system.
    let makefile = staged.join(&headers).join("Makefile");
    let text = String::from_utf8(paths::read(&makefile)?).context("the headers' Makefile")?;
    paths::write(
        &makefile,
        text.replace("/usr/src/", &format!("{}/usr/src/", done.display())),
    )?;

    let _ = fs::remove_dir_all(&done);
    fs::rename(&staged, &done)
        .with_context(|| format!("cannot move the kernel to {}", done.display()))
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
}

/// Orders releases by their numbers, so that 6.12 comes after 6.9.
pub fn by_version(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_number() {
        assert_eq!(
            by_version("6.12.95+deb12-cloud-arm64", "6.9.7+bpo-cloud-arm64"),
            Ordering::Greater
        );
        assert_eq!(
            by_version("6.1.0-50-cloud-arm64", "6.1.0-9-cloud-arm64"),
            Ordering::Greater
        );
    }
}
