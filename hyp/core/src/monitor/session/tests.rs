#![allow(clippy::indexing_slicing)]

use core::cell::RefCell;

use super::*;
use crate::console::Label;
use crate::log::{Entry, Event, EventLog};
use crate::monitor::{
    Amount, DriverState, GuestState, GuestStats, GuestStatus, HostStatus, MoveStatus, PowerAction,
    Refused, TransferStatus,
};
use crate::policy::Mode;
use crate::policy::transfer::{Cause, Phase};

/// Two guests, and what was asked of them.
#[derive(Default)]
struct Board {
    log: RefCell<EventLog>,
    asked: RefCell<Vec<String>>,
}

impl Operator for Board {
    fn host(&self) -> HostStatus {
        HostStatus {
            free_kib: 1024,
            zeroed_kib: 1024,
            dirty_kib: 0,
            own_kib: 900,
            cores_used: 2,
            cores: 4,
            uptime_s: 1,
            policy: Mode::Manual,
            idle_scrubbed_kib: 0,
        }
    }

    fn guest(&self, _: usize) -> GuestStatus {
        GuestStatus {
            state: GuestState::Running,
            memory_kib: 1024,
            target_kib: 1024,
            min_kib: 1024,
            max_kib: 2048,
            driver: DriverState::Ready,
            cpus_on: 1,
            cpus_max: 2,
            cpus_min: 1,
            cpus_target: 1,
            cores: crate::cores::CpuSet(1),
        }
    }

    fn stats(&self, _: usize) -> GuestStats {
        GuestStats::default()
    }

    fn log_from(&self, sequence: u64) -> Option<Entry> {
        self.log.borrow().from(sequence)
    }

    fn set_cpus(&self, _: usize, _: u32) -> Result<(), Refused> {
        Ok(())
    }

    fn set_policy(&self, mode: Mode) {
        self.asked
            .borrow_mut()
            .push(format!("policy {}", mode.name()));
    }

    fn transfer(&self, guest: usize) -> Option<TransferStatus> {
        (guest == 0).then_some(TransferStatus {
            from_kib: 2048,
            memory_kib: 1536,
            target_kib: 1024,
            since_ms: 7,
            left_ms: 1993,
        })
    }

    fn event_from(&self, _: u64) -> Option<crate::timeline::Record> {
        None
    }

    fn move_between(
        &self,
        from: usize,
        to: usize,
        amount: Amount,
    ) -> Result<u32, (usize, Refused)> {
        if amount.mib > 99 {
            return Err((to, Refused::AboveMaximum(99)));
        }
        self.asked
            .borrow_mut()
            .push(format!("move {from} {to} {amount:?}"));
        Ok(7)
    }

    fn move_status(&self, nth: usize) -> Option<MoveStatus> {
        (nth == 0).then_some(MoveStatus {
            id: 7,
            from: 0,
            to: 1,
            memory_kib: 64 << 10,
            cpus: 1,
            phase: Phase::Returning,
            cause: Some(Cause::Deadline),
            given_kib: 5 << 10,
            taken_kib: 0,
            since_ms: 15_001,
            left_ms: 14_999,
        })
    }

    fn set_memory(&self, guest: usize, mib: u64) -> Result<(), Refused> {
        self.asked.borrow_mut().push(format!("mem {guest} {mib}"));
        Ok(())
    }

    fn power(&self, guest: usize, action: PowerAction) -> Result<(), Refused> {
        let asked = format!("{} {guest}", action.name());
        self.asked.borrow_mut().push(asked);
        Err(Refused::Busy)
    }
}

fn session() -> Session {
    let mut labels = Labels::new();
    labels.push(Label::new(1, "linux"));
    labels.push(Label::new(2, "rtos"));
    Session::new(labels, 1_000_000)
}

fn answer(session: &mut Session, board: &Board) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 7];
    loop {
        let count = session.read(board, &mut piece);
        if count == 0 {
            return String::from_utf8(text).unwrap();
        }
        text.extend_from_slice(&piece[..count]);
    }
}

#[test]
fn a_command_is_answered_in_the_monitors_words() {
    let (board, mut session) = (Board::default(), session());
    session.begin(b"status", &board).unwrap();
    assert_eq!(session.begin(b"status", &board), Err(BeginError::Busy));
    let said = answer(&mut session, &board);
    assert!(said.starts_with("host free-mib=1 "), "{said}");
    assert!(said.ends_with(" cores=0\n"), "{said:?}");
    assert_eq!(said.lines().count(), 3, "{said}");
    session.begin(b"mem rtos 96", &board).unwrap();
    assert_eq!(
        answer(&mut session, &board),
        "ok guest=2 name=rtos target-mib=96\n"
    );
    session.begin(b"stop 1", &board).unwrap();
    assert!(answer(&mut session, &board).starts_with("error: guest=1 name=linux "));
    assert_eq!(*board.asked.borrow(), ["mem 1 96", "stop 0"]);
    assert_eq!(answer(&mut session, &board), "");
}

#[test]
fn a_move_is_begun_and_shown() {
    let (board, mut session) = (Board::default(), session());
    session.begin(b"move 1 rtos 64 1 20", &board).unwrap();
    assert_eq!(
        answer(&mut session, &board),
        "ok move=7 from=linux to=rtos memory-mib=64 cpus=1 deadline-s=20\n"
    );
    session.begin(b"move 1 rtos 100", &board).unwrap();
    assert_eq!(
        answer(&mut session, &board),
        "error: guest=2 name=rtos above the guest's memory-max-mib=99\n"
    );
    session.begin(b"transfers", &board).unwrap();
    assert_eq!(
        answer(&mut session, &board),
        "transfer guest=1 name=linux from-mib=2 memory-mib=1 target-mib=1 since-ms=7 deadline-ms=1993\n\
         move id=7 from=linux to=rtos memory-mib=64 cpus=1 state=returning cause=deadline given-mib=5 \
         taken-mib=0 since-ms=15001 deadline-ms=14999\n"
    );
}

#[test]
fn the_log_goes_on_where_the_reader_was() {
    let (board, mut session) = (Board::default(), session());
    for guests in 0..3 {
        let memory_kib = 1024;
        let event = Event::Admitted { guests, memory_kib };
        board.log.borrow_mut().record(0, event);
    }
    session.begin(b"log 2", &board).unwrap();
    let said = answer(&mut session, &board);
    assert!(said.starts_with("log=2 "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_is_no_line_is_refused_and_what_is_no_command_is_told() {
    let (board, mut session) = (Board::default(), session());
    for line in [&b"status\n"[..], b"\xff", b"sta\0tus", &[b'a'; 121]] {
        assert_eq!(session.begin(line, &board), Err(BeginError::NotALine));
    }
    session.begin(b"frobnicate", &board).unwrap();
    assert!(answer(&mut session, &board).starts_with("error: unknown command"));
    session.begin(b"", &board).unwrap();
    assert_eq!(answer(&mut session, &board), "");
}

#[test]
fn a_reset_forgets_the_answer() {
    let (board, mut session) = (Board::default(), session());
    session.begin(b"help", &board).unwrap();
    session.reset();
    assert_eq!(answer(&mut session, &board), "");
    assert_eq!(session.begin(b"status", &board), Ok(()));
}
