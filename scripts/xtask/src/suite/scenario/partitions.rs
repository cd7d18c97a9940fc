//! The guests of a test, and the overlay that asks for them.
//!
//! A test says only what matters to it; the rest of a guest is filled in here, so that what all tests write by the same
//! rules, numbers, boot arguments and images by name, stands in one place.

use std::fmt::Write;

/// A guest in a test's partitions.
#[derive(Clone)]
pub struct Guest {
    name: String,
    pub(super) kernel: Kernel,
    bootargs: String,
    properties: Vec<String>,
    number: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    BareMetal(&'static str),
    Linux,
    Linux16k,
    Debian,
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

    /// The same with pages of 16 KiB.
    pub fn linux_16k(name: &str) -> Self {
        Self {
            kernel: Kernel::Linux16k,
            ..Self::linux(name).args("cma=0")
        }
    }

    /// Debian's full kernel, which goes on to a root filesystem on the board's disk or SD card.
    pub fn debian(name: &str) -> Self {
        let bootargs = "console=ttyAMA0 quiet init_on_alloc=0 cma=0".to_owned();
        Self {
            kernel: Kernel::Debian,
            bootargs,
            ..Self::linux(name)
        }
        .memory(256)
    }

    /// It sees the board itself.
    pub fn primary(self) -> Self {
        self.property("primary")
            .property("dma = \"trusted\"")
            .property("board = \"trusted\"")
    }

    /// The bare-metal guest in another form: the image of this name.
    pub fn kernel(mut self, image: &'static str) -> Self {
        self.kernel = Kernel::BareMetal(image);
        self
    }

    /// The console that Linux knows by this name.
    pub fn console(mut self, name: &str) -> Self {
        self.bootargs = self.bootargs.replace("ttyAMA0", name);
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

    /// The bounds that its number of cores may move in.
    pub fn cpu_bounds(self, min: u8, max: u8) -> Self {
        self.property(&format!("cpus-min = <{min}>"))
            .property(&format!("cpus-max = <{max}>"))
    }

    /// Any property, as device-tree source without the semicolon.
    pub fn property(mut self, text: &str) -> Self {
        let key = |text: &str| text.split(' ').next().map(str::to_owned);
        self.properties.retain(|old| key(old) != key(text));
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
            Kernel::Linux16k => {
                "kernel = \"linux-16k\"; ramdisk = \"linux-16k-initrd\";".to_owned()
            }
            Kernel::Debian => "kernel = \"debian\"; ramdisk = \"debian-initrd\";".to_owned(),
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
    partitions_on("", "", guests, "")
}

/// The same on a board with further nodes, with properties of all guests, and with more beside the guests.
pub fn partitions_on(board: &str, global: &str, guests: &[Guest], more: &str) -> String {
    let nodes: String = guests
        .iter()
        .enumerate()
        .map(|(i, guest)| guest.source(i + 1))
        .collect();
    format!(
        "/dts-v1/; /plugin/;\n&{{/}} {{\n{board}    ballast {{\n        compatible = \"ballast,partitions\";\n        \
         #address-cells = <1>; #size-cells = <0>;{global}\n{nodes}{more}    }};\n}};\n"
    )
}

/// The node of memory that two guests share: their numbers, and what each may do.
pub fn shared(name: &str, bytes: u32, ends: [(u8, &str); 2]) -> String {
    let [(one, one_may), (two, two_may)] = ends;
    format!(
        "        {name} {{\n            compatible = \"ballast,shared-memory\"; size = <{bytes}>;\n            \
         guests = <{one} {two}>; access = \"{one_may}\", \"{two_may}\";\n        }};\n"
    )
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
