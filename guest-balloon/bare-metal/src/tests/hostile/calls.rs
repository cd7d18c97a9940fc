//! Calls that nobody has defined, with registers full of what nobody should read or change.

use ballast_balloon::abi::function;

use super::super::{Outcome, why};
use crate::cpu;
use crate::machine::Machine;
use crate::probe::{Call, Random, Registers, call_with};
use crate::smccc::psci::{self, error, function as psci_function};
use crate::{ensure, smp, tests::basic};

const NOT_SUPPORTED: u64 = u64::MAX;

fn random_registers(random: &mut Random) -> Registers {
    Registers {
        x: core::array::from_fn(|_| random.next()),
        nzcv: random.next() & 0xf000_0000,
    }
}

/// Everything but x0 to `results` - 1 is as it was before.
fn unchanged(before: &Registers, after: &Registers, results: usize) -> Outcome {
    for index in results..30 {
        ensure!(
            before.x[index] == after.x[index],
            "x0={:#x}: x{index} {:#x} became {:#x}",
            before.x[0],
            before.x[index],
            after.x[index]
        );
    }
    ensure!(
        after.x[30] == &raw const *after as u64,
        "x0={:#x}: x30 changed",
        before.x[0]
    );
    ensure!(
        before.nzcv == after.nzcv,
        "x0={:#x}: flags {:#x} became {:#x}",
        before.x[0],
        before.nzcv,
        after.nzcv
    );
    Ok(())
}

fn copy(registers: &Registers) -> Registers {
    Registers {
        x: registers.x,
        nzcv: registers.nzcv,
    }
}

/// H1: HVCs with random registers.
pub fn h1(machine: &Machine) -> Outcome {
    let mut random = Random(0x1234_5678_9abc_def1);
    let rounds = machine.arg_number("rounds").unwrap_or(5_000);
    for call in [Call::Hvc0, Call::Hvc1, Call::Hvc4242, Call::HvcFfff] {
        for _ in 0..rounds {
            let mut registers = random_registers(&mut random);
            // Services that exist, without PSCI (a random PSCI call may well switch this guest off).
            match random.next() % 4 {
                0 => registers.x[0] = 0xc600_0000 | random.next() & 0xff,
                1 => registers.x[0] = 0x8600_0000 | random.next() & 0xffff,
                2 => registers.x[0] = 0x8000_0000 | random.next() & 0xffff,
                _ => registers.x[0] |= 0x0100_0000,
            }
            let before = copy(&registers);
            // SAFETY: without a HELLO no call gives memory away; a random address is not aligned.
            unsafe { call_with(call, &mut registers) };
            unchanged(&before, &registers, 4)?;
            let is_balloon = matches!(before.x[0] as u32, 0xc600_0000..=0xc600_00ff);
            if matches!(before.x[0] as u32 >> 24, 0x80 | 0x86)
                || is_balloon && before.x[0] as u32 <= function::GOODBYE
                || matches!(
                    before.x[0] as u32,
                    function::SIGNAL
                        | function::CHANNEL
                        | function::CONTROL
                        | function::CONTROL_ANSWER
                )
            {
                continue;
            }
            ensure!(
                registers.x[0] == NOT_SUPPORTED,
                "x0={:#x} answered {:#x}",
                before.x[0],
                registers.x[0]
            );
            unchanged(&before, &registers, 1)?;
        }
    }
    Ok(())
}

/// H2: SMCs of every owning entity: answered as HVCs are, stepped over, never passed on.
pub fn h2() -> Outcome {
    let mut random = Random(0x9876_5432_1234_5679);
    for entity in 0..64_u64 {
        for flags in [0, 1 << 30, 1 << 31, 3 << 30] {
            for number in (0..0x1_0000_u64).step_by(0x301) {
                let function = flags | entity << 24 | number;
                let is_known = flags & 1 << 31 != 0 && matches!(entity, 0 | 4 | 6);
                let mut registers = random_registers(&mut random);
                registers.x[0] = function;
                if is_known {
                    continue;
                }
                let before = copy(&registers);
                // SAFETY: an unknown function moves nothing.
                unsafe { call_with(Call::Smc0, &mut registers) };
                ensure!(
                    registers.x[0] == NOT_SUPPORTED,
                    "SMC {function:#x} answered {:#x}",
                    registers.x[0]
                );
                unchanged(&before, &registers, 1)?;
            }
        }
    }
    Ok(())
}

