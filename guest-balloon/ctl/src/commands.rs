//! What the commands print.

use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::control::Control;
use crate::record::{Record, is_error};

/// Between two looks at something that changes.
const LOOK: Duration = Duration::from_millis(200);

/// Asks, prints the answer, says whether it was one.
pub fn say(control: &mut Control, line: &str, json: bool) -> Result<bool> {
    let answer = control.ask(line)?;
    print(&answer, json)
}

/// Prints an answer; an error goes where errors go.
fn print(answer: &str, json: bool) -> Result<bool> {
    if is_error(answer) {
        if json {
            println!(
                "{}",
                json!({ "error": answer.trim_start_matches("error: ").trim_end() })
            );
        } else {
            eprint!("{answer}");
        }
        return Ok(false);
    }
    let mut out = std::io::stdout().lock();
    for line in answer.lines() {
        if json {
            writeln!(out, "{}", Record::parse(line).json())?;
        } else {
            writeln!(out, "{line}")?;
        }
    }
    out.flush()?;
    Ok(true)
}

/// The line of `status` for `guest`, a number or a name.
fn guest_line(status: &str, guest: &str) -> Option<String> {
    let is_it = |line: &&str| {
        let record = Record::parse(line);
        record.get("guest") == Some(guest) || record.get("name") == Some(guest)
    };
    status.lines().find(is_it).map(ToString::to_string)
}

/// Waits until `guest` has `mib`, prints its line then.
pub fn wait_for_memory(
    control: &mut Control,
    guest: &str,
    mib: u64,
    timeout_s: u64,
    json: bool,
) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(timeout_s);
    loop {
        let status = control.ask("status")?;
        let line = guest_line(&status, guest).context("the guest is gone")?;
        let record = Record::parse(&line);
        let has_it = record.number("memory-kib") == mib << 10;
        if has_it || Instant::now() >= deadline {
            print(&line, json)?;
            if !has_it {
                let (has, driver) = (record.number("memory-mib"), record.get("driver"));
                eprintln!(
                    "ballastctl: after {timeout_s} s {guest} has {has} MiB of {mib}; its driver is {}",
                    driver.unwrap_or("unknown")
                );
            }
            return Ok(has_it);
        }
        sleep(LOOK);
    }
}

/// Waits until `guest` runs on `cpus` cores that it has, prints its line then.
pub fn wait_for_cpus(
    control: &mut Control,
    guest: &str,
    cpus: u32,
    timeout_s: u64,
    json: bool,
) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(timeout_s);
    let goal = format!("{cpus}/{cpus}");
    loop {
        let status = control.ask("status")?;
        let line = guest_line(&status, guest).context("the guest is gone")?;
        let runs_on = Record::parse(&line).get("cpus").unwrap_or("?").to_owned();
        if runs_on == goal || Instant::now() >= deadline {
            print(&line, json)?;
            if runs_on != goal {
                eprintln!(
                    "ballastctl: after {timeout_s} s {guest} runs on {runs_on} cores of {cpus}"
                );
            }
            return Ok(runs_on == goal);
        }
        sleep(LOOK);
    }
}

/// The line of `transfers` about the move of this number.
fn move_line(transfers: &str, id: &str) -> Option<String> {
    let is_it = |line: &&str| {
        let record = Record::parse(line);
        record.words == ["move"] && record.get("id") == Some(id)
    };
    transfers.lines().find(is_it).map(ToString::to_string)
}

/// Begins a move and waits for its end, prints its line then; true if it was done.
pub fn see_through(control: &mut Control, line: &str, within_s: u32, json: bool) -> Result<bool> {
    let answer = control.ask(line)?;
    if is_error(&answer) {
        return print(&answer, json);
    }
    let id = Record::parse(&answer)
        .get("move")
        .context("a move without a number")?
        .to_owned();
    // It has ended by then, whatever happens.
    let deadline = Instant::now() + Duration::from_secs(u64::from(within_s) + 10);
    loop {
        let transfers = control.ask("transfers")?;
        let line = move_line(&transfers, &id).context("the move is no longer known")?;
        let state = Record::parse(&line).get("state").unwrap_or("?").to_owned();
        let is_open = matches!(state.as_str(), "giving" | "taking" | "returning");
        if !is_open || Instant::now() >= deadline {
            print(&line, json)?;
            return Ok(state == "done");
        }
        sleep(LOOK);
    }
}

/// Numbered lines that the hypervisor keeps the last of.
#[derive(Clone, Copy)]
pub struct Stream {
    /// The monitor's word for them.
    command: &'static str,
    /// The key of a line's number.
    key: &'static str,
}

impl Stream {
    /// What happened.
    pub const LOG: Self = Self {
        command: "log",
        key: "log",
    };
    /// The transfers that have ended.
    pub const EVENTS: Self = Self {
        command: "events",
        key: "transfer",
    };

    /// The number after that of the last line.
    fn next(self, lines: &str, from: u64) -> u64 {
        let number = |line| Record::parse(line).get(self.key)?.parse::<u64>().ok();
        let last = lines.lines().rev().find_map(number);
        last.map_or(from, |last| last + 1)
    }
}

