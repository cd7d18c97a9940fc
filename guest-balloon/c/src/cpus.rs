//! CPUs: what C calls, and the front of C functions for the guest's hotplug.

use ballast_balloon::{Clock, CpuError, CpuSource, CpuState, Cpus};

use crate::boundary::next_for_c;
use crate::front::{counter, frequency};

unsafe extern "C" {
    // Safe to call with any argument from the context in which the guest calls this library.
    safe fn ballast_front_cpus() -> u32;
    safe fn ballast_front_cpu_state(cpu: u32) -> u32;
    safe fn ballast_front_cpu_take_offline(cpu: u32) -> u32;
    safe fn ballast_front_cpu_bring_online(cpu: u32) -> u32;
}

/// `struct ballast_cpus_status` of the header.
#[repr(C)]
pub struct Status {
    taken_offline: u64,
    brought_online: u64,
    denied: u64,
    failed: u64,
}

/// The guest's hotplug.
struct Front;

const fn moved(answer: u32) -> Result<(), CpuError> {
    match answer {
        0 => Ok(()),
        1 => Err(CpuError::Denied),
        _ => Err(CpuError::Failed),
    }
}

impl CpuSource for Front {
    fn cpus(&self) -> u32 {
        ballast_front_cpus()
    }

    fn cpu_state(&self, cpu: u32) -> CpuState {
        match ballast_front_cpu_state(cpu) {
            1 => CpuState::Offline,
            2 => CpuState::Online,
            _ => CpuState::Absent,
        }
    }

    fn take_offline(&mut self, cpu: u32) -> Result<(), CpuError> {
        moved(ballast_front_cpu_take_offline(cpu))
    }

    fn bring_online(&mut self, cpu: u32) -> Result<(), CpuError> {
        moved(ballast_front_cpu_bring_online(cpu))
    }
}

impl Clock for Front {
    fn now(&self) -> u64 {
        counter()
    }

    fn ticks_per_second(&self) -> u64 {
        frequency()
    }
}

/// BALLAST_CPUS_BYTES of the header.
const CPUS_BYTES: usize = 512;

/// Bytes that a `struct ballast_cpus` needs; alignment 8.
#[unsafe(no_mangle)]
pub extern "C" fn ballast_cpus_size() -> usize {
    const { assert!(align_of::<Cpus>() <= 8 && size_of::<Cpus>() <= CPUS_BYTES) };
    size_of::<Cpus>()
}

/// # Safety
/// `cpus` points to `ballast_cpus_size()` bytes that are this library's from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_cpus_init(cpus: *mut Cpus) {
    // SAFETY: the caller's promise.
    unsafe { cpus.write(Cpus::new()) };
}

/// # Safety
/// This and the functions below: `cpus` was initialised by `ballast_cpus_init`, and no other call is in progress.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_cpus_target(cpus: *mut Cpus, target: u64) {
    // SAFETY: the caller's promise.
    unsafe { &mut *cpus }.set_target(target as u32, (target >> 32) as u32);
}

/// # Safety
/// As `ballast_cpus_target`; `wait_ns` points to a u64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_cpus_step(cpus: *mut Cpus, wait_ns: *mut u64) -> u32 {
    // SAFETY: the caller's promise.
    let next = unsafe { &mut *cpus }.step(&mut Front);
    // SAFETY: the caller's promise.
    unsafe { next_for_c(next, wait_ns) }
}

/// # Safety
/// As `ballast_cpus_target`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_cpus_drain(cpus: *mut Cpus) {
    // SAFETY: the caller's promise.
    unsafe { &mut *cpus }.drain();
}

/// # Safety
/// As `ballast_cpus_target`; `status` points to a `struct ballast_cpus_status`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ballast_cpus_status(cpus: *const Cpus, status: *mut Status) {
    // SAFETY: the caller's promise.
    let counters = unsafe { &*cpus }.counters();
    let now = Status {
        taken_offline: counters.taken_offline,
        brought_online: counters.brought_online,
        denied: counters.denied,
        failed: counters.failed,
    };
    // SAFETY: the caller's promise.
    unsafe { status.write(now) };
}
