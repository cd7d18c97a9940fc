//! The monitor's command language: one line, words between spaces.

use core::fmt;

use crate::console::Labels;
use crate::policy::Mode;

/// What every command looks like, in the order `help` shows them.
pub const USAGE: [(&str, &str); 13] = [
    ("status", "the host and every guest, one line each"),
    ("mem GUEST MIB", "set how much memory a guest shall have"),
    ("cpus GUEST N", "set how many cores a guest shall have"),
    (
        "move FROM TO MIB [CPUS] [SECONDS]",
        "memory and cores from guest to guest, all or nothing",
    ),
    ("policy MODE", "who decides: manual, auto or external"),
    ("transfers", "what is on its way, and the last moves"),
    ("start GUEST", "start a stopped guest"),
    ("stop GUEST", "stop a guest at once"),
    ("reset GUEST", "start a guest anew with pristine images"),
    ("stats GUEST", "exits, interrupts, transfers, console"),
    ("events [FROM]", "the times of the last transfers"),
    ("log [FROM]", "what happened, from this entry on"),
    ("help", "this list"),
];

/// What an operator can do to a guest's run state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// Start a stopped guest.
    Start,
    /// Stop it without asking it.
    Stop,
    /// Stop it and start it anew.
    Reset,
}

impl PowerAction {
    /// The command's word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reset => "reset",
        }
    }
}

/// Seconds that a move has unless it says otherwise.
const MOVE_SECONDS: u32 = 30;
/// The most it can have.
const MOST_SECONDS: u32 = 3600;

/// What a move moves, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Memory, in MiB.
    pub mib: u64,
    /// Cores.
    pub cpus: u32,
    /// After so many seconds it is done or undone: 1 to 3600.
    pub seconds: u32,
}

/// A command, understood. Guests are named by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `status`.
    Status,
    /// `mem GUEST MIB`.
    Memory {
        /// Index of the guest.
        guest: usize,
        /// Memory it shall have, in MiB.
        mib: u64,
    },
    /// `cpus GUEST N`.
    Cpus {
        /// Index of the guest.
        guest: usize,
        /// Cores it shall have.
        cpus: u32,
    },
    /// `move FROM TO MIB [CPUS] [SECONDS]`.
    Move {
        /// Index of the guest that gives.
        from: usize,
        /// Index of the guest that gets.
        to: usize,
        /// What and by when.
        amount: Amount,
    },
    /// `policy MODE`.
    Policy {
        /// Who decides from now on.
        mode: Mode,
    },
    /// `transfers`.
    Transfers,
    /// `start`, `stop` or `reset GUEST`.
    Power {
        /// Index of the guest.
        guest: usize,
        /// Which of them.
        action: PowerAction,
    },
    /// `stats GUEST`.
    Stats {
        /// Index of the guest.
        guest: usize,
    },
    /// `events [FROM]`.
    Events {
        /// Number of the first transfer to show, if it is still kept.
        from: u64,
    },
    /// `log [FROM]`.
    Log {
        /// Number of the first entry to show, if it is still kept.
        from: u64,
    },
    /// `help`.
    Help,
}

/// Why a line is no command. Displayed, it says what was wrong and what is possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseError<'a> {
    /// The first word is none of the commands.
    UnknownCommand(&'a str),
    /// The command takes other words; this is how it looks.
    Usage(&'static str),
    /// No guest has this number or name.
    UnknownGuest(&'a str),
    /// This is no policy's name.
    NotMode(&'a str),
    /// This is not a whole number of MiB.
    NotMib(&'a str),
    /// This is not a number of cores.
    NotCpus(&'a str),
    /// This is not a number that can stand here; this is how the command looks.
    NotNumber(&'a str, &'static str),
}

impl ParseError<'_> {
    /// The error in words, with the guests there are.
    #[must_use]
    pub fn describe<'a>(&'a self, labels: &'a Labels) -> impl fmt::Display + 'a {
        Described {
            error: self,
            labels,
        }
    }
}

struct Described<'a> {
    error: &'a ParseError<'a>,
    labels: &'a Labels,
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            ParseError::UnknownCommand(word) => {
                write!(f, "unknown command '{word}'; commands:")?;
                for (index, (usage, _)) in USAGE.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    let name = usage.split(' ').next().unwrap_or(usage);
                    write!(f, "{comma} {name}")?;
                }
                Ok(())
            }
            ParseError::Usage(usage) => write!(f, "usage: {usage}"),
            ParseError::UnknownGuest(word) => {
                write!(f, "no guest '{word}'; guests: {}", self.labels)
            }
            ParseError::NotNumber(word, usage) => {
                write!(
                    f,
                    "'{word}' is not a number that can stand there; usage: {usage}"
                )
            }
            ParseError::NotMode(word) => {
                write!(f, "'{word}' is no policy: manual, auto or external")
            }
            ParseError::NotCpus(word) => {
                write!(f, "'{word}' is no number of cores; usage: cpus GUEST N")
            }
            ParseError::NotMib(word) => {
                write!(
                    f,
                    "'{word}' is not a whole number of MiB; usage: mem GUEST MIB"
                )
            }
        }
    }
}

