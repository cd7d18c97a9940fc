//! A device that writes memory by itself, left at it when the life of its guest ends.

use core::sync::atomic::{Ordering, fence};

use ballast_balloon::abi::PAGE_SIZE;

use super::super::{Outcome, why};
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::smccc::psci;
use crate::{cpu, ensure, memory, println};

/// Virtio over MMIO, legacy interface (virtio 1.2, 4.2.4).
mod reg {
    pub const VERSION: usize = 0x04;
    pub const DEVICE: usize = 0x08;
    pub const PAGE_BYTES: usize = 0x28;
    pub const SELECT: usize = 0x30;
    pub const NUMBER: usize = 0x38;
    pub const ALIGN: usize = 0x3c;
    pub const PAGE: usize = 0x40;
    pub const RAISED: usize = 0x60;
    pub const STATUS: usize = 0x70;
}

/// An entropy source: it fills each buffer with bytes of its own, here a few in a tenth of a second.
const ENTROPY: u32 = 4;
/// ACKNOWLEDGE, DRIVER, DRIVER_OK.
const READY: u32 = 1 | 2 | 4;
const BUFFERS: u64 = 64;
/// The device may write.
const WRITE: u64 = 2;

/// From here behind the image's start on: memory that is not put in place again at a reset.
const OFFSET: u64 = 18 << 20;
const PAGES: u64 = 4;
const SEED: u64 = 0xd6;
const MAGIC: u64 = 0x6d61_7374_6572_0000;

/// The queue's pages and that of the buffers, then that of the note.
fn pages() -> u64 {
    memory::image().start + OFFSET
}

fn store(address: u64, value: u64) {
    // SAFETY: RAM that is mapped and that nothing else in this guest uses.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// How many buffers the device has filled.
fn filled() -> u16 {
    // SAFETY: as above; the used ring's index.
    unsafe { ((pages() + PAGE_SIZE + 2) as *const u16).read_volatile() }
}

/// Gives the device as many buffers as there are, to be filled one after the other for the next seconds.
fn set_going(device: Mmio) -> Outcome {
    let queue = pages();
    let buffers = queue + 2 * PAGE_SIZE;
    for word in (queue..queue + PAGES * PAGE_SIZE - PAGE_SIZE).step_by(8) {
        store(word, 0);
    }
    device.write32(reg::STATUS, 0);
    device.write32(reg::STATUS, 1 | 2);
    device.write32(reg::PAGE_BYTES, PAGE_SIZE as u32);
    device.write32(reg::SELECT, 0);
    device.write32(reg::NUMBER, BUFFERS as u32);
    device.write32(reg::ALIGN, PAGE_SIZE as u32);
    device.write32(reg::PAGE, (queue / PAGE_SIZE) as u32);
    let available = queue + BUFFERS * 16;
    for buffer in 0..BUFFERS {
        store(queue + buffer * 16, buffers + buffer * 64);
        store(queue + buffer * 16 + 8, 64 | WRITE << 32);
        let slot = (available + 4 + buffer * 2) as *mut u16;
        // SAFETY: as in `store`; the ring's entries.
        unsafe { slot.write_volatile(buffer as u16) };
    }
    fence(Ordering::SeqCst);
    // SAFETY: as above; the ring's index.
    unsafe { ((available + 2) as *mut u16).write_volatile(BUFFERS as u16) };
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
    // It looks at its queue by itself now; told once more, QEMU's would lose count and fill all buffers at once.
    device.write32(reg::STATUS, READY);
    let goes = cpu::wait_until_us(5_000_000, || filled() >= 2);
    ensure!(
        goes && filled() < 32 && device.read32(reg::RAISED) != 0,
        "the device has filled {} buffers",
        filled()
    );
    Ok(())
}

/// The device is at rest, and writes no more where it was to write.
fn is_quiet(device: Mmio) -> Outcome {
    let (status, raised) = (device.read32(reg::STATUS), device.read32(reg::RAISED));
    for page in 0..PAGES - 1 {
        // SAFETY: as in `store`.
        unsafe { memory::fill(pages() + page * PAGE_SIZE, SEED) };
    }
    cpu::delay_us(1_000_000);
    for page in 0..PAGES - 1 {
        // SAFETY: as above.
        let kept = unsafe { memory::verify(pages() + page * PAGE_SIZE, SEED) };
        ensure!(kept.is_ok(), "it writes into the next life: {kept:x?}");
    }
    ensure!(
        (status, raised) == (0, 0),
        "its status is {status:#x}, its interrupt {raised:#x}"
    );
    Ok(())
}

/// D6: the device fills buffers while its guest is reset, and while an operator stops it.
pub fn d6(machine: &Machine) -> Outcome {
    let base = machine
        .arg_number("base")
        .ok_or_else(|| why(format_args!("no base")))?;
    // SAFETY: the device that the test gives to this guest, in the device map.
    let device = unsafe { Mmio::new(base) };
    let found = (device.read32(reg::VERSION), device.read32(reg::DEVICE));
    ensure!(found == (1, ENTROPY), "version and device are {found:?}");
    let note = pages() + (PAGES - 1) * PAGE_SIZE;
    // SAFETY: as in `store`.
    let noted = unsafe { (note as *const u64).read_volatile() };
    let life = if noted & !0xff == MAGIC {
        noted & 0xff
    } else {
        0
    };
    if life != 0 {
        is_quiet(device)?;
    }
    if life == 2 {
        println!("d6: quiet after {life} lives");
        return Ok(());
    }
    store(note, MAGIC | (life + 1));
    set_going(device)?;
    if life == 0 {
        psci::call(psci::function::SYSTEM_RESET, 0, 0, 0);
        return Err(why(format_args!("SYSTEM_RESET returned")));
    }
    println!("d6: going");
    loop {
        aarch64_cpu::asm::wfi();
    }
}
