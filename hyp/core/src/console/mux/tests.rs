#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use core::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::console::{Label, Stage};
use crate::exit::Width;
use crate::log::{Entry, Event, EventLog};
use crate::monitor::{
    Amount, DriverState, GuestState, GuestStats, GuestStatus, HostStatus, MoveStatus, PowerAction,
    Refused, StatsGroup, TransferStatus,
};
use crate::policy::Mode;

const HZ: u64 = 1000;

/// A shell of plain memory. The cells also show that the console never nests locks.
struct Shell {
    uarts: Vec<RefCell<Pl011>>,
    messages: RefCell<Messages>,
    log: RefCell<EventLog>,
    asked: RefCell<Vec<String>>,
}

impl Sources for Shell {
    fn uart<R>(&self, guest: usize, f: impl FnOnce(&mut Pl011) -> R) -> R {
        f(&mut self.uarts[guest].borrow_mut())
    }

    fn messages<R>(&self, f: impl FnOnce(&mut Messages) -> R) -> R {
        f(&mut self.messages.borrow_mut())
    }
}

impl Operator for Shell {
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

    fn guest(&self, guest: usize) -> GuestStatus {
        GuestStatus {
            state: GuestState::Running,
            memory_kib: 1024 * (guest as u64 + 1),
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

    fn event_from(&self, _: u64) -> Option<crate::timeline::Record> {
        None
    }

    fn move_between(&self, _: usize, _: usize, _: Amount) -> Result<u32, (usize, Refused)> {
        Ok(1)
    }

    fn move_status(&self, _: usize) -> Option<MoveStatus> {
        None
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

    fn set_memory(&self, guest: usize, mib: u64) -> Result<(), Refused> {
        if mib > 1024 {
            return Err(Refused::AboveMaximum(1024));
        }
        self.asked.borrow_mut().push(format!("mem {guest} {mib}"));
        Ok(())
    }

    fn power(&self, guest: usize, action: PowerAction) -> Result<(), Refused> {
        self.asked
            .borrow_mut()
            .push(format!("{} {guest}", action.name()));
        Ok(())
    }
}

struct Bench {
    shell: Shell,
    console: Console,
    now: u64,
    out: Vec<u8>,
}

impl Bench {
    fn new(names: &[&str]) -> Self {
        let mut labels = Labels::new();
        for (number, name) in (1..).zip(names) {
            labels.push(Label::new(number, name));
        }
        let shell = Shell {
            uarts: names.iter().map(|_| RefCell::new(Pl011::new())).collect(),
            messages: RefCell::new(Messages::new()),
            log: RefCell::new(EventLog::new()),
            asked: RefCell::new(Vec::new()),
        };
        let mut bench = Self {
            shell,
            console: Console::new(labels, HZ),
            now: 0,
            out: Vec::new(),
        };
        bench.pull(16);
        bench
    }

    /// A guest's DR writes; says how many bytes its UART took.
    fn print(&mut self, guest: usize, bytes: &[u8]) -> usize {
        let mut uart = self.shell.uarts[guest].borrow_mut();
        let dropped = uart.counts().dropped;
        for byte in bytes {
            uart.write(0, Width::Byte, u64::from(*byte));
        }
        bytes.len() - (uart.counts().dropped - dropped) as usize
    }

    /// What a driver does at the end of a write.
    fn pause(&mut self, guest: usize) {
        self.shell.uarts[guest]
            .borrow_mut()
            .write(0x38, Width::Half, 0x50);
    }

    fn say(&mut self, text: &str) {
        self.shell
            .messages
            .borrow_mut()
            .line(format_args!("{text}"));
    }

    fn type_all(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.console.type_byte(&self.shell, self.now, *byte);
        }
    }

    fn pull(&mut self, room: usize) -> usize {
        let mut fifo = vec![0; room];
        let count = self.console.pull(&self.shell, self.now, &mut fifo);
        self.out.extend_from_slice(&fifo[..count]);
        count
    }

    fn settle(&mut self) {
        while self.pull(16) > 0 {}
    }

    /// Everything shown since the last call.
    fn shown(&mut self) -> String {
        self.settle();
        String::from_utf8_lossy(&core::mem::take(&mut self.out)).into_owned()
    }

    fn read_input(&self, guest: usize) -> Vec<u8> {
        let mut uart = self.shell.uarts[guest].borrow_mut();
        let mut bytes = Vec::new();
        while uart.read(0x18, Width::Word) & 0x10 == 0 {
            bytes.push(u8::try_from(uart.read(0, Width::Word)).unwrap());
        }
        bytes
    }
}

#[test]
fn the_only_guest_has_the_terminal_raw() {
    let mut bench = Bench::new(&["linux"]);
    bench.print(0, b"\x1b[1m/ # ");
    assert_eq!(bench.shown(), "\x1b[1m/ # ");
    bench.type_all(b"ls\n\x1d\x1d");
    assert_eq!(bench.read_input(0), b"ls\n\x1d");
    assert_eq!(bench.shown(), "");
}

#[test]
fn the_shared_view_shows_whole_lines_with_their_guest() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.print(0, b"half");
    bench.print(1, b"one\r\nrest");
    assert_eq!(bench.shown(), "[b] one\r\n");
    bench.print(0, b" and half\r\n");
    assert_eq!(bench.shown(), "[a] half and half\r\n");
}

#[test]
fn a_prompt_shows_when_its_guest_pauses_and_is_left_for_others_lines() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.print(0, b"/ # ");
    assert_eq!(bench.shown(), "");
    bench.pause(0);
    assert_eq!(bench.shown(), "[a] / # ");
    bench.print(0, b"echo");
    bench.pause(0);
    assert_eq!(bench.shown(), "echo");
    bench.print(1, b"line\n");
    bench.say("note");
    assert_eq!(bench.shown(), "\r\n[ballast] note\r\n[b] line\r\n");
    bench.print(0, b"\r\nnext\r\n");
    assert_eq!(bench.shown(), "[a] next\r\n");
}