/// Prints the lines as they come, `count` of them at most.
pub fn follow(
    control: &mut Control,
    stream: Stream,
    all: bool,
    count: Option<u64>,
    json: bool,
) -> Result<bool> {
    let mut next = 0;
    let mut left = count.unwrap_or(u64::MAX);
    if !all {
        next = stream.next(&control.ask(stream.command)?, next);
    }
    while left > 0 {
        let lines = control.ask(&format!("{} {next}", stream.command))?;
        next = stream.next(&lines, next);
        let some = usize::try_from(left).unwrap_or(usize::MAX);
        let lines: String = lines.split_inclusive('\n').take(some).collect();
        if !print(&lines, json)? {
            return Ok(false);
        }
        left = left.saturating_sub(lines.lines().count() as u64);
        if left > 0 {
            sleep(LOOK);
        }
    }
    Ok(true)
}

/// Width of a guest's bar.
const BAR: usize = 32;

/// A guest's memory against its maximum: what it has, and where its target is.
fn bar(record: &Record<'_>) -> String {
    let max = record.number("max-mib").max(1);
    let place = |mib: u64| {
        usize::try_from(mib * BAR as u64 / max)
            .unwrap_or(BAR)
            .min(BAR)
    };
    let (has, target) = (
        place(record.number("memory-mib")),
        place(record.number("target-mib")),
    );
    let cell = |at: usize| match at {
        at if at + 1 == target && at >= has => '>',
        at if at < has => '#',
        _ => '.',
    };
    (0..BAR).map(cell).collect()
}

/// One look at `status`, for people.
fn table(status: &str) -> String {
    let mut text = String::new();
    let mut lines = status.lines();
    if let Some(host) = lines.next() {
        let host = Record::parse(host);
        text += &format!(
            "free {} MiB ({} zeroed, {} to be scrubbed)   cores {}   up {} s\n\n",
            host.number("free-mib"),
            host.number("zeroed-mib"),
            host.number("dirty-mib"),
            host.get("cores").unwrap_or("?"),
            host.number("uptime-s")
        );
    }
    text += &format!(
        "{:>2} {:<16} {:<9} {:>6} {:>6} {:>6} {:>6}  {:<12} {:<5} {}\n",
        "#", "name", "state", "MiB", "target", "min", "max", "driver", "cpus", "memory"
    );
    for line in lines {
        let guest = Record::parse(line);
        let get = |key| guest.get(key).unwrap_or("?");
        text += &format!(
            "{:>2} {:<16} {:<9} {:>6} {:>6} {:>6} {:>6}  {:<12} {:<5} {}\n",
            get("guest"),
            get("name"),
            get("state"),
            get("memory-mib"),
            get("target-mib"),
            get("min-mib"),
            get("max-mib"),
            get("driver"),
            get("cpus"),
            bar(&guest)
        );
    }
    text
}

/// Shows the guests again and again.
pub fn top(control: &mut Control, interval_s: f64, count: Option<u64>) -> Result<bool> {
    let interval = Duration::try_from_secs_f64(interval_s).context("that is no interval")?;
    let mut looks = 0;
    loop {
        let status = control.ask("status")?;
        if is_error(&status) {
            return print(&status, false);
        }
        let mut out = std::io::stdout().lock();
        // Home, the table, and nothing left of the last one behind or below it.
        write!(
            out,
            "\x1b[H{}\x1b[J",
            table(&status).replace('\n', "\x1b[K\n")
        )?;
        out.flush()?;
        looks += 1;
        if count.is_some_and(|count| looks >= count) {
            return Ok(true);
        }
        sleep(interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "host free-mib=3 zeroed-mib=2 dirty-mib=1 own-kib=900 cores=2/4 uptime-s=7\n\
        guest=1 name=linux-a state=running memory-mib=256 target-mib=512 min-mib=128 max-mib=1024 driver=moving \
        cpus=1/2 memory-kib=262144\n";

    #[test]
    fn a_guest_is_found_by_number_and_by_name() {
        for guest in ["1", "linux-a"] {
            let line = guest_line(STATUS, guest).unwrap();
            assert_eq!(Record::parse(&line).number("memory-kib"), 256 << 10);
        }
        assert_eq!(guest_line(STATUS, "linux"), None);
    }

    #[test]
    fn a_move_is_found_by_its_number() {
        let said = "transfer guest=1 name=a\nmove id=2 from=a state=done\nmove id=12 from=b state=giving\n";
        assert_eq!(
            move_line(said, "12").as_deref(),
            Some("move id=12 from=b state=giving")
        );
        assert_eq!(move_line(said, "1"), None);
    }

    #[test]
    fn the_table_shows_memory_and_target() {
        let table = table(STATUS);
        assert!(table.contains("free 3 MiB"), "{table}");
        assert!(
            table.contains(" ########.......>................\n"),
            "{table}"
        );
    }

    #[test]
    fn following_goes_on_behind_the_last_entry() {
        assert_eq!(Stream::LOG.next("", 4), 4);
        assert_eq!(
            Stream::LOG.next("log lost=3\nlog=7 time-s=0.1 a\nlog=8 time-s=0.2 b\n", 4),
            9
        );
        assert_eq!(
            Stream::EVENTS.next("transfer=3 guest=1\ntransfer=5 guest=2\n", 3),
            6
        );
    }
}
