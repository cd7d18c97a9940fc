//! Modules of a kernel, with what they depend on, in the order in which they load.
//!
//! Debian makes the list of dependencies where a kernel is installed; here it is read from the modules themselves.

use std::collections::HashMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use crate::paths;

/// What a root filesystem on the SD card of a Raspberry Pi needs, in QEMU and on the board.
pub const SD_CARD: &[&str] = &[
    "fixed",
    "gpio_regulator",
    "sdhci_iproc",
    "mmc_block",
    "crc32c_generic",
    "ext4",
];

/// What a disk and a network card on QEMU's virt machine need, beside a file system.
pub const VIRTIO: &[&str] = &["virtio_mmio", "virtio_blk", "virtio_net"];

/// Swap space in compressed memory, for guests that are to feel a lack of memory and live.
pub const SWAP: &[&str] = &["zram"];

/// What is in the root filesystem's `/lib/extra`, to be loaded by who wants it.
pub const LATER: &[&str] = &["dwc2", "bcm2835_wdt", "sbsa_gwdt"];

/// A module, unpacked.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The object file.
    pub data: Vec<u8>,
}

/// Reads the modules called `names` from a kernel's folder, and those they need, each after its own.
///
/// A name that is built into the kernel is passed over; one that is nowhere is an error.
pub fn with_dependencies(folder: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let mut files = HashMap::new();
    find(&folder.join("kernel"), &mut files)?;
    let built_in = fs::read_to_string(folder.join("modules.builtin"))
        .with_context(|| format!("no modules in {}", folder.display()))?;
    let built_in: Vec<String> = built_in
        .lines()
        .filter_map(|line| name_of(Path::new(line)))
        .collect();
    let mut loaded = Vec::new();
    for name in names {
        add(name, &files, &built_in, &mut loaded)?;
    }
    Ok(loaded)
}

fn add(
    name: &str,
    files: &HashMap<String, PathBuf>,
    built_in: &[String],
    loaded: &mut Vec<Module>,
) -> Result<()> {
    if loaded.iter().any(|module| module.name == name) || built_in.iter().any(|b| b == name) {
        return Ok(());
    }
    let Some(path) = files.get(name) else {
        bail!("this kernel has no module {name}");
    };
    let data = unpacked(path)?;
    for dependency in dependencies(&data).with_context(|| format!("{}", path.display()))? {
        add(&dependency, files, built_in, loaded)?;
    }
    loaded.push(Module {
        name: name.to_owned(),
        data,
    });
    Ok(())
}

fn find(dir: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("no modules in {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name that a module's file stands for; file names have hyphens where names have underscores.
fn name_of(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let data = paths::read(path)?;
    if path.extension().is_some_and(|e| e == "ko") {
        return Ok(data);
    }
    if path.extension().is_none_or(|e| e != "xz") {
        bail!(
            "{} is packed in a way that is not known here",
            path.display()
        );
    }
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut Cursor::new(data), &mut plain)
        .map_err(|error| anyhow::anyhow!("{} does not unpack: {error:?}", path.display()))?;
    Ok(plain)
}

/// What the section `.modinfo` says: `depends=a,b` among strings that end in zeros.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module).context("not an object file")?;
    let section = file.section_by_name(".modinfo").context("no .modinfo")?;
    let depends = section
        .data()?
        .split(|byte| *byte == 0)
        .filter_map(|text| std::str::from_utf8(text).ok()?.strip_prefix("depends="))
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"));
    Ok(depends.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::{Flavour, kernel};

    #[test]
    fn names_have_underscores() {
        assert_eq!(
            name_of(Path::new("a/sdhci-iproc.ko.xz")).as_deref(),
            Some("sdhci_iproc")
        );
        assert_eq!(name_of(Path::new("modules.order")), None);
    }

    #[test]
    fn the_sd_cards_modules_load_in_order() {
        let Ok(kernel) = kernel(Flavour::Full) else {
            return; // Not fetched on this machine.
        };
        let modules = with_dependencies(&kernel.modules, SD_CARD).unwrap();
        let place = |name: &str| modules.iter().position(|m| m.name == name).unwrap();
        assert!(
            place("sdhci") < place("sdhci_pltfm") && place("sdhci_pltfm") < place("sdhci_iproc")
        );
        assert!(place("jbd2") < place("ext4") && place("crc16") < place("ext4"));
        assert!(with_dependencies(&kernel.modules, &["no_such_module"]).is_err());
    }
}
