//! Resets while cores come and go: each life begins with all of its cores, and nothing of the last.

use core::sync::atomic::{AtomicBool, Ordering};

use super::super::{Outcome, why};
use crate::machine::Machine;
use crate::smccc::psci;
use crate::{cpu, ensure, memory, println, smp};

/// Where the number of the life is kept: beyond the image, which each reset puts in place again.
const NOTE_OFFSET: u64 = 16 << 20;
const MAGIC: u64 = 0x7265_7365_7400_0000;

static READY: AtomicBool = AtomicBool::new(false);

fn reset() {
    psci::call(psci::function::SYSTEM_RESET, 0, 0, 0);
}

/// Core 1: as soon as core 0 is off, starts it and resets, before it can have come up.
fn restart_first(_: usize) {
    READY.store(true, Ordering::Release);
    if cpu::wait_until_us(5_000_000, || smp::is_off(0)) {
        // With the stack of core 2, which is off: index 0 is the boot core's.
        smp::start(2, 0, reset_too);
    }
    reset();
}

/// Any core: resets at the same time as core 0.
fn reset_too(_: usize) {
    READY.store(true, Ordering::Release);
    reset();
}

/// H15: `rounds` resets, each in the middle of something else.
pub fn h15(machine: &Machine) -> Outcome {
    let note = (memory::image().start + NOTE_OFFSET) as *mut u64;
    // SAFETY: RAM that is mapped and that nothing else in this guest uses.
    let life = match unsafe { note.read_volatile() } {
        note if note & !0xff_ffff == MAGIC => note & 0xff_ffff,
        _ => 0,
    };
    // SAFETY: as above.
    unsafe { note.write_volatile(MAGIC | (life + 1)) };
    // Every core is there, whatever the last life left behind.
    for (index, &mpidr) in machine.cpus.iter().enumerate().skip(1) {
        ensure!(smp::is_off(mpidr), "life {life}: core {index} is on");
        let answer = smp::start(index, mpidr, |_| {});
        ensure!(answer == 0, "life {life}: CPU_ON of core {index}: {answer}");
    }
    for &mpidr in machine.cpus.iter().skip(1) {
        let is_off = cpu::wait_until_us(5_000_000, || smp::is_off(mpidr));
        ensure!(is_off, "life {life}: core {mpidr} does not stop");
    }
    if life >= machine.arg_number("rounds").unwrap_or(30) {
        println!("{life} resets");
        return Ok(());
    }
    let &second = machine
        .cpus
        .get(1)
        .filter(|_| machine.cpus.len() > 2)
        .ok_or_else(|| why(format_args!("needs three cores")))?;
    match life % 3 {
        // Core 1 was asked to start and may not have.
        0 => {
            smp::start(1, second, |_| {});
        }
        1 => {
            smp::start(1, second, restart_first);
            cpu::wait_until_us(5_000_000, || READY.load(Ordering::Acquire));
            psci::call(psci::function::CPU_OFF, 0, 0, 0);
        }
        _ => {
            smp::start(1, second, reset_too);
            cpu::wait_until_us(5_000_000, || READY.load(Ordering::Acquire));
        }
    }
    reset();
    Err(why(format_args!("SYSTEM_RESET returned")))
}

/// M7: a guest may overwrite its own device tree; the one it gets with the next life is whole again.
pub fn m7(machine: &Machine) -> Outcome {
    let note = (memory::image().start + NOTE_OFFSET) as *mut u64;
    let tree = machine.dtb as *mut u32;
    // SAFETY: the header of the tree this guest was given, in mapped RAM: its length is the second word, big-endian.
    let words = unsafe { u32::from_be(tree.add(1).read_volatile()) } as usize / 4;
    let sum = (0..words).fold(0_u64, |sum, index| {
        // SAFETY: within the tree.
        let word = unsafe { tree.add(index).read_volatile() };
        sum.rotate_left(5) ^ u64::from(word)
    });
    // SAFETY: RAM that is mapped and that nothing else in this guest uses: the note of `h15`, and the word behind it.
    let (magic, before) = unsafe { (note.read_volatile(), note.add(1).read_volatile()) };
    if magic == MAGIC | 0x6d37 {
        ensure!(sum == before, "the tree's sum is {sum:#x}, was {before:#x}");
        println!("m7: {words} words of tree as they were");
        return Ok(());
    }
    // SAFETY: as above; what is needed of the tree has been copied out of it.
    unsafe {
        note.write_volatile(MAGIC | 0x6d37);
        note.add(1).write_volatile(sum);
        for index in 0..words {
            tree.add(index).write_volatile(0xdead_beef);
        }
    }
    // Ballast rests on none of it while the guest runs.
    psci::call(psci::function::VERSION, 0, 0, 0);
    reset();
    Err(why(format_args!("SYSTEM_RESET returned")))
}
