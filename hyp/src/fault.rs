//! EL2's own faults: a bug of Ballast. Said once, then the core stops.

use crate::aarch64::mmu;
use crate::console;

/// An exception taken from EL2, on the emergency stack.
#[unsafe(no_mangle)]
extern "C" fn rust_el2_fault(esr: u64, elr: u64, far: u64) -> ! {
    console::write_after_fault(format_args!(
        "\n[ballast] fault in EL2: ESR {esr:#x}, at {elr:#x}, address {far:#x} in {}\n",
        mmu::describe(far)
    ));
    crate::boot::park()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::write_after_fault(format_args!("\n[ballast] {info}\n"));
    crate::boot::park()
}
