//! The tests, by name.

pub mod balloon;
mod basic;
mod channel;
mod cores;
mod hand_over;

pub mod hostile;
mod regulate;
mod rogue;
mod self_test;
mod shared;
mod watchdog;

use core::fmt::Write;

use heapless::String;

use crate::machine::Machine;
use crate::{bench, start};

/// Why a test failed.
pub type Why = String<112>;
/// How a test ended.
pub type Outcome = Result<(), Why>;

/// Formats a reason; one that is too long is cut.
pub fn why(text: core::fmt::Arguments) -> Why {
    let mut why = Why::new();
    let _ = why.write_fmt(text);
    why
}

/// Returns from a test with a reason unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            return Err($crate::tests::why(format_args!($($arg)+)));
        }
    };
}

/// Runs the test that the boot arguments name.
pub fn run(machine: &'static Machine) -> ! {
    let name = machine.arg("test").unwrap_or("hello");
    let outcome = match name {
        "hello" => basic::hello(machine),
        "smp" => basic::smp(machine),
        "timer" => basic::timer(),
        "hand-over" => hand_over::hand_over(machine),
        "storm" => hand_over::storm(machine),
        "ipi" => basic::ipi(machine),
        "pins" => shared::pins(machine),
        "shared-data" => shared::data(machine),
        "shared-control" => shared::control(machine),
        "balloon" => balloon::serve(machine),
        "cores" => cores::serve(machine),
        "claim" => balloon::claim(machine),
        "ignore" => balloon::ignore(machine),
        "self-test" => self_test::run(machine),
        "counter" => balloon::counter(machine),
        "bench" => bench::run(machine),
        "bench-exits" => bench::run_exits(machine),
        "bench-memory" => bench::run_memory(machine),
        "bench-messages" => bench::run_messages(machine),
        "epoch" => balloon::epoch(machine),
        "ping" => channel::ping(machine),
        "pong" => channel::pong(machine),
        "regulate" => regulate::run(machine),
        "rogue" => rogue::run(machine),
        "flood" => channel::flood(machine),
        "hear" => channel::hear(machine),
        "reborn" => channel::reborn(machine),
        "watchdog" => watchdog::run(machine),
        "witness" => channel::witness(machine),
        "hostile-channel" => hostile::channel::all(machine),
        "fault" => hostile::map::fault(machine),
        "hostile-h1" => hostile::calls::h1(machine),
        "hostile-h2" => hostile::calls::h2(),
        "hostile-h3" => hostile::calls::h3(),
        "hostile-h5" => hostile::list::h5(machine),
        "hostile-h6" => hostile::list::h6(machine),
        "hostile-h7" | "hostile-h12" => hostile::list::h7(machine),
        "hostile-h8" => hostile::race::h8(machine),
        "hostile-h9" => hostile::race::h9(machine),
        "hostile-h10" => hostile::race::h10(machine),
        "hostile-h11" => hostile::list::h11(machine),
        "hostile-h13" => hostile::list::h13(machine),
        "hostile-h15" => hostile::reset::h15(machine),
        "hostile-m1" => hostile::map::m1(machine),
        "hostile-m2" => hostile::map::m2(machine),
        "hostile-m3" => hostile::map::m3(machine),
        "hostile-m5" => hostile::map::m5(),
        "hostile-p1" => hostile::calls::p1(machine),
        "hostile-p2" => hostile::calls::p2(machine),
        "hostile-p3" => hostile::race::p3(machine),
        "hostile-p6" => hostile::calls::p6(),
        "hostile-g1" => hostile::registers::g1(machine),
        "hostile-s1" => hostile::registers::s1(),
        "hostile-d3" => hostile::input::d3(machine),
        "hostile-d6" => hostile::master::d6(machine),
        "hostile-g9" => hostile::device::g9(machine),
        "hostile-interrupts" => hostile::interrupts::all(machine),
        "hostile-memory" => hostile::memory::all(machine),
        "hostile-m7" => hostile::reset::m7(machine),
        "hostile-s11" => hostile::storm::s11(),
        "hostile-storm" => hostile::storm::all(machine),
        "hostile-d1" => hostile::storm::d1(machine),
        "latency" => hostile::storm::latency(machine),
        "hostile-state" => hostile::state::all(machine),
        "hostile-system" => hostile::system::all(machine),
        _ => Err(why(format_args!("no such test"))),
    };
    start::finish(name, outcome)
}
