//! What the scenarios boot: the hypervisor and every guest's images.
//!
//! Apart from the scenarios because all of them share one set, built before the first.

use std::path::PathBuf;

use anyhow::Result;

use crate::archive::Image;
use crate::artefacts;
use crate::setup::Consent;

/// What the scenarios boot, built once.
pub struct Images {
    pub(super) hypervisor: PathBuf,
    all: Vec<Image>,
    pub(super) consent: Consent,
    /// The folder of the root filesystem.
    pub(super) root: Option<PathBuf>,
}

impl Images {
    /// Builds the hypervisor, the bare-metal guest and the Linux guest; with `debian` also that which has a medium,
    /// with `pages_16k` also the one with such pages.
    pub fn build(debian: bool, pages_16k: bool, consent: Consent) -> Result<Self> {
        let linux = artefacts::linux_guest(consent)?;
        let bare_metal = artefacts::bare_metal_forms()?;
        let mut images = Self {
            consent,
            hypervisor: artefacts::hypervisor()?,
            root: None,
            all: vec![
                Image::new("bare-metal", &bare_metal.image),
                Image::new("bare-metal-elf", &bare_metal.elf),
                Image::new("bare-metal-gz", &bare_metal.gzipped),
                Image::new("c-guest", artefacts::c_guest(consent)?),
                Image::new("linux", linux.kernel),
                Image::new("linux-initrd", linux.initrd),
            ],
        };
        if debian {
            let guest = artefacts::primary_guest(consent)?;
            images.all.push(Image::new("debian", guest.kernel));
            images.all.push(Image::new("debian-initrd", guest.initrd));
            images.root = Some(guest.root);
        }
        if pages_16k {
            let linux = artefacts::linux_16k_guest(consent)?;
            images.all.push(Image::new("linux-16k", linux.kernel));
            images
                .all
                .push(Image::new("linux-16k-initrd", linux.initrd));
        }
        Ok(images)
    }

    /// The images that an overlay's source names: a boot archive carries no others.
    pub(super) fn used_by(&self, overlay: &str) -> Vec<Image> {
        self.all
            .iter()
            .filter(|image| overlay.contains(&format!("\"{}\"", image.name)))
            .cloned()
            .collect()
    }
}
