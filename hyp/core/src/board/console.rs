//! The console UART and the pins it comes out at.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::gic_node;
use crate::addr::{Pa, PaRange};
use crate::dt::{DeviceTree, Node};

/// The console UART.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Console {
    /// Path of its node.
    pub path: String,
    /// What it is.
    pub uart: Uart,
    /// Registers.
    pub registers: PaRange,
    /// INTID of its interrupt, if it is wired.
    pub intid: Option<u32>,
    /// Clock in Hz, if the tree says.
    pub clock_hz: Option<u32>,
    /// Bits a second that `stdout-path` asks for.
    pub baud: u32,
    /// Pins to route to it where firmware has not.
    pub pins: Option<Pins>,
}

/// The UARTs that Ballast drives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Uart {
    /// Arm PrimeCell PL011 (DDI 0183G).
    Pl011,
    /// The mini-UART of the BCM2711's auxiliary block (BCM2711 ARM Peripherals, 2.2).
    Mini {
        /// AUX_IRQ and AUX_ENABLES, which it shares with two SPI controllers.
        aux: PaRange,
    },
}

/// Pins of the BCM2711's GPIO block (BCM2711 ARM Peripherals, 5.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pins {
    /// The block's registers.
    pub gpio: PaRange,
    /// Its pins that the UART needs.
    pub pins: Vec<Pin>,
}

/// A pin and what it is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin {
    /// GPIO number, 0 to 57.
    pub number: u8,
    /// Value of its field in GPFSEL (3 bits): 4 is alternate function 0, 2 is alternate function 5.
    pub function: u8,
    /// Value of its field in GPIO_PUP_PDN_CNTRL (2 bits): 0 none, 1 up, 2 down.
    pub pull: u8,
}

/// Bits a second where nothing says another.
const DEFAULT_BAUD: u32 = 115_200;

/// The console UART: the one at `stdout-path`, else the alias `serial0`, else the first PL011 in use, else the first
/// mini-UART.
/// Needs nothing else of the board, so that a boot error can be printed.
#[must_use]
pub fn find_console(tree: &DeviceTree<'_>) -> Option<Console> {
    let stdout = tree
        .root()
        .child("chosen")
        .and_then(|chosen| chosen.str("stdout-path").ok().flatten());
    let named = stdout.and_then(|path| console_at(tree, tree.find(path)?, baud_in(path)));
    let first = |name| {
        let mut nodes = tree.nodes().filter(move |node| node.is_compatible(name));
        nodes.find_map(|node| console_at(tree, node, DEFAULT_BAUD))
    };
    // Without stdout-path, as in Raspberry Pi OS's tree, the UART on the board's header is `serial0`.
    let alias = || console_at(tree, tree.find("serial0")?, DEFAULT_BAUD);
    named
        .or_else(alias)
        .or_else(|| first(PL011))
        .or_else(|| first(MINI))
}

const PL011: &str = "arm,pl011";
const MINI: &str = "brcm,bcm2835-aux-uart";

/// The options behind the path begin with the rate: `serial0:115200n8` (DT specification 3.6).
fn baud_in(stdout: &str) -> u32 {
    let options = stdout.split_once(':').map_or("", |(_, options)| options);
    let digits = options.split(|c: char| !c.is_ascii_digit()).next();
    let baud = digits.and_then(|digits| digits.parse().ok());
    baud.filter(|baud| (300..=4_000_000).contains(baud))
        .unwrap_or(DEFAULT_BAUD)
}

/// The UART that `node` is, if Ballast drives it and it is in use.
fn console_at(tree: &DeviceTree<'_>, node: Node<'_>, baud: u32) -> Option<Console> {
    if !node.is_enabled() {
        return None;
    }
    let uart = if node.is_compatible(PL011) {
        Uart::Pl011
    } else if node.is_compatible(MINI) {
        Uart::Mini {
            aux: aux_block(tree)?,
        }
    } else {
        return None;
    };
    let registers = *node.regions().ok()?.first()?;
    let intid = gic_node(tree)
        .ok()
        .and_then(|gic| node.interrupts(gic).ok());
    let intid = intid.and_then(|all| all.first().map(|interrupt| interrupt.intid));
    let clock = node
        .property("clocks")
        .and_then(|clocks| clocks.cells().ok()?.next());
    let clock_hz = clock.and_then(|phandle| {
        tree.by_phandle(phandle)?
            .u32("clock-frequency")
            .ok()
            .flatten()
    });
    Some(Console {
        path: node.path(),
        uart,
        registers,
        intid,
        clock_hz,
        baud,
        pins: pins(tree, node, uart),
    })
}

fn aux_block(tree: &DeviceTree<'_>) -> Option<PaRange> {
    let is_aux = |node: &Node<'_>| node.is_compatible("brcm,bcm2835-aux");
    let node = tree.nodes().find(is_aux)?;
    node.regions().ok()?.first().copied()
}

/// The pins of a UART of the BCM2711: those that `pinctrl-0` gives it on the header, else, for the two
/// that can be there, the header's serial pins, GPIO 14 and 15. So a UART that the tree wires to the
/// Bluetooth chip comes out at the header when it is chosen as the console.
fn pins(tree: &DeviceTree<'_>, node: Node<'_>, uart: Uart) -> Option<Pins> {
    let is_gpio = |node: &Node<'_>| node.is_compatible("brcm,bcm2711-gpio");
    let gpio = *tree.nodes().find(is_gpio)?.regions().ok()?.first()?;
    let from_tree = pins_of_groups(tree, node);
    let pins = if from_tree.is_empty() {
        header_pins(node, uart)?
    } else {
        from_tree
    };
    Some(Pins { gpio, pins })
}

