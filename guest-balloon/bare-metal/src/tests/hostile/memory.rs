//! Accesses of every other kind at the edges of the map (M1 has the plain ones), and attributes and caches. QEMU models
//! no caches: what M8 and M9 show here is that nothing faults at EL2 and nobody's contents change, not that lines
//! are kept.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ballast_balloon::Hypercall;
use ballast_balloon::abi::{Entry, EntryStatus, Order, function};

use super::super::balloon::register;
use super::super::{Outcome, why};
use super::list::judge;
use crate::balloon::LIST;
use crate::machine::{GicKind, Machine};
use crate::mmu::{self, GIB, Mapping};
use crate::pages::State;
use crate::probe::{self, syndrome};
use crate::{cpu, ensure, memory, println, smp, traces};

/// M4, M6, M8, M9.
pub fn all(machine: &Machine) -> Outcome {
    m4(machine)?;
    m6(machine)?;
    m8(machine)?;
    m9(machine)
}

/// An instruction on the address in x0, and what it has to end in outside the map.
struct Form {
    what: &'static str,
    code: u32,
    /// The fault status it may have; none: it does nothing at all.
    status: &'static [u64],
}

impl Form {
    fn is_ordered(&self) -> bool {
        matches!(self.what, "ldar x1" | "stlr x1")
    }
}

const EXTERNAL: &[u64] = &[syndrome::EXTERNAL];
/// To device memory it is an alignment fault, or an unsupported exclusive or atomic access, of stage 1 already.
const NOT_FOR_DEVICES: &[u64] = &[syndrome::EXTERNAL, syndrome::ALIGNMENT, 0x35];

/// x1 is overwritten with itself at most: the address is nobody's.
const FORMS: [Form; 16] = [
    Form {
        what: "ldp x1, x2",
        code: 0xa940_0801,
        status: EXTERNAL,
    },
    Form {
        what: "stp x1, x2",
        code: 0xa900_0801,
        status: EXTERNAL,
    },
    Form {
        what: "ldpsw x1, x2",
        code: 0x6940_0801,
        status: EXTERNAL,
    },
    Form {
        what: "ldr x1, [x0, #8]!",
        code: 0xf840_8c01,
        status: EXTERNAL,
    },
    Form {
        what: "str x1, [x0], #8",
        code: 0xf800_8401,
        status: EXTERNAL,
    },
    Form {
        what: "ld1 {v0.16b}",
        code: 0x4c40_7000,
        status: EXTERNAL,
    },
    Form {
        what: "st1 {v0.16b}",
        code: 0x4c00_7000,
        status: EXTERNAL,
    },
    Form {
        what: "ldr q0",
        code: 0x3dc0_0000,
        status: EXTERNAL,
    },
    Form {
        what: "str q0",
        code: 0x3d80_0000,
        status: EXTERNAL,
    },
    Form {
        what: "ldxr x1",
        code: 0xc85f_7c01,
        status: NOT_FOR_DEVICES,
    },
    Form {
        what: "ldxp x1, x2",
        code: 0xc87f_0801,
        status: NOT_FOR_DEVICES,
    },
    Form {
        what: "ldar x1",
        code: 0xc8df_fc01,
        status: EXTERNAL,
    },
    Form {
        what: "stlr x1",
        code: 0xc89f_fc01,
        status: EXTERNAL,
    },
    Form {
        what: "dc zva",
        code: 0xd50b_7420,
        status: NOT_FOR_DEVICES,
    },
    Form {
        what: "prfm pldl1keep",
        code: 0xf980_0000,
        status: &[],
    },
    Form {
        what: "prfm pstl1keep",
        code: 0xf980_0010,
        status: &[],
    },
];

