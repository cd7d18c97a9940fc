//! Starting the other cores: PSCI where firmware has it, else the spin table.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::boxed::Box;
use ballast_core::addr::Pa;
use ballast_core::board::{Board, EnableMethod};
use ballast_core::limits::MAX_CORES;
use ballast_core::refusal::Refusal;
use spin::Mutex;

use crate::aarch64::window::Window;
use crate::aarch64::{firmware, mmu};
use crate::gic::Gic;
use crate::layout;
use crate::percpu::{self, PerCpu};

/// Cores that have installed their data.
static UP: AtomicU32 = AtomicU32::new(0);

/// Each core's data until it arrives to take it.
static DATA: [Mutex<Option<Box<PerCpu>>>; MAX_CORES] = [const { Mutex::new(None) }; MAX_CORES];

unsafe extern "C" {
    static secondary_entry: u8;
}

fn prepare(index: usize, gic: &'static Gic) -> Box<PerCpu> {
    #[repr(C, align(4096))]
    struct Stacks([u8; (layout::STACK_SIZE + layout::EMERGENCY_SIZE) as usize]);
    let stacks = Box::leak(Box::<Stacks>::new_uninit());
    let pa = mmu::pa_of(core::ptr::from_mut(stacks).expose_provenance() as u64);
    let table = mmu::map_core(index, pa);
    Box::new(PerCpu::new(index, gic, Window::new(index, table)))
}

/// Brings up this core's part, whose number it returns, and starts all others, one after the other, each within a second.
pub fn start_all(board: &Board, gic: &'static Gic, image: Pa) -> Result<usize, Refusal> {
    let own = current_mpidr();
    let mut this = 0;
    for (index, slot) in DATA.iter().enumerate().take(board.cores.len()) {
        *slot.lock() = Some(prepare(index, gic));
    }
    for (index, core) in board.cores.iter().enumerate() {
        if core.mpidr == own {
            arrive(index);
            this = index;
            continue;
        }
        let entry = entry_pa(image);
        match core.enable {
            EnableMethod::Psci if board.psci.is_some_and(|psci| psci.smc) => {
                let cpu_on = board.psci.map_or(0, |psci| psci.cpu_on);
                // SAFETY: the device tree says that firmware's PSCI listens to SMC.
                let result = unsafe { firmware::smc(cpu_on, [core.mpidr, entry, index as u64]) };
                if result != firmware::SUCCESS {
                    return Err(core_error(
                        core.mpidr,
                        format_args!("was refused by firmware's CPU_ON: {result}"),
                    ));
                }
            }
            EnableMethod::Psci => {
                return Err(core_error(
                    core.mpidr,
                    format_args!("needs PSCI, which no firmware here answers by SMC"),
                ));
            }
            EnableMethod::SpinTable(_) => {
                return Err(core_error(
                    core.mpidr,
                    format_args!("is started by a spin table: not supported yet"),
                ));
            }
        }
        wait_for(index, core.mpidr)?;
    }
    mmu::seal();
    Ok(this)
}

fn core_error(mpidr: u64, problem: core::fmt::Arguments<'_>) -> Refusal {
    Refusal::new(format_args!("core {mpidr:#x}")).problem(problem)
}

fn wait_for(index: usize, mpidr: u64) -> Result<(), Refusal> {
    let start = counter();
    let limit = frequency();
    while UP.load(Ordering::Acquire) & (1 << index) == 0 {
        if counter().wrapping_sub(start) > limit {
            return Err(core_error(
                mpidr,
                format_args!("did not come up within a second"),
            ));
        }
        core::hint::spin_loop();
    }
    Ok(())
}

fn entry_pa(image: Pa) -> u64 {
    (&raw const secondary_entry).expose_provenance() as u64 - layout::IMAGE_BASE + image.0
}

/// CNTPCT_EL0, in ticks.
pub fn counter() -> u64 {
    use tock_registers::interfaces::Readable;
    aarch64_cpu::registers::CNTPCT_EL0.get()
}

/// Ticks a second.
pub fn frequency() -> u64 {
    use tock_registers::interfaces::Readable;
    aarch64_cpu::registers::CNTFRQ_EL0.get()
}

fn current_mpidr() -> u64 {
    use tock_registers::interfaces::Readable;
    aarch64_cpu::registers::MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// Takes this core's data and brings its part of the hardware up.
fn arrive(index: usize) {
    let data = DATA.get(index).and_then(|slot| slot.lock().take());
    if let Some(data) = data {
        let gic = data.gic;
        percpu::install(Box::leak(data));
        crate::aarch64::registers::init_core();
        gic.init_core(index);
        UP.fetch_or(1 << index, Ordering::Release);
    }
}

/// A secondary arrives here from `entry.S`, on its own stack.
#[unsafe(no_mangle)]
pub extern "C" fn rust_secondary(index: u64) -> ! {
    arrive(index as usize);
    crate::run::core_loop()
}
