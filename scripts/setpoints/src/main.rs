//! `setpoints COUNT`: gives the real-time guest COUNT set-points, one after the other, and waits for the telemetry that
//! says it is there. The other side is `test=regulate` of the bare-metal guest.
//!
//! Set-points go through the channel "setpoints", which this guest writes; telemetry comes through "telemetry", which it
//! need only read. A reset of the real-time guest is said, and what it has not answered is asked again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use ballast_balloon::abi::channel::{PEER_STARTED, PEER_STOPPED};
use ballast_balloon::channel::Notify;
use ballast_balloon::channel::ring::{Consumer, Producer, RingError};

/// After this without telemetry a set-point is given again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often that is done.
const TRIES: u32 = 10;

/// C's functions that the standard library has no words for.
mod sys {
    use core::ffi::{c_int, c_long, c_short, c_void};

    pub const PROT_READ: c_int = 1;
    pub const PROT_WRITE: c_int = 2;
    pub const MAP_SHARED: c_int = 1;
    pub const POLLIN: c_short = 1;

    #[repr(C)]
    pub struct PollFd {
        pub fd: c_int,
        pub events: c_short,
        pub revents: c_short,
    }

    unsafe extern "C" {
        pub fn mmap(
            address: *mut c_void,
            length: usize,
            protection: c_int,
            flags: c_int,
            fd: c_int,
            offset: c_long,
        ) -> *mut c_void;
        pub fn poll(fds: *mut PollFd, count: core::ffi::c_ulong, timeout_ms: c_int) -> c_int;
    }
}

/// A channel: its device and its memory.
struct Line {
    device: File,
    memory: &'static [AtomicU32],
}

/// What one read of the device gives.
struct Event {
    events: u32,
    generation: u32,
}

impl Line {
    fn open(label: &str, writes: bool) -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/dev/ballast-{label}"))?;
        let size = format!("/sys/class/misc/ballast-{label}/device/size");
        let bytes: usize = std::fs::read_to_string(size)?
            .trim()
            .parse()
            .map_err(|_| ErrorKind::InvalidData)?;
        let protection = sys::PROT_READ | if writes { sys::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping, of a place that the kernel chooses.
        let address = unsafe {
            sys::mmap(
                core::ptr::null_mut(),
                bytes,
                protection,
                sys::MAP_SHARED,
                device.as_raw_fd(),
                0,
            )
        };
        if address.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: mapped just now and never unmapped; page-aligned. Who else writes it does so by single stores, as
        // atomics do; where it was mapped to be read, only loads are made.
        let memory = unsafe { core::slice::from_raw_parts(address.cast(), bytes / 4) };
        Ok(Self { device, memory })
    }

    /// Rings; nobody being there is no error, as it will look when it starts.
    fn ring(&mut self) -> io::Result<()> {
        match self.device.write(&[1]) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Waits for an event; `None` after `most`.
    fn wait(&mut self, most: Duration) -> io::Result<Option<Event>> {
        let mut poll = sys::PollFd {
            fd: self.device.as_raw_fd(),
            events: sys::POLLIN,
            revents: 0,
        };
        let ms = i32::try_from(most.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one element, which lives until the call returns.
        match unsafe { sys::poll(&raw mut poll, 1, ms) } {
            0 => return Ok(None),
            1 => {}
            _ => return Err(io::Error::last_os_error()),
        }
        let mut event = [0; 8];
        self.device.read_exact(&mut event)?;
        let [a, b, c, d, e, f, g, h] = event;
        Ok(Some(Event {
            events: u32::from_ne_bytes([a, b, c, d]),
            generation: u32::from_ne_bytes([e, f, g, h]),
        }))
    }
}

/// Telemetry: the set-point it is about, where the plant is, and the longest a tick was late, in microseconds.
fn telemetry(message: &[u8]) -> Option<(u32, i32, u32)> {
    let (words, _) = message.as_chunks::<4>();
    match words {
        [number, position, worst] => Some((
            u32::from_le_bytes(*number),
            i32::from_le_bytes(*position),
            u32::from_le_bytes(*worst),
        )),
        _ => None,
    }
}

fn run(count: u32) -> Result<(), String> {
    let say = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let mut out = Line::open("setpoints", true).map_err(say("setpoints"))?;
    let mut into = Line::open("telemetry", false).map_err(say("telemetry"))?;
    let (there, back) = (out.memory, into.memory);
    let mut setpoints = Producer::new(there, back).ok_or("setpoints: too small")?;
    let mut answers = Consumer::new(back, there).ok_or("telemetry: too small")?;
    let (mut woken, mut worst_us, mut resets) = (0, 0, 0);
    for number in 1..=count {
        let target = i32::try_from(number.wrapping_mul(37) % 2000).unwrap_or(0) - 1000;
        let mut tries = 0;
        let position = 'answered: loop {
            tries += 1;
            if tries > TRIES {
                return Err(format!("set-point {number} was not answered"));
            }
            let message = [number.to_le_bytes(), target.to_le_bytes()].concat();
            match setpoints.push(&message) {
                Ok(Notify::Ring) => out.ring().map_err(say("ring"))?,
                // What is in the queue wakes it.
                Ok(Notify::Quiet) | Err(RingError::Full) => {}
                Err(error) => return Err(format!("set-point {number}: {error:?}")),
            }
            let asked = Instant::now();
            loop {
                let mut buffer = [0; 64];
                match answers.pop(&mut buffer) {
                    Ok(Some(length)) => {
                        match telemetry(&buffer[..length]) {
                            Some((of, position, late_us)) if of == number => {
                                worst_us = late_us.max(worst_us);
                                break 'answered position;
                            }
                            // Of a set-point that was given twice.
                            _ => continue,
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        println!("telemetry makes no sense ({error:?}): discarded");
                        answers.discard();
                    }
                }
                let left = PATIENCE.saturating_sub(asked.elapsed());
                let Some(event) = into.wait(left).map_err(say("telemetry"))? else {
                    break;
                };
                woken += 1;
                if u64::from(event.events) & PEER_STOPPED != 0 {
                    resets += 1;
                    println!("the real-time guest has stopped");
                }
                if u64::from(event.events) & PEER_STARTED != 0 {
                    println!("the real-time guest has started, time {}", event.generation);
                    break;
                }
            }
        };
        if position != target {
            return Err(format!("set-point {number}: {position}, not {target}"));
        }
        if number % 100 == 0 || number == count {
            println!("set-point {number}: {target} reached, worst tick {worst_us} us late");
        }
    }
    println!("setpoints done count={count} woken={woken} resets={resets}");
    Ok(())
}

fn main() -> ExitCode {
    let count = std::env::args().nth(1).and_then(|word| word.parse().ok());
    let Some(count) = count else {
        eprintln!("usage: setpoints COUNT");
        return ExitCode::from(2);
    };
    match run(count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("setpoints: {why}");
            ExitCode::FAILURE
        }
    }
}
