//! A command from its line to its last line of output.
//!
//! What has one line is answered at once. A command with more of them is a [`Job`] that keeps its place, and goes on
//! by a line when it is asked, on the terminal as in a guest's [`super::Session`].

use core::fmt;

use super::{Command, Operator, Refused, StatsGroup, USAGE, parse};
use crate::console::{Labels, Stage};
use crate::log::{Entry, Name};

/// A command with more than one line of output, and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    Idle,
    Status { line: usize },
    Transfers { guest: usize },
    Moves { nth: usize },
    Stats { guest: usize, line: usize },
    Events { sequence: u64 },
    Log { sequence: u64 },
    Help { line: usize },
}

/// The command that runs, and what its words need.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) job: Job,
    ticks_per_second: u64,
}

impl Runner {
    pub(super) fn new(ticks_per_second: u64) -> Self {
        Self {
            job: Job::Idle,
            ticks_per_second: ticks_per_second.max(1),
        }
    }

    /// The command's output is not complete.
    pub(super) fn is_running(&self) -> bool {
        self.job != Job::Idle
    }

    /// Begins what `line` says; stages the answer if it is one line.
    pub(super) fn enter(
        &mut self,
        line: &str,
        labels: &Labels,
        shell: &impl Operator,
        stage: &mut Stage,
    ) {
        let command = match parse(line, labels) {
            Ok(Some(command)) => command,
            Ok(None) => return,
            Err(wrong) => return error(stage, format_args!("{}", wrong.describe(labels))),
        };
        match command {
            Command::Status => self.job = Job::Status { line: 0 },
            Command::Transfers => self.job = Job::Transfers { guest: 0 },
            Command::Policy { mode } => {
                shell.set_policy(mode);
                stage.text(format_args!("ok policy={}\r\n", mode.name()));
            }
            Command::Stats { guest } => self.job = Job::Stats { guest, line: 0 },
            Command::Events { from } => self.job = Job::Events { sequence: from },
            Command::Log { from } => self.job = Job::Log { sequence: from },
            Command::Help => self.job = Job::Help { line: 0 },
            Command::Memory { guest, mib } => {
                let result = shell.set_memory(guest, mib);
                answer(
                    labels,
                    guest,
                    stage,
                    result,
                    format_args!("target-mib={mib}"),
                );
            }
            Command::Cpus { guest, cpus } => {
                let result = shell.set_cpus(guest, cpus);
                answer(
                    labels,
                    guest,
                    stage,
                    result,
                    format_args!("target-cpus={cpus}"),
                );
            }
            Command::Move { from, to, amount } => match shell.move_between(from, to, amount) {
                Ok(id) => stage.text(format_args!(
                    "ok move={id} from={} to={} memory-mib={} cpus={} deadline-s={}\r\n",
                    Name(labels, from),
                    Name(labels, to),
                    amount.mib,
                    amount.cpus,
                    amount.seconds
                )),
                Err((guest, refused)) => {
                    answer(labels, guest, stage, Err(refused), format_args!(""));
                }
            },
            Command::Power { guest, action } => {
                let result = shell.power(guest, action);
                answer(
                    labels,
                    guest,
                    stage,
                    result,
                    format_args!("action={}", action.name()),
                );
            }
        }
    }

    /// Stages the next line of the running command, or ends it.
    pub(super) fn run(&mut self, labels: &Labels, shell: &impl Operator, stage: &mut Stage) {
        self.job = match self.job {
            Job::Idle => Job::Idle,
            Job::Status { line: 0 } => {
                stage.text(format_args!("{}\r\n", shell.host()));
                Job::Status { line: 1 }
            }
            Job::Status { line } => match labels.get(line.saturating_sub(1)) {
                Some(label) => {
                    let status = shell.guest(line.saturating_sub(1));
                    stage.text(format_args!("{}\r\n", status.line(label)));
                    Job::Status {
                        line: line.saturating_add(1),
                    }
                }
                None => Job::Idle,
            },
            Job::Transfers { guest } => match labels.get(guest) {
                Some(label) => {
                    if let Some(transfer) = shell.transfer(guest) {
                        stage.text(format_args!("{}\r\n", transfer.line(label)));
                    }
                    Job::Transfers {
                        guest: guest.saturating_add(1),
                    }
                }
                None => Job::Moves { nth: 0 },
            },
            Job::Moves { nth } => match shell.move_status(nth) {
                Some(status) => {
                    stage.text(format_args!("{}\r\n", status.line(labels)));
                    Job::Moves {
                        nth: nth.saturating_add(1),
                    }
                }
                None => Job::Idle,
            },
            Job::Stats { guest, line } => match (labels.get(guest), StatsGroup::ALL.get(line)) {
                (Some(label), Some(group)) => {
                    let stats = shell.stats(guest);
                    stage.text(format_args!("{}\r\n", stats.line(label, *group)));
                    Job::Stats {
                        guest,
                        line: line.saturating_add(1),
                    }
                }
                _ => Job::Idle,
            },
            Job::Events { sequence } => match shell.event_from(sequence) {
                Some(record) => {
                    if let Some(label) = labels.get(record.guest.into()) {
                        let line = record.line(label, self.ticks_per_second);
                        stage.text(format_args!("{line}\r\n"));
                    }
                    Job::Events {
                        sequence: record.sequence.wrapping_add(1),
                    }
                }
                None => Job::Idle,
            },
            Job::Log { sequence } => match shell.log_from(sequence) {
                Some(entry) => {
                    let lost = entry.sequence.saturating_sub(sequence);
                    if lost > 0 {
                        stage.text(format_args!("log lost={lost}\r\n"));
                    }
                    self.log_line(&entry, labels, stage);
                    Job::Log {
                        sequence: entry.sequence.wrapping_add(1),
                    }
                }
                None => Job::Idle,
            },
            Job::Help { line } => match USAGE.get(line) {
                Some((usage, what)) => {
                    stage.text(format_args!("{usage:<34}{what}\r\n"));
                    Job::Help {
                        line: line.saturating_add(1),
                    }
                }
                None => {
                    stage.text(format_args!("GUEST is a number or a name: {labels}\r\n"));
                    Job::Idle
                }
            },
        };
    }

    fn log_line(&self, entry: &Entry, labels: &Labels, stage: &mut Stage) {
        let us = u128::from(entry.ticks)
            .saturating_mul(1_000_000)
            .checked_div(u128::from(self.ticks_per_second))
            .unwrap_or(0);
        let (seconds, micros) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
        stage.text(format_args!(
            "log={} time-s={seconds}.{micros:06} {}\r\n",
            entry.sequence,
            entry.event.describe(labels)
        ));
    }
}

fn answer(
    labels: &Labels,
    guest: usize,
    stage: &mut Stage,
    result: Result<(), Refused>,
    done: fmt::Arguments<'_>,
) {
    let Some(label) = labels.get(guest) else {
        return;
    };
    match result {
        Ok(()) => stage.text(format_args!(
            "ok guest={} name={} {done}\r\n",
            label.number(),
            label.name()
        )),
        Err(refused) => error(
            stage,
            format_args!("guest={} name={} {refused}", label.number(), label.name()),
        ),
    }
}

pub(super) fn error(stage: &mut Stage, what: fmt::Arguments<'_>) {
    stage.text(format_args!("error: {what}\r\n"));
}
