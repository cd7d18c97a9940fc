//! PSCI 1.1 (DEN0022) for one guest: the state of its vCPUs and the calls that change it.
//!
//! The states are atomics, so that vCPUs may call at once without a lock: whoever moves a vCPU out
//! of "off" starts it, everyone else is told so. A vCPU is off again only once its core has been
//! cleaned and left.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::addr::Ipa;
use crate::limits::MAX_VCPUS;
use crate::smccc::{Action, NOT_SUPPORTED, is_announced_by_psci, low_word};

/// `PSCI_VERSION`: 1.1.
const VERSION: u64 = 1 << 16 | 1;

/// PSCI's functions are this plus a number below 32; bit 30 chooses the 64-bit calls.
pub const FUNCTION_BASE: u32 = 0x8400_0000;
const IS_64_BIT: u32 = 1 << 30;

/// `PSCI_FEATURES`, as firmware is asked by it.
pub const PSCI_FEATURES: u32 = FUNCTION_BASE | 0x0a;

/// Return codes (DEN0022, 5.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Status {
    /// Done.
    Success = 0,
    /// An argument means nothing here.
    InvalidParameters = -2,
    /// The CPU exists but is not this guest's to start now.
    Denied = -3,
    /// The CPU is on.
    AlreadyOn = -4,
    /// Somebody else has just started it.
    OnPending = -5,
    /// The entry point is not in the guest's memory.
    InvalidAddress = -9,
}

impl Status {
    const fn action(self) -> Action {
        Action::Return((self as i64).cast_unsigned())
    }
}

/// What PSCI has to know of the guest.
pub trait Guest {
    /// Whether `entry` lies in the guest's RAM, whether or not that page is backed now.
    fn is_ram(&self, entry: Ipa) -> bool;

    /// Takes one of the cores granted to the guest and not in use, for `vcpu`. `None` if there is none.
    fn take_core(&self, vcpu: usize) -> Option<usize>;
}

/// The functions that exist here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Function {
    Version,
    CpuSuspend,
    CpuOff,
    CpuOn,
    AffinityInfo,
    MigrateInfoType,
    SystemOff,
    SystemReset,
    Features,
    SystemReset2,
}

impl Function {
    /// From a function identifier of the standard service. A 64-bit call exists where an argument is
    /// an address or an affinity (DEN0022, 5.1).
    #[inline]
    const fn decode(function: u32) -> Option<Self> {
        let number = function & !IS_64_BIT ^ FUNCTION_BASE;
        let (decoded, has_64_bit) = match number {
            0x00 => (Self::Version, false),
            0x01 => (Self::CpuSuspend, true),
            0x02 => (Self::CpuOff, false),
            0x03 => (Self::CpuOn, true),
            0x04 => (Self::AffinityInfo, true),
            0x06 => (Self::MigrateInfoType, false),
            0x08 => (Self::SystemOff, false),
            0x09 => (Self::SystemReset, false),
            0x0a => (Self::Features, false),
            0x12 => (Self::SystemReset2, true),
            _ => return None,
        };
        if function & IS_64_BIT != 0 && !has_64_bit {
            None
        } else {
            Some(decoded)
        }
    }
}

/// The answer to a function that depends on its argument alone; `None` for all others.
#[inline]
pub(crate) const fn query(function: u32, argument: u64) -> Option<u64> {
    match function ^ FUNCTION_BASE {
        0x00 => Some(VERSION),
        // Trusted OS is either absent or does not need migrating (5.9).
        0x06 => Some(2),
        0x0a => Some(features(low_word(argument))),
        _ => None,
    }
}

/// State of one vCPU, as AFFINITY_INFO names it (5.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CpuState {
    /// Running, or not completely stopped yet.
    On = 0,
    /// Off, its core cleaned.
    Off = 1,
    /// CPU_ON was called, the vCPU does not run yet.
    OnPending = 2,
}

/// The vCPUs' states.
#[derive(Debug)]
pub struct Psci {
    states: [AtomicU8; MAX_VCPUS],
    vcpus: usize,
}

impl Psci {
    /// A guest of `vcpus` vCPUs (at most eight), all off.
    #[must_use]
    pub const fn new(vcpus: usize) -> Self {
        let vcpus = if vcpus > MAX_VCPUS { MAX_VCPUS } else { vcpus };
        Self {
            states: [const { AtomicU8::new(CpuState::Off as u8) }; MAX_VCPUS],
            vcpus,
        }
    }

    /// A call of the standard service with identifier `function`.
    #[inline]
    pub(crate) fn call<G: Guest>(
        &self,
        function: u32,
        arguments: [u64; 3],
        caller: usize,
        guest: &G,
    ) -> Action {
        let Some(decoded) = Function::decode(function) else {
            return Action::Return(NOT_SUPPORTED);
        };
        // Arguments of a 32-bit call are the lower halves (DEN0028, 3.1).
        let mask = if function & IS_64_BIT != 0 {
            u64::MAX
        } else {
            0xffff_ffff
        };
        let [first, second, third] = arguments.map(|argument| argument & mask);
        match decoded {
            Function::Version | Function::Features | Function::MigrateInfoType => {
                Action::Return(query(function, first).unwrap_or(NOT_SUPPORTED))
            }
            Function::CpuOn => self.cpu_on(first, Ipa(second), third, guest),
            Function::CpuOff => {
                debug_assert_eq!(self.state(caller), Some(CpuState::On));
                Action::Stop
            }
            Function::AffinityInfo => self.affinity_info(first, second),
            Function::CpuSuspend => cpu_suspend(first, Ipa(second), guest),
            Function::SystemOff => Action::SystemOff,
            Function::SystemReset => Action::SystemReset,
            Function::SystemReset2 => match first {
                // SYSTEM_WARM_RESET; nothing survives it that SYSTEM_RESET would not keep.
                0 => Action::SystemReset,
                _ => Status::InvalidParameters.action(),
            },
        }
    }

