//! Where the demo plays: a board that is short of memory, and what boots it.
//!
//! The demo is the same on every board; only here does it know which.

use std::path::Path;

use anyhow::Result;

use crate::archive::Image;
use crate::artefacts;
use crate::example::Source;
use crate::paths;
use crate::process::Program;
use crate::qemu::{Board, Serial};
use crate::rpi4::{self, emulator::Raspi4b};
use crate::run;
use crate::setup::{self, Consent, Need};

/// Where the demo plays.
pub(super) struct Stage {
    /// What boots it.
    pub(super) command: Program,
    /// What each guest boots with, in MiB. Together it is nearly all that the board has: what B gets, A gives.
    pub(super) boot_mib: [u64; 2],
    /// The board, in a few words.
    pub(super) board: String,
}

pub(super) fn on_virt(gic: u8, dir: &Path, consent: Consent) -> Result<Stage> {
    setup::ensure(&Need::QEMU_VIRT, consent)?;
    let linux = artefacts::linux_guest(consent)?;
    let images = [
        Image::new("linux", linux.kernel),
        Image::new("linux-initrd", linux.initrd),
    ];
    let board = Board {
        gic,
        cores: 3,
        ram_mib: 1088,
        extra: vec!["-no-reboot".to_owned()],
    };
    let partitions = paths::root().join("boards/qemu-virt/two-linux.dtso");
    let boot = run::prepare(&board, &partitions, &images, artefacts::hypervisor()?, dir)?;
    Ok(Stage {
        command: board.command(&boot, Serial::Pipe),
        boot_mib: [512, 512],
        board: format!("QEMU virt with GICv{gic} and {} MiB", board.ram_mib),
    })
}

/// A is the primary guest, with its root on the card and the board's devices.
pub(super) fn on_rpi4(dir: &Path, consent: Consent) -> Result<Stage> {
    setup::ensure(&[Need::QemuRaspi4b], consent)?;
    let source = Source {
        example: Some("two-linux".to_owned()),
        ..Source::default()
    };
    let chosen = source.choose(rpi4::image::BOARD, consent)?;
    let card = dir.join("card.img");
    rpi4::image::write(&card, &chosen, chosen.root.as_deref(), None, consent)?;
    let board = Raspi4b::new(2048, vec!["-no-reboot".to_owned()])?;
    let boot = rpi4::run::prepare(&board, &card, dir, false)?;
    Ok(Stage {
        command: board.command(&boot, Serial::Pipe)?,
        boot_mib: [1280, 512],
        board: "QEMU's Raspberry Pi 4 with 2 GiB".to_owned(),
    })
}