/// Understands one line; an empty one is `None`.
///
/// # Errors
/// What is wrong with the line: see [`ParseError`].
pub fn parse<'a>(line: &'a str, labels: &Labels) -> Result<Option<Command>, ParseError<'a>> {
    let mut words = line.split_ascii_whitespace();
    let Some(name) = words.next() else {
        return Ok(None);
    };
    let Some(usage) = usage_of(name) else {
        return Err(ParseError::UnknownCommand(name));
    };
    let optional = usage
        .split(' ')
        .filter(|word| word.starts_with('['))
        .count();
    let most = usage.split(' ').skip(1).count();
    if !(most.saturating_sub(optional)..=most).contains(&words.clone().count()) {
        return Err(ParseError::Usage(usage));
    }
    let mut guest = || {
        let word = words.next().ok_or(ParseError::Usage(usage))?;
        labels.find(word).ok_or(ParseError::UnknownGuest(word))
    };
    let command = match name {
        "status" => Command::Status,
        "mem" => {
            let guest = guest()?;
            let word = words.next().ok_or(ParseError::Usage(usage))?;
            let mib = word.parse().map_err(|_| ParseError::NotMib(word))?;
            Command::Memory { guest, mib }
        }
        "cpus" => {
            let guest = guest()?;
            let word = words.next().ok_or(ParseError::Usage(usage))?;
            let cpus = word.parse().map_err(|_| ParseError::NotCpus(word))?;
            Command::Cpus { guest, cpus }
        }
        "move" => {
            let (from, to) = (guest()?, guest()?);
            let mut number = |least: u32, unless_given: Option<u32>, most: u32| {
                let Some(word) = words.next() else {
                    return unless_given.ok_or(ParseError::Usage(usage));
                };
                let number = word.parse().ok();
                number
                    .filter(|number| (least..=most).contains(number))
                    .ok_or(ParseError::NotNumber(word, usage))
            };
            let amount = Amount {
                mib: number(0, None, u32::MAX)?.into(),
                cpus: number(0, Some(0), u32::MAX)?,
                seconds: number(1, Some(MOVE_SECONDS), MOST_SECONDS)?,
            };
            Command::Move { from, to, amount }
        }
        "policy" => {
            let word = words.next().ok_or(ParseError::Usage(usage))?;
            let mode = Mode::from_name(word).ok_or(ParseError::NotMode(word))?;
            Command::Policy { mode }
        }
        "transfers" => Command::Transfers,
        "start" => power(guest()?, PowerAction::Start),
        "stop" => power(guest()?, PowerAction::Stop),
        "reset" => power(guest()?, PowerAction::Reset),
        "stats" => Command::Stats { guest: guest()? },
        "events" | "log" => {
            let from = match words.next() {
                Some(word) => word
                    .parse()
                    .map_err(|_| ParseError::NotNumber(word, usage))?,
                None => 0,
            };
            if name == "log" {
                Command::Log { from }
            } else {
                Command::Events { from }
            }
        }
        _ => Command::Help,
    };
    Ok(Some(command))
}

fn power(guest: usize, action: PowerAction) -> Command {
    Command::Power { guest, action }
}

