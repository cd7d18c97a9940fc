//! Writing the device tree a guest gets: QEMU virt's, with Ballast's node in it.
//!
//! Written anew at each start of a guest, since what is backed may have changed since the last.
//! The guest's maximum is described as memory; what of it is not backed is a reserved-memory region that
//! the balloon driver owns, so RAM that is not there is never described as usable.

mod command_line;
mod primary;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::vec::Vec;

pub use primary::{BoardTree, most_bytes};

use ballast_abi::device_tree::{
    BOOT_BALLOON_COMPATIBLE, CHANNEL_COMPATIBLE, CHANNEL_NUMBER, CHANNEL_READ_ONLY, COMPATIBLE,
};

use crate::addr::{Ipa, IpaRange, PAGE_SIZE};
use crate::config::{Access, Device, PinGroup};
use crate::dt::Writer;
use crate::machine::{GICR_STRIDE, Machine, SPI_BASE, TIMER_PPIS, UART_CLOCK_HZ};
use crate::plan::{ChannelEnd, unbacked_ram};
use crate::smccc::low_word;
use crate::vgic::IntId;
use crate::watchdog::Kind;

/// What the tree describes. Texts have no NUL.
#[derive(Clone)]
pub struct GuestMachine<'a> {
    /// Name of the guest, which goes into `model`.
    pub name: &'a str,
    /// 2 or 3, as the board's.
    pub gic_version: u8,
    /// vCPUs, those not granted yet included (`cpus-max`).
    pub cpus: u32,
    /// `compatible` of the cores.
    pub cpu_compatible: &'a str,
    /// Where things are.
    pub machine: &'a Machine,
    /// The guest's RAM up to its maximum, in the order in which it is backed.
    pub ram: &'a [IpaRange],
    /// How many bytes of it are backed at this start; the rest is the boot balloon.
    pub backed_bytes: u64,
    /// Further banks of RAM, all backed.
    pub extra_ram: &'a [IpaRange],
    /// Command line.
    pub bootargs: &'a str,
    /// Where the ramdisk lies.
    pub ramdisk: Option<IpaRange>,
    /// Devices of the board that the guest has.
    pub devices: &'a [Device],
    /// A primary guest's tree is the board's.
    pub board: Option<BoardTree<'a>>,
    /// Memory that it shares with other guests.
    pub channels: &'a [ChannelEnd],
}

const GIC_PHANDLE: u32 = 1;
const UART_CLOCK_PHANDLE: u32 = 2;
/// The first; one for each range that is not backed.
const BOOT_BALLOON_PHANDLE: u32 = 0x100;
const DEVICE_CLOCK_PHANDLE: u32 = 0x200;

const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// The number that the GIC's binding has for an SPI.
fn spi(id: IntId) -> u32 {
    u32::from(id.0).saturating_sub(SPI_BASE)
}

/// Writes the tree into `buffer`, whose contents are replaced.
#[must_use]
pub fn build(machine: &GuestMachine<'_>, buffer: Vec<u8>) -> Vec<u8> {
    Writer::tree(buffer, |fdt| {
        if let Some(board) = machine.board {
            return primary::write(fdt, machine, board);
        }
        fdt.cells("#address-cells", &[2]);
        fdt.cells("#size-cells", &[2]);
        fdt.cells("interrupt-parent", &[GIC_PHANDLE]);
        fdt.texts("compatible", &["ballast,virt", "linux,dummy-virt"]);
        fdt.text("model", &format!("Ballast guest {}", machine.name));
        if machine.machine.messages.size != 0 {
            aliases(fdt, machine.machine);
        }
        chosen(fdt, machine);
        memory(fdt, machine);
        cpus(fdt, machine);
        psci(fdt);
        gic(fdt, machine);
        timer(fdt, machine);
        uart(fdt, machine.machine);
        watchdog(fdt, machine.machine, wide_cells);
        balloon(fdt, machine);
        for end in machine.channels {
            let reg = wide_cells(end.ipa);
            channel(fdt, end, &reg, None);
        }
        devices(fdt, machine.devices);
    })
}

