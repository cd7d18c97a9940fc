//! The monitor: the operator's command line on the console, and the same words for a guest that has the
//! right to them ([`Session`]).
//!
//! It decides nothing about guests. It understands a line, asks the shell through [`Operator`], and
//! puts the answer into words, one line at a time: a command whose output is long keeps its place in
//! a [`Runner`] and goes on when the terminal has taken the line before.

mod command;
mod editor;
mod report;
mod runner;
mod session;

use core::fmt;

pub use command::{Amount, Command, ParseError, PowerAction, USAGE, parse};
pub use editor::{Edit, Editor, LINE_BYTES};
pub use report::{
    DriverState, ExitCause, ExitCounts, GuestState, GuestStats, GuestStatus, HostStatus,
    MoveStatus, StatsGroup, TransferCounts, TransferStatus,
};
use runner::{Runner, error};
pub use session::{BeginError, Session};

use crate::console::{InputRing, Labels, Stage};
use crate::cores;
use crate::log::Entry;
use crate::policy::Mode;
use crate::timeline::Record;

/// What is shown before each command.
pub const PROMPT: &[u8] = b"ballast> ";

/// Bytes of commands pasted ahead of the one that runs.
const INPUT_BYTES: usize = 1024;

/// Bytes of echo after which the terminal gets them before more is looked at.
const ECHO_BYTES: usize = 256;

/// Why a request of the operator's was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Less than the guest's guaranteed minimum, in MiB.
    BelowMinimum(u64),
    /// More than the most the guest can have, in MiB.
    AboveMaximum(u64),
    /// The configuration fixes this guest's memory.
    Fixed,
    /// Its cores: see there.
    Cores(cores::Refused),
    /// The guest is not in a state for it; this is the state it is in.
    State(GuestState),
    /// Another change of this guest is under way.
    Busy,
    /// The guest cannot have its guaranteed memory: this much is free, in MiB.
    NoMemory(u64),
    /// A device of the guest may still be writing to its memory.
    Devices,
    /// The guest is in the move of this number.
    InMove(u32),
    /// The guest has no driver, or one that does not answer.
    NoAnswer,
    /// The guest is still on its way to its target.
    Moving,
    /// It is no move: of nothing, or from a guest to itself.
    Nothing,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BelowMinimum(mib) => write!(f, "below the guest's memory-min-mib={mib}"),
            Self::AboveMaximum(mib) => write!(f, "above the guest's memory-max-mib={mib}"),
            Self::Fixed => f.write_str("the guest's memory is fixed by its configuration"),
            Self::Cores(cores::Refused::BelowMinimum(cpus)) => {
                write!(f, "below the guest's cpus-min={cpus}")
            }
            Self::Cores(cores::Refused::AboveMaximum(cpus)) => {
                write!(f, "above the guest's cpus-max={cpus}")
            }
            Self::Cores(cores::Refused::Fixed) => {
                f.write_str("the guest's cores are fixed by its configuration")
            }
            Self::State(state) => write!(f, "the guest is {}", state.name()),
            Self::Busy => f.write_str("another change of this guest is under way, try again"),
            Self::NoMemory(mib) => write!(f, "not enough memory, free-mib={mib}"),
            Self::InMove(id) => write!(f, "the guest is in move={id}, see transfers"),
            Self::NoAnswer => f.write_str("the guest has no balloon driver that answers"),
            Self::Moving => f.write_str("the guest is on its way to its target, try again"),
            Self::Nothing => f.write_str("nothing would move"),
            Self::Devices => f.write_str(
                "a device of the guest may still write to its memory: only a reset of the board ends that",
            ),
        }
    }
}

