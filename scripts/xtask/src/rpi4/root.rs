//! The root filesystem of a card's second partition.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::Program;
use crate::setup;

const MIB: u64 = 1 << 20;
/// Of the file system and of its hashed folders: fixed, so that the same files give the same bytes.
const UUID: &str = "42414c4c-4153-5400-8000-000000000001";
/// Room for what the guest writes.
const FREE: u64 = 32 * MIB;

/// The image of a root filesystem: `source` itself if it is a file, else an ext4 made of the folder, in `dir`.
///
/// Files that belong to the user who runs this belong to root in it. Times are zero.
pub fn image_of(source: &Path, dir: &Path) -> Result<PathBuf> {
    if source.is_file() {
        return Ok(source.to_owned());
    }
    if !source.is_dir() {
        bail!(
            "no root filesystem at {}: neither a folder nor a file",
            source.display()
        );
    }
    let mut entries = Vec::new();
    let content = list(source, Path::new("/"), &mut entries)?;
    let image = dir.join("root.ext4");
    let _ = fs::remove_file(&image);
    let size = (content + content / 4 + FREE).next_multiple_of(MIB);
    // Zero would mean no fixed time to e2fsprogs.
    let e2fs = |name: &str| Program::new(tool(name)).env("E2FSPROGS_FAKE_TIME", "1");
    e2fs("mke2fs")
        .args(["-q", "-t", "ext4", "-L", "ballast-root", "-U", UUID])
        .args(["-E", &format!("hash_seed={UUID},root_owner=0:0")])
        .arg("-d")
        .args([source, &image])
        .arg(format!("{}K", size / 1024))
        .capture()
        .context("cannot make the root filesystem")?;
    // mke2fs takes owners and times over from this machine.
    let me = fs::metadata(dir)?.uid();
    let mut script = String::new();
    for (path, owner) in &entries {
        if path.contains('"') || path.contains('\n') {
            bail!("{path}: no such name can be put into the root filesystem");
        }
        for field in ["atime", "ctime", "mtime", "crtime"] {
            script += &format!("sif \"{path}\" {field} @1\n");
        }
        for field in ["atime_extra", "ctime_extra", "mtime_extra", "crtime_extra"] {
            script += &format!("sif \"{path}\" {field} 0\n");
        }
        if *owner == me {
            script += &format!("sif \"{path}\" uid 0\nsif \"{path}\" gid 0\n");
        }
    }
    let commands = dir.join("root.debugfs");
    paths::write(&commands, script)?;
    e2fs("debugfs")
        .arg("-w")
        .arg("-f")
        .args([&commands, &image])
        .capture()
        .context("cannot set owners and times of the root filesystem")?;
    Ok(image)
}

/// Lists everything below `dir` as (path in the image, owner); gives the bytes it takes, generously.
fn list(dir: &Path, inside: &Path, entries: &mut Vec<(String, u32)>) -> Result<u64> {
    let meta = fs::symlink_metadata(dir).with_context(|| format!("{}", dir.display()))?;
    entries.push((inside.display().to_string(), meta.uid()));
    if !meta.is_dir() {
        return Ok(meta.len().next_multiple_of(4096) + 4096);
    }
    let mut children: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("{}", dir.display()))?
        .collect::<std::result::Result<_, _>>()?;
    children.sort_by_key(fs::DirEntry::file_name);
    let mut size = 8192;
    for child in children {
        size += list(&child.path(), &inside.join(child.file_name()), entries)?;
    }
    Ok(size)
}

/// One of e2fsprogs' tools.
fn tool(name: &str) -> PathBuf {
    setup::find(name).unwrap_or_else(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_becomes_the_same_file_system_each_time() {
        if Program::new(tool("mke2fs")).arg("-V").capture().is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let made: Vec<Vec<u8>> = ["a", "b"]
            .iter()
            .map(|name| {
                let work = dir.path().join(name);
                let root = work.join("root");
                fs::create_dir_all(root.join("sbin")).unwrap();
                let names: Vec<String> = (0..40).map(|n| format!("file-{n}")).collect();
                let order: Vec<&String> = match *name {
                    "a" => names.iter().collect(),
                    _ => names.iter().rev().collect(),
                };
                for file in order {
                    fs::write(root.join(file), file).unwrap();
                }
                fs::write(root.join("sbin/init"), "#!/bin/sh\n").unwrap();
                std::os::unix::fs::symlink("sbin/init", root.join("linuxrc")).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1100));
                fs::read(image_of(&root, &work).unwrap()).unwrap()
            })
            .collect();
        let differing = made[0].iter().zip(&made[1]).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 0, "bytes differ");
        assert!(made[0].len() == made[1].len());
    }

    #[test]
    fn an_image_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.ext4");
        fs::write(&file, "x").unwrap();
        assert_eq!(image_of(&file, dir.path()).unwrap(), file);
        assert!(image_of(&dir.path().join("none"), dir.path()).is_err());
    }
}