/// Linux numbers its ttyAMA by these, and in the order of probing without.
fn aliases(fdt: &mut Writer<'_>, machine: &Machine) {
    fdt.node("aliases", |fdt| {
        for (alias, uart) in [("serial0", machine.uart), ("serial1", machine.messages)] {
            fdt.text(alias, &format!("/pl011@{:x}", uart.start.0));
        }
    });
}

fn chosen(fdt: &mut Writer<'_>, machine: &GuestMachine<'_>) {
    fdt.node("chosen", |fdt| {
        fdt.text(
            "stdout-path",
            &format!("/pl011@{:x}", machine.machine.uart.start.0),
        );
        chosen_properties(fdt, machine);
    });
}

/// Command line and ramdisk.
fn chosen_properties(fdt: &mut Writer<'_>, machine: &GuestMachine<'_>) {
    if !machine.bootargs.is_empty() {
        fdt.text("bootargs", machine.bootargs);
    }
    ramdisk(fdt, machine);
}

fn ramdisk(fdt: &mut Writer<'_>, machine: &GuestMachine<'_>) {
    if let Some(ramdisk) = machine.ramdisk {
        fdt.wide("linux,initrd-start", &[ramdisk.start.0]);
        fdt.wide("linux,initrd-end", &[ramdisk.end().0]);
    }
}

fn memory(fdt: &mut Writer<'_>, machine: &GuestMachine<'_>) {
    for bank in machine.ram.iter().chain(machine.extra_ram) {
        fdt.node_at("memory", bank.start.0, |fdt| {
            fdt.text("device_type", "memory");
            fdt.wide("reg", &[bank.start.0, bank.size]);
        });
    }
    let balloon = unbacked_ram(machine.ram, machine.backed_bytes);
    if balloon.is_empty() {
        return;
    }
    fdt.node("reserved-memory", |fdt| {
        fdt.cells("#address-cells", &[2]);
        fdt.cells("#size-cells", &[2]);
        fdt.flag("ranges");
        // No `no-map`: Linux then has page structs and a linear mapping for it, so that the driver
        // can give the pages to the allocator once they are backed.
        for (range, phandle) in balloon.iter().zip(BOOT_BALLOON_PHANDLE..) {
            fdt.node_at("boot-balloon", range.start.0, |fdt| {
                fdt.text("compatible", BOOT_BALLOON_COMPATIBLE);
                fdt.wide("reg", &[range.start.0, range.size]);
                fdt.cells("phandle", &[phandle]);
            });
        }
    });
}

fn cpus(fdt: &mut Writer<'_>, machine: &GuestMachine<'_>) {
    fdt.node("cpus", |fdt| {
        fdt.cells("#address-cells", &[1]);
        fdt.cells("#size-cells", &[0]);
        for number in 0..machine.cpus {
            fdt.node_at("cpu", u64::from(number), |fdt| {
                fdt.text("device_type", "cpu");
                fdt.text("compatible", machine.cpu_compatible);
                fdt.cells("reg", &[number]);
                fdt.text("enable-method", "psci");
            });
        }
    });
}

