//! `workload MIB MIB-PER-SECOND SEED`: fills memory with a stream at a steady pace, reads all of it back and prints
//! its checksum. It holds everything at once, so with less memory than that the kernel kills it.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use ballast_workload::{Checksum, Stream, WORDS_PER_MIB};

/// MiB between two progress lines.
const REPORT_EVERY: u64 = 32;

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let [mib, pace, seed] = numbers[..] else {
        eprintln!("usage: workload MIB MIB-PER-SECOND SEED");
        return ExitCode::from(2);
    };
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
    ExitCode::SUCCESS
}
