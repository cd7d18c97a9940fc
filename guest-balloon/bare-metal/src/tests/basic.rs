//! What every guest needs: output, cores, timers, interrupts between cores.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTV_CTL_EL0, CNTV_CVAL_EL0, CurrentEL, Readable, Writeable};

use super::Outcome;
use crate::cpu::{self, MAX_CPUS};
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::smccc::psci;
use crate::{ensure, gic, println, smp};

/// Says what the machine is.
pub fn hello(machine: &Machine) -> Outcome {
    println!("bare-metal guest at EL{}", CurrentEL.read(CurrentEL::EL));
    for ram in &machine.ram {
        println!("ram {:#x}..{:#x}", ram.start, ram.end);
    }
    println!(
        "cores {} counter {} Hz {:x?}",
        machine.cpus.len(),
        cpu::frequency(),
        machine.gic
    );
    println!("dtb {:#x}", machine.dtb);
    if let Some(address) = machine.arg_number("probe") {
        // SAFETY: an address that the caller of the test says answers reads; it lies in the device map.
        let word = unsafe { Mmio::new(address) }.read32(0);
        println!("probe {address:#x} reads {word:#x}");
    }
    println!("bootargs {}", machine.bootargs);
    let version = psci::call32(psci::function::VERSION, 0, 0, 0);
    println!("PSCI {}.{}", version >> 16, version & 0xffff);
    ensure!(version >= 2, "PSCI version {version}");
    match &machine.balloon {
        Some(balloon) => println!(
            "balloon INTID {} boot region {:x?}",
            balloon.interrupt, balloon.boot_region
        ),
        None => println!("no balloon"),
    }
    Ok(())
}

static ARRIVED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(u64::MAX) }; MAX_CPUS];
static LET_GO: AtomicBool = AtomicBool::new(false);

fn arrive(index: usize) {
    ARRIVED[index].store(cpu::mpidr_affinity(), Ordering::Release);
    cpu::sleep_until(|| LET_GO.load(Ordering::Acquire));
}

/// Starts every other core three times; each must arrive as itself, with clean registers, and go off.
pub fn smp(machine: &Machine) -> Outcome {
    for round in 0..3 {
        LET_GO.store(false, Ordering::Release);
        let mut started = 0_u32;
        for (index, &mpidr) in machine.cpus.iter().enumerate().skip(1) {
            ARRIVED[index].store(u64::MAX, Ordering::Release);
            match smp::start(index, mpidr, arrive) {
                0 => started += 1,
                psci::error::DENIED => continue,
                other => ensure!(false, "CPU_ON of core {index}: {other}"),
            }
            let arrived = cpu::wait_until_us(2_000_000, || {
                ARRIVED[index].load(Ordering::Acquire) != u64::MAX
            });
            ensure!(arrived, "core {index} did not come up in round {round}");
            let found = ARRIVED[index].load(Ordering::Acquire);
            ensure!(
                found == mpidr,
                "core {index} has affinity {found:#x}, not {mpidr:#x}"
            );
            let leftovers = smp::leftovers(index);
            ensure!(
                leftovers == 0,
                "core {index} started with registers not zero: {leftovers:#x}"
            );
            let again = smp::start(index, mpidr, arrive);
            ensure!(
                again == psci::error::ALREADY_ON,
                "CPU_ON of running core {index}: {again}"
            );
        }
        LET_GO.store(true, Ordering::Release);
        for (index, &mpidr) in machine.cpus.iter().enumerate().skip(1) {
            gic::get().send_sgi(0, index);
            let off = cpu::wait_until_us(2_000_000, || smp::is_off(mpidr));
            ensure!(off, "core {index} did not go off in round {round}");
        }
        println!("round {round}: {started} cores started and stopped");
    }
    Ok(())
}

/// Twenty ticks of 2 ms of the virtual timer, half of them slept through: none early, none lost.
pub fn timer() -> Outcome {
    let this = cpu::this();
    gic::get().enable(gic::VIRTUAL_TIMER);
    let period = cpu::frequency() / 500;
    let mut latest = 0;
    for tick in 0..20_u64 {
        let before = this.timer_ticks.load(Ordering::Acquire);
        let due = cpu::counter() + period;
        CNTV_CVAL_EL0.set(due);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
        let fired = || this.timer_ticks.load(Ordering::Acquire) > before;
        if tick % 2 == 0 {
            cpu::sleep_until(fired);
        } else {
            ensure!(
                cpu::wait_until_us(2_000_000, fired),
                "tick {tick} did not come"
            );
        }
        let at = this.timer_at.load(Ordering::Relaxed);
        ensure!(at >= due, "tick {tick} came {} counts early", due - at);
        latest = latest.max(at - due);
        ensure!(
            this.timer_ticks.load(Ordering::Acquire) == before + 1,
            "tick {tick} came twice"
        );
    }
    println!(
        "latest tick {} us late",
        latest * 1_000_000 / cpu::frequency()
    );
    Ok(())
}

/// SGIs that each core has to send to each other core and to itself.
const ROUNDS: u32 = 50;
static DONE: AtomicU32 = AtomicU32::new(0);
static RUNNING: AtomicU64 = AtomicU64::new(0);

fn send_to_all(index: usize) {
    // One SGI id per sender and at most 8 senders: ids 0-7; the next is sent once the last has arrived, so
    // that none can merge with another.
    let running = RUNNING.load(Ordering::Acquire);
    for round in 1..=ROUNDS {
        for target in (0..MAX_CPUS).filter(|target| running & 1 << target != 0) {
            gic::get().send_sgi(index as u32, target);
            let arrived = cpu::wait_until_us(5_000_000, || {
                cpu::of(target).sgis[index].load(Ordering::Acquire) >= round
            });
            if !arrived {
                println!("SGI {index} number {round} from core {index} to {target} lost");
                return;
            }
        }
    }
    DONE.fetch_add(1, Ordering::AcqRel);
}

fn send_then_wait(index: usize) {
    cpu::wait_until_us(5_000_000, || LET_GO.load(Ordering::Acquire));
    send_to_all(index);
    let all = RUNNING.load(Ordering::Acquire).count_ones();
    cpu::wait_until_us(10_000_000, || DONE.load(Ordering::Acquire) >= all);
}

/// Every core sends to every core, all at once.
pub fn ipi(machine: &Machine) -> Outcome {
    let mut running = 1_u64;
    for (index, &mpidr) in machine.cpus.iter().enumerate().skip(1) {
        match smp::start(index, mpidr, send_then_wait) {
            0 => running |= 1 << index,
            psci::error::DENIED => {}
            other => ensure!(false, "CPU_ON of core {index}: {other}"),
        }
    }
    RUNNING.store(running, Ordering::Release);
    LET_GO.store(true, Ordering::Release);
    send_to_all(0);
    let all = running.count_ones();
    let done = cpu::wait_until_us(10_000_000, || DONE.load(Ordering::Acquire) >= all);
    ensure!(
        done,
        "{} of {all} cores finished",
        DONE.load(Ordering::Acquire)
    );
    for target in 0..MAX_CPUS {
        for sender in 0..MAX_CPUS {
            let expected = if running & 1 << target != 0 && running & 1 << sender != 0 {
                ROUNDS
            } else {
                0
            };
            let found = cpu::of(target).sgis[sender].load(Ordering::Acquire);
            ensure!(
                found == expected,
                "core {target} got {found} of {expected} SGIs from core {sender}"
            );
        }
    }
    println!("{all} cores, {ROUNDS} SGIs each way");
    Ok(())
}