/// What the monitor asks of the shell. Called while the console's lock is held, never with that of a
/// UART or of the messages; each call must be bounded and may take any lock below the console's.
pub trait Operator {
    /// The board at present.
    fn host(&self) -> HostStatus;
    /// A guest at present.
    fn guest(&self, guest: usize) -> GuestStatus;
    /// A guest's counters.
    fn stats(&self, guest: usize) -> GuestStats;
    /// The oldest log entry from this sequence number on ([`crate::log::EventLog::from`]).
    fn log_from(&self, sequence: u64) -> Option<Entry>;
    /// The oldest transfer that is kept, from this number on ([`crate::timeline::Timeline::from`]).
    fn event_from(&self, sequence: u64) -> Option<Record>;
    /// Sets a guest's memory target and tells its driver.
    ///
    /// # Errors
    /// Why it was not set; the old target stands.
    fn set_memory(&self, guest: usize, mib: u64) -> Result<(), Refused>;
    /// Sets how many cores a guest shall have, moves those that can move, and tells its driver.
    ///
    /// # Errors
    /// Why it was not set; the old target stands.
    fn set_cpus(&self, guest: usize, cpus: u32) -> Result<(), Refused>;
    /// From now on `mode` decides.
    fn set_policy(&self, mode: Mode);
    /// Begins to move memory and cores from one guest to another, all of it or none; the number of the move.
    ///
    /// # Errors
    /// Which guest is in the way and why; nothing has changed.
    fn move_between(&self, from: usize, to: usize, amount: Amount)
    -> Result<u32, (usize, Refused)>;
    /// The `nth` of the moves that are still known, the oldest first.
    fn move_status(&self, nth: usize) -> Option<MoveStatus>;
    /// A guest's memory that is on its way, if any is.
    fn transfer(&self, guest: usize) -> Option<TransferStatus>;
    /// Begins to start, stop or reset a guest.
    ///
    /// # Errors
    /// Why it was not begun; nothing has changed.
    fn power(&self, guest: usize, action: PowerAction) -> Result<(), Refused>;
}

/// What [`Monitor::step`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until more is typed.
    Waits,
    /// Took typed bytes, and staged their echo if any; the cursor is on the command line's row.
    Echoed,
    /// Staged whole lines; the cursor is at the start of a row.
    Lines,
}

/// The monitor's state: the line being typed, what was typed ahead, and the command that runs.
#[derive(Debug)]
pub struct Monitor {
    typed: InputRing,
    editor: Editor,
    runner: Runner,
}

impl Monitor {
    /// A monitor with an empty line. `ticks_per_second` is CNTFRQ_EL0, for the log's times.
    #[must_use]
    pub fn new(ticks_per_second: u64) -> Self {
        Self {
            typed: InputRing::new(INPUT_BYTES),
            editor: Editor::default(),
            runner: Runner::new(ticks_per_second),
        }
    }

    /// Adds a typed byte; false when too much is typed ahead and it was refused.
    #[must_use]
    pub fn type_byte(&mut self, byte: u8) -> bool {
        self.typed.push(byte)
    }

    /// Commands are running or waiting: the terminal must not leave the monitor yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_running() || !self.typed.is_empty()
    }

    /// A command's output is not complete.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.runner.is_running()
    }

    /// Stages the prompt and the line typed so far, at the start of a row.
    pub fn stage_prompt(&self, stage: &mut Stage) {
        stage.put_all(PROMPT);
        stage.put_all(self.editor.line().as_bytes());
    }

    /// Goes on by one line of output or, when no command runs, with what was typed, up to the end of
    /// one line. The prompt must be on the row when no command runs.
    pub fn step(&mut self, labels: &Labels, shell: &impl Operator, stage: &mut Stage) -> Step {
        if self.is_running() {
            self.runner.run(labels, shell, stage);
            return Step::Lines;
        }
        let waits = self.typed.is_empty();
        while stage.len() < ECHO_BYTES {
            let Some(byte) = self.typed.pop() else { break };
            match self.editor.type_byte(byte, stage) {
                Edit::Typing => continue,
                Edit::Abandoned => stage.end_line(),
                Edit::TooLong => {
                    stage.end_line();
                    error(stage, format_args!("longer than {LINE_BYTES} bytes"));
                }
                Edit::Entered => {
                    stage.end_line();
                    self.runner.enter(self.editor.line(), labels, shell, stage);
                }
            }
            self.editor.clear();
            return Step::Lines;
        }
        if waits { Step::Waits } else { Step::Echoed }
    }
}
