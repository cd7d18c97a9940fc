//! Memory that is reserved: a file of one 2 MiB page each, in a hugetlbfs, named by the page's address.
//!
//! A file keeps its page whether this program lives or not: the kernel neither moves nor reclaims it, nor gives it to
//! anybody else. Its name says where it is, so that whoever starts next knows without a look at it, which would be an
//! access. While a page is handed over it is mapped nowhere.
//!
//! The kernel zeroes a page when it becomes a file's, so each is made and found before it is handed over, and its
//! file is removed only when it is back.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ballast_balloon::abi::Order;
use rustix::fs::{FallocateFlags, fallocate, statfs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::mount::{MountFlags, mount};

/// Bytes of a page here.
pub const PAGE: u64 = Order::Block.bytes();
const PAGE_BYTES: usize = PAGE as usize;

/// `f_type` of a hugetlbfs (linux/magic.h).
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
/// Pages of this size that the kernel makes when they are wanted, and takes apart again.
const OVERCOMMIT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";
/// A file whose page was not found yet, and so was never handed over.
const NEW: &str = "new";

/// The files.
pub struct Pool {
    dir: PathBuf,
    pagemap: File,
    /// Addresses of all pages here.
    pages: BTreeSet<u64>,
    /// Those that are not backed.
    held: BTreeSet<u64>,
}

impl Pool {
    /// Opens the pool in `dir`, which may hold up to `most` bytes.
    pub fn open(dir: &Path, most: u64) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        mount_at(dir).with_context(|| format!("no hugetlbfs at {}", dir.display()))?;
        allow(most / PAGE)?;
        let pagemap = File::open("/proc/self/pagemap").context("/proc/self/pagemap")?;
        let mut pool = Self {
            dir: dir.to_owned(),
            pagemap,
            pages: BTreeSet::new(),
            held: BTreeSet::new(),
        };
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let name = entry?.file_name();
            match name.to_str().and_then(address) {
                Some(ipa) => drop(pool.pages.insert(ipa)),
                None if name == NEW => fs::remove_file(dir.join(NEW))?,
                None => bail!(
                    "{} is none of the balloon's files",
                    dir.join(name).display()
                ),
            }
        }
        Ok(pool)
    }

    /// Takes a page from the kernel; `None` if it has none.
    pub fn take(&mut self) -> Result<Option<u64>> {
        let path = self.dir.join(NEW);
        let found = self.find_new(&path);
        let ipa = match found {
            Ok(Some(ipa)) => ipa,
            other => {
                let _ = fs::remove_file(&path);
                return other;
            }
        };
        fs::rename(&path, self.path(ipa))?;
        self.pages.insert(ipa);
        Ok(Some(ipa))
    }

    fn find_new(&mut self, path: &Path) -> Result<Option<u64>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| path.display().to_string())?;
        if fallocate(&file, FallocateFlags::empty(), 0, PAGE).is_err() {
            return Ok(None);
        }
        let at = map(&file).context("a page of the pool")?;
        let frame = self.frame_at(at);
        unmap(at);
        let ipa = frame?;
        ensure!(
            ipa != 0,
            "the kernel does not say where pages are: this needs root's rights (CAP_SYS_ADMIN)"
        );
        ensure!(
            ipa.is_multiple_of(PAGE) && !self.pages.contains(&ipa),
            "a page of 2 MiB at {ipa:#x}?"
        );
        Ok(Some(ipa))
    }

    /// The physical address behind a mapped one (Documentation/admin-guide/mm/pagemap.rst).
    fn frame_at(&mut self, at: usize) -> Result<u64> {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        let page = rustix::param::page_size();
        let mut entry = [0; 8];
        self.pagemap
            .seek(SeekFrom::Start((at / page * size_of::<u64>()) as u64))?;
        self.pagemap.read_exact(&mut entry)?;
        let entry = u64::from_le_bytes(entry);
        ensure!(entry & PRESENT != 0, "a page of the pool is not there");
        Ok((entry & FRAME) * page as u64)
    }

    /// Gives a page that is backed back to the kernel.
    pub fn give(&mut self, ipa: u64) {
        self.held.remove(&ipa);
        if self.pages.remove(&ipa)
            && let Err(error) = fs::remove_file(self.path(ipa))
        {
            eprintln!("ballast-user-balloon: {ipa:#x} stays in the pool: {error}");
        }
    }

    /// A page is not backed. False if it is none of the pool's.
    pub fn hold(&mut self, ipa: u64) -> bool {
        self.pages.contains(&ipa) && {
            self.held.insert(ipa);
            true
        }
    }

    /// Picks a held page.
    pub fn pick(&mut self) -> Option<u64> {
        self.held.pop_first()
    }

    /// Gives back what is backed: pages that a predecessor had in hand when it ended.
    pub fn sweep(&mut self) -> usize {
        let backed: Vec<u64> = self.pages.difference(&self.held).copied().collect();
        backed.iter().for_each(|ipa| self.give(*ipa));
        backed.len()
    }

    fn path(&self, ipa: u64) -> PathBuf {
        self.dir.join(format!("{ipa:012x}"))
    }
}

/// The address that a file's name says.
fn address(name: &str) -> Option<u64> {
    let ipa = u64::from_str_radix(name, 16).ok()?;
    (name.len() == 12 && ipa.is_multiple_of(PAGE)).then_some(ipa)
}

fn mount_at(dir: &Path) -> Result<()> {
    let is_one = || -> rustix::io::Result<bool> {
        let found = statfs(dir)?;
        Ok(found.f_type as i64 & 0xffff_ffff == HUGETLBFS_MAGIC && found.f_bsize as u64 == PAGE)
    };
    if is_one()? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("ballast", dir, "hugetlbfs", flags, c"pagesize=2M,mode=0700")?;
    ensure!(is_one()?, "its pages are not of 2 MiB");
    Ok(())
}

/// Lets the kernel make so many pages beside those of its persistent pool.
fn allow(pages: u64) -> Result<()> {
    let allowed = fs::read_to_string(OVERCOMMIT).context("the kernel has no pages of 2 MiB")?;
    if allowed.trim().parse::<u64>().unwrap_or(0) < pages {
        fs::write(OVERCOMMIT, pages.to_string()).context(OVERCOMMIT)?;
    }
    Ok(())
}

/// Maps the page of `file`, which is there, without an access to it.
#[expect(unsafe_code, reason = "a mapping is raw memory")]
fn map(file: &File) -> rustix::io::Result<usize> {
    let flags = MapFlags::SHARED | MapFlags::POPULATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping, where nothing is; nothing is read or written through it.
    let at = unsafe {
        mmap(
            std::ptr::null_mut(),
            PAGE_BYTES,
            ProtFlags::READ,
            flags,
            file,
            0,
        )
    }?;
    Ok(at.addr())
}

#[expect(unsafe_code, reason = "a mapping is raw memory")]
fn unmap(at: usize) {
    // SAFETY: what `map` has mapped; no reference into it was made.
    let unmapped = unsafe { munmap(std::ptr::with_exposed_provenance_mut(at), PAGE_BYTES) };
    // It fails for addresses that are not mapped only.
    debug_assert!(unmapped.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_addresses() {
        assert_eq!(address("000040200000"), Some(0x4020_0000));
        for none in [
            "new",
            "000040201000",
            "40200000",
            "0000402000000",
            "zz0040200000",
        ] {
            assert_eq!(address(none), None, "{none}");
        }
    }
}
