//! A guest's faults in words: on the console and in the log.
//!
//! The first abort of a guest's life is reported, since it most often is a mistake somebody looks for;
//! further ones are counted (`stats`), so that no guest can flood the console by faulting.

use core::sync::atomic::Ordering;

use ballast_core::addr::{Ipa, IpaRange};
use ballast_core::exit::{Abort, AccessFault};
use ballast_core::fault::FaultReport;
use ballast_core::log::Event;
use ballast_core::mediate::line::{LIMIT_US, Report};

use crate::aarch64::registers::{self, read};
use crate::guest::Guest;
use crate::percpu::{Current, PerCpu};
use crate::system::System;

/// Reports the abort that is about to be injected, if it is the guest's first since it started.
#[cold]
#[inline(never)]
pub fn abort(system: &System, cpu: &PerCpu, current: Current, esr: u64, ipa: Ipa) {
    if current.guest.has_faulted.swap(true, Ordering::Relaxed) {
        return;
    }
    // HPFAR_EL2 says nothing after a permission fault (DDI 0487, D23.2.65), unless it is a table walk's.
    let abort = Abort(esr);
    let is_unknown = abort.fault() == AccessFault::Permission && !abort.is_table_walk();
    say(
        system,
        current,
        esr,
        (!is_unknown).then_some(ipa),
        "given an abort, the first since it started",
    );
    system.terminal.pump(system, cpu);
}

/// Reports why a guest is stopped.
#[cold]
#[inline(never)]
pub fn stop(system: &System, current: Current, esr: u64) {
    say(system, current, esr, None, "stopped");
}

/// Reports what an operator should know of shared interrupt `intid`; each line and cause once.
#[cold]
#[inline(never)]
pub fn line(system: &System, cpu: &PerCpu, intid: u32, news: Report) {
    match news {
        Report::Late(guests) => {
            for guest in &system.guests {
                if u32::from(guests) >> guest.index & 1 != 0 {
                    system.terminal.say(format_args!(
                        "{}: has not handled interrupt {intid}, which it shares, for {LIMIT_US} us: it is not \
                         waited for",
                        guest.plan.config.name
                    ));
                }
            }
        }
        Report::Storm => system.terminal.say(format_args!(
            "shared interrupt {intid} does not end: it is let through every {LIMIT_US} us until it does"
        )),
    }
    system.terminal.pump(system, cpu);
}

fn say(system: &System, Current { guest, vcpu }: Current, esr: u64, ipa: Option<Ipa>, what: &str) {
    let context = registers::context();
    let report = FaultReport {
        vcpu,
        esr,
        pc: context.pc,
        pstate: context.pstate,
        far: read!("FAR_EL2"),
        ipa,
        owner: ipa.map(|ipa| owner(guest, ipa)),
    };
    system.record(Event::Fault {
        guest: guest.index as u8,
        vcpu: vcpu as u8,
        syndrome: esr,
        ipa: ipa.map_or(0, |ipa| ipa.0),
    });
    let name = &guest.plan.config.name;
    system
        .terminal
        .say(format_args!("{name}: {what}: {report}"));
}

/// Whose `ipa` is in the guest's machine.
fn owner(guest: &Guest, ipa: Ipa) -> &'static str {
    let config = &guest.plan.config;
    let fixed = config
        .machine
        .fixed()
        .into_iter()
        .find(|(range, _)| range.offset_of(ipa).is_some());
    let is_ram = |range: &IpaRange| range.offset_of(ipa).is_some();
    if guest.plan.ram.iter().any(is_ram) {
        "the guest's RAM, but given to Ballast"
    } else if let Some((_, name)) = fixed {
        name
    } else if config
        .raz_windows
        .iter()
        .any(|window| window.offset_of(ipa).is_some())
    {
        "a window that reads as zero"
    } else {
        "nothing in the guest's map"
    }
}
