//! What runs on the board: built with cargo, turned into what a boot loader takes.

use std::fs;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, elf};

use crate::initramfs;
use crate::modules;
use crate::paths;
use crate::process::Program;
use crate::setup::{self, BARE_METAL, Consent, Flavour, Kernel, LINUX_GUEST, Need};

/// Builds the hypervisor; gives its arm64 Image.
pub fn hypervisor() -> Result<PathBuf> {
    let image = bare_metal("ballast", "ballast.img")?;
    let program = paths::read(&cargo_build("ballast", BARE_METAL, &[])?)?;
    if let Some(at) = address_translation(text(&program)?) {
        bail!(
            "the hypervisor has an AT instruction at offset {at:#x} of its code, which erratum 1319367 of the Cortex-A72 \
             forbids (docs/errata.md)"
        );
    }
    Ok(image)
}

/// The code of an ELF64.
fn text(data: &[u8]) -> Result<&[u8]> {
    let header = elf::FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let (_, text) = sections
        .section_by_name(endian, b".text")
        .context("no .text")?;
    Ok(text.data(endian, data)?)
}

/// Where `code` has an address translation instruction: SYS with CRn 7 and CRm 8 or 9 (Arm ARM DDI 0487, C6.2 AT).
/// Literals between functions count too, as a core may take them for instructions.
fn address_translation(code: &[u8]) -> Option<usize> {
    let is_at = |word: &[u8]| {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        word & 0xfff8_fe00 == 0xd508_7800
    };
    code.chunks_exact(4).position(is_at).map(|index| index * 4)
}

/// Builds the bare-metal guest; gives its arm64 Image.
pub fn bare_metal_guest() -> Result<PathBuf> {
    bare_metal("ballast-bare-metal", "bare-metal.img")
}

/// The bare-metal guest in each form that a kernel can have.
pub struct BareMetalForms {
    /// arm64 Image.
    pub image: PathBuf,
    /// The same, gzipped.
    pub gzipped: PathBuf,
    /// ELF64.
    pub elf: PathBuf,
}

