//! Writing the device tree a guest gets: QEMU virt's, with Ballast's node in it.
//!
//! Written anew at each start of a guest, since what is backed may have changed since the last.
//! The guest's maximum is described as memory; what of it is not backed is a reserved-memory region that
//! the balloon driver owns, so RAM that is not there is never described as usable.

#[cfg(test)]
mod tests;

use alloc::format;
use alloc::vec::Vec;

use ballast_abi::device_tree::{BALLOON_SPI, BOOT_BALLOON_COMPATIBLE, COMPATIBLE};
use vm_fdt::{Error, FdtWriter};

use crate::addr::IpaRange;
use crate::config::Device;
use crate::machine::{
    GICC, GICD, GICR_BASE, GICR_STRIDE, RAM_BASE, TIMER_PPIS, UART, UART_CLOCK_HZ, UART_SPI,
};

/// What the tree describes.
#[derive(Clone, Debug)]
pub struct GuestMachine<'a> {
    /// Name of the guest, which goes into `model`.
    pub name: &'a str,
    /// 2 or 3, as the board's.
    pub gic_version: u8,
    /// vCPUs, those not granted yet included (`cpus-max`).
    pub cpus: u32,
    /// `compatible` of the cores.
    pub cpu_compatible: &'a str,
    /// The guest's maximum, in bytes from [`RAM_BASE`] on.
    pub max_bytes: u64,
    /// What of it is backed at this start, in bytes from [`RAM_BASE`] on; the rest is the boot balloon.
    pub backed_bytes: u64,
    /// Further banks of RAM, all backed.
    pub extra_ram: &'a [IpaRange],
    /// Command line.
    pub bootargs: &'a str,
    /// Where the ramdisk lies.
    pub ramdisk: Option<IpaRange>,
    /// Devices of the board that the guest has.
    pub devices: &'a [Device],
}

const GIC_PHANDLE: u32 = 1;
const UART_CLOCK_PHANDLE: u32 = 2;
const BOOT_BALLOON_PHANDLE: u32 = 3;
const DEVICE_CLOCK_PHANDLE: u32 = 4;

const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// Writes the tree.
///
/// # Errors
/// As vm-fdt's writer: a string with NUL, or a name that is none. What the configuration let
/// through has neither.
pub fn build(machine: &GuestMachine<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;
    strings(
        &mut fdt,
        "compatible",
        &["ballast,virt", "linux,dummy-virt"],
    )?;
    fdt.property_string("model", &format!("Ballast guest {}", machine.name))?;

    chosen(&mut fdt, machine)?;
    memory(&mut fdt, machine)?;
    cpus(&mut fdt, machine)?;
    psci(&mut fdt)?;
    gic(&mut fdt, machine)?;
    timer(&mut fdt, machine)?;
    uart(&mut fdt)?;
    balloon(&mut fdt, machine)?;
    devices(&mut fdt, machine.devices)?;

    fdt.end_node(root)?;
    fdt.finish()
}

