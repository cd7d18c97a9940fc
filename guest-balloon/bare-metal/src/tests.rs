//! The tests, by name.

mod balloon;
mod basic;

use core::fmt::Write;

use heapless::String;

use crate::machine::Machine;
use crate::start;

/// Why a test failed.
pub type Why = String<200>;
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
        "ipi" => basic::ipi(machine),
        "balloon" => balloon::serve(machine),
        "ignore" => balloon::ignore(machine),
        "counter" => balloon::counter(machine),
        "epoch" => balloon::epoch(machine),
        _ => Err(why(format_args!("no such test"))),
    };
    start::finish(name, outcome)
}
