//! What a test in QEMU is: a board, guests, and a script over the console.

mod images;
mod partitions;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ballast_core::plan::Report;
pub use images::Images;
use partitions::Kernel;
pub use partitions::{Guest, partitions, partitions_on, shared};

use crate::archive::Image;
use crate::check;
use crate::console::Console;
use crate::example::Chosen;
use crate::paths;
use crate::process::Program;
use crate::qemu::{self, Board, Serial};
use crate::rpi4::card::BootPartition;
use crate::rpi4::emulator::{self, Raspi4b};
use crate::rpi4::tree::Tree;
use crate::rpi4::{image, root};
use crate::run;
use crate::setup::{Consent, Qemu};

/// The script of a scenario.
pub type Script = Box<dyn Fn(&mut Console) -> Result<()>>;

/// What a scenario runs on.
#[derive(Clone, Copy)]
enum Machine {
    /// QEMU's `virt` with this GIC.
    Virt { gic: u8 },
    /// QEMU's Raspberry Pi 4.
    Rpi4 {
        /// Which UART the script is connected to: 0 the PL011, 1 the mini-UART.
        uart: u8,
        /// What the board's tree says otherwise.
        edit: fn(&mut Tree),
    },
    /// QEMU's Raspberry Pi 4 with a card, from which everything is booted.
    Card {
        /// Makes the card.
        make: CardMaker,
    },
}

/// Makes a card in the folder given, and says where.
pub type CardMaker = fn(&Path, Consent) -> Result<PathBuf>;

/// A test in QEMU.
pub struct Scenario {
    /// Its name: what it shows, then what it runs on.
    pub name: String,
    /// Whether it is only run with `--long`.
    pub long: bool,
    machine: Machine,
    cores: u8,
    ram_mib: u32,
    guests: Vec<Guest>,
    shared: String,
    global: String,
    nodes: &'static str,
    cpu: Option<&'static str>,
    device: Option<&'static str>,
    refusal: Option<&'static str>,
    newer_qemu: bool,
    script: Script,
}

