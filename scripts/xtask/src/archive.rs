//! The cpio archives (newc) that the boot chain hands over: Ballast's boot archive of guest images, and the
//! initramfs of a Linux guest.
//!
//! Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Time stamps are zero, so that the
//! same content gives the same bytes.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;

use crate::paths;

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// What newc and its checksummed sister begin with.
const CPIO_MAGIC: &[u8] = b"07070";
const ARM64_MAGIC: &[u8] = b"ARM\x64";
const ARM64_MAGIC_OFFSET: usize = 0x38;

/// Writes one newc archive.
#[derive(Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Adds a regular file. `permissions` are the low nine mode bits.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<()> {
        self.entry(name, REGULAR | permissions, (0, 0), data)
    }

    /// Adds a folder.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a character device.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(data.len())
            .ok()
            .with_context(|| format!("{name}: 4 GiB or more in one archive"))?;
        let fields = [
            self.entries,          // ino
            mode,                  //
            0,                     // uid
            0,                     // gid
            1,                     // nlink
            0,                     // mtime
            size,                  //
            0,                     // devmajor
            0,                     // devminor
            device.0,              // rdevmajor
            device.1,              // rdevminor
            name.len() as u32 + 1, // with its terminator
            0,                     // check: unused in newc
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// An image on its way into the boot archive: `NAME=PATH` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The name that the partitions' `kernel` and `ramdisk` properties use.
    pub name: String,
    /// The file on this machine.
    pub path: PathBuf,
}

impl Image {
    /// An image called `name` from `path`.
    pub fn new(name: &str, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            path: path.into(),
        }
    }
}

impl std::str::FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(Self::new(name, path)),
            _ => Err(format!("`{text}` is not NAME=PATH")),
        }
    }
}

/// Makes the boot archive: every image under its name, gzipped kernels unpacked.
pub fn boot_archive(images: &[Image]) -> Result<Vec<u8>> {
    let mut archive = Cpio::default();
    for (index, image) in images.iter().enumerate() {
        if images[..index]
            .iter()
            .any(|earlier| earlier.name == image.name)
        {
            bail!(
                "two images are called `{}`: give each its own name",
                image.name
            );
        }
        let data = unpacked(paths::read(&image.path)?, &image.path)?;
        archive.file(&image.name, 0o644, &data)?;
    }
    archive.finish()
}

/// Unpacks gzip, except around a cpio archive: a RAM disk is unpacked by the kernel that it is for.
fn unpacked(data: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
    if let Some(payload) = zboot_payload(&data, path)? {
        return unpacked(payload.to_vec(), path);
    }
    if !data.starts_with(GZIP_MAGIC) {
        return Ok(data);
    }
    let mut start = [0; CPIO_MAGIC.len()];
    if MultiGzDecoder::new(&data[..])
        .read_exact(&mut start)
        .is_ok()
        && start == CPIO_MAGIC
    {
        return Ok(data);
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(&data[..])
        .read_to_end(&mut plain)
        .with_context(|| format!("{} is gzipped but does not unpack", path.display()))?;
    Ok(plain)
}

/// The packed kernel inside an EFI zboot image (Linux, drivers/firmware/efi/libstub/zboot-header.S), which
/// some distributions ship in place of an Image.
fn zboot_payload<'a>(data: &'a [u8], path: &Path) -> Result<Option<&'a [u8]>> {
    if data.get(..2) != Some(b"MZ") || data.get(4..8) != Some(b"zimg") {
        return Ok(None);
    }
    let word = |at: usize| {
        data.get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let packing = data
        .get(24..32)
        .map(|b| String::from_utf8_lossy(b).trim_end_matches('\0').to_owned());
    if packing.as_deref() != Some("gzip") {
        bail!(
            "{} is an EFI zboot image packed with {}; only gzip can be unpacked here: give the plain Image",
            path.display(),
            packing.unwrap_or_default()
        );
    }
    let (Some(offset), Some(size)) = (word(8), word(12)) else {
        bail!("{} ends inside its header", path.display())
    };
    let end = (offset as usize).saturating_add(size as usize);
    data.get(offset as usize..end)
        .map(Some)
        .with_context(|| format!("{} is shorter than its header says", path.display()))
}

/// Whether these bytes are an arm64 Image.
pub fn is_arm64_image(data: &[u8]) -> bool {
    data.get(ARM64_MAGIC_OFFSET..ARM64_MAGIC_OFFSET + ARM64_MAGIC.len()) == Some(ARM64_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_written_archive_lists_with_cpio_itself() {
        if which::which("cpio").is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut cpio = Cpio::default();
        cpio.directory("dev").unwrap();
        cpio.character_device("dev/console", 5, 1).unwrap();
        cpio.file("hello", 0o755, b"hello\n").unwrap();
        let path = dir.path().join("a.cpio");
        std::fs::write(&path, cpio.finish().unwrap()).unwrap();
        let script = format!("cpio -tv < {}", path.display());
        let list = crate::process::Program::new("sh")
            .args(["-c", &script])
            .capture()
            .unwrap();
        assert!(
            list.contains("drwxr-xr-x") && list.contains("5,   1"),
            "{list}"
        );
        assert!(
            list.contains("-rwxr-xr-x") && list.contains(" 6 "),
            "{list}"
        );
    }

    #[test]
    fn kernels_are_unpacked_and_ram_disks_are_not() {
        let path = Path::new("x");
        assert_eq!(unpacked(gzip(b"a kernel"), path).unwrap(), b"a kernel");
        let disk = gzip(b"070701 and so on");
        assert_eq!(unpacked(disk.clone(), path).unwrap(), disk);
        assert_eq!(unpacked(b"plain".to_vec(), path).unwrap(), b"plain");
    }

    #[test]
    fn an_image_needs_a_name_of_its_own() {
        assert_eq!(
            "linux=/boot/vmlinuz".parse(),
            Ok(Image::new("linux", "/boot/vmlinuz"))
        );
        assert!("linux".parse::<Image>().is_err());
        let twice = [Image::new("a", "/dev/null"), Image::new("a", "/dev/null")];
        assert!(
            boot_archive(&twice)
                .unwrap_err()
                .to_string()
                .contains("`a`")
        );
    }
}
