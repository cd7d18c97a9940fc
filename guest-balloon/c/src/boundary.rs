//! What C calls.

use core::panic::PanicInfo;

use ballast_balloon::{Driver, HelloError, Next, State};

use crate::front::{Front, counter, frequency};

/// Driver and front together: what C allocates `ballast_core_size()` bytes for.
pub struct Core {
    front: Front,
    driver: Driver,
}

/// `struct ballast_status` of the header.
#[repr(C)]
pub struct Status {
    state: u32,
    cpu_target: u32,
    sequence: u64,
    epoch: u64,
    reserved_pages: u64,
    target_pages: u64,
    rate: u64,
    total_reserved: u64,
    total_released: u64,
    batches: u64,
    strained: u64,
    floor: u64,
    no_memory: u64,
    refused: u64,
}

/// `struct ballast_report` of the header.
#[repr(C)]
pub struct Report {
    free_pages: u64,
    available_pages: u64,
    refaults: u64,
    pressure: u32,
    runnable_milli: u32,
}

unsafe extern "C" {
    /// Stops what runs the driver: never returns.
    safe fn ballast_front_panic() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    ballast_front_panic()
}

const NOT_BALLAST: i32 = -1;
const OTHER_VERSION: i32 = -2;
const REFUSED: i32 = -3;

const IDLE: u32 = 0;
const AGAIN: u32 = 1;
const WAIT: u32 = 2;

/// BALLAST_CORE_BYTES of the header.
const CORE_BYTES: usize = 1024;

/// Bytes that a `struct ballast_core` needs; alignment 8.
#[unsafe(no_mangle)]
pub extern "C" fn ballast_core_size() -> usize {
    const { assert!(align_of::<Core>() <= 8 && size_of::<Core>() <= CORE_BYTES) };
    size_of::<Core>()
}

/// # Safety
/// `core` points to `ballast_core_size()` bytes that are this library's from now on; `list` to a page of the
/// guest's own at physical address `list_ipa`, as long as `core` is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_hello(core: *mut Core, list: *mut u64, list_ipa: u64) -> i32 {
    // SAFETY: the caller's promise.
    let mut front = unsafe { Front::new(list, list_ipa) };
    let mut driver = Driver::new(&front);
    let answer = driver.hello(&mut front);
    // SAFETY: the caller's promise: room for a `Core`.
    unsafe { core.write(Core { front, driver }) };
    match answer {
        Ok(()) => 0,
        Err(HelloError::NotBallast) => NOT_BALLAST,
        Err(HelloError::Version(_)) => OTHER_VERSION,
        Err(HelloError::Refused(..)) => REFUSED,
    }
}

/// # Safety
/// This and the functions below: `core` was initialised by `ballast_core_hello`, and no other call is in progress.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_interrupt(core: *mut Core) {
    // SAFETY: the caller's promise.
    let Core { front, driver } = unsafe { &mut *core };
    driver.on_interrupt(front);
}

/// # Safety
/// As `ballast_core_interrupt`; `wait_ns` points to a u64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_step(core: *mut Core, wait_ns: *mut u64) -> u32 {
    // SAFETY: the caller's promise.
    let Core { front, driver } = unsafe { &mut *core };
    let next = driver.step(front);
    // SAFETY: the caller's promise.
    unsafe { next_for_c(next, wait_ns) }
}

/// # Safety
/// `wait_ns` points to a u64.
pub unsafe fn next_for_c(next: Next, wait_ns: *mut u64) -> u32 {
    match next {
        Next::Idle => IDLE,
        Next::Again => AGAIN,
        Next::WaitUntil(at) => {
            let ticks = u128::from(at.saturating_sub(counter()));
            let ns = ticks * 1_000_000_000 / u128::from(frequency().max(1));
            // SAFETY: the caller's promise.
            unsafe { wait_ns.write(u64::try_from(ns).unwrap_or(u64::MAX)) };
            WAIT
        }
    }
}

/// The CPU target fetched last, with its sequence in 63:32.
///
/// # Safety
/// As `ballast_core_interrupt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_cpu_target(core: *const Core) -> u64 {
    // SAFETY: the caller's promise.
    let driver = unsafe { &(*core).driver };
    u64::from(driver.sequence()) << 32 | u64::from(driver.cpu_target())
}

/// # Safety
/// As `ballast_core_interrupt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_pressure(core: *mut Core, need_pages: u64) -> u64 {
    // SAFETY: the caller's promise.
    let Core { front, driver } = unsafe { &mut *core };
    driver.pressure(front, need_pages)
}

/// # Safety
/// As `ballast_core_interrupt`; `report` points to a `struct ballast_report`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_report(core: *mut Core, report: *const Report) -> bool {
    // SAFETY: the caller's promise.
    let (Core { front, driver }, report) = unsafe { (&mut *core, &*report) };
    let report = ballast_balloon::Report {
        free_pages: report.free_pages,
        available_pages: report.available_pages,
        pressure: report.pressure,
        refaults: report.refaults,
        runnable_milli: report.runnable_milli,
    };
    driver.report(front, report)
}

/// # Safety
/// As `ballast_core_interrupt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_drain(core: *mut Core) {
    // SAFETY: the caller's promise.
    unsafe { &mut *core }.driver.drain();
}

/// # Safety
/// As `ballast_core_interrupt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_goodbye(core: *mut Core) {
    // SAFETY: the caller's promise.
    let Core { front, driver } = unsafe { &mut *core };
    driver.goodbye(front);
}

/// # Safety
/// As `ballast_core_interrupt`; `status` points to a `struct ballast_status`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_core_status(core: *const Core, status: *mut Status) {
    // SAFETY: the caller's promise.
    let driver = unsafe { &(*core).driver };
    let counters = driver.counters();
    let now = Status {
        state: match driver.state() {
            State::New => 0,
            State::Active => 1,
            State::Draining => 2,
            State::Stale => 3,
            State::Failed(_) => 4,
        },
        cpu_target: driver.cpu_target(),
        sequence: driver.sequence().into(),
        epoch: driver.epoch(),
        reserved_pages: driver.reserved_pages(),
        target_pages: driver.target_pages(),
        rate: driver.pages_per_second(),
        total_reserved: counters.reserved_pages,
        total_released: counters.released_pages,
        batches: counters.batches,
        strained: counters.strained,
        floor: counters.floor,
        no_memory: counters.no_memory,
        refused: counters.refused,
    };
    // SAFETY: the caller's promise.
    unsafe { status.write(now) };
}