#[test]
fn a_silent_guests_prompt_shows_at_the_next_occasion() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.print(0, b"boot> ");
    bench.print(1, b"x\n");
    assert_eq!(bench.shown(), "[b] x\r\n");
    bench.now += HZ;
    bench.print(1, b"y\n");
    assert_eq!(bench.shown(), "[b] y\r\n[a] boot> ");
}

#[test]
fn a_flooding_guest_hides_neither_another_nor_ballast() {
    let mut bench = Bench::new(&["flood", "quiet"]);
    while bench.print(0, b"[ballast] all is well\n") > 0 {}
    bench.print(1, b"here\n");
    bench.say("fault");
    bench.pull(80);
    let text = String::from_utf8(bench.out.clone()).unwrap();
    assert!(text.starts_with("[ballast] fault\r\n"), "{text}");
    assert!(text.contains("\r\n[quiet] here\r\n"), "{text}");
    assert_eq!(text.matches("\r\n[ballast]").count(), 0);
}

#[test]
fn the_focus_replays_what_was_missed() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_all(b"\x1d2");
    assert_eq!(bench.shown(), "[ballast] focus on guest 2 b\r\n");
    bench.print(0, b"\x1b[0mmissed\r\n$ ");
    assert_eq!(bench.shown(), "");
    bench.type_all(b"\x1d1");
    assert_eq!(
        bench.shown(),
        "[ballast] focus on guest 1 a, replaying 14 bytes\r\n\x1b[0mmissed\r\n$ "
    );
    // Nothing missed: the prompt comes back all the same. The terminal is put right first, since
    // the guest has used escape sequences.
    bench.type_all(b"\x1dm");
    let text = bench.shown();
    assert!(text.ends_with("\r\nballast> "), "{text:?}");
    assert!(text.starts_with('\x18'), "{text:?}");
    bench.type_all(b"\x1d1");
    assert_eq!(bench.shown(), "\r\n[ballast] focus on guest 1 a\r\n$ ");
}

