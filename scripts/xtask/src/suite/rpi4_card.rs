//! Cards for the Raspberry Pi 4, booted by their own files: one that `cargo xtask image` makes, and one of another
//! system with Ballast installed on it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Scenario;
use crate::archive::Image;
use crate::artefacts;
use crate::paths;
use crate::rpi4::card::{self, Files};
use crate::rpi4::install::{self, Request};
use crate::rpi4::{image, root};
use crate::setup::{self, Consent};

/// The example cards and an installation.
pub fn scenarios() -> Vec<Scenario> {
    vec![hello(), self_test(), linux_with_its_root(), installed()]
}

/// The smallest card: two guests that say hello, and the board goes off with them.
fn hello() -> Scenario {
    fn make(dir: &Path, consent: Consent) -> Result<PathBuf> {
        example("hello", dir, consent)
    }
    Scenario::card("rpi4-card-hello", make, |console| {
        let said = console.expect("every guest is off")?;
        for guest in ["hello", "second"] {
            let line = format!("[{guest}] PASS hello");
            ensure!(said.contains(&line), "no \"{line}\" in:\n{said}");
        }
        console.expect_power_off()
    })
}

/// The primary guest mounts its root from the card's second partition, switches to it, and keeps what it writes.
fn linux_with_its_root() -> Scenario {
    fn make(dir: &Path, consent: Consent) -> Result<PathBuf> {
        example("linux-and-realtime", dir, consent)
    }
    Scenario::card("rpi4-card-linux-root", make, |console| {
        console.patience(400).expect_up(1)?;
        let mounts = console.shell(1, "grep ' / ' /proc/mounts")?;
        // Which number the card's controller gets is a race between two drivers.
        ensure!(
            mounts.contains("/dev/mmcblk") && mounts.contains("p2 / ext4 rw"),
            "the root is not on the card's second partition: {mounts}"
        );
        let back = console.shell(
            1,
            "md5sum < /bin/busybox > /root/sum; cp /bin/busybox /root/copy; sync; \
             echo 3 > /proc/sys/vm/drop_caches; md5sum < /root/copy | cmp - /root/sum && echo same",
        )?;
        ensure!(
            back.contains("same"),
            "what was written reads differently: {back}"
        );
        // Set-points to the real-time guest, telemetry back.
        let said = console.shell(1, "setpoints 20")?;
        ensure!(said.contains("setpoints done count=20"), "{said}");
        // The neighbour is there, and stays there when Linux goes.
        console.focus(1)?;
        console.send("poweroff\r")?;
        // All of its devices are known to be quiet, so its memory is not quarantined.
        console.wait_for_status("Linux to be off", |s| s.guest(1).get("state") == "off")?;
        let status = console.status()?;
        ensure!(
            status.guest(2).get("state") == "running",
            "the real-time guest is {}",
            status.guest(2).get("state")
        );
        Ok(())
    })
}

/// Another system's card with Ballast installed: its own kernel, initramfs and command line serve the guest.
fn installed() -> Scenario {
    Scenario::card("rpi4-card-installed", installed_card, |console| {
        console.patience(400).expect_up(1)?;
        let line = console.shell(1, "cat /proc/cmdline")?;
        ensure!(
            line.contains("from=cmdline.txt"),
            "the card's command line is not the guest's: {line}"
        );
        // Its messages are where Ballast's console is.
        ensure!(line.contains("console=ttyAMA0,115200"), "{line}");
        let active = console.shell(1, "cat /sys/class/tty/console/active")?;
        ensure!(active.contains("ttyAMA0"), "{active}");
        Ok(())
    })
}

/// The card's self-test: QEMU shows that it runs to its end, and only a board what it is for.
fn self_test() -> Scenario {
    fn make(dir: &Path, consent: Consent) -> Result<PathBuf> {
        example(image::SELF_TEST, dir, consent)
    }
    Scenario::card("rpi4-card-self-test", make, |console| {
        console.patience(180).expect("BEGIN JSON")?;
        let json = console.expect("END JSON")?;
        let report: serde_json::Value = serde_json::from_str(&json)?;
        let checks = report["checks"].as_object();
        ensure!(
            checks.is_some_and(|all| all.len() >= 10 && all.values().all(|passed| passed == true)),
            "not every check passed: {json}"
        );
        ensure!(
            report["cycles"]
                .as_object()
                .is_some_and(|all| all.len() > 15),
            "measurements are missing: {json}"
        );
        let cores = report["cores"].as_array();
        ensure!(
            cores.is_some_and(|all| all.len() == 4 && all[3]["mpidr_el1"] == 0x8000_0003_u64),
            "facts are missing: {json}"
        );
        console.expect("PASS self-test")?;
        console.expect_power_off()
    })
}

fn example(name: &str, dir: &Path, consent: Consent) -> Result<PathBuf> {
    let chosen = image::example(name).choose(image::BOARD, consent)?;
    let card = dir.join("card.img");
    image::write(&card, &chosen, chosen.root.as_deref(), None, consent)?;
    Ok(card)
}

/// A boot partition laid out like Raspberry Pi OS's, with Debian in it, and Ballast installed on it.
fn installed_card(dir: &Path, consent: Consent) -> Result<PathBuf> {
    let boot = dir.join("bootfs");
    let _ = fs::remove_dir_all(&boot);
    fs::create_dir_all(boot.join("overlays")).with_context(|| format!("{}", boot.display()))?;
    let guest = artefacts::primary_guest(consent)?;
    let firmware = setup::raspberry_pi_firmware()?;
    let config = "dtparam=audio=on\ncamera_auto_detect=1\nauto_initramfs=1\narm_64bit=1\n\
                  arm_boost=1\n\n[cm4]\notg_mode=1\n\n[all]\n";
    let command_line = "console=tty1 console=serial0,115200 init_on_alloc=0 cma=0 root=PARTUUID=42414c4c-02 rootwait guest=1 \
         from=cmdline.txt\n";
    for (name, data) in [
        ("start4.elf", paths::read(&firmware.start4)?),
        ("fixup4.dat", paths::read(&firmware.fixup4)?),
        (
            "bcm2711-rpi-4-b.dtb",
            paths::read(&setup::raspberry_pi_device_tree()?)?,
        ),
        ("kernel8.img", gzip(&paths::read(&guest.kernel)?)?),
        ("initramfs8", gzip(&paths::read(&guest.initrd)?)?),
        ("cmdline.txt", command_line.into()),
        ("config.txt", config.into()),
    ] {
        paths::write(&boot.join(name), data)?;
    }
    let request = Request {
        partitions: &paths::root().join("boards/rpi4/raspberry-pi-os.dtso"),
        images: &[Image::new("bare-metal", artefacts::bare_metal_guest()?)],
        hypervisor: &artefacts::hypervisor()?,
        check_ram: Some(2 << 30),
    };
    install::install(&boot, &request)?;
    let mut files = Files::new();
    collect(&boot, "", &mut files)?;
    let card = dir.join("card.img");
    card::write(&card, &files, Some(&root::image_of(&guest.root, dir)?))?;
    Ok(card)
}

fn gzip(data: &[u8]) -> Result<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(data)?;
    Ok(packed.finish()?)
}

fn collect(dir: &Path, inside: &str, files: &mut Files) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            collect(&path, &format!("{inside}{name}/"), files)?;
        } else {
            files.insert(format!("{inside}{name}"), paths::read(&path)?);
        }
    }
    Ok(())
}
