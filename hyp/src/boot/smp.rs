//! Starting the other cores: PSCI where firmware has it, else the spin table.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use alloc::boxed::Box;
use ballast_core::addr::{PAGE_SIZE, Pa};
use ballast_core::board::{Board, EnableMethod};
use ballast_core::limits::MAX_CORES;
use ballast_core::refusal::Refusal;
use spin::Mutex;

use crate::aarch64::window::Window;
use crate::aarch64::{cache, firmware, mmu};
use crate::gic::Gic;
use crate::layout;
use crate::percpu::{self, PerCpu};

/// Cores that have installed their data.
static UP: AtomicU32 = AtomicU32::new(0);

/// Each core's data until it arrives to take it.
static DATA: [Mutex<Option<Box<PerCpu>>>; MAX_CORES] = [const { Mutex::new(None) }; MAX_CORES];

unsafe extern "C" {
    static secondary_entry: u8;
    static spin_entry: u8;
    /// Affinities by core number, which `spin_entry` searches.
    static spin_cores: [AtomicU64; MAX_CORES];
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
    let mut spin_table = SpinTable::new(board);
    for (index, core) in board.cores.iter().enumerate() {
        if core.mpidr == own {
            arrive(index);
            this = index;
            continue;
        }
        match core.enable {
            EnableMethod::Psci if board.psci.is_some_and(|psci| psci.smc) => {
                let cpu_on = board.psci.map_or(0, |psci| psci.cpu_on);
                let entry = image_pa(&raw const secondary_entry, image);
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
            EnableMethod::SpinTable(address) => {
                spin_table.release(Pa(address), image_pa(&raw const spin_entry, image));
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

/// Where a symbol of the image lies physically.
fn image_pa(symbol: *const u8, image: Pa) -> u64 {
    symbol.expose_provenance() as u64 - layout::IMAGE_BASE + image.0
}

/// Cores that wait, with the MMU off, for an address to appear in memory (Linux arm64 `booting.rst`).
struct SpinTable {
    /// The page that was released from last, and where it is mapped: firmware keeps all of them in one.
    page: Option<(Pa, *mut u8)>,
}

impl SpinTable {
    /// Leaves every core's number where `spin_entry` looks for it: cores may share a release address, so
    /// all must be there before the first is released.
    fn new(board: &Board) -> Self {
        // SAFETY: in the image for ever, only accessed atomically.
        let numbers = unsafe { &spin_cores };
        for (slot, core) in numbers.iter().zip(&board.cores) {
            slot.store(core.mpidr, Ordering::Relaxed);
        }
        // The readers' caches are off (DDI 0487, B2.8: mismatched attributes).
        cache::clean_and_invalidate(
            numbers.as_ptr().expose_provenance() as u64,
            size_of_val(numbers) as u64,
        );
        Self { page: None }
    }

    /// Writes `entry` to `release` and wakes who waits for it.
    fn release(&mut self, release: Pa, entry: u64) {
        let page = release.align_down(PAGE_SIZE);
        let base = match self.page {
            Some((mapped, base)) if mapped == page => base,
            _ => mmu::map_shared(page, PAGE_SIZE),
        };
        self.page = Some((page, base));
        let offset = (release.0 - page.0) as usize;
        // SAFETY: the device tree says that the eight bytes there are this word, and `Board` that they
        // are aligned; the page is mapped for ever and kept from guests.
        let word = unsafe { &*base.add(offset).cast::<AtomicU64>() };
        word.store(entry, Ordering::Relaxed);
        // To the point of coherency, complete, before the event (DDI 0487, D7.5.9 and B2.3.12).
        cache::clean_and_invalidate(base.expose_provenance() as u64 + offset as u64, 8);
        aarch64_cpu::asm::sev();
    }
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
