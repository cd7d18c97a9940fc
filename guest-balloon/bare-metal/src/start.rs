//! From the device tree to the test, and every way it can end.

use core::fmt;
use core::panic::PanicInfo;

use fdt::Fdt;
use spin::Once;

use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::smccc::psci;
use crate::{cpu, gic, println, tests, uart};

static MACHINE: Once<Machine> = Once::new();

/// The boot core's first Rust; `dtb` is the address of the device tree.
pub fn start(dtb: u64) -> ! {
    // SAFETY: the boot protocol: x0 is the device tree's address, in RAM, which is mapped; nobody writes it.
    let machine = unsafe { Fdt::from_ptr(dtb as *const u8) }
        .map_err(|_| "no device tree at x0")
        .and_then(|fdt| Machine::read(&fdt, dtb));
    let machine = match machine {
        Ok(machine) => MACHINE.call_once(|| machine),
        // Nowhere to say it.
        Err(_) => psci::system_off(),
    };
    psci::set_conduit_smc(machine.psci_by_smc);
    // SAFETY: the device tree's PL011.
    uart::init(unsafe { Mmio::new(machine.uart) });
    gic::init(machine.gic);
    cpu::unmask_irqs();
    tests::run(machine)
}

/// Ends it all with a line, without taking a lock.
pub fn die(why: fmt::Arguments) -> ! {
    cpu::mask_irqs();
    if let Some(machine) = MACHINE.get() {
        // SAFETY: the device tree's PL011.
        let uart = unsafe { Mmio::new(machine.uart) };
        uart::print_last_words(
            uart,
            format_args!("FAIL {}: {why}", machine.arg("test").unwrap_or("hello")),
        );
    }
    psci::system_off()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    die(format_args!("{info}"))
}

/// Says that a test passed or failed, and switches off.
pub fn finish(test: &str, outcome: tests::Outcome) -> ! {
    match outcome {
        Ok(()) => println!("PASS {test}"),
        Err(why) => println!("FAIL {test}: {why}"),
    }
    psci::system_off()
}