/// M4: accesses that have no valid syndrome (ISV), or that reach over the edge, are never emulated: they abort. PRFM does
/// nothing; AT says what stage 1 says.
fn m4(machine: &Machine) -> Outcome {
    traces::allow_fp();
    let boot_region = machine
        .balloon
        .as_ref()
        .and_then(|balloon| balloon.boot_region.clone());
    let whole = machine.ram.iter().map(|ram| ram.end).max().unwrap_or(0);
    // What is backed ends where the balloon of the boot begins.
    let end = boot_region.map_or(whole, |region| region.start);
    // Where nothing is, as device and as normal memory; a device that is modelled.
    let nothing_normal = mmu::map_scratch(Mapping::Normal(0)) + 0x3000_0000;
    for at in [
        0x3000_0000,
        nothing_normal,
        end,
        machine.uart,
        machine.uart + 0x10,
    ] {
        for form in &FORMS {
            // SAFETY: x0, x1, x2 and q0 alone change; nothing of this guest's is at the address.
            let found = unsafe { probe::run(&[form.code], at) };
            let is_right = match found {
                // A load or store of one register is emulated, however it is ordered.
                Ok(_) => form.status.is_empty() || at & !0xfff == machine.uart && form.is_ordered(),
                Err(esr) => {
                    syndrome::class(esr) == syndrome::DATA_ABORT
                        && form.status.contains(&syndrome::status(esr))
                }
            };
            ensure!(is_right, "{} at {at:#x}: {found:x?}", form.what);
        }
    }
    // The last bytes of the map, and the first outside it.
    for (width, before) in [(2, 1), (4, 2), (8, 4), (8, 1), (16, 8)] {
        let at = end - before;
        let found = probe::read(at, width);
        let is_right = found.is_err_and(|esr| {
            syndrome::class(esr) == syndrome::DATA_ABORT
                && EXTERNAL.contains(&syndrome::status(esr))
        });
        ensure!(
            is_right,
            "{width} bytes, {before} of them mapped: {found:x?}"
        );
    }
    for nowhere in [0x3000_0000, end, nothing_normal] {
        let par = probe::translate(nowhere);
        // Stage 1 alone is asked, and maps it (F clear) to where the guest's own table says.
        ensure!(par & 1 == 0, "AT of {nowhere:#x}: {par:#x}");
    }
    println!("m4: {} forms of access", FORMS.len());
    Ok(())
}

/// M6: where on this board Ballast, the victim, the real interrupt controller and UART might be: nothing of it can be
/// read or written. (That the victim's memory and Ballast's stay as they are they see themselves.)
fn m6(machine: &Machine) -> Outcome {
    let own = |address: u64| {
        let controller = match machine.gic {
            GicKind::V2 { distributor, cpu } => {
                (distributor..distributor + 0x1_0000).contains(&address)
                    || (cpu..cpu + 0x2000).contains(&address)
            }
            GicKind::V3 {
                distributor,
                redistributors,
            } => {
                (distributor..distributor + 0x1_0000).contains(&address)
                    // Of cores that this guest has not: may read as zero.
                    || (redistributors.0..redistributors.0 + 8 * 0x2_0000).contains(&address)
            }
        };
        controller
            || (machine.uart..machine.uart + 0x1000).contains(&address)
            || machine.ram.iter().any(|ram| ram.contains(&address))
    };
    let places = (0x0800_0000..0x0a10_0000)
        .step_by(0x1000)
        .chain((0x4000_0000..0x6000_0000).step_by(0x1_0000))
        .chain((0xfc00_0000_u64..0x1_0000_0000).step_by(0x1_0000))
        .chain([0, 0x1000, 0x4000, 0x8000, 0x8_0000, 0x20_0000]);
    let mut count = 0_u32;
    for at in places.filter(|&at| !own(at)) {
        for found in [
            probe::read(at, 4),
            // SAFETY: not of this guest's memory.
            unsafe { probe::write(at, 8, u64::MAX) }.map(|()| 0),
        ] {
            let is_right = found.is_err_and(|esr| {
                syndrome::class(esr) == syndrome::DATA_ABORT
                    && syndrome::status(esr) == syndrome::EXTERNAL
            });
            ensure!(is_right, "{at:#x}: {found:x?}");
        }
        count += 1;
    }
    println!("m6: {count} pages of others");
    Ok(())
}

/// Calls in a row that may consume nothing.
const PATIENCE: u32 = 1000;