fn psci(fdt: &mut Writer<'_>) {
    fdt.node("psci", |fdt| {
        fdt.texts("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
        fdt.text("method", "hvc");
    });
}

fn gic(fdt: &mut Writer<'_>, machine: &GuestMachine<'_>) {
    /// Bytes of a GICv2 distributor (IHI 0048B.b, 4.1.2).
    const GICD_V2_BYTES: u64 = 0x1000;
    let Machine {
        gicd, gicc, gicr, ..
    } = machine.machine;
    fdt.node_at("intc", gicd.start.0, |fdt| {
        if machine.gic_version == 2 {
            fdt.text("compatible", "arm,cortex-a15-gic");
            fdt.wide(
                "reg",
                &[gicd.start.0, GICD_V2_BYTES, gicc.start.0, gicc.size],
            );
        } else {
            let redistributors = GICR_STRIDE.saturating_mul(u64::from(machine.cpus));
            fdt.text("compatible", "arm,gic-v3");
            fdt.cells("#redistributor-regions", &[1]);
            fdt.wide(
                "reg",
                &[gicd.start.0, gicd.size, gicr.start.0, redistributors],
            );
        }
        fdt.flag("interrupt-controller");
        fdt.cells("#interrupt-cells", &[3]);
        fdt.cells("#address-cells", &[2]);
        fdt.cells("#size-cells", &[2]);
        fdt.flag("ranges");
        fdt.cells("phandle", &[GIC_PHANDLE]);
    });
}

fn timer(fdt: &mut Writer<'_>, machine: &GuestMachine<'_>) {
    // GICv2's binding has the PPI's CPUs in bits 15:8 of the flags.
    let cpus = 1_u32.wrapping_shl(machine.cpus).wrapping_sub(1) & 0xff;
    let flags = if machine.gic_version == 2 {
        LEVEL_HIGH | cpus << 8
    } else {
        LEVEL_HIGH
    };
    let [secure, physical, virt, hyp] = TIMER_PPIS;
    fdt.node("timer", |fdt| {
        fdt.texts("compatible", &["arm,armv8-timer", "arm,armv7-timer"]);
        let cells = [
            PPI, secure, flags, PPI, physical, flags, PPI, virt, flags, PPI, hyp, flags,
        ];
        fdt.cells("interrupts", &cells);
        fdt.flag("always-on");
    });
}

fn clock(fdt: &mut Writer<'_>, name: &str, frequency_hz: u32, phandle: u32) {
    fdt.node(name, |fdt| {
        fdt.text("compatible", "fixed-clock");
        fdt.cells("#clock-cells", &[0]);
        fdt.cells("clock-frequency", &[frequency_hz]);
        fdt.cells("phandle", &[phandle]);
    });
}

fn uart(fdt: &mut Writer<'_>, machine: &Machine) {
    clock(fdt, "apb-pclk", UART_CLOCK_HZ, UART_CLOCK_PHANDLE);
    pl011(fdt, machine.uart, machine.uart_intid);
    if machine.messages.size != 0 {
        pl011(fdt, machine.messages, machine.messages_intid);
    }
}

fn pl011(fdt: &mut Writer<'_>, registers: IpaRange, intid: IntId) {
    fdt.node_at("pl011", registers.start.0, |fdt| {
        fdt.texts("compatible", &["arm,pl011", "arm,primecell"]);
        fdt.wide("reg", &[registers.start.0, registers.size]);
        fdt.cells("interrupts", &[SPI, spi(intid), LEVEL_HIGH]);
        fdt.cells("clocks", &[UART_CLOCK_PHANDLE, UART_CLOCK_PHANDLE]);
        fdt.texts("clock-names", &["uartclk", "apb_pclk"]);
    });
}

/// Arm's generic watchdog, its addresses in `cells`. Without interrupt: its first signal has none.
fn watchdog<C: AsRef<[u32]>>(
    fdt: &mut Writer<'_>,
    machine: &Machine,
    cells: impl Fn(IpaRange) -> C,
) {
    let Some((Kind::Generic, range)) = machine.watchdog else {
        return;
    };
    let frame = |offset: u64| IpaRange {
        start: Ipa(range.start.0.saturating_add(offset)),
        size: PAGE_SIZE,
    };
    fdt.node_at("watchdog", range.start.0, |fdt| {
        fdt.text("compatible", "arm,sbsa-gwdt");
        let (control, refresh) = (cells(frame(0)), cells(frame(PAGE_SIZE)));
        fdt.cells("reg", &[control.as_ref(), refresh.as_ref()].concat());
    });
}

fn balloon(fdt: &mut Writer<'_>, machine: &GuestMachine<'_>) {
    fdt.node("balloon", |fdt| {
        fdt.text("compatible", COMPATIBLE);
        fdt.text("method", "hvc");
        fdt.cells(
            "interrupts",
            &[SPI, spi(machine.machine.balloon_intid), LEVEL_HIGH],
        );
        let balloon = unbacked_ram(machine.ram, machine.backed_bytes);
        let phandles: Vec<u32> = (BOOT_BALLOON_PHANDLE..).take(balloon.len()).collect();
        if !phandles.is_empty() {
            fdt.cells("memory-region", &phandles);
        }
    });
}

/// Memory that is shared with another guest. It is no memory node's, so no system takes it for its own.
fn channel(fdt: &mut Writer<'_>, end: &ChannelEnd, reg: &[u32], interrupt_parent: Option<u32>) {
    fdt.node_at("shared-memory", end.ipa.start.0, |fdt| {
        fdt.text("compatible", CHANNEL_COMPATIBLE);
        fdt.cells("reg", reg);
        if let Some(gic) = interrupt_parent {
            fdt.cells("interrupt-parent", &[gic]);
        }
        fdt.cells("interrupts", &[SPI, end.spi, EDGE_RISING]);
        fdt.text("label", &end.label);
        fdt.cells(CHANNEL_NUMBER, &[end.number]);
        if end.access == Access::ReadOnly {
            fdt.flag(CHANNEL_READ_ONLY);
        }
    });
}

/// Address and size of two cells each.
fn wide_cells(range: IpaRange) -> [u32; 4] {
    let [start, size] = [range.start.0, range.size];
    [high(start), low_word(start), high(size), low_word(size)]
}

fn high(value: u64) -> u32 {
    low_word(value >> 32)
}

/// The board's devices, where they are on the board (IPA = PA) and with their own interrupts.
fn devices<'d>(fdt: &mut Writer<'d>, devices: &'d [Device]) {
    let mut phandle = DEVICE_CLOCK_PHANDLE;
    for device in devices {
        let mut clocks = Vec::new();
        for frequency_hz in &device.clocks_hz {
            clock(
                fdt,
                &format!("device-clock-{phandle}"),
                *frequency_hz,
                phandle,
            );
            clocks.push(phandle);
            phandle = phandle.saturating_add(1);
        }
        fdt.node(&device.name, |fdt| {
            let reg = device
                .regions
                .iter()
                .flat_map(|region| [region.start.0, region.size]);
            fdt.wide("reg", &reg.collect::<Vec<_>>());
            if !device.interrupts.is_empty() {
                let cells = device.interrupts.iter().flat_map(|interrupt| {
                    let number = interrupt.intid.saturating_sub(SPI_BASE);
                    [
                        SPI,
                        number,
                        if interrupt.level {
                            LEVEL_HIGH
                        } else {
                            EDGE_RISING
                        },
                    ]
                });
                fdt.cells("interrupts", &cells.collect::<Vec<_>>());
            }
            if !clocks.is_empty() {
                fdt.cells("clocks", &clocks);
            }
            for (name, value) in &device.properties {
                fdt.bytes(name, value);
            }
            pin_groups(fdt, &device.pin_groups);
        });
    }
}

/// Groups of pins below their controller.
fn pin_groups<'d>(fdt: &mut Writer<'d>, groups: &'d [PinGroup]) {
    for group in groups {
        fdt.node(&group.name, |fdt| {
            if let Some(phandle) = group.phandle {
                fdt.cells("phandle", &[phandle]);
            }
            for (name, value) in &group.properties {
                fdt.bytes(name, value);
            }
            // One level: parts have none.
            pin_groups(fdt, &group.parts);
        });
    }
}
