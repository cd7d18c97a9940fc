//! The monitor's calls, made by a guest with `control;`.
//!
//! A line comes in registers and its answer goes out in registers, a piece a call: EL2 touches no memory of the
//! guest's, and one call puts one line into words at most.

use ballast_abi::{Status, control, function};
use ballast_core::log::Origin;
use ballast_core::monitor::BeginError;

use crate::console::Shell;
use crate::guest::Guest;
use crate::percpu::PerCpu;
use crate::system::System;
use crate::traps::Frame;

const LINE_REGISTERS: usize = control::LINE_BYTES / 8;
const ANSWER_REGISTERS: usize = control::ANSWER_BYTES / 8;

/// Whether `function` is one of these calls.
pub const fn is_call(function: u32) -> bool {
    matches!(function, function::CONTROL | function::CONTROL_ANSWER)
}

/// Carries out `function`, one of [`is_call`]'s, for `guest`.
#[cold]
pub fn call(system: &System, cpu: &PerCpu, guest: &Guest, frame: &mut Frame, function: u32) {
    let Some(session) = system.sessions.get(guest.index).and_then(Option::as_ref) else {
        frame.x[0] = Status::Denied.to_register();
        return;
    };
    let shell = Shell::new(system, cpu, Origin::Control);
    if function == function::CONTROL {
        frame.x[0] = begin(&mut session.lock(), &shell, frame).to_register();
        return;
    }
    let mut bytes = [0; control::ANSWER_BYTES];
    let count = session.lock().read(&shell, &mut bytes);
    frame.x[0] = Status::Success.to_register();
    frame.x[1] = count as u64;
    let registers = frame.x.iter_mut().skip(2).take(ANSWER_REGISTERS);
    for (register, bytes) in registers.zip(bytes.as_chunks().0) {
        *register = u64::from_le_bytes(*bytes);
    }
}

fn begin(session: &mut ballast_core::monitor::Session, shell: &Shell<'_>, frame: &Frame) -> Status {
    let mut bytes = [0; control::LINE_BYTES];
    let registers = frame.x.iter().skip(2).take(LINE_REGISTERS);
    for (bytes, register) in bytes.as_chunks_mut().0.iter_mut().zip(registers) {
        *bytes = register.to_le_bytes();
    }
    let line = usize::try_from(frame.x[1])
        .ok()
        .and_then(|count| bytes.get(..count));
    match line.map(|line| session.begin(line, shell)) {
        Some(Ok(())) => Status::Success,
        Some(Err(BeginError::Busy)) => Status::Busy,
        Some(Err(BeginError::NotALine)) | None => Status::InvalidParameters,
    }
}