    fn cpu_on<G: Guest>(&self, target: u64, entry: Ipa, context: u64, guest: &G) -> Action {
        let Some((vcpu, state)) = self.vcpu_of(target) else {
            return Status::InvalidParameters.action();
        };
        if !entry.is_aligned(4) || !guest.is_ram(entry) {
            return Status::InvalidAddress.action();
        }
        let (off, pending) = (CpuState::Off as u8, CpuState::OnPending as u8);
        match state.compare_exchange(off, pending, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {}
            Err(found) if found == pending => return Status::OnPending.action(),
            Err(_) => return Status::AlreadyOn.action(),
        }
        let Some(core) = guest.take_core(vcpu) else {
            state.store(off, Ordering::Release);
            return Status::Denied.action();
        };
        Action::Start {
            vcpu,
            core,
            entry: entry.0,
            context,
        }
    }

    fn affinity_info(&self, target: u64, lowest_level: u64) -> Action {
        // Levels above 0 need not be supported since PSCI 1.0 (5.7.2).
        match self.vcpu_of(target) {
            Some((_, state)) if lowest_level == 0 => {
                Action::Return(u64::from(state.load(Ordering::Acquire)))
            }
            _ => Status::InvalidParameters.action(),
        }
    }

    /// The vCPU that an MPIDR's affinity fields name: 0.0.0.k. All other bits must be zero.
    fn vcpu_of(&self, target: u64) -> Option<(usize, &AtomicU8)> {
        let vcpu = usize::try_from(target)
            .ok()
            .filter(|&vcpu| vcpu < self.vcpus)?;
        Some((vcpu, self.states.get(vcpu)?))
    }

    /// State of `vcpu`; `None` if the guest has no such vCPU.
    #[must_use]
    pub fn state(&self, vcpu: usize) -> Option<CpuState> {
        let state = self.states.get(vcpu).filter(|_| vcpu < self.vcpus)?;
        Some(match state.load(Ordering::Acquire) {
            0 => CpuState::On,
            2 => CpuState::OnPending,
            _ => CpuState::Off,
        })
    }

    /// The boot vCPU is about to be started without a call. Whether it was off.
    #[must_use]
    pub fn claim(&self, vcpu: usize) -> bool {
        let (off, pending) = (CpuState::Off as u8, CpuState::OnPending as u8);
        self.states
            .get(vcpu)
            .filter(|_| vcpu < self.vcpus)
            .is_some_and(|state| {
                state
                    .compare_exchange(off, pending, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
            })
    }

    /// `vcpu` enters the guest for the first time since it was claimed. Called on its core.
    pub fn set_on(&self, vcpu: usize) {
        self.set(vcpu, CpuState::On);
    }

    /// `vcpu` has left its core, which is clean.
    pub fn set_off(&self, vcpu: usize) {
        self.set(vcpu, CpuState::Off);
    }

    fn set(&self, vcpu: usize, to: CpuState) {
        if let Some(state) = self.states.get(vcpu).filter(|_| vcpu < self.vcpus) {
            state.store(to as u8, Ordering::Release);
        }
    }
}

/// PSCI_FEATURES (5.15). CPU_SUSPEND's flags are 0: the original power_state format, platform-coordinated.
#[inline]
const fn features(function: u32) -> u64 {
    /// What [`Function::decode`] knows, one bit for each number: 32-bit calls, then 64-bit ones.
    const KNOWN: [u32; 2] = [0x0004_075f, 0x0004_001a];
    let number = function & !IS_64_BIT ^ FUNCTION_BASE;
    let [all, wide] = KNOWN;
    let known = if function & IS_64_BIT == 0 { all } else { wide };
    if number < 32 && known >> number & 1 != 0 || is_announced_by_psci(function) {
        0
    } else {
        NOT_SUPPORTED
    }
}

/// CPU_SUSPEND (5.4). A power-down state may be made a shallower one, which returns like standby (5.4.5).
fn cpu_suspend<G: Guest>(power_state: u64, entry: Ipa, guest: &G) -> Action {
    const POWER_DOWN: u64 = 1 << 16;
    // PowerLevel 25:24, StateType 16, StateID 15:0.
    const DEFINED: u64 = 0x0301_ffff;
    if power_state & !DEFINED != 0 {
        Status::InvalidParameters.action()
    } else if power_state & POWER_DOWN != 0 && !(entry.is_aligned(4) && guest.is_ram(entry)) {
        Status::InvalidAddress.action()
    } else {
        Action::Standby
    }
}

#[cfg(test)]
mod tests;
