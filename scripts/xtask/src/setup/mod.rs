//! Making a machine ready. Each command names its needs; what is there already costs a few file look-ups.
//!
//! Only host packages need root, and they are listed before anything is installed. The machine's own apt
//! sources are read, never changed.

mod apt;
mod debian;
mod host;
mod newer_qemu;
mod raspberry_pi;
mod rust;

use std::env;
use std::io::{IsTerminal, Write, stdin, stdout};

use anyhow::Result;

pub use debian::{Flavour, Kernel, busybox, kernel};
pub use host::find;
pub use newer_qemu::Qemu;
pub use raspberry_pi::{
    device_tree as raspberry_pi_device_tree, firmware as raspberry_pi_firmware,
};
pub use rust::{BARE_METAL, LINUX_GUEST};

/// Something that a command cannot do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The Rust target of the hypervisor and of the bare-metal guest.
    BareMetalTarget,
    /// The Rust target of the small static programs that run inside Linux guests.
    LinuxGuestTarget,
    /// qemu-system-aarch64.
    Qemu,
    /// dtc and fdtoverlay.
    DeviceTree,
    /// The cross compiler and binutils that a kernel module is built with.
    CrossCompiler,
    /// Debian's arm64 kernel, its headers and busybox.
    DebianGuest,
    /// A QEMU that can be a Raspberry Pi 4: this machine's, or one in the cache.
    QemuRaspi4b,
    /// The Raspberry Pi's firmware, and Debian's full arm64 kernel with the board's device tree.
    RaspberryPi,
    /// What makes a card's root filesystem.
    RootFilesystem,
    /// Debian's arm64 kernel with pages of 16 KiB, and its headers.
    Pages16k,
}

impl Need {
    /// What every command for QEMU's `virt` machine needs between them.
    pub const QEMU_VIRT: [Need; 6] = [
        Need::BareMetalTarget,
        Need::LinuxGuestTarget,
        Need::Qemu,
        Need::DeviceTree,
        Need::CrossCompiler,
        Need::DebianGuest,
    ];
    /// All of them.
    pub const ALL: [Need; 10] = [
        Need::BareMetalTarget,
        Need::LinuxGuestTarget,
        Need::Qemu,
        Need::DeviceTree,
        Need::CrossCompiler,
        Need::DebianGuest,
        Need::QemuRaspi4b,
        Need::RaspberryPi,
        Need::RootFilesystem,
        Need::Pages16k,
    ];
}

/// Whether packages may be installed without asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consent {
    /// `--yes` was given, or CI=true says that nobody is there to ask.
    Given,
    /// Ask on the terminal.
    Ask,
}

impl Consent {
    /// Consent from the command line's `--yes` or from CI=true.
    pub fn new(yes: bool) -> Self {
        let ci = env::var("CI").is_ok_and(|v| v == "true" || v == "1");
        if yes || ci {
            Consent::Given
        } else {
            Consent::Ask
        }
    }

    /// Asks `question` unless consent was given. Without a terminal the answer is no.
    fn obtain(self, question: &str) -> bool {
        if self == Consent::Given {
            return true;
        }
        if !stdin().is_terminal() {
            return false;
        }
        print!("{question} [Y/n] ");
        let _ = stdout().flush();
        let mut answer = String::new();
        stdin().read_line(&mut answer).is_ok_and(|n| n > 0)
            && matches!(answer.trim(), "" | "y" | "Y" | "yes" | "Yes")
    }
}

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Look for a newer Debian kernel even if one is in the cache
    #[arg(long)]
    refresh: bool,
    /// Debian archive to take the guests' kernel from, when this machine's apt names none
    #[arg(long, value_name = "URL")]
    debian_mirror: Option<String>,
}

/// `cargo xtask setup`: everything that any command needs.
pub fn run(args: &Args, consent: Consent) -> Result<()> {
    ensure_packages(&Need::ALL, consent)?;
    fetch(&Need::ALL, args.refresh, args.debian_mirror.as_deref())?;
    println!(
        "Ready. Guests use Debian's Linux {} from {}",
        kernel(Flavour::Cloud)?.release,
        crate::paths::cache()?.display()
    );
    Ok(())
}

/// Sets up what `needs` names and is not there yet.
pub fn ensure(needs: &[Need], consent: Consent) -> Result<()> {
    ensure_packages(needs, consent)?;
    fetch(needs, false, None)
}

/// Fetches into the cache what `needs` names; with `refresh`, looks for newer ones of what is there.
fn fetch(needs: &[Need], refresh: bool, mirror: Option<&str>) -> Result<()> {
    if needs.contains(&Need::DebianGuest) {
        debian::ensure(Flavour::Cloud, refresh, mirror)?;
    }
    if needs.contains(&Need::QemuRaspi4b) {
        newer_qemu::ensure(refresh, mirror)?;
    }
    if needs.contains(&Need::RaspberryPi) {
        debian::ensure(Flavour::Full, refresh, mirror)?;
        raspberry_pi::ensure(refresh, mirror)?;
    }
    if needs.contains(&Need::Pages16k) {
        debian::ensure(Flavour::Pages16k, refresh, mirror)?;
    }
    Ok(())
}

fn ensure_packages(needs: &[Need], consent: Consent) -> Result<()> {
    host::ensure(needs, consent)?;
    rust::ensure(needs)
}