#[test]
fn output_lost_while_unattended_is_counted() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_all(b"\x1d1");
    bench.shown();
    let line = [b"x".repeat(99), b"\n".to_vec()].concat();
    for _ in 0..200 {
        assert_eq!(bench.print(1, &line), 100);
    }
    bench.type_all(b"\x1da");
    let text = bench.shown();
    assert!(
        text.contains("[ballast] guest 2 b: 3616 bytes of output are lost\r\n"),
        "{text}"
    );
    assert_eq!(text.matches('x').count(), (16384 / 100) * 99 + 83);
}

#[test]
fn messages_reach_a_focused_terminal_without_waiting_for_ever() {
    let mut bench = Bench::new(&["a"]);
    bench.print(0, b"line\npart");
    bench.say("one");
    assert_eq!(bench.shown(), "[ballast] one\r\nline\npart");
    bench.say("two");
    bench.print(0, &[b'x'; 1000]);
    let text = bench.shown();
    let at = text.find("\r\n[ballast] two\r\n").unwrap();
    assert!((1..400).contains(&at), "{at}");
    bench.print(0, b"\x1b]0;");
    bench.shown();
    bench.say("three");
    assert_eq!(bench.shown(), "\x18\x1b[0m\r\n[ballast] three\r\n");
}

#[test]
fn typing_without_a_focus_is_hinted_at_once_a_burst() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_all(b"reboot\r\n");
    let text = bench.shown();
    assert_eq!(text.matches("[ballast]").count(), 1, "{text}");
    assert!(text.contains("1 a, 2 b"));
    bench.now += 2 * HZ;
    bench.type_all(b"x");
    assert_ne!(bench.shown(), "");
}

#[test]
fn keys_that_name_nothing_are_explained() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_all(b"\x1d7");
    assert!(
        bench
            .shown()
            .starts_with("[ballast] no guest has this number. Ctrl-] then: 1-9")
    );
    bench.type_all(b"\x1dz");
    assert!(bench.shown().contains("\r\n[ballast] guests: 1 a, 2 b\r\n"));
    bench.type_all(b"\x1d?");
    assert!(bench.shown().starts_with("[ballast] console keys."));
    assert_eq!(bench.console.view(), View::Shared);
}

#[test]
fn a_guest_that_does_not_read_is_reported_once_and_can_be_left() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_all(b"\x1d1");
    bench.type_all(&[b'x'; 5000]);
    let text = bench.shown();
    assert_eq!(text.matches("guest 1 a does not read its input").count(), 1);
    assert_eq!(bench.read_input(0).len(), 4096);
    bench.type_all(b"\x1d2ok");
    assert_eq!(bench.read_input(1), b"ok");
}

#[test]
fn a_pasted_script_runs_in_order_to_its_end() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_all(b"\x1dmstatus\r\nmem a 256\nmem 2 9999\nbogus\nreset 2\n\x1d2ls\n");
    let text = bench.shown();
    let wanted = "\
ballast> status\r
host free-mib=1 zeroed-mib=1 dirty-mib=0 own-kib=900 cores=2/4 uptime-s=1 policy=manual idle-scrubbed-kib=0\r
guest=1 name=a state=running memory-mib=1 target-mib=1 min-mib=1 max-mib=2 driver=ready cpus=1/1 memory-kib=1024 cpus-target=1 cpus-min=1 cpus-max=2 cores=0\r
guest=2 name=b state=running memory-mib=2 target-mib=1 min-mib=1 max-mib=2 driver=ready cpus=1/1 memory-kib=2048 cpus-target=1 cpus-min=1 cpus-max=2 cores=0\r
ballast> mem a 256\r
ok guest=1 name=a target-mib=256\r
ballast> mem 2 9999\r
error: guest=2 name=b above the guest's memory-max-mib=1024\r
ballast> bogus\r
error: unknown command 'bogus'; commands: status, mem, cpus, move, policy, transfers, start, stop, reset, stats, events, log, help\r
ballast> reset 2\r
ok guest=2 name=b action=reset\r
[ballast] focus on guest 2 b\r
";
    assert_eq!(text, wanted);
    assert_eq!(*bench.shell.asked.borrow(), ["mem 0 256", "reset 1"]);
    assert_eq!(bench.read_input(1), b"ls\n");
}