fn usage_of(name: &str) -> Option<&'static str> {
    USAGE
        .iter()
        .map(|(usage, _)| *usage)
        .find(|usage| usage.split(' ').next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Label;
    use proptest::prelude::*;

    fn labels() -> Labels {
        let mut labels = Labels::new();
        labels.push(Label::new(1, "linux-a"));
        labels.push(Label::new(4, "rtos"));
        labels
    }

    fn error(line: &str) -> String {
        let labels = labels();
        parse(line, &labels)
            .unwrap_err()
            .describe(&labels)
            .to_string()
    }

    #[test]
    fn every_command_is_understood_by_number_and_by_name() {
        let labels = labels();
        let parse = |line| parse(line, &labels).unwrap();
        assert_eq!(parse(" \t "), None);
        assert_eq!(parse("  status "), Some(Command::Status));
        let memory = Some(Command::Memory { guest: 1, mib: 256 });
        assert_eq!(parse("mem 4 256"), memory);
        assert_eq!(parse("mem rtos\t256"), memory);
        let cpus = Some(Command::Cpus { guest: 0, cpus: 2 });
        assert_eq!(parse("cpus linux-a 2"), cpus);
        for (word, action) in [
            ("start", PowerAction::Start),
            ("stop", PowerAction::Stop),
            ("reset", PowerAction::Reset),
        ] {
            let line = format!("{word} linux-a");
            let command = super::parse(&line, &labels).unwrap();
            assert_eq!(command, Some(Command::Power { guest: 0, action }));
        }
        assert_eq!(parse("stats 1"), Some(Command::Stats { guest: 0 }));
        assert_eq!(parse("log"), Some(Command::Log { from: 0 }));
        assert_eq!(parse("events 3"), Some(Command::Events { from: 3 }));
        assert_eq!(parse("log 17"), Some(Command::Log { from: 17 }));
        for (line, cpus, seconds) in [
            ("move 1 rtos 64", 0, 30),
            ("move 1 4 64 2", 2, 30),
            ("move linux-a rtos 64 0 5", 0, 5),
        ] {
            let (from, to, mib) = (0, 1, 64);
            let amount = Amount { mib, cpus, seconds };
            assert_eq!(parse(line), Some(Command::Move { from, to, amount }));
        }
        assert_eq!(parse("transfers"), Some(Command::Transfers));
        let mode = Mode::Auto;
        assert_eq!(parse("policy auto"), Some(Command::Policy { mode }));
        assert_eq!(parse("help"), Some(Command::Help));
    }

    #[test]
    fn errors_say_what_was_wrong_and_what_is_possible() {
        assert_eq!(
            error("list"),
            "unknown command 'list'; commands: status, mem, cpus, move, policy, transfers, start, stop, reset, stats, events, log, help"
        );
        assert_eq!(error("mem 1"), "usage: mem GUEST MIB");
        assert_eq!(error("status now"), "usage: status");
        assert_eq!(
            error("cpus 1 two"),
            "'two' is no number of cores; usage: cpus GUEST N"
        );
        assert_eq!(error("log 1 2"), "usage: log [FROM]");
        assert_eq!(
            error("log all"),
            "'all' is not a number that can stand there; usage: log [FROM]"
        );
        let usage = "usage: move FROM TO MIB [CPUS] [SECONDS]";
        assert_eq!(error("move 1 4"), usage);
        assert_eq!(
            error("move 1 2 3"),
            "no guest '2'; guests: 1 linux-a, 4 rtos"
        );
        for (line, word) in [
            ("move 1 4 x", "x"),
            ("move 1 4 1 -1", "-1"),
            ("move 1 4 1 1 0", "0"),
        ] {
            assert_eq!(
                error(line),
                format!("'{word}' is not a number that can stand there; {usage}")
            );
        }
        assert_eq!(error("stop 2"), "no guest '2'; guests: 1 linux-a, 4 rtos");
        for mib in ["-1", "1.5", "256M", "99999999999999999999999"] {
            assert_eq!(
                error(&format!("mem 1 {mib}")),
                format!("'{mib}' is not a whole number of MiB; usage: mem GUEST MIB")
            );
        }
    }

    proptest! {
        #[test]
        fn any_line_gets_an_answer(line in ".*") {
            let labels = labels();
            if let Err(error) = parse(&line, &labels) {
                prop_assert!(!error.describe(&labels).to_string().is_empty());
            }
        }
    }
}
