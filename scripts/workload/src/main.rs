//! Jobs for guests whose memory moves.
//!
//! `workload MIB MIB-PER-SECOND SEED` fills memory with a stream at a steady pace, reads all of it back and prints
//! its checksum. It holds everything at once, so with less memory than that the kernel kills it.
//!
//! `workload visit MIB FROM SECONDS SEED` holds a working set and visits pages of it at random, from that second of
//! the guest's uptime on, and prints how many pages it got done. With less memory than that, and swap, it is slow.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use ballast_workload::{Checksum, Stream, WORDS_PER_MIB, WorkingSet};

/// MiB between two progress lines.
const REPORT_EVERY: u64 = 32;
/// Pages between two looks at the clock.
const VISITS_AT_ONCE: u64 = 64;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    let visits = words.next_if(|word| word == "visit").is_some();
    let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    match (visits, &numbers[..]) {
        (false, &[mib, pace, seed]) => fill(mib, pace, seed),
        (true, &[mib, from, seconds, seed]) => return visit(mib, from, seconds, seed),
        _ => {
            eprintln!(
                "usage: workload MIB MIB-PER-SECOND SEED\n       workload visit MIB FROM SECONDS SEED"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn fill(mib: u64, pace: u64, seed: u64) {
    let start = Instant::now();
    let mut stream = Stream::new(seed);
    let mut data: Vec<Vec<u64>> = Vec::new();
    for filled in 1..=mib {
        data.push(stream.by_ref().take(WORDS_PER_MIB).collect());
        if filled % REPORT_EVERY == 0 || filled == mib {
            println!("filled {filled} of {mib} MiB");
        }
        let due = Duration::from_millis(filled * 1000 / pace.max(1));
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
    let mut sum = Checksum::default();
    for block in &data {
        sum.add(block.iter().copied());
    }
    println!("checksum {sum}");
}

fn visit(mib: u64, from: u64, seconds: u64, seed: u64) -> ExitCode {
    let wait = Duration::from_secs(from).saturating_sub(uptime());
    thread::sleep(wait);
    let start = Instant::now();
    let until = Duration::from_secs(seconds);
    let mut set = WorkingSet::new(mib as usize, seed);
    let mut visited = 0;
    while start.elapsed() < until {
        for _ in 0..VISITS_AT_ONCE {
            if !set.visit() {
                println!("visited {visited} pages, then one that was not as it was left");
                return ExitCode::FAILURE;
            }
            visited += 1;
        }
    }
    // In one piece, so that no line of the kernel's comes between.
    let line = format!("visited {visited} pages of {mib} MiB in {seconds} s\n");
    let _ = std::io::stdout().write_all(line.as_bytes());
    ExitCode::SUCCESS
}

/// How long the guest has been up.
fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(0.0))
}