/// Builds the bare-metal guest in each form.
pub fn bare_metal_forms() -> Result<BareMetalForms> {
    let image = bare_metal_guest()?;
    let elf = cargo_build("ballast-bare-metal", BARE_METAL, &[])?;
    let gzipped = image.with_extension("img.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&paths::read(&image)?)?;
    paths::write(&gzipped, packed.finish()?)?;
    Ok(BareMetalForms {
        image,
        gzipped,
        elf,
    })
}

fn bare_metal(package: &str, image: &str) -> Result<PathBuf> {
    let program = cargo_build(package, BARE_METAL, &[])?;
    let flat =
        flatten(&paths::read(&program)?).with_context(|| format!("{}", program.display()))?;
    if !crate::archive::is_arm64_image(&flat) {
        bail!(
            "{} does not begin with an arm64 Image header: is its linker script in use?",
            program.display()
        );
    }
    let path = paths::made("ballast")?.join(image);
    paths::write(&path, flat)?;
    Ok(path)
}

/// Builds the guest in C with the driver's library; gives its ELF64.
pub fn c_guest(consent: Consent) -> Result<PathBuf> {
    setup::ensure(&[Need::BareMetalTarget, Need::CrossCompiler], consent)?;
    let library = cargo_build("ballast-driver", BARE_METAL, &[])?;
    let made = paths::made("ballast")?.join("c-guest.elf");
    Program::new("aarch64-linux-gnu-gcc")
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"])
        .args([
            "-ffreestanding",
            "-fno-pic",
            "-mgeneral-regs-only",
            "-mstrict-align",
        ])
        .args([
            "-ffunction-sections",
            "-nostdlib",
            "-static",
            "-I../../include",
        ])
        .args([
            "-Wl,--gc-sections,--build-id=none,--no-warn-rwx-segments",
            "-Tguest.ld",
        ])
        .args(["start.S", "main.c", "pages.c", "pong.c"])
        .arg(&library)
        .arg("-o")
        .arg(&made)
        .dir(paths::root().join("guest-balloon/c/guest"))
        .capture()?;
    Ok(made)
}

/// Runs `cargo build --release` and gives the path of the program or static library that it made.
pub fn cargo_build(package: &str, target: &str, flags: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let program = Program::new(cargo)
        .args([
            "build",
            "--release",
            "--package",
            package,
            "--target",
            target,
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .args(flags)
        .dir(paths::root());
    let line = program.line();
    let mut child = program
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let output = BufReader::new(child.stdout.take().context("cargo's output")?);
    let mut made = None;
    for message in serde_json::Deserializer::from_reader(output).into_iter::<serde_json::Value>() {
        let message = message.context("cargo's messages")?;
        let of_package = message["target"]["name"]
            .as_str()
            .is_some_and(|n| n.replace('_', "-") == package);
        if message["reason"] == "compiler-artifact" && of_package {
            let file = message["executable"].as_str().or_else(|| {
                message["filenames"]
                    .as_array()?
                    .iter()
                    .filter_map(|f| f.as_str())
                    .find(|f| f.ends_with(".a"))
            });
            made = file.map(PathBuf::from).or(made);
        }
    }
    let status = child.wait().context("cargo")?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    made.with_context(|| format!("`{line}` made nothing that can be run"))
}

/// The loadable segments of a little-endian ELF64 as one flat image, from the lowest physical address to the last
/// byte that the file holds.
fn flatten(data: &[u8]) -> Result<Vec<u8>> {
    let header = elf::FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let loaded: Vec<_> = header
        .program_headers(endian, data)?
        .iter()
        .filter(|s| s.p_type(endian) == elf::PT_LOAD && s.p_filesz(endian) > 0)
        .collect();
    let base = loaded
        .iter()
        .map(|s| s.p_paddr(endian))
        .min()
        .context("no loadable segment")?;
    let end = loaded
        .iter()
        .map(|s| s.p_paddr(endian) + s.p_filesz(endian))
        .max()
        .unwrap_or(base);
    let length = usize::try_from(end - base)?;
    if length > 64 << 20 {
        bail!(
            "its segments span {} MiB: a load address in the linker script is off",
            length >> 20
        );
    }
    let mut flat = vec![0; length];
    for segment in loaded {
        let bytes = segment
            .data(endian, data)
            .ok()
            .context("a segment lies outside the file")?;
        let at = usize::try_from(segment.p_paddr(endian) - base)?;
        flat[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Ok(flat)
}

/// Builds the balloon module for Linux against `kdir`, or against the cached Debian headers.
pub fn module(kdir: Option<&Path>, consent: Consent) -> Result<PathBuf> {
    let mut needs = vec![Need::BareMetalTarget, Need::CrossCompiler];
    if kdir.is_none() {
        needs.push(Need::DebianGuest);
    }
    setup::ensure(&needs, consent)?;
    let kdir = match kdir {
        Some(dir) => dir
            .canonicalize()
            .with_context(|| format!("no kernel build tree at {}", dir.display()))?,
        None => setup::kernel(Flavour::Cloud)?.headers,
    };
    Program::new("make")
        .args(["--silent", "-C"])
        .arg(paths::root().join("guest-balloon/linux"))
        .arg(format!("KDIR={}", kdir.display()))
        .args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"])
        .capture()?;
    Ok(paths::root().join("guest-balloon/linux/ballast_balloon.ko"))
}

/// Builds the balloon module for a kernel other than the usual one, in a folder of its own: the two would take
/// each other's objects for their own.
fn module_for(kernel: &Kernel, consent: Consent) -> Result<PathBuf> {
    setup::ensure(&[Need::BareMetalTarget, Need::CrossCompiler], consent)?;
    let source = paths::root().join("guest-balloon/linux");
    let make = || {
        Program::new("make")
            .arg("--silent")
            .args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"])
    };
    make().arg("-C").arg(&source).arg("core").capture()?;
    let dir = paths::made(format!("ballast/module-{}", kernel.release))?;
    for entry in fs::read_dir(&source).with_context(|| format!("{}", source.display()))? {
        let path = entry?.path();
        let is_source = path
            .extension()
            .is_some_and(|e| e == "c" || e == "h" || e == "o_shipped");
        let name = path.file_name().unwrap_or_default();
        if is_source && !name.to_string_lossy().ends_with(".mod.c") || name == "Kbuild" {
            copy_if_changed(&path, &dir.join(name))?;
        }
    }
    make()
        .arg("-C")
        .arg(&kernel.headers)
        .arg(format!("M={}", dir.display()))
        .args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
        .capture()?;
    Ok(dir.join("ballast_balloon.ko"))
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let data = paths::read(from)?;
    if fs::read(to).is_ok_and(|old| old == data) {
        return Ok(());
    }
    paths::write(to, data)
}

/// The demo's job, which runs inside Linux guests.
fn workload() -> Result<Vec<u8>> {
    let strip = ["--config", "profile.release.strip=\"symbols\""];
    paths::read(&cargo_build("ballast-workload", LINUX_GUEST, &strip)?)
}

/// The Linux side of the example with set-points.
fn setpoints() -> Result<Vec<u8>> {
    let strip = ["--config", "profile.release.strip=\"symbols\""];
    paths::read(&cargo_build("ballast-setpoints", LINUX_GUEST, &strip)?)
}

/// The two images of a Linux guest.
pub struct LinuxGuest {
    /// Debian's arm64 kernel.
    pub kernel: PathBuf,
    /// Busybox, the balloon module and an init that ends in a shell.
    pub initrd: PathBuf,
}

/// Debian's kernel from the cache, and an initramfs with the balloon module and the demo's job.
pub fn linux_guest(consent: Consent) -> Result<LinuxGuest> {
    setup::ensure(&[Need::LinuxGuestTarget], consent)?;
    let module = module(None, consent)?;
    linux_with(setup::kernel(Flavour::Cloud)?, &module, "linux")
}

/// The same with pages of 16 KiB.
pub fn linux_16k_guest(consent: Consent) -> Result<LinuxGuest> {
    setup::ensure(&[Need::LinuxGuestTarget, Need::Pages16k], consent)?;
    let kernel = setup::kernel(Flavour::Pages16k)?;
    let module = module_for(&kernel, consent)?;
    linux_with(kernel, &module, "linux-16k")
}

fn linux_with(kernel: Kernel, module: &Path, name: &str) -> Result<LinuxGuest> {
    let module = stripped(module, &format!("{name}-balloon.ko"))?;
    let workload = workload()?;
    let setpoints = setpoints()?;
    let strip = ["--config", "profile.release.strip=\"symbols\""];
    let control = paths::read(&cargo_build("ballastctl", LINUX_GUEST, &strip)?)?;
    let user_balloon = paths::read(&cargo_build("ballast-user-balloon", LINUX_GUEST, &strip)?)?;
    let initrd = paths::made("ballast")?.join(format!("{name}-initrd.cpio"));
    let files = [
        initramfs::File {
            path: "lib/ballast_balloon.ko",
            permissions: 0o644,
            data: &module,
        },
        initramfs::File {
            path: "bin/workload",
            permissions: 0o755,
            data: &workload,
        },
        initramfs::File {
            path: "bin/setpoints",
            permissions: 0o755,
            data: &setpoints,
        },
        initramfs::File {
            path: "bin/ballastctl",
            permissions: 0o755,
            data: &control,
        },
        initramfs::File {
            path: "bin/ballast-user-balloon",
            permissions: 0o755,
            data: &user_balloon,
        },
    ];
    let swap = modules::with_dependencies(&kernel.modules, modules::SWAP)?;
    paths::write(&initrd, initramfs::build(&files, &swap)?)?;
    Ok(LinuxGuest {
        kernel: kernel.image,
        initrd,
    })
}

/// The images of a Linux that has the board's devices, and the root filesystem it switches to.
pub struct PrimaryGuest {
    /// Debian's full arm64 kernel.
    pub kernel: PathBuf,
    /// Busybox, the modules for a root filesystem on an SD card or a virtio disk, and the balloon module.
    pub initrd: PathBuf,
    /// The folder of the root filesystem.
    pub root: PathBuf,
}

/// Debian's full kernel from the cache, an initramfs that mounts its root from an SD card or a disk, and that root.
pub fn primary_guest(consent: Consent) -> Result<PrimaryGuest> {
    setup::ensure(&[Need::RaspberryPi, Need::LinuxGuestTarget], consent)?;
    let kernel = setup::kernel(Flavour::Full)?;
    let module = stripped(&module_for(&kernel, consent)?, "ballast_balloon-full.ko")?;
    let initrd = paths::made("ballast")?.join("debian-initrd.cpio");
    let wanted = [modules::SD_CARD, modules::VIRTIO].concat();
    let drivers = modules::with_dependencies(&kernel.modules, &wanted)?;
    paths::write(&initrd, initramfs::build_switching(&drivers, &module)?)?;
    let mut files = vec![
        ("bin/workload".to_owned(), workload()?),
        ("bin/setpoints".to_owned(), setpoints()?),
        ("bin/pins".to_owned(), initramfs::PINS.into()),
    ];
    let later = modules::with_dependencies(&kernel.modules, modules::LATER)?;
    files.extend(
        later
            .into_iter()
            .enumerate()
            .map(|(n, module)| (format!("lib/extra/{n:02}-{}.ko", module.name), module.data)),
    );
    Ok(PrimaryGuest {
        kernel: kernel.image,
        initrd,
        root: initramfs::root_folder(&files)?,
    })
}

/// A module without its debugging information, which is most of it.
fn stripped(module: &Path, name: &str) -> Result<Vec<u8>> {
    let path = paths::made("ballast")?.join(name);
    let strip = Program::new("aarch64-linux-gnu-strip")
        .arg("--strip-debug")
        .arg("-o");
    strip.args([&path, &module.to_owned()]).capture()?;
    paths::read(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_translation_is_found() {
        let code =
            |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
        // nop; dc civac, x0; tlbi vmalle1; ret
        let innocent = [0xd503_201f, 0xd50b_7e20, 0xd508_871f, 0xd65f_03c0];
        assert_eq!(address_translation(&code(&innocent)), None);
        // at s1e1r, x0; at s12e1w, x3; at s1e2r, x1
        for at in [0xd508_7800, 0xd50c_78a3, 0xd50c_7801] {
            assert_eq!(address_translation(&code(&[0xd503_201f, at])), Some(4));
        }
    }
}
