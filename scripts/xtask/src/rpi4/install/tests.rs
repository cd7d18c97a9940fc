//! On folders laid out like the boot partition of a 64-bit Raspberry Pi OS.

use std::collections::BTreeMap;
use std::io::Read;

use super::*;
use crate::process::Program;

const CONFIG_TXT: &str = "# For more options and information see\n# http://rptl.io/configtxt\n\
    dtparam=audio=on\ncamera_auto_detect=1\ndisplay_auto_detect=1\nauto_initramfs=1\n\
    dtoverlay=vc4-kms-v3d\nmax_framebuffers=2\ndisable_fw_kms_setup=1\narm_64bit=1\ndisable_overscan=1\n\
    arm_boost=1\n\n[cm4]\notg_mode=1\n\n[cm5]\ndtoverlay=dwc2,dr_mode=host\n\n[all]";

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An arm64 Image that is nothing else.
fn image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[16..24].copy_from_slice(&4096_u64.to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image
}

/// A boot partition, and a folder for what is put on it.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("boot");
        fs::create_dir_all(boot.join("overlays")).unwrap();
        for name in [
            "bootcode.bin",
            "start4.elf",
            "fixup4.dat",
            "start4x.elf",
            "LICENCE.broadcom",
        ] {
            fs::write(boot.join(name), name).unwrap();
        }
        fs::write(boot.join(CONFIG), CONFIG_TXT).unwrap();
        fs::write(
            boot.join("cmdline.txt"),
            "console=serial0,115200 root=PARTUUID=ab-02 rootwait\n",
        )
        .unwrap();
        fs::write(boot.join("kernel8.img"), gzip(&image())).unwrap();
        fs::write(boot.join("initramfs8"), gzip(b"070701 and so on")).unwrap();
        fs::write(boot.join("bcm2711-rpi-4-b.dtb"), "a tree").unwrap();
        fs::write(boot.join("overlays/vc4-kms-v3d.dtbo"), "an overlay").unwrap();
        fs::write(dir.path().join("ballast"), "the hypervisor").unwrap();
        fs::write(dir.path().join("p.dtbo"), "partitions").unwrap();
        Self { dir }
    }

    fn boot(&self) -> PathBuf {
        self.dir.path().join("boot")
    }

    fn install(&self) -> Result<Outcome> {
        let (partitions, hypervisor) = (
            self.dir.path().join("p.dtbo"),
            self.dir.path().join("ballast"),
        );
        install(
            &self.boot(),
            &Request {
                partitions: &partitions,
                images: &[],
                hypervisor: &hypervisor,
                check_ram: None,
            },
        )
    }

    /// Every file and its content.
    fn content(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut all = BTreeMap::new();
        collect(&self.boot(), &mut all);
        all
    }
}

fn collect(dir: &Path, all: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, all);
            all.insert(path, None);
        } else {
            all.insert(path.clone(), Some(fs::read(path).unwrap()));
        }
    }
}

#[test]
fn install_and_remove_leave_the_card_as_it_was() {
    let bench = Bench::new();
    let before = bench.content();
    assert_eq!(bench.install().unwrap(), Outcome::Installed);
    let installed = bench.content();
    let changed: Vec<_> = before
        .iter()
        .filter(|(path, data)| installed.get(*path) != Some(data))
        .collect();
    assert_eq!(changed.len(), 1, "only config.txt changes: {changed:?}");

    let config = fs::read_to_string(bench.boot().join(CONFIG)).unwrap();
    assert!(config.starts_with(CONFIG_TXT));
    let parsed = ConfigTxt::parse(&config).unwrap();
    assert_eq!(parsed.kernel, HYPERVISOR);
    assert_eq!(parsed.initramfs.as_deref(), Some(ARCHIVE));
    assert_eq!(parsed.overlays.last().unwrap().name, "ballast");
    assert_eq!(
        parsed.overlays[0].name, "vc4-kms-v3d",
        "the card's own overlays stay"
    );

    assert_eq!(bench.install().unwrap(), Outcome::AlreadyThere);
    assert_eq!(bench.content(), installed);
    assert!(remove(&bench.boot()).unwrap());
    assert_eq!(bench.content(), before);
    assert!(!remove(&bench.boot()).unwrap());
}

#[test]
fn the_archive_has_the_cards_kernel_unpacked_and_its_initramfs() {
    let bench = Bench::new();
    bench.install().unwrap();
    let archive = fs::read(bench.boot().join(ARCHIVE)).unwrap();
    let has = |data: &[u8]| archive.windows(data.len()).any(|window| window == data);
    assert!(has(b"card-kernel\0") && has(&image()));
    assert!(has(b"card-initramfs\0") && has(&gzip(b"070701 and so on")));
}

