//! Pins and UARTs of the Raspberry Pi 4, whose registers several guests share with each other and with Ballast.
//!
//! Sharing as such is tested in `shared.rs`, on QEMU's `virt`. Here is what only this board has: pins that are
//! given by number, and two UARTs of which the console may be either.

use anyhow::{Result, ensure};

use super::{Guest, Scenario};
use crate::paths;
use crate::rpi4::tree::Tree;

/// Two guests at work, Linux beside one, and one guest against each kind of bad neighbour.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = vec![
        pins_and_uarts(),
        linux_beside_pins(),
        linux_with_the_pl011(),
    ];
    all.extend(pi_refusals());
    all
}

/// On a Raspberry Pi 4: the page of mini-UART and SPI1, and their interrupt.
const AUX_PAGE: u32 = 0xfe21_5000;
const AUX_INTID: u32 = 93 + 32;

/// SPI1 is in use, which Debian's tree leaves to an overlay, and the mini-UART comes out at pins 32 and 33: at the
/// header's is Ballast's console.
fn with_aux(tree: &mut Tree) {
    let soc = tree.root.child("soc");
    soc.child("spi@7e215080").set_string("status", "okay");
    let group = soc.child("gpio@7e200000").child("uart1-gpio32");
    let phandle = group.get("phandle").unwrap_or_default().to_vec();
    soc.child("serial@7e215040").set("pinctrl-0", phandle);
}

/// Each of two guests drives and reads its own pin while the other tries to get at it; one has the mini-UART, the
/// other SPI1 of the same page, and both hear the UART's interrupt. Ballast has the PL011 and its pins.
fn pins_and_uarts() -> Scenario {
    const NAME: &str = "rpi4-pins-and-uarts";
    Scenario::rpi4(NAME, |console| {
        console.patience(60);
        for _ in 0..2 {
            console.expect("PASS pins")?;
        }
        console.expect_power_off()?;
        console.expect_never("FAIL")?;
        sent(NAME, "mini-uart.log", "the mini-UART of a guest")
    })
    .tree(0, with_aux)
    .guest(with_mini_uart("uart"))
    .guest(
        Guest::bare_metal("spi", "pins")
            .args(&format!("pin=27 spi={} intid={AUX_INTID}", AUX_PAGE + 0x80))
            .property("devices = \"/soc/spi@7e215080\"")
            .property("gpios = <27>"),
    )
}

/// A guest with pin 17 and the mini-UART.
fn with_mini_uart(name: &str) -> Guest {
    let uart = AUX_PAGE + 0x40;
    Guest::bare_metal(name, "pins")
        .args(&format!("pin=17 uart={uart} intid={AUX_INTID}"))
        .property("devices = \"/soc/serial@7e215040\"")
        .property("gpios = <17 32 33>")
}

/// What was sent through the UART that this test is not connected to.
fn sent(test: &str, log: &str, words: &str) -> Result<()> {
    let tests = paths::target().join("qemu-tests");
    let sent = paths::read(&tests.join(test).join(log))?;
    let sent = String::from_utf8_lossy(&sent);
    ensure!(sent.contains(words), "it sent {sent:?}");
    Ok(())
}

/// The second guest toggles and reads its pin and uses its UART while Linux, which has the board, uses its own pin
/// and its own UART, in whose page others are.
fn linux_beside_pins() -> Scenario {
    const NAME: &str = "rpi4-linux-and-pins";
    Scenario::rpi4(NAME, |console| {
        console.patience(400).expect_up(1)?;
        // From its start, now that Linux is there.
        console.monitor("reset 2")?;
        console.focus(2)?;
        console.expect("toggling")?;
        for _ in 0..3 {
            let said = console.shell(1, "pins 27 17 200")?;
            ensure!(!said.contains("BAD"), "Linux's pin: {said}");
            ensure!(said.contains("rounds=200 last=1"), "{said}");
            let register = |name: &str| {
                let mut words = said.split_whitespace().skip_while(|word| *word != name);
                let value = words.nth(1).and_then(|word| word.strip_prefix("0x"));
                value.and_then(|digits| u32::from_str_radix(digits, 16).ok())
            };
            // Of pins 10 to 19 Linux has all but 14, 15 and 17, and so of the pulls of 16 to 31.
            let expected = [
                ("select", 0o3_303_003_333),
                ("pull", !(0b11 << 2)),
                ("level", 0),
            ];
            for (name, value) in expected {
                let found = register(name);
                let others = if name == "level" { 1 << 17 } else { u32::MAX };
                ensure!(
                    found.is_some_and(|found| found & others == value),
                    "{name} should be {value:#x}: {said}"
                );
            }
        }
        console.focus(2)?;
        console.expect("PASS pins")?;
        console.expect_never("FAIL")?;
        // Its memory goes and comes meanwhile, each frame to where it was.
        for mib in [384, 512] {
            console.monitor(&format!("mem 1 {mib}"))?;
            let what = format!("Linux to have {mib} MiB");
            console.wait_for_status(&what, |s| s.memory_mib(1) == mib && s.settled(1))?;
        }
        sent(NAME, "mini-uart.log", "the mini-UART of a guest")
    })
    .tree(0, with_aux)
    .guest(
        Guest::debian("debian")
            .args("iomem=relaxed")
            .memory(512)
            .memory_bounds(256, 512)
            .primary(),
    )
    .guest(with_mini_uart("pins").args("seconds=25"))
}