#[test]
fn a_message_leaves_the_line_being_typed_whole() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_all(b"\x1dmsta");
    assert_eq!(bench.shown(), "ballast> sta");
    bench.say("note");
    assert_eq!(bench.shown(), "\r\n[ballast] note\r\nballast> sta");
    bench.type_all(b"\x15help\r");
    let text = bench.shown();
    assert!(
        text.contains("\r\nmem GUEST MIB                     set how much memory"),
        "{text}"
    );
    assert!(
        text.ends_with("GUEST is a number or a name: 1 a, 2 b\r\nballast> "),
        "{text}"
    );
}

#[test]
fn the_log_and_stats_come_line_by_line() {
    let mut bench = Bench::new(&["a", "b"]);
    for _ in 0..300 {
        let event = Event::Unresponsive { guest: 1 };
        bench.shell.log.borrow_mut().record(1_500, event);
    }
    bench.type_all(b"\x1dmlog\nstats 1\n");
    let text = bench.shown();
    assert!(text.contains(
        "log\r\nlog lost=172\r\nlog=172 time-s=1.500000 event=unresponsive guest=2 name=b\r\n"
    ));
    // Rare events have half of it.
    assert_eq!(text.matches("event=unresponsive").count(), 128);
    assert_eq!(
        text.matches("guest=1 name=a stats=").count(),
        StatsGroup::ALL.len()
    );
}

