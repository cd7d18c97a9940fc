//! SD-card images: a partition table, a FAT32 partition that the firmware reads, and a second partition if wanted.
//!
//! Nothing in them depends on the day or the machine: the same files give the same bytes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, ReadWriteSeek};
use fscommon::{BufStream, StreamSlice};
use mbrman::{CHS, MBR, MBRPartitionEntry};

const SECTOR: u32 = 512;
const MIB: u64 = 1 << 20;
/// Where the first partition begins: whole erase blocks of any card.
const FIRST_PARTITION: u64 = 4 * MIB;
/// The smallest card; FAT32 needs more than 65,525 clusters.
const SMALLEST: u64 = 256 * MIB;
/// 2 KiB: enough clusters for FAT32 on the smallest card.
const CLUSTER: u32 = 2048;
const FAT32_LBA: u8 = 0x0c;
const LINUX: u8 = 0x83;
/// Marks the card; Linux names the second partition `PARTUUID=42414c4c-02` by it ("BALL").
const SIGNATURE: [u8; 4] = *b"LLAB";
const VOLUME_ID: u32 = 0x4241_4c4c;
const LABEL: [u8; 11] = *b"BALLAST    ";

/// The files of a boot partition by their path in it (`overlays/ballast.dtbo`).
pub type Files = BTreeMap<String, Vec<u8>>;

/// Writes a card to `out`: `files` in the boot partition, and the file system in the image `root` as the second.
///
/// Its size is a power of two, as QEMU demands of an SD card.
pub fn write(out: &Path, files: &Files, root: Option<&Path>) -> Result<()> {
    let naming = || format!("cannot write the card {}", out.display());
    let content: u64 = files
        .values()
        .map(|data| data.len() as u64 + u64::from(CLUSTER))
        .sum();
    // A third free, for the next kernel.
    let boot_end = (FIRST_PARTITION + content + content / 2)
        .next_power_of_two()
        .max(SMALLEST);
    let root_size = match root {
        Some(path) => {
            let size = path
                .metadata()
                .with_context(|| format!("{}", path.display()))?
                .len();
            size.next_multiple_of(MIB)
        }
        None => 0,
    };
    let size = (boot_end + root_size).next_power_of_two();
    let mut card = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(out)
        .with_context(naming)?;
    card.set_len(size).with_context(naming)?;
    write_table(&mut card, boot_end, root_size).with_context(naming)?;
    let slice = StreamSlice::new(card, FIRST_PARTITION, boot_end).with_context(naming)?;
    write_boot_partition(BufStream::new(slice), files).with_context(naming)?;
    if let Some(path) = root {
        copy_root(path, out, boot_end).with_context(naming)?;
    }
    Ok(())
}

fn write_table(card: &mut File, boot_end: u64, root_size: u64) -> Result<()> {
    let entry = |sys, start: u64, size: u64| -> Result<MBRPartitionEntry> {
        Ok(MBRPartitionEntry {
            boot: mbrman::BOOT_INACTIVE,
            first_chs: CHS::empty(),
            sys,
            last_chs: CHS::empty(),
            starting_lba: u32::try_from(start / u64::from(SECTOR))?,
            sectors: u32::try_from(size / u64::from(SECTOR))?,
        })
    };
    let mut table = MBR::new_from(card, SECTOR, SIGNATURE)?;
    table[1] = entry(FAT32_LBA, FIRST_PARTITION, boot_end - FIRST_PARTITION)?;
    if root_size > 0 {
        table[2] = entry(LINUX, boot_end, root_size)?;
    }
    table.write_into(card)?;
    Ok(())
}

fn write_boot_partition(mut partition: impl ReadWriteSeek, files: &Files) -> Result<()> {
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(CLUSTER)
        .volume_id(VOLUME_ID)
        .volume_label(LABEL);
    fatfs::format_volume(&mut partition, options)?;
    let volume = FileSystem::new(partition, FsOptions::new())?;
    for (path, data) in files {
        let mut dir = volume.root_dir();
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or_default();
        for part in parts {
            dir = dir.create_dir(part)?;
        }
        let mut file = dir.create_file(name).with_context(|| path.clone())?;
        file.write_all(data).with_context(|| path.clone())?;
        file.flush()?;
    }
    volume.unmount()?;
    Ok(())
}

