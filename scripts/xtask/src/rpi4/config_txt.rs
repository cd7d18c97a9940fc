//! The firmware's `config.txt`: what of it decides how a Raspberry Pi 4 boots an operating system.
//!
//! Format: the documentation of the Raspberry Pi, "Legacy config.txt options" and "Boot options". Lines are
//! `key=value`, `initramfs` separates with blanks, `[filter]` says for which boards the following lines are.

use anyhow::{Result, bail};

/// Conditions in brackets that hold on a Raspberry Pi 4 B without a display and in its first boot stage.
const HOLDS: &[&str] = &["all", "pi4"];

/// What the lines for a Raspberry Pi 4 say, with the firmware's defaults where they say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigTxt {
    /// The file that is entered.
    pub kernel: String,
    /// Whether it is entered in 64-bit state.
    pub arm_64bit: bool,
    /// Whether the UART on the header gets its pins and a fixed clock.
    pub enable_uart: bool,
    /// The board's tree, where another one is asked for than the board's usual.
    pub device_tree: Option<String>,
    /// Overlays in order of their application, without parameters.
    pub overlays: Vec<Overlay>,
    /// The initramfs, loaded where the firmware likes (`followkernel`).
    pub initramfs: Option<String>,
    /// Whether the initramfs beside the kernel is loaded where none is named.
    pub auto_initramfs: bool,
    /// The kernel's command line is in this file.
    pub cmdline: String,
    /// Where overlays are, and everything else: `os_prefix` before every name, with its slash if it has one.
    pub os_prefix: String,
}

/// A `dtoverlay` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Its name: the file is `overlays/NAME.dtbo`.
    pub name: String,
    /// Parameters: `NAME=VALUE` or `NAME`.
    pub parameters: Vec<String>,
}

impl ConfigTxt {
    /// Reads the file's text.
    ///
    /// # Errors
    /// A line asks for something with which Ballast does not boot, or which is not emulated.
    pub fn parse(text: &str) -> Result<Self> {
        let mut config = Self {
            kernel: String::new(),
            // The default since the firmware of 2023 on a board that can.
            arm_64bit: true,
            enable_uart: false,
            device_tree: None,
            overlays: Vec::new(),
            initramfs: None,
            auto_initramfs: false,
            cmdline: "cmdline.txt".to_owned(),
            os_prefix: String::new(),
        };
        let mut applies = true;
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(filter) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                applies = HOLDS.contains(&filter.trim().to_ascii_lowercase().as_str());
            } else if applies
                && !line.is_empty()
                && let Err(error) = config.line(line)
            {
                bail!("config.txt line {}: {error}", index + 1);
            }
        }
        if config.kernel.is_empty() {
            config.kernel = if config.arm_64bit {
                "kernel8.img"
            } else {
                "kernel7l.img"
            }
            .to_owned();
        }
        Ok(config)
    }

    /// The initramfs that is loaded: the named one, else with `auto_initramfs` the kernel's if it is `there`.
    pub fn initramfs_for(&self, there: impl Fn(&str) -> bool) -> Option<String> {
        if let Some(name) = &self.initramfs {
            return Some(name.clone());
        }
        // kernel8.img has initramfs8: the kernel's name without what is around the number.
        let number = self.kernel.strip_prefix("kernel")?.strip_suffix(".img")?;
        let name = format!("initramfs{number}");
        (self.auto_initramfs && there(&name)).then_some(name)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(rest) = line.strip_prefix("initramfs ") {
            let (file, place) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
            if place.trim() != "followkernel" && !place.trim().is_empty() {
                bail!(
                    "`initramfs` at a fixed address (`{}`): give followkernel",
                    place.trim()
                );
            }
            self.initramfs = Some(file.to_owned());
            return Ok(());
        }
        let Some((key, value)) = line.split_once('=') else {
            // The firmware passes over what it does not know.
            return Ok(());
        };
        let (key, value) = (key.trim(), value.trim());
        match key {
            "kernel" => value.clone_into(&mut self.kernel),
            "arm_64bit" => self.arm_64bit = value != "0",
            "enable_uart" => self.enable_uart = value != "0",
            "device_tree" => self.device_tree = Some(value.to_owned()),
            "cmdline" => value.clone_into(&mut self.cmdline),
            "os_prefix" => value.clone_into(&mut self.os_prefix),
            "auto_initramfs" => self.auto_initramfs = value != "0",
            "ramfsfile" => self.initramfs = Some(value.to_owned()),
            "dtoverlay" => {
                // `dtoverlay=` alone ends the parameters of the one before.
                let mut parts = value.split(',').map(str::trim);
                if let Some(name) = parts.next().filter(|name| !name.is_empty()) {
                    self.overlays.push(Overlay {
                        name: name.to_owned(),
                        parameters: parts.map(str::to_owned).collect(),
                    });
                }
            }
            "dtparam" => {
                if let Some(overlay) = self.overlays.last_mut() {
                    overlay
                        .parameters
                        .extend(value.split(',').map(|p| p.trim().to_owned()));
                }
            }
            "kernel_old" | "kernel_address" | "device_tree_address" | "ramfsaddr" | "armstub"
                if !matches!(value, "" | "0") =>
            {
                bail!("`{key}` is not emulated: take it out");
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_the_firmwares_defaults() {
        let config = ConfigTxt::parse("").unwrap();
        assert_eq!(config.kernel, "kernel8.img");
        assert_eq!(config.initramfs, None);
        assert_eq!(config.cmdline, "cmdline.txt");
        assert!(config.arm_64bit && !config.enable_uart && config.overlays.is_empty());
    }

    #[test]
    fn lines_for_other_boards_are_passed_over() {
        let text = "# comment\nkernel=a.img\n[pi3]\nkernel=b.img\nenable_uart=1\n[pi4]\nkernel = c.img # really\n\
                    [cm4]\notg_mode=1\ndtoverlay=dwc2\n[none]\nkernel=d.img\n[all]\nenable_uart=1\n";
        let config = ConfigTxt::parse(text).unwrap();
        assert_eq!(config.kernel, "c.img");
        assert!(config.enable_uart && config.overlays.is_empty());
    }

    #[test]
    fn overlays_keep_their_order_and_parameters() {
        let text = "dtparam=audio=on\ndtoverlay=vc4-kms-v3d\r\ndtoverlay=w1-gpio,gpiopin=4\ndtparam=pullup\n\
                    initramfs ballast/boot.cpio followkernel\n";
        let config = ConfigTxt::parse(text).unwrap();
        let names: Vec<_> = config.overlays.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["vc4-kms-v3d", "w1-gpio"]);
        assert_eq!(config.overlays[1].parameters, ["gpiopin=4", "pullup"]);
        assert_eq!(config.initramfs.as_deref(), Some("ballast/boot.cpio"));
    }

    #[test]
    fn the_initramfs_of_a_kernel_is_found_when_asked_for() {
        let name = |text: &str| {
            ConfigTxt::parse(text)
                .unwrap()
                .initramfs_for(|n| n == "initramfs8")
        };
        assert_eq!(name(""), None);
        assert_eq!(name("auto_initramfs=1\n").as_deref(), Some("initramfs8"));
        assert_eq!(name("auto_initramfs=1\nkernel=x.img\n"), None);
        assert_eq!(name("initramfs a followkernel\n").as_deref(), Some("a"));
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_line() {
        let error = ConfigTxt::parse("\nkernel_old=1\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && error.contains("kernel_old"),
            "{error}"
        );
        assert!(ConfigTxt::parse("initramfs a 0x800000\n").is_err());
        ConfigTxt::parse("kernel_old=0\n").unwrap();
    }
}