#[test]
fn another_installation_is_not_overwritten() {
    let bench = Bench::new();
    bench.install().unwrap();
    fs::write(bench.dir.path().join("p.dtbo"), "other partitions").unwrap();
    let installed = bench.content();
    let error = bench.install().unwrap_err().to_string();
    assert!(error.contains("--remove"), "{error}");
    assert_eq!(bench.content(), installed);
}

#[test]
fn what_is_no_such_partition_is_refused_untouched() {
    type Break = fn(&Path);
    let breaks: [(Break, &str); 7] = [
        (|boot| fs::remove_file(boot.join(CONFIG)).unwrap(), CONFIG),
        (
            |boot| fs::remove_file(boot.join("start4.elf")).unwrap(),
            "start4.elf",
        ),
        (
            |boot| fs::remove_file(boot.join("kernel8.img")).unwrap(),
            "kernel8.img",
        ),
        (
            |boot| fs::remove_dir_all(boot.join("overlays")).unwrap(),
            "overlays",
        ),
        (
            |boot| fs::write(boot.join(CONFIG), "arm_64bit=0\n").unwrap(),
            "arm_64bit=0",
        ),
        (
            |boot| fs::write(boot.join(CONFIG), "os_prefix=a/\n").unwrap(),
            "os_prefix",
        ),
        (
            |boot| fs::write(boot.join(OVERLAY), "somebody's").unwrap(),
            "not Ballast's",
        ),
    ];
    for (change, named) in breaks {
        let bench = Bench::new();
        change(&bench.boot());
        let before = bench.content();
        let error = bench.install().unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
        assert_eq!(bench.content(), before, "{named}");
    }
    assert!(remove(Path::new("/nowhere")).is_err());
}

#[test]
fn an_installation_that_fails_leaves_nothing() {
    let bench = Bench::new();
    // A folder where the new config.txt would be written: everything up to that succeeds.
    fs::create_dir(bench.boot().join(NEW_CONFIG)).unwrap();
    let before = fs::read(bench.boot().join(CONFIG)).unwrap();
    assert!(bench.install().is_err());
    assert_eq!(fs::read(bench.boot().join(CONFIG)).unwrap(), before);
    assert!(!bench.boot().join(FOLDER).exists() && !bench.boot().join(OVERLAY).exists());
    fs::remove_dir(bench.boot().join(NEW_CONFIG)).unwrap();
    bench.install().unwrap();
    assert!(remove(&bench.boot()).unwrap());
    assert!(!bench.boot().join(FOLDER).exists());
}

#[test]
fn what_a_cut_off_installation_left_is_taken_over_or_removed() {
    let bench = Bench::new();
    let before = bench.content();
    write_files(&bench.boot(), &Files::from([(OVERLAY.to_owned(), vec![1])])).unwrap();
    assert!(remove(&bench.boot()).unwrap());
    assert_eq!(bench.content(), before);
    write_files(&bench.boot(), &Files::from([(OVERLAY.to_owned(), vec![1])])).unwrap();
    assert_eq!(bench.install().unwrap(), Outcome::Installed);
    assert!(remove(&bench.boot()).unwrap());
    assert_eq!(bench.content(), before);
}

/// The partitions that are installed by default suit a board of 2 GiB, judged through the card's own config.txt.
#[test]
fn the_default_partitions_are_good() {
    if which::which("dtc").is_err() {
        return;
    }
    let Ok(tree) = setup::raspberry_pi_device_tree() else {
        return; // Not fetched on this machine.
    };
    let bench = Bench::new();
    fs::copy(tree, bench.boot().join("bcm2711-rpi-4-b.dtb")).unwrap();
    let source = paths::root().join("boards/rpi4/raspberry-pi-os.dtso");
    let guest = bench.dir.path().join("guest.img");
    fs::write(&guest, image()).unwrap();
    let hypervisor = bench.dir.path().join("ballast");
    fs::write(&hypervisor, image()).unwrap();
    let request = Request {
        partitions: &source,
        images: &[Image::new("bare-metal", guest)],
        hypervisor: &hypervisor,
        check_ram: Some(2 << 30),
    };
    assert_eq!(
        install(&bench.boot(), &request).unwrap(),
        Outcome::Installed
    );
    let mut overlay = Vec::new();
    File::open(bench.boot().join(OVERLAY))
        .unwrap()
        .read_to_end(&mut overlay)
        .unwrap();
    let text = Program::new("dtc")
        .args(["-q", "-I", "dtb", "-O", "dts"])
        .arg(bench.boot().join(OVERLAY))
        .capture()
        .unwrap();
    assert!(text.contains("primary") && !text.contains("linux@1 {\n\t\t\t\tbootargs"));
}