/// H3: the upper halves of 32-bit calls mean nothing; a yielding call is not a fast one.
pub fn h3() -> Outcome {
    const JUNK: u64 = 0xdead_beef_0000_0000;
    let version = psci::call32(psci_function::VERSION, 0, 0, 0);
    let found = psci::call32(JUNK | psci_function::VERSION, JUNK, JUNK, JUNK);
    ensure!(
        found == version,
        "PSCI_VERSION with junk above: {found}, not {version}"
    );
    // AFFINITY_INFO (32) of core 0, level 0: on.
    let found = psci::call32(
        0x8400_0004,
        JUNK | cpu::mpidr_affinity() & 0xff_ffff,
        JUNK,
        JUNK,
    );
    ensure!(found == 0, "AFFINITY_INFO(32) with junk above: {found}");
    for function in [0x0400_0000, 0x4400_0003, 0x0600_ff01, 0x4600_0003] {
        let found = psci::call(function, 0, 0, 0);
        ensure!(
            found == error::NOT_SUPPORTED,
            "yielding call {function:#x}: {found}"
        );
    }
    Ok(())
}

/// P1: CPU_ON of cores that are running, absent or another guest's.
pub fn p1(machine: &Machine) -> Outcome {
    let on = |mpidr: u64| {
        psci::call(
            psci_function::CPU_ON,
            mpidr,
            crate::boot::secondary_entry_address(),
            7,
        )
    };
    let own = cpu::mpidr_affinity();
    ensure!(
        on(own) == error::ALREADY_ON,
        "CPU_ON of itself: {}",
        on(own)
    );
    let absent = [
        0xff,
        0x100,
        0x1_0000,
        1 << 32,
        1 << 31,
        1 << 30,
        1 << 24,
        1 << 40,
        1 << 63,
        u64::MAX,
    ];
    for mpidr in (0..8).chain(absent) {
        if machine.cpus.contains(&mpidr) {
            continue;
        }
        let answer = on(mpidr);
        ensure!(
            answer == error::INVALID_PARAMETERS,
            "CPU_ON of {mpidr:#x}: {answer}"
        );
        let answer = psci::call(psci_function::AFFINITY_INFO, mpidr, 0, 0);
        ensure!(
            answer == error::INVALID_PARAMETERS,
            "AFFINITY_INFO of {mpidr:#x}: {answer}"
        );
    }
    Ok(())
}

/// P2: CPU_ON with entries that cannot be.
pub fn p2(machine: &Machine) -> Outcome {
    let Some(&mpidr) = machine.cpus.get(1) else {
        return Err(why(format_args!("needs two cores")));
    };
    let outside = machine.ram.iter().map(|ram| ram.end).max().unwrap_or(0);
    for entry in [
        0x0800_0000,
        machine.uart,
        outside,
        0x7f_ffff_f000,
        1 << 48,
        u64::MAX,
        0,
        0x4000_0001,
    ] {
        let answer = psci::call(psci_function::CPU_ON, mpidr, entry, 0);
        ensure!(
            answer == error::INVALID_ADDRESS,
            "CPU_ON at {entry:#x}: {answer}"
        );
        ensure!(smp::is_off(mpidr), "core 1 is on after a refused CPU_ON");
    }
    basic::smp(machine)
}

/// P6: what is advertised is there, and what is not is refused.
pub fn p6() -> Outcome {
    for number in 0..0x40 {
        for width in [0x8400_0000_u64, 0xc400_0000] {
            let function = width | number;
            let advertised = psci::call32(psci_function::FEATURES, function, 0, 0);
            let is_harmless = matches!(function, 0x8400_0000 | 0x8400_0004 | 0xc400_0004);
            if is_harmless && advertised >= 0 {
                let answer = psci::call32(function, 0, 0, 0);
                ensure!(
                    answer != error::NOT_SUPPORTED,
                    "{function:#x} is advertised but {answer}"
                );
            }
            if advertised == error::NOT_SUPPORTED {
                let answer = psci::call32(function, u64::MAX, u64::MAX, u64::MAX);
                ensure!(answer < 0, "{function:#x} is not advertised but {answer}");
            }
        }
    }
    Ok(())
}