/// The other way round: Ballast has the mini-UART, in whose page and on whose interrupt the second guest has SPI1, and
/// Linux sends through the PL011 itself, whose pins are its own.
fn linux_with_the_pl011() -> Scenario {
    const NAME: &str = "rpi4-linux-with-the-pl011";
    /// Without the Bluetooth chip, which would have the UART.
    fn tree(tree: &mut Tree) {
        super::rpi4::console_on_mini_uart(tree);
        let soc = tree.root.child("soc");
        soc.child("spi@7e215080").set_string("status", "okay");
        soc.child("serial@7e201000").retain_children(|_| false);
    }
    Scenario::rpi4(NAME, |console| {
        console.patience(400).expect_up(1)?;
        console.monitor("reset 2")?;
        console.focus(2)?;
        console.expect("toggling")?;
        let said = console.shell(
            1,
            "stty -F /dev/ttyAMA0 raw; echo the PL011 of Linux > /dev/ttyAMA0; pins 17 27 100",
        )?;
        ensure!(
            !said.contains("BAD") && said.contains("rounds=100 last=1"),
            "Linux's pin: {said}"
        );
        // Asking makes the console's UART interrupt, which the guest wants to hear.
        console.wait_for_status("the SPI's guest to be done", |s| {
            s.guest(2).get("state") == "off"
        })?;
        console.focus(2)?;
        // Its first life heard nothing, while the console had nothing to say.
        console.expect("PASS pins")?;
        sent(NAME, "pl011.log", "the PL011 of Linux")
    })
    .tree(1, tree)
    .guest(
        Guest::debian("debian")
            .console("ttyAMA1")
            .args("iomem=relaxed")
            .memory(512)
            .primary(),
    )
    .guest(
        Guest::bare_metal("spi", "pins")
            .args(&format!(
                "pin=27 spi={} intid={AUX_INTID} seconds=10",
                AUX_PAGE + 0x80
            ))
            .property("devices = \"/soc/spi@7e215080\"")
            .property("gpios = <27>"),
    )
}

