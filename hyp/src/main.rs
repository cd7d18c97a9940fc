//! Ballast: the EL2 shell.
#![no_std]
#![no_main]

extern crate alloc;

mod aarch64;
mod heap;
mod layout;
mod mmio;

use ballast_core::addr::Pa;

/// Core 0 arrives here from `entry.S`, on the boot stack, with the image mapped.
#[unsafe(no_mangle)]
extern "C" fn rust_boot(_dtb: u64, image: u64) -> ! {
    aarch64::mmu::init(Pa(image));
    let base = aarch64::mmu::map_device(Pa(0x0900_0000), 0x1000);
    let mut uart = unsafe { mmio::pl011::Pl011::new(core::ptr::NonNull::new(base).unwrap()) };
    for b in b"hello from EL2\n" { uart.try_send(*b); }
    loop {}
}

#[unsafe(no_mangle)]
extern "C" fn rust_secondary(_index: u64) -> ! { loop {} }

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