/// GPIO 14 (transmit) and 15 (receive, pulled up): TXD0 and RXD0 as alternate function 0, TXD1 and RXD1
/// as 5 (BCM2711 ARM Peripherals, table 94). The PL011 that can be there, UART0, begins its page.
fn header_pins(node: Node<'_>, uart: Uart) -> Option<Vec<Pin>> {
    const ALT0: u8 = 4;
    const ALT5: u8 = 2;
    let function = match uart {
        Uart::Mini { .. } => ALT5,
        Uart::Pl011 if node.reg().ok()?.first()?.start.trailing_zeros() >= 12 => ALT0,
        Uart::Pl011 => return None,
    };
    let pin = |number, pull| Pin {
        number,
        function,
        pull,
    };
    Some(alloc::vec![pin(14, 0), pin(15, 1)])
}

/// What `pinctrl-0`'s groups say in the BCM2835's own binding (`brcm,pins`, `brcm,function`, `brcm,pull`)
/// of pins on the header.
fn pins_of_groups(tree: &DeviceTree<'_>, node: Node<'_>) -> Vec<Pin> {
    let cells = |node: Node<'_>, name| -> Vec<u32> {
        let property = node.property(name);
        property
            .and_then(|property| Some(property.cells().ok()?.collect()))
            .unwrap_or_default()
    };
    let mut pins = Vec::new();
    for phandle in cells(node, "pinctrl-0") {
        let Some(group) = tree.by_phandle(phandle) else {
            continue;
        };
        let numbers = cells(group, "brcm,pins");
        let functions = cells(group, "brcm,function");
        let pulls = cells(group, "brcm,pull");
        for (place, number) in numbers.iter().enumerate() {
            // One value serves all pins of the group.
            let of = |list: &[u32]| list.get(place).or(list.first()).copied();
            // The header has GPIO 0 to 27.
            let (Ok(number @ 0..=27), Some(Ok(function @ 0..=7))) =
                (u8::try_from(*number), of(&functions).map(u8::try_from))
            else {
                continue;
            };
            // The binding counts none, down, up; the register none, up, down.
            let pull = match of(&pulls) {
                Some(1) => 2,
                Some(2) => 1,
                Some(_) => 0,
                // Receivers idle high.
                None => u8::from(number % 2 == 1),
            };
            pins.push(Pin {
                number,
                function,
                pull,
            });
        }
    }
    pins
}

/// Where to complain when the device tree cannot be read: the console of a board whose name stands
/// somewhere in it. A guess, for the one message that would otherwise be lost; nothing else uses it.
#[must_use]
pub fn last_resort_console(blob: &[u8]) -> Option<Console> {
    let has = |name: &[u8]| blob.windows(name.len()).any(|bytes| bytes == name);
    let range = |start, size| PaRange {
        start: Pa(start),
        size,
    };
    let console = |uart, registers, pins| Console {
        path: "last resort".to_string(),
        uart,
        registers,
        intid: None,
        clock_hz: None,
        baud: DEFAULT_BAUD,
        pins,
    };
    if has(b"brcm,bcm2711\0") {
        // What stock firmware sets up with `enable_uart=1`: the mini-UART at GPIO 14 and 15.
        let uart = Uart::Mini {
            aux: range(0xfe21_5000, 8),
        };
        let pin = |number, pull| Pin {
            number,
            function: 2,
            pull,
        };
        let pins = Pins {
            gpio: range(0xfe20_0000, 0xb4),
            pins: alloc::vec![pin(14, 0), pin(15, 1)],
        };
        return Some(console(uart, range(0xfe21_5040, 0x40), Some(pins)));
    }
    if has(b"linux,dummy-virt\0") {
        return Some(console(Uart::Pl011, range(0x0900_0000, 0x1000), None));
    }
    None
}

impl Console {
    /// The PL011's divisor (UARTIBRD, UARTFBRD; DDI 0183G, 3.3.6) for [`Console::baud`].
    #[must_use]
    pub fn pl011_divisor(&self) -> (u32, u32) {
        /// The firmware's `init_uart_clock` on every Raspberry Pi since the 3.
        const CLOCK_HZ: u32 = 48_000_000;
        let clock = u64::from(self.clock_hz.unwrap_or(CLOCK_HZ));
        let baud = u64::from(self.baud.max(1));
        // 64ths of clock / (16 * baud), rounded.
        let parts = clock
            .saturating_mul(4)
            .saturating_add(baud / 2)
            .checked_div(baud)
            .unwrap_or(64);
        let parts = u32::try_from(parts.clamp(64, 0xffff << 6)).unwrap_or(64);
        (parts >> 6, parts & 0x3f)
    }

    /// The mini-UART's divisor (AUX_MU_BAUD; BCM2711 ARM Peripherals, 2.2.1) for [`Console::baud`].
    #[must_use]
    pub fn mini_divisor(&self) -> u32 {
        /// The firmware's `core_freq` on a Raspberry Pi 4.
        const CLOCK_HZ: u32 = 500_000_000;
        let clock = self.clock_hz.unwrap_or(CLOCK_HZ);
        let per_bit = self.baud.max(1).saturating_mul(8);
        let rounded = clock.saturating_add(per_bit / 2).checked_div(per_bit);
        rounded.unwrap_or(1).clamp(1, 1 << 16).saturating_sub(1)
    }
}