/// Pins and UARTs that cannot be given.
fn pi_refusals() -> Vec<Scenario> {
    let refused = |name: &str, properties: [&str; 2], word: &'static str| {
        let scenario = Scenario::rpi4(format!("rpi4-refuses-{name}"), move |console| {
            console.expect(word)?;
            console.expect("no guest was started")?;
            console.expect_power_off()
        });
        let [first, second] = properties;
        scenario
            .refused(word)
            .guest(Guest::bare_metal("a", "hello").property(first))
            .guest(Guest::bare_metal("b", "hello").property(second))
    };
    vec![
        refused(
            "pin-twice",
            ["gpios = <17 27>", "gpios = <27>"],
            "pin 27 is already given to /ballast/a@1",
        ),
        refused(
            "console-pin",
            ["gpios = <17>", "gpios = <15>"],
            "pin 15 carries Ballast's console",
        ),
        refused(
            "uart-twice",
            [
                "devices = \"/soc/serial@7e215040\"",
                "devices = \"/soc/serial@7e215040\"",
            ],
            "is already given to /ballast/a@1",
        ),
        refused(
            "console-uart",
            ["gpios = <17>", "devices = \"/soc/serial@7e201000\""],
            "is the console UART, which Ballast drives",
        ),
        refused(
            "no-pin",
            ["gpios = <17>", "gpios = <58>"],
            "58 is no pin; choose from 0 to 57",
        ),
        refused(
            "all-pins-twice",
            [
                "devices = \"/soc/gpio@7e200000\"",
                "devices = \"/soc/gpio@7e200000\"",
            ],
            "is already given to /ballast/a@1",
        ),
        refused(
            "dma-untrusted",
            ["gpios = <17>", "devices = \"/soc/mmc@7e300000\""],
            "write dma = \"trusted\"",
        ),
        refused(
            "board-untrusted",
            [
                "gpios = <17>",
                "dma = \"trusted\"; devices = \"/soc/cprman@7e101000\"",
            ],
            "has power over the whole board",
        ),
        refused(
            "disabled-device",
            ["gpios = <17>", "devices = \"/soc/serial@7e201400\""],
            "is disabled on this board",
        ),
        refused(
            "interrupt-controller",
            [
                "gpios = <17>",
                "dma = \"trusted\"; devices = \"/soc/interrupt-controller@40041000\"",
            ],
            "is the interrupt controller, which Ballast drives",
        ),
        refused(
            "self-test-beside",
            ["self-test", "gpios = <17>"],
            "needs the board to itself",
        ),
        refused(
            "pins-of-a-device",
            ["gpios = <17>", "devices = \"/soc/serial@7e215040\""],
            "comes out at pins 14, 15 by its pinctrl properties",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use ballast_core::board::Board;
    use ballast_core::config::Partitions;
    use ballast_core::dt::DeviceTree;
    use ballast_core::guest_dt::{self, GuestMachine};

    use super::*;
    use crate::setup;

    /// On the board's own tree: the mini-UART of a guest brings its group of pins with it.
    #[test]
    fn groups_of_pins_of_the_boards_own_tree() {
        let Ok(path) = setup::raspberry_pi_device_tree() else {
            return; // Not fetched on this machine.
        };
        let mut tree = Tree::read(&paths::read(&path).unwrap()).unwrap();
        with_aux(&mut tree);
        let root = &mut tree.root;
        root.child("chosen").set_string("stdout-path", "serial0");
        let memory = root.child("memory@0");
        memory.set_cells("reg", &[0, 0, 0x3b40_0000]);
        let ballast = root.child("ballast");
        ballast.set_string("compatible", "ballast,partitions");
        ballast.set_cells("#address-cells", &[1]);
        ballast.set_cells("#size-cells", &[0]);
        let guest = ballast.child("uart@1");
        guest.set_string("compatible", "ballast,guest");
        guest.set_string("kernel", "any");
        guest.set_cells("reg", &[1]);
        guest.set_cells("memory-mib", &[64]);
        guest.set_string("devices", "/soc/serial@7e215040");
        guest.set_cells("gpios", &[32, 33]);
        let blob = tree.write();
        let tree = DeviceTree::new(&blob).unwrap();
        let board = Board::from_dt(&tree).unwrap();
        let partitions = Partitions::parse(&tree, &board).unwrap();
        let guest = &partitions.guests[0];
        let machine = GuestMachine {
            name: "uart",
            gic_version: 2,
            cpus: 1,
            cpu_compatible: "arm,cortex-a72",
            machine: &guest.machine,
            ram: &[],
            backed_bytes: 0,
            extra_ram: &[],
            bootargs: "",
            ramdisk: None,
            devices: &guest.devices,
            board: None,
            channels: &[],
        };
        let blob = guest_dt::build(&machine, Vec::new());
        let tree = DeviceTree::new(&blob).unwrap();
        let uart = tree.find("/serial@7e215040").unwrap();
        assert_eq!(uart.str("pinctrl-names").unwrap(), Some("default"));
        let mut groups = uart.property("pinctrl-0").unwrap().cells().unwrap();
        let group = tree.by_phandle(groups.next().unwrap()).unwrap();
        assert_eq!(group.path(), "/gpio@7e200000/uart1-gpio32");
        let cells = |name| -> Vec<u32> {
            let property = group.property(name).unwrap();
            property.cells().unwrap().collect()
        };
        assert_eq!(
            (cells("brcm,pins"), cells("brcm,function")),
            (vec![32, 33], vec![2])
        );
    }
}