impl Scenario {
    /// A test called `name` on a board with this GIC, two cores and 1 GiB of RAM.
    pub fn new(
        name: impl Into<String>,
        gic: u8,
        script: impl Fn(&mut Console) -> Result<()> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            long: false,
            machine: Machine::Virt { gic },
            cores: 2,
            ram_mib: 1024,
            guests: Vec::new(),
            shared: String::new(),
            global: String::new(),
            nodes: "",
            cpu: None,
            device: None,
            refusal: None,
            newer_qemu: false,
            script: Box::new(script),
        }
    }

    /// A test called `name` on a Raspberry Pi 4 with 2 GiB of RAM.
    pub fn rpi4(
        name: impl Into<String>,
        script: impl Fn(&mut Console) -> Result<()> + 'static,
    ) -> Self {
        let machine = Machine::Rpi4 {
            uart: 0,
            edit: |_| {},
        };
        Self {
            machine,
            cores: 4,
            ram_mib: 2048,
            ..Self::new(name, 2, script)
        }
    }

    /// A test called `name` on a Raspberry Pi 4 with 2 GiB of RAM that boots from the card that `make` makes.
    pub fn card(
        name: impl Into<String>,
        make: CardMaker,
        script: impl Fn(&mut Console) -> Result<()> + 'static,
    ) -> Self {
        Self {
            machine: Machine::Card { make },
            ..Self::rpi4(name, script)
        }
    }

    /// The board's tree is changed by `edit` at the end, and the script is connected to the Pi's UART `uart`.
    pub fn tree(mut self, uart: u8, edit: fn(&mut Tree)) -> Self {
        self.machine = Machine::Rpi4 { uart, edit };
        self
    }

    /// The same test in another place, by another name.
    pub fn named(mut self, name: String) -> Self {
        self.name = name;
        self
    }

    /// Physical cores.
    pub fn cores(mut self, cores: u8) -> Self {
        self.cores = cores;
        self
    }

    /// The model of QEMU's `virt` board's cores, where that is not the usual one.
    pub fn cpu(mut self, model: &'static str) -> Self {
        self.cpu = Some(model);
        self
    }

    /// A device that QEMU's `virt` board has besides the usual ones.
    pub fn device(mut self, device: &'static str) -> Self {
        self.device = Some(device);
        self
    }

    /// RAM of the board in MiB.
    pub fn ram(mut self, mib: u32) -> Self {
        self.ram_mib = mib;
        self
    }

    /// Adds a guest; the first has console number 1.
    pub fn guest(mut self, guest: Guest) -> Self {
        self.guests.push(guest);
        self
    }

    /// Adds memory that two guests share, of this many bytes, with the rights of each.
    pub fn shared(mut self, name: &str, bytes: u32, ends: [(u8, &str); 2]) -> Self {
        self.shared += &shared(name, bytes, ends);
        self
    }

    /// A property of `/ballast` itself, as device-tree source without the semicolon.
    pub fn global(mut self, property: &str) -> Self {
        let _ = write!(self.global, " {property};");
        self
    }

    /// Nodes that the board's tree has besides its own, as device-tree source.
    pub fn nodes(mut self, nodes: &'static str) -> Self {
        self.nodes = nodes;
        self
    }

    /// The host's check must refuse these partitions too, naming this.
    pub fn refused(mut self, naming: &'static str) -> Self {
        self.refusal = Some(naming);
        self
    }

    /// On the QEMU that can be a Raspberry Pi 4, for what an older one does wrong. Only with a disk, for which it is set
    /// up.
    pub fn newer_qemu(mut self, yes: bool) -> Self {
        self.newer_qemu = yes;
        self
    }

    /// Only run with `--long`.
    pub fn long(mut self) -> Self {
        self.long = true;
        self
    }

    /// Where this scenario keeps its files.
    pub fn dir(&self) -> PathBuf {
        paths::target().join("qemu-tests").join(&self.name)
    }

    /// Boots the board and runs the script.
    pub fn run(&self, images: &Images) -> Result<()> {
        let dir = self.dir();
        fs::create_dir_all(&dir)
            .with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let overlay = partitions_on(self.nodes, &self.global, &self.guests, &self.shared);
        let source = dir.join("partitions.dtso");
        paths::write(&source, &overlay)?;
        let used = images.used_by(&overlay);
        let (command, report) = match self.machine {
            Machine::Virt { gic } => self.on_virt(gic, &source, &used, images, &dir)?,
            Machine::Rpi4 { uart, edit } => {
                self.on_rpi4(uart, edit, &source, &used, images, &dir)?
            }
            Machine::Card { make } => self.on_card(&make(&dir, images.consent)?, &dir)?,
        };
        let said: Vec<String> = report.refusals.iter().map(ToString::to_string).collect();
        match self.refusal {
            None => ensure!(
                said.is_empty(),
                "the host's check refuses these partitions: {}",
                said.join("; ")
            ),
            Some(word) => ensure!(
                said.iter().any(|refusal| refusal.contains(word)),
                "the host's check should have refused these partitions naming {word}, but said: {said:?}"
            ),
        }
        paths::write(&dir.join("command"), command.line() + "\n")?;
        let mut console = Console::start(command, &dir.join("console.log"))?;
        (self.script)(&mut console)
    }

    fn on_virt(
        &self,
        gic: u8,
        partitions: &Path,
        used: &[Image],
        images: &Images,
        dir: &Path,
    ) -> Result<(Program, Report)> {
        let mut extra = vec!["-no-reboot".to_owned()];
        if let Some(model) = self.cpu {
            extra.extend(["-cpu", model].map(str::to_owned));
        }
        if let Some(device) = self.device {
            extra.extend(["-device", device].map(str::to_owned));
        }
        if self.has_medium() {
            let root = images.root.as_deref().context("no root filesystem")?;
            extra.extend(qemu::disk_and_network(&root::image_of(root, dir)?));
        }
        let board = Board {
            gic,
            cores: self.cores,
            ram_mib: self.ram_mib,
            extra,
        };
        let boot = run::prepare(&board, partitions, used, images.hypervisor.clone(), dir)?;
        let report = check::judge(&board, &boot.dtb, used, &boot.kernel)?;
        let command = if self.newer_qemu {
            board.command_of(Qemu::with_raspi4b()?.start(), &boot, Serial::Pipe)
        } else {
            board.command(&boot, Serial::Pipe)
        };
        Ok((command, report))
    }

    fn on_rpi4(
        &self,
        uart: u8,
        edit: fn(&mut Tree),
        partitions: &Path,
        used: &[Image],
        images: &Images,
        dir: &Path,
    ) -> Result<(Program, Report)> {
        let mut extra = vec!["-no-reboot".to_owned()];
        if uart == 0 {
            let other = format!("file:{}", dir.join("mini-uart.log").display());
            let serial = ["-serial", "stdio", "-serial", &other, "-monitor", "none"];
            extra.extend(serial.map(Into::into));
        } else {
            let other = format!("file:{}", dir.join("pl011.log").display());
            let serial = ["-serial", &other, "-serial", "stdio", "-monitor", "none"];
            extra.extend(serial.map(Into::into));
        }
        let board = Raspi4b::new(self.ram_mib, extra)?;
        if self.has_medium() {
            let chosen = Chosen {
                partitions: partitions.to_owned(),
                images: used.to_vec(),
                root: None,
            };
            let card = dir.join("card.img");
            image::write(&card, &chosen, images.root.as_deref(), None, Consent::Ask)?;
            let partition = BootPartition::open(&card)?;
            let mut loaded = board.load(&|path| partition.read(path), dir)?;
            edit(&mut loaded.tree);
            let boot = emulator::lay_out(&loaded, Some(&card), dir)?;
            let report = image::judge_loaded(&loaded, true)?;
            return Ok((board.command(&boot, Serial::Pipe)?, report));
        }
        let files = image::boot_files(partitions, used, &images.hypervisor, dir)?;
        let read = |path: &str| {
            let data = files.get(path).cloned();
            data.with_context(|| format!("no file {path}"))
        };
        let mut loaded = board.load(&read, dir)?;
        edit(&mut loaded.tree);
        let report = image::judge_loaded(&loaded, true)?;
        let boot = emulator::lay_out(&loaded, None, dir)?;
        Ok((board.command(&boot, Serial::Pipe)?, report))
    }

    fn on_card(&self, card: &Path, dir: &Path) -> Result<(Program, Report)> {
        let board = Raspi4b::new(self.ram_mib, vec!["-no-reboot".to_owned()])?;
        let (boot, loaded) = board.boot_card(card, dir)?;
        paths::write(&dir.join("firmware.log"), loaded.log.join("\n") + "\n")?;
        let report = image::judge_loaded(&loaded, true)?;
        Ok((board.command(&boot, Serial::Pipe)?, report))
    }

    /// Whether a guest has its root filesystem on the board's disk or card.
    pub fn has_medium(&self) -> bool {
        self.guests
            .iter()
            .any(|guest| guest.kernel == Kernel::Debian)
    }

    /// Whether a guest has pages of 16 KiB.
    pub fn has_16k_pages(&self) -> bool {
        self.guests
            .iter()
            .any(|guest| guest.kernel == Kernel::Linux16k)
    }

    /// Whether it needs the Raspberry Pi's files and a QEMU that has the board.
    pub const fn is_rpi4(&self) -> bool {
        matches!(self.machine, Machine::Rpi4 { .. } | Machine::Card { .. })
    }
}
