//! The longest stay in EL2 for any one exit, the memory calls apart: the expensive ones one after the other, each
//! timed by itself, with nothing pending and with everything.
//!
//! Interrupts stay masked. An exit's figure contains the few instructions by which the guest makes it, up to some
//! hundred for a call with all registers or an access that faults.

use ballast_balloon::abi::{control, function};

use super::Results;
use crate::balloon::LIST;
use crate::gic::{self, Gic, distributor as d};
use crate::machine::Machine;
use crate::probe::{self, Call, Registers};
use crate::smccc::{self, psci};
use crate::tests::Outcome;
use crate::uart;
use crate::{cpu, ensure, println};

/// The longest so far.
struct Longest {
    ticks: u64,
    what: &'static str,
    detail: u64,
    exits: u64,
}

impl Longest {
    /// Times `exit`; `detail` tells it from others called `what`.
    fn time(&mut self, what: &'static str, detail: u64, exit: impl FnOnce()) {
        let before = cpu::counter();
        exit();
        let ticks = cpu::counter() - before;
        self.exits += 1;
        if ticks > self.ticks {
            (self.ticks, self.what, self.detail) = (ticks, what, detail);
        }
    }

    /// Reads, sets and clears each word of `registers` from `offsets`, which traps.
    fn words(&mut self, what: &'static str, registers: crate::mmio::Mmio, end: usize) {
        for offset in (0..end).step_by(4) {
            for value in [u32::MAX, 0] {
                self.time(what, offset as u64, || registers.write32(offset, value));
                self.time(what, offset as u64, || {
                    registers.read32(offset);
                });
            }
        }
    }
}

/// Everything pending, enabled and forwarded, or nothing.
fn set_all(gic: Gic, pending: bool) {
    let word = |base: usize, word: usize| base + 4 * word;
    let (enable, pend) = if pending {
        (d::ISENABLER, d::ISPENDR)
    } else {
        (d::ICENABLER, d::ICPENDR)
    };
    gic.private().write32(d::ICACTIVER, u32::MAX);
    for (registers, words) in [(gic.private(), 0..1), (gic.distributor(), 1..8)] {
        for n in words {
            registers.write32(word(d::ICACTIVER, n), u32::MAX);
            registers.write32(word(enable, n), u32::MAX);
            registers.write32(word(pend, n), u32::MAX);
        }
    }
    gic.distributor().write32(d::CTLR, 3);
}

fn interrupt_controller(longest: &mut Longest) {
    let gic = gic::get();
    let (distributor, private) = (gic.distributor(), gic.private());
    for pending in [false, true] {
        // What one register turns off is on again for the next.
        for offset in (0..0xd00).step_by(4) {
            for value in [u32::MAX, 0] {
                set_all(gic, pending);
                longest.time("GICD write", offset as u64, || {
                    distributor.write32(offset, value);
                });
                set_all(gic, pending);
                longest.time("private write", offset as u64, || {
                    private.write32(offset, value);
                });
            }
        }
        set_all(gic, pending);
        for value in [0, 3, 1, 2] {
            longest.time("GICD_CTLR", value.into(), || {
                distributor.write32(d::CTLR, value);
            });
        }
        set_all(gic, pending);
        longest.words("GICD", distributor, 0x1000);
        set_all(gic, pending);
        longest.words("private registers", private, 0x1000);
        set_all(gic, pending);
        for id in 0..16 {
            match gic {
                Gic::V2(_) => longest.time("SGIR", id, || {
                    distributor.write32(d::SGIR, 0xff << 16 | id as u32);
                }),
                Gic::V3(_) => {
                    longest.time("ICC_SGI1R_EL1", id, || {
                        gic.send_sgi(id as u32, cpu::index())
                    });
                    for spi in 32..256 {
                        longest.time("IROUTER", spi, || {
                            distributor.write64(d::IROUTER + 8 * spi as usize, id & 1);
                        });
                    }
                }
            }
        }
    }
    set_all(gic, false);
}

/// A line of the monitor's, and its answer piece by piece.
fn command(longest: &mut Longest, line: &'static str) {
    let mut registers = Registers {
        x: [0; 31],
        nzcv: 0,
    };
    registers.x[0] = function::CONTROL.into();
    registers.x[1] = line.len() as u64;
    for (register, bytes) in registers.x[2..].iter_mut().zip(line.as_bytes().chunks(8)) {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        *register = u64::from_le_bytes(word);
    }
    // SAFETY: neither call touches memory of the guest's.
    longest.time(line, 0, || unsafe {
        probe::call_with(Call::Hvc0, &mut registers);
    });
    // The longest answer is the log's.
    for piece in 1..=2000 {
        registers.x[0] = function::CONTROL_ANSWER.into();
        // SAFETY: as above.
        longest.time(line, piece, || unsafe {
            probe::call_with(Call::Hvc0, &mut registers);
        });
        if registers.x[1] == 0 {
            break;
        }
    }
}

fn calls(longest: &mut Longest) {
    let list = LIST.address();
    for (what, function, x1, x2) in [
        ("HELLO", function::HELLO, list, 0),
        ("TARGET", function::TARGET, 0, 0),
        ("QUERY", function::QUERY, list & !0x1f_ffff, 0),
        ("PRESSURE", function::PRESSURE, 1 << 20, 0),
        ("REPORT", function::REPORT, 1000, 2000),
        ("GOODBYE", function::GOODBYE, 1, 0),
        ("HELLO", function::HELLO, list, 0),
    ] {
        for time in 0..4 {
            longest.time(what, time, || {
                smccc::hvc([function.into(), x1, x2, 0, 0]);
            });
        }
    }
    for number in 0..64 {
        // None that waits or ends the guest: CPU_SUSPEND, CPU_OFF, SYSTEM_OFF, SYSTEM_RESET and SYSTEM_RESET2.
        if ![1, 2, 8, 9, 0x12].contains(&number) {
            longest.time("PSCI", number, || {
                psci::call(psci::function::VERSION + number, 1, u64::MAX, 0);
            });
        }
    }
    for line in [
        "status",
        "list",
        "help",
        "log",
        "stats 1",
        "transfers",
        "policy auto",
        "policy manual",
        "mem 1 63",
        "mem 1 64",
        "cpus 1 1",
        "no such command at all, as long as a line may be, and longer than any that means something to the monitor",
    ] {
        assert!(line.len() <= control::LINE_BYTES);
        command(longest, line);
    }
}

fn faults_and_console(longest: &mut Longest) {
    // The first fault of a guest's is reported.
    for address in [0x1000_0000, 0x0bad_0000, 0x3000_0000] {
        longest.time("fault", address, || {
            let _ = probe::read(address, 4);
        });
    }
    for round in 0..8 {
        for byte in b"A line of this guest's, so that its console has something to show.\n" {
            longest.time("PL011 write", round, || uart::put(*byte));
        }
    }
}

/// Measures them all.
pub fn measure(_machine: &Machine, results: &mut Results) -> Outcome {
    let mut longest = Longest {
        ticks: 0,
        what: "",
        detail: 0,
        exits: 0,
    };
    cpu::mask_irqs();
    interrupt_controller(&mut longest);
    calls(&mut longest);
    faults_and_console(&mut longest);
    ensure!(longest.exits > 5000, "{} exits alone", longest.exits);
    println!(
        "the longest of {} exits: {} {:#x}",
        longest.exits, longest.what, longest.detail
    );
    results.add("longest_exit", longest.ticks);
    Ok(())
}
