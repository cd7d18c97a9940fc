//! What a command boots: partitions and images named on its command line, or one of the project's examples, whose
//! images the project builds itself.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::archive::Image;
use crate::artefacts;
use crate::paths;
use crate::setup::Consent;

/// Partitions and images, as the commands take them.
#[derive(clap::Args, Default)]
pub struct Source {
    /// The partitions: a device-tree overlay, as source or compiled
    #[arg(long, value_name = "FILE")]
    pub partitions: Option<PathBuf>,
    /// A guest image in the boot archive, under the name that the partitions use (repeat for each)
    #[arg(long = "image", value_name = "NAME=PATH")]
    pub images: Vec<Image>,
    /// Partitions of boards/BOARD/NAME.dtso with images that are built for it; --image replaces one
    #[arg(long, value_name = "NAME", conflicts_with = "partitions")]
    pub example: Option<String>,
}

/// What is to boot, all of it present.
pub struct Chosen {
    /// The overlay.
    pub partitions: PathBuf,
    /// The images in the archive.
    pub images: Vec<Image>,
    /// The root filesystem that goes with the images, for boards with a medium.
    pub root: Option<PathBuf>,
}

impl Source {
    /// Finds the partitions, and builds the images of an example. `board` is the folder of its examples.
    pub fn choose(&self, board: &str, consent: Consent) -> Result<Chosen> {
        let Some(name) = &self.example else {
            let partitions = self.partitions.clone();
            return Ok(Chosen {
                partitions: partitions
                    .context("nothing to boot: give --partitions FILE, or --example NAME")?,
                images: self.images.clone(),
                root: None,
            });
        };
        let dir = paths::root().join("boards").join(board);
        let partitions = dir.join(format!("{name}.dtso"));
        if !partitions.is_file() {
            bail!(
                "no example {name}: {} has {}",
                dir.display(),
                names(&dir).join(", ")
            );
        }
        let text = String::from_utf8(paths::read(&partitions)?).context("the partitions")?;
        let mut images = self.images.clone();
        let wants = |name: &str, images: &[Image]| {
            text.contains(&format!("\"{name}\"")) && images.iter().all(|i| i.name != name)
        };
        if wants("bare-metal", &images) {
            images.push(Image::new("bare-metal", artefacts::bare_metal_guest()?));
        }
        if wants("linux", &images) || wants("linux-initrd", &images) {
            let guest = artefacts::linux_guest(consent)?;
            for (name, path) in [("linux", guest.kernel), ("linux-initrd", guest.initrd)] {
                if wants(name, &images) {
                    images.push(Image::new(name, path));
                }
            }
        }
        let mut root = None;
        if wants("debian", &images) || wants("debian-initrd", &images) {
            let guest = artefacts::primary_guest(consent)?;
            root = Some(guest.root);
            for (name, path) in [("debian", guest.kernel), ("debian-initrd", guest.initrd)] {
                if wants(name, &images) {
                    images.push(Image::new(name, path));
                }
            }
        }
        Ok(Chosen {
            partitions,
            images,
            root,
        })
    }
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".dtso")?.to_owned()))
        .collect();
    names.sort();
    names
}