/// M8: the list that Ballast reads is written past the caches, and as device memory: what it then does is what was
/// written, and nothing faults.
fn m8(machine: &Machine) -> Outcome {
    let (mut front, mut driver) = register(machine)?;
    let page = front
        .pages
        .pick(State::Free, Order::Page)
        .ok_or_else(|| why(format_args!("no free page")))?;
    let gib = LIST.address() / GIB * GIB;
    for mapping in [Mapping::NonCacheable(gib), Mapping::Device(gib)] {
        for call in [function::RESERVE, function::RELEASE] {
            LIST.set(0, Entry(0));
            let alias = mmu::map_scratch(mapping) + LIST.address() % GIB;
            let entry = Entry::new(page, Order::Page);
            // SAFETY: the list page of this test, by another address; lines are cleaned before and invalidated after.
            unsafe {
                asm!("dc civac, {}", "dsb sy", in(reg) LIST.address(), options(nostack));
                probe::write(alias, 8, entry.0)
                    .map_err(|esr| why(format_args!("the list by an alias: {esr:#x}")))?;
                asm!("dsb sy", options(nostack));
            }
            let mut answer = front.call(call, 1, driver.epoch());
            // Nothing consumed yet: something is being scrubbed.
            for _ in 0..PATIENCE {
                if answer[0] != 0 || answer[1] != 0 {
                    break;
                }
                answer = front.call(call, 1, driver.epoch());
            }
            let [x0, consumed, done, _] = answer;
            let status = probe::read(alias, 8).unwrap_or(u64::MAX) >> 56;
            ensure!(
                (x0, consumed, done, status) == (0, 1, 1, EntryStatus::Done as u64),
                "{mapping:?}, {call:#x}: {x0:#x}, {consumed} consumed, {done} done, status {status}"
            );
        }
    }
    // And as usual afterwards.
    for call in [function::RESERVE, function::RELEASE] {
        let found = judge(
            &mut front,
            call,
            driver.epoch(),
            Entry::new(page, Order::Page),
        )?;
        ensure!(
            found == EntryStatus::Done,
            "{call:#x} afterwards: {found:?}"
        );
    }
    driver.goodbye(&mut front);
    Ok(())
}

static STOP: AtomicBool = AtomicBool::new(false);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// Every line of every cache of this core by set and way, by all three instructions.
fn by_set_and_way() {
    for level in 0..2_u64 {
        let geometry: u64;
        // SAFETY: a selection and a read.
        unsafe {
            asm!("msr csselr_el1, {}", "isb", "mrs {}, ccsidr_el1", in(reg) level << 1, out(reg) geometry, options(nostack))
        };
        let (line, ways, sets) = (
            (geometry & 7) + 4,
            (geometry >> 3 & 0x3ff) + 1,
            (geometry >> 13 & 0x7fff) + 1,
        );
        let shift = ((ways - 1) as u32).leading_zeros();
        for way in 0..ways {
            for set in 0..sets {
                let operand = (way << (shift & 31)) | set << line | level << 1;
                // SAFETY: with HCR_EL2.SWIO invalidation cleans as well; nothing is lost.
                unsafe {
                    asm!("dc cisw, {0}", "dc csw, {0}", "dc isw, {0}", in(reg) operand, options(nostack))
                };
            }
        }
    }
}

/// MMU and caches off and on again, `times` over.
fn toggle(times: u32) {
    for _ in 0..times {
        // SAFETY: everything is mapped to itself; nothing is accessed meanwhile but these instructions.
        unsafe {
            asm!(
                "mrs {old}, sctlr_el1",
                "bic {new}, {old}, {off}",
                "dsb sy",
                "msr sctlr_el1, {new}",
                "isb",
                "tlbi vmalle1",
                "dsb nsh",
                "isb",
                "msr sctlr_el1, {old}",
                "isb",
                old = out(reg) _, new = out(reg) _, off = in(reg) 5_u64, options(nostack)
            );
        }
    }
}

fn disturb(_: usize) {
    cpu::mask_irqs();
    while !STOP.load(Ordering::Acquire) {
        toggle(50);
        by_set_and_way();
        ROUNDS.fetch_add(1, Ordering::AcqRel);
    }
}

/// M9: MMU and caches switched in a loop, and maintenance by set and way, on two vCPUs: an own page keeps what it held.
fn m9(machine: &Machine) -> Outcome {
    const SEED: u64 = 0x6d39;
    let page = memory::scratch_code();
    let Some(&second) = machine.cpus.get(1) else {
        return Ok(());
    };
    let answer = smp::start(1, second, disturb);
    ensure!(answer == 0, "CPU_ON of core 1: {answer}");
    cpu::mask_irqs();
    for round in 0..10 {
        // SAFETY: the page of code, which nothing runs.
        let kept = unsafe {
            memory::fill(page, SEED + round);
            toggle(50);
            by_set_and_way();
            memory::verify(page, SEED + round)
        };
        ensure!(kept.is_ok(), "round {round}: {kept:x?}");
    }
    cpu::unmask_irqs();
    let worked = cpu::wait_until_us(10_000_000, || ROUNDS.load(Ordering::Acquire) > 3);
    STOP.store(true, Ordering::Release);
    let is_off = cpu::wait_until_us(10_000_000, || smp::is_off(second));
    ensure!(
        worked && is_off,
        "core 1 got through {} rounds",
        ROUNDS.load(Ordering::Acquire)
    );
    Ok(())
}
