//! What a test in QEMU is: a board, guests, and a script over the console.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::archive::Image;
use crate::artefacts;
use crate::check;
use crate::console::Console;
use crate::paths;
use crate::qemu::{Board, Serial};
use crate::run;
use crate::setup::Consent;

/// A guest in a test's partitions.
#[derive(Clone)]
pub struct Guest {
    name: String,
    kernel: Kernel,
    bootargs: String,
    properties: Vec<String>,
    number: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    BareMetal(&'static str),
    Linux,
}

impl Guest {
    /// The project's bare-metal guest, told to run one of its tests. 64 MiB and one core unless said otherwise.
    pub fn bare_metal(name: &str, test: &str) -> Self {
        Self {
            name: name.to_owned(),
            kernel: Kernel::BareMetal("bare-metal"),
            bootargs: format!("test={test}"),
            properties: Vec::new(),
            number: None,
        }
    }

    /// Debian's Linux with busybox and the balloon module.
    pub fn linux(name: &str) -> Self {
        let bootargs = "console=ttyAMA0 quiet init_on_alloc=0".to_owned();
        Self {
            name: name.to_owned(),
            kernel: Kernel::Linux,
            bootargs,
            properties: Vec::new(),
            number: None,
        }
    }

    /// The bare-metal guest in another form: the image of this name.
    pub fn kernel(mut self, image: &'static str) -> Self {
        self.kernel = Kernel::BareMetal(image);
        self
    }

    /// Further boot arguments.
    pub fn args(mut self, args: &str) -> Self {
        self.bootargs += " ";
        self.bootargs += args;
        self
    }

    /// Memory at boot, in MiB.
    pub fn memory(self, mib: u32) -> Self {
        self.property(&format!("memory-mib = <{mib}>"))
    }

    /// The bounds that its memory may move in, in MiB.
    pub fn memory_bounds(self, min_mib: u32, max_mib: u32) -> Self {
        self.property(&format!("memory-min-mib = <{min_mib}>"))
            .property(&format!("memory-max-mib = <{max_mib}>"))
    }

    /// Cores.
    pub fn cpus(self, cpus: u8) -> Self {
        self.property(&format!("cpus = <{cpus}>"))
    }

    /// Any property, as device-tree source without the semicolon.
    pub fn property(mut self, text: &str) -> Self {
        self.properties.push(text.to_owned());
        self
    }

    /// Its number, where that is not its place in the list.
    pub fn number(mut self, number: usize) -> Self {
        self.number = Some(number);
        self
    }