#[test]
fn the_longest_things_fit_the_stage() {
    let names: Vec<String> = (0..9).map(|n| format!("{n}{}", "x".repeat(30))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bench = Bench::new(&names);
    bench.type_all(b"\x1dmstop ");
    bench.type_all(&[b'y'; 115]);
    bench.type_all(b"\nstats 9\n");
    bench.type_all(b"\x1d?");
    bench.type_all(b"\x1da");
    let text = bench.shown();
    // The refusal, the stats, help's list and the banner.
    assert_eq!(
        text.lines().filter(|line| line.contains(names[8])).count(),
        StatsGroup::ALL.len() + 3,
        "{text}"
    );
    assert!(text.ends_with("\r\n"));
}

fn guest_bytes() -> impl Strategy<Value = Vec<u8>> {
    // No 'M': the only `^M` is then a carriage return made visible.
    let byte = prop_oneof![
        4 => b' '..=b'L',
        2 => b'a'..=b'z',
        1 => Just(b'\n'),
        1 => Just(b'\r'),
        1 => any::<u8>().prop_filter("M", |b| *b != b'M'),
    ];
    prop_oneof![
        8 => prop::collection::vec(byte, 0..100),
        1 => prop::collection::vec(Just(b'-'), 200..2000),
        1 => Just(b"\x1b[2J\r\n[ballast] forged\r[b] forged\n".to_vec()),
    ]
}

fn neutral(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().filter(|b| !crate::console::is_break(**b)) {
        let mut stage = Stage::default();
        stage.put_neutral(*byte);
        let mut out = [0; 8];
        let count = stage.take(&mut out);
        text.push_str(core::str::from_utf8(&out[..count]).unwrap());
    }
    text
}

#[derive(Debug, Clone)]
enum Deed {
    Print(usize, Vec<u8>),
    Pause(usize),
    Pull(usize),
    Say,
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0usize..3, guest_bytes()).prop_map(|(guest, bytes)| Deed::Print(guest, bytes)),
        2 => (0usize..3).prop_map(Deed::Pause),
        4 => (1usize..600).prop_map(Deed::Pull),
        1 => Just(Deed::Say),
        1 => (0u64..100).prop_map(Deed::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every line of the shared view carries its true speaker, and each guest's bytes are there,
    /// once, in order, whatever the sink's pace.
    #[test]
    fn the_shared_view_is_true_and_complete(deeds in prop::collection::vec(deed(), 1..60)) {
        let names = ["a", "b", "c"];
        let mut bench = Bench::new(&names);
        let mut printed = vec![Vec::new(); names.len()];
        let mut said = 0;
        for deed in deeds {
            match deed {
                Deed::Print(guest, bytes) => {
                    for byte in bytes {
                        if bench.print(guest, &[byte]) == 1 {
                            printed[guest].push(byte);
                        }
                    }
                }
                Deed::Pause(guest) => bench.pause(guest),
                Deed::Pull(room) => { bench.pull(room); }
                Deed::Say => { bench.say(&format!("message {said}")); said += 1; }
                Deed::Wait(ticks) => bench.now += ticks,
            }
        }
        for guest in 0..names.len() {
            bench.pause(guest);
        }
        let text = bench.shown();
        let mut heard = vec![String::new(); names.len()];
        let mut messages = Vec::new();
        for line in text.split_terminator("\r\n") {
            prop_assert!(line.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)));
            if let Some(message) = line.strip_prefix("[ballast] ") {
                messages.push(message.to_string());
                continue;
            }
            let guest = names.iter().position(|name| line.starts_with(&format!("[{name}] ")));
            prop_assert!(guest.is_some(), "no prefix: {:?}", line);
            heard[guest.unwrap()].push_str(&line[4..]);
        }
        for (guest, bytes) in printed.iter().enumerate() {
            prop_assert_eq!(heard[guest].replace("^M", ""), neutral(bytes));
        }
        let wanted: Vec<String> = (0..said).map(|n| format!("message {n}")).collect();
        prop_assert_eq!(messages, wanted);
    }

    /// In focus, the terminal gets exactly the guest's bytes.
    #[test]
    fn the_focus_is_transparent(
        parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3000), 1usize..2000), 1..20)
    ) {
        let mut bench = Bench::new(&["a"]);
        let mut printed = Vec::new();
        for (bytes, room) in parts {
            let taken = bench.print(0, &bytes);
            printed.extend_from_slice(&bytes[..taken]);
            bench.pull(room);
        }
        bench.settle();
        prop_assert_eq!(&bench.out, &printed);
    }

    /// Any typed bytes, any output: no panic, and the console always comes to rest.
    #[test]
    fn anything_typed_comes_to_rest(
        typed in prop::collection::vec(prop_oneof![
            3 => any::<u8>().prop_map(|b| vec![b]),
            2 => Just(vec![0x1d]),
            1 => prop::sample::select(vec!["\x1d1", "\x1d3", "\x1da", "\x1dm", "\x1d?", "status\n",
                "mem 1 3\r", "stats b\r\n", "log\n", "help\n", "\x1b[A", "stop 3\n"])
                .prop_map(|s| s.as_bytes().to_vec()),
        ], 0..60),
        deeds in prop::collection::vec(deed(), 60),
    ) {
        let mut bench = Bench::new(&["a", "b", "c"]);
        for (bytes, deed) in typed.iter().zip(deeds) {
            bench.type_all(bytes);
            match deed {
                Deed::Print(guest, bytes) => { bench.print(guest, &bytes); }
                Deed::Pause(guest) => bench.pause(guest),
                Deed::Pull(room) => { bench.pull(room); }
                Deed::Say => bench.say("message"),
                Deed::Wait(ticks) => bench.now += ticks,
            }
        }
        let mut pulls = 0;
        while bench.pull(64) > 0 {
            pulls += 1;
            prop_assert!(pulls < 20_000);
        }
        prop_assert!(!bench.console.monitor.is_busy());
        prop_assert_eq!(bench.console.screen, Some(bench.console.view));
    }
}