fn copy_root(root: &Path, out: &Path, at: u64) -> Result<()> {
    let mut from = File::open(root)?;
    let mut to = StreamSlice::new(OpenOptions::new().write(true).open(out)?, at, u64::MAX)?;
    let mut chunk = vec![0; MIB as usize];
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        // What is zero stays a hole of the sparse file.
        if chunk[..read].iter().all(|byte| *byte == 0) {
            std::io::Seek::seek(&mut to, std::io::SeekFrom::Current(read as i64))?;
        } else {
            to.write_all(&chunk[..read])?;
        }
    }
}

/// A card's boot partition, for reading.
pub struct BootPartition {
    path: PathBuf,
    volume: FileSystem<BufStream<StreamSlice<File>>>,
}

impl BootPartition {
    /// Opens the first FAT partition of a card, as the firmware would.
    pub fn open(card: &Path) -> Result<Self> {
        let naming = || format!("{} is no SD-card image", card.display());
        // fatfs opens for writing; a read-only handle makes any attempt to write an error.
        let mut file =
            File::open(card).with_context(|| format!("cannot open {}", card.display()))?;
        let table = MBR::read_from(&mut file, SECTOR).with_context(naming)?;
        let is_fat = |sys: u8| matches!(sys, 0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e);
        let Some((_, entry)) = table.iter().find(|(_, entry)| is_fat(entry.sys)) else {
            bail!("{} has no FAT partition", card.display());
        };
        let start = u64::from(entry.starting_lba) * u64::from(SECTOR);
        let end = start + u64::from(entry.sectors) * u64::from(SECTOR);
        let slice = StreamSlice::new(file, start, end).with_context(naming)?;
        let volume =
            FileSystem::new(BufStream::new(slice), FsOptions::new()).with_context(naming)?;
        Ok(Self {
            path: card.to_owned(),
            volume,
        })
    }

    /// A file's content.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let naming = || {
            format!(
                "{} has no file {path} in its boot partition",
                self.path.display()
            )
        };
        let mut data = Vec::new();
        let mut file = self
            .volume
            .root_dir()
            .open_file(path)
            .with_context(naming)?;
        file.read_to_end(&mut data).with_context(naming)?;
        Ok(data)
    }

    /// Whether there is such a file.
    #[cfg(test)]
    fn has(&self, path: &str) -> bool {
        self.volume.root_dir().open_file(path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let mut files = Files::new();
        files.insert("config.txt".to_owned(), b"kernel=ballast.img\n".to_vec());
        files.insert("overlays/partitions.dtbo".to_owned(), vec![7; 5000]);
        files.insert("overlays/README".to_owned(), vec![]);
        files.insert("a long name in lower case.bin".to_owned(), vec![1; 70_000]);
        files
    }

    #[test]
    fn what_is_on_a_card_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let (card, root) = (dir.path().join("card.img"), dir.path().join("root.img"));
        let mut content = vec![0; 3 << 20];
        content[0] = 9;
        content[(2 << 20) + 5] = 3;
        std::fs::write(&root, &content).unwrap();
        write(&card, &files(), Some(&root)).unwrap();

        assert!(card.metadata().unwrap().len().is_power_of_two());
        let boot = BootPartition::open(&card).unwrap();
        for (path, data) in files() {
            assert_eq!(boot.read(&path).unwrap(), data, "{path}");
        }
        assert!(boot.has("config.txt") && !boot.has("cmdline.txt"));
        assert_eq!(boot.volume.fat_type(), FatType::Fat32);

        let mut file = File::open(&card).unwrap();
        let table = MBR::read_from(&mut file, SECTOR).unwrap();
        assert_eq!((table[1].sys, table[2].sys), (FAT32_LBA, LINUX));
        let at = u64::from(table[2].starting_lba) * u64::from(SECTOR);
        let mut slice = StreamSlice::new(file, at, at + content.len() as u64).unwrap();
        let mut read = Vec::new();
        slice.read_to_end(&mut read).unwrap();
        assert!(read == content);
    }

    #[test]
    fn the_same_files_give_the_same_card() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.img"), dir.path().join("b.img"));
        write(&a, &files(), None).unwrap();
        // What was in the file before must not shine through.
        std::fs::write(&b, vec![0xff; 5 << 20]).unwrap();
        write(&b, &files(), None).unwrap();
        assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap());
    }

    #[test]
    fn other_files_are_no_cards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zero.img");
        std::fs::write(&path, vec![0; 4096]).unwrap();
        assert!(BootPartition::open(&path).is_err());
    }
}