fn strings(fdt: &mut FdtWriter, name: &str, list: &[&str]) -> Result<(), Error> {
    let mut bytes = Vec::new();
    for text in list {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    fdt.property(name, &bytes)
}

fn chosen(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("stdout-path", &format!("/pl011@{:x}", UART.start.0))?;
    if !machine.bootargs.is_empty() {
        fdt.property_string("bootargs", machine.bootargs)?;
    }
    if let Some(ramdisk) = machine.ramdisk {
        fdt.property_u64("linux,initrd-start", ramdisk.start.0)?;
        fdt.property_u64("linux,initrd-end", ramdisk.end().0)?;
    }
    fdt.end_node(node)
}

/// What of the maximum is not backed.
fn boot_balloon(machine: &GuestMachine<'_>) -> Option<IpaRange> {
    let size = machine
        .max_bytes
        .checked_sub(machine.backed_bytes)
        .filter(|size| *size != 0)?;
    Some(IpaRange {
        start: RAM_BASE.checked_add(machine.backed_bytes)?,
        size,
    })
}

fn memory(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Result<(), Error> {
    let ram = IpaRange {
        start: RAM_BASE,
        size: machine.max_bytes,
    };
    for bank in core::iter::once(&ram).chain(machine.extra_ram) {
        let node = fdt.begin_node(&format!("memory@{:x}", bank.start.0))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[bank.start.0, bank.size])?;
        fdt.end_node(node)?;
    }
    let Some(balloon) = boot_balloon(machine) else {
        return Ok(());
    };
    let parent = fdt.begin_node("reserved-memory")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    // No `no-map`: Linux then has page structs and a linear mapping for it, so that the driver can
    // give the pages to the allocator once they are backed.
    let node = fdt.begin_node(&format!("boot-balloon@{:x}", balloon.start.0))?;
    fdt.property_string("compatible", BOOT_BALLOON_COMPATIBLE)?;
    fdt.property_array_u64("reg", &[balloon.start.0, balloon.size])?;
    fdt.property_phandle(BOOT_BALLOON_PHANDLE)?;
    fdt.end_node(node)?;
    fdt.end_node(parent)
}

fn cpus(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Result<(), Error> {
    let parent = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for number in 0..machine.cpus {
        let node = fdt.begin_node(&format!("cpu@{number:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", machine.cpu_compatible)?;
        fdt.property_u32("reg", number)?;
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(node)?;
    }
    fdt.end_node(parent)
}

fn psci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    strings(fdt, "compatible", &["arm,psci-1.0", "arm,psci-0.2"])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Result<(), Error> {
    /// Bytes of a GICv2 distributor (IHI 0048B.b, 4.1.2).
    const GICD_V2_BYTES: u64 = 0x1000;
    let node = fdt.begin_node(&format!("intc@{:x}", GICD.start.0))?;
    if machine.gic_version == 2 {
        fdt.property_string("compatible", "arm,cortex-a15-gic")?;
        fdt.property_array_u64(
            "reg",
            &[GICD.start.0, GICD_V2_BYTES, GICC.start.0, GICC.size],
        )?;
    } else {
        let redistributors = GICR_STRIDE.saturating_mul(u64::from(machine.cpus));
        fdt.property_string("compatible", "arm,gic-v3")?;
        fdt.property_u32("#redistributor-regions", 1)?;
        fdt.property_array_u64(
            "reg",
            &[GICD.start.0, GICD.size, GICR_BASE.0, redistributors],
        )?;
    }
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    fdt.property_phandle(GIC_PHANDLE)?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Result<(), Error> {
    // GICv2's binding has the PPI's CPUs in bits 15:8 of the flags.
    let cpu_mask = if machine.gic_version == 2 {
        1_u32.wrapping_shl(machine.cpus).wrapping_sub(1) & 0xff
    } else {
        0
    };
    let flags = LEVEL_HIGH | cpu_mask << 8;
    let node = fdt.begin_node("timer")?;
    strings(fdt, "compatible", &["arm,armv8-timer", "arm,armv7-timer"])?;
    let cells: Vec<u32> = TIMER_PPIS
        .iter()
        .flat_map(|ppi| [PPI, *ppi, flags])
        .collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter, name: &str, frequency_hz: u32, phandle: u32) -> Result<(), Error> {
    let node = fdt.begin_node(name)?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", frequency_hz)?;
    fdt.property_phandle(phandle)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    clock(fdt, "apb-pclk", UART_CLOCK_HZ, UART_CLOCK_PHANDLE)?;
    let node = fdt.begin_node(&format!("pl011@{:x}", UART.start.0))?;
    strings(fdt, "compatible", &["arm,pl011", "arm,primecell"])?;
    fdt.property_array_u64("reg", &[UART.start.0, UART.size])?;
    fdt.property_array_u32("interrupts", &[SPI, UART_SPI, LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[UART_CLOCK_PHANDLE, UART_CLOCK_PHANDLE])?;
    strings(fdt, "clock-names", &["uartclk", "apb_pclk"])?;
    fdt.end_node(node)
}

fn balloon(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("balloon")?;
    fdt.property_string("compatible", COMPATIBLE)?;
    fdt.property_string("method", "hvc")?;
    fdt.property_array_u32("interrupts", &[SPI, BALLOON_SPI, LEVEL_HIGH])?;
    if boot_balloon(machine).is_some() {
        fdt.property_u32("memory-region", BOOT_BALLOON_PHANDLE)?;
    }
    fdt.end_node(node)
}

/// The board's devices, where they are on the board (IPA = PA) and with their own interrupts.
fn devices(fdt: &mut FdtWriter, devices: &[Device]) -> Result<(), Error> {
    let mut phandle = DEVICE_CLOCK_PHANDLE;
    for device in devices {
        let mut clocks = Vec::new();
        for frequency_hz in &device.clocks_hz {
            clock(
                fdt,
                &format!("device-clock-{phandle}"),
                *frequency_hz,
                phandle,
            )?;
            clocks.push(phandle);
            phandle = phandle.saturating_add(1);
        }
        let node = fdt.begin_node(&device.name)?;
        let reg: Vec<u64> = device
            .regions
            .iter()
            .flat_map(|region| [region.start.0, region.size])
            .collect();
        fdt.property_array_u64("reg", &reg)?;
        if !device.interrupts.is_empty() {
            let cells = device.interrupts.iter().flat_map(|interrupt| {
                let number = interrupt.intid.saturating_sub(crate::machine::SPI_BASE);
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
            fdt.property_array_u32("interrupts", &cells.collect::<Vec<_>>())?;
        }
        if !clocks.is_empty() {
            fdt.property_array_u32("clocks", &clocks)?;
        }
        for (name, value) in &device.properties {
            fdt.property(name, value)?;
        }
        fdt.end_node(node)?;
    }
    Ok(())
}