    fn source(&self, place: usize) -> String {
        let number = self.number.unwrap_or(place);
        let images = match self.kernel {
            Kernel::BareMetal(image) => format!("kernel = \"{image}\";"),
            Kernel::Linux => "kernel = \"linux\"; ramdisk = \"linux-initrd\";".to_owned(),
        };
        let mut text = format!(
            "        {}@{number} {{\n            compatible = \"ballast,guest\"; reg = <{number}>;\n",
            self.name
        );
        let _ = writeln!(
            text,
            "            {images}\n            bootargs = \"{} guest={number}\";",
            self.bootargs
        );
        for default in ["memory-mib = <64>", "cpus = <1>"] {
            let (key, _) = default.split_once(' ').unwrap_or((default, ""));
            if !self
                .properties
                .iter()
                .any(|p| p.split(' ').next() == Some(key))
            {
                let _ = writeln!(text, "            {default};");
            }
        }
        for property in &self.properties {
            let _ = writeln!(text, "            {property};");
        }
        text + "        };\n"
    }
}

/// The overlay for some guests, numbered from 1 in this order.
pub fn partitions(guests: &[Guest]) -> String {
    partitions_and(guests, "")
}

/// The same with further nodes beside the guests.
fn partitions_and(guests: &[Guest], more: &str) -> String {
    let nodes: String = guests
        .iter()
        .enumerate()
        .map(|(i, guest)| guest.source(i + 1))
        .collect();
    format!(
        "/dts-v1/; /plugin/;\n&{{/}} {{\n    ballast {{\n        compatible = \"ballast,partitions\";\n        \
         #address-cells = <1>; #size-cells = <0>;\n{nodes}{more}    }};\n}};\n"
    )
}

/// The script of a scenario.
pub type Script = Box<dyn Fn(&mut Console) -> Result<()>>;

/// A test in QEMU.
pub struct Scenario {
    /// Its name: what it shows, then what it runs on.
    pub name: String,
    /// Whether it is only run with `--long`.
    pub long: bool,
    gic: u8,
    cores: u8,
    ram_mib: u32,
    guests: Vec<Guest>,
    shared: String,
    refusal: Option<&'static str>,
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
            gic,
            cores: 2,
            ram_mib: 1024,
            guests: Vec::new(),
            shared: String::new(),
            refusal: None,
            script: Box::new(script),
        }
    }

    /// Physical cores.
    pub fn cores(mut self, cores: u8) -> Self {
        self.cores = cores;
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
        let [(one, one_may), (two, two_may)] = ends;
        let _ = writeln!(
            self.shared,
            "        {name} {{\n            compatible = \"ballast,shared-memory\"; size = <{bytes}>;\n            \
             guests = <{one} {two}>; access = \"{one_may}\", \"{two_may}\";\n        }};"
        );
        self
    }

    /// The host's check must refuse these partitions too, naming this.
    pub fn refused(mut self, naming: &'static str) -> Self {
        self.refusal = Some(naming);
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
        let overlay = partitions_and(&self.guests, &self.shared);
        let source = dir.join("partitions.dtso");
        paths::write(&source, &overlay)?;

        let board = Board {
            gic: self.gic,
            cores: self.cores,
            ram_mib: self.ram_mib,
            extra: vec!["-no-reboot".to_owned()],
        };
        let used = images.used_by(&overlay);
        let boot = run::prepare(&board, &source, &used, images.hypervisor.clone(), &dir)?;
        let report = check::judge(&board, &boot.dtb, &used, &boot.kernel)?;
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
        let command = board.command(&boot, Serial::Pipe);
        paths::write(&dir.join("command"), command.line() + "\n")?;
        let mut console = Console::start(command, &dir.join("console.log"))?;
        (self.script)(&mut console)
    }
}

/// What the scenarios boot, built once.
pub struct Images {
    hypervisor: PathBuf,
    all: Vec<Image>,
}

impl Images {
    /// Builds the hypervisor, the bare-metal guest and the Linux guest.
    pub fn build(consent: Consent) -> Result<Self> {
        let linux = artefacts::linux_guest(consent)?;
        let bare_metal = artefacts::bare_metal_forms()?;
        Ok(Self {
            hypervisor: artefacts::hypervisor()?,
            all: vec![
                Image::new("bare-metal", &bare_metal.image),
                Image::new("bare-metal-elf", &bare_metal.elf),
                Image::new("bare-metal-gz", &bare_metal.gzipped),
                Image::new("linux", linux.kernel),
                Image::new("linux-initrd", linux.initrd),
            ],
        })
    }

    /// The images that an overlay's source names: a boot archive carries no others.
    fn used_by(&self, overlay: &str) -> Vec<Image> {
        self.all
            .iter()
            .filter(|image| overlay.contains(&format!("\"{}\"", image.name)))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_numbered_and_carry_the_defaults_once() {
        let text = partitions(&[
            Guest::bare_metal("a", "hello"),
            Guest::linux("b").memory(512).cpus(2),
        ]);
        assert!(text.contains("a@1") && text.contains("b@2"), "{text}");
        assert_eq!(text.matches("memory-mib").count(), 2);
        assert!(
            text.contains("memory-mib = <512>") && text.contains("memory-mib = <64>"),
            "{text}"
        );
    }

    #[test]
    fn partitions_compile() {
        if which::which("dtc").is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.dtso");
        std::fs::write(
            &path,
            partitions(&[Guest::linux("linux-a").memory_bounds(96, 512)]),
        )
        .unwrap();
        crate::qemu::compile_overlay(&path, dir.path()).unwrap();
    }
}
