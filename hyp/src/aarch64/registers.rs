//! System registers: EL2's own set-up for each core, and the state a vCPU starts in.

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTHCTL_EL2, CNTVOFF_EL2, CPTR_EL2, ELR_EL2, HCR_EL2, MDCR_EL2, MIDR_EL1, SPSR_EL2, VMPIDR_EL2,
    VTCR_EL2, VTTBR_EL2,
};
use ballast_core::fault::{Context, Injection};
use ballast_core::sysreg::Controls;
use tock_registers::interfaces::{Readable, Writeable};

/// Writes system registers by their assembler names.
macro_rules! write {
    ($($name:expr => $value:expr),* $(,)?) => {
        // SAFETY: registers of the guest's own state or of EL2's traps on it: none changes how EL2 itself
        // runs. Which value is right is the caller's subject.
        unsafe { $(core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) $value as u64, options(nomem, nostack, preserves_flags));)* }
    };
}

/// One system register, by its assembler name.
macro_rules! read {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading has no side effect on any register this is used for.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}
pub(crate) use read;

/// A function from (CRm, Op2) to the ID register of that encoding.
macro_rules! id_registers {
    ($($crm:literal)*) => {
        /// Reads ID register `S3_0_C0_C<crm>_<op2>`; 0 where there is none (DDI 0487, D22.3.1: the space is read as zero).
        pub fn read_id(crm: u32, op2: u32) -> u64 {
            match (crm, op2) {
                $(
                    ($crm, 0) => read!(concat!("S3_0_C0_C", $crm, "_0")),
                    ($crm, 1) => read!(concat!("S3_0_C0_C", $crm, "_1")),
                    ($crm, 2) => read!(concat!("S3_0_C0_C", $crm, "_2")),
                    ($crm, 3) => read!(concat!("S3_0_C0_C", $crm, "_3")),
                    ($crm, 4) => read!(concat!("S3_0_C0_C", $crm, "_4")),
                    ($crm, 5) => read!(concat!("S3_0_C0_C", $crm, "_5")),
                    ($crm, 6) => read!(concat!("S3_0_C0_C", $crm, "_6")),
                    ($crm, 7) => read!(concat!("S3_0_C0_C", $crm, "_7")),
                )*
                _ => 0,
            }
        }
    };
}
id_registers!(1 2 3 4 5 6 7);

/// The debug claim tags, which only debuggers mean anything by and any guest can set (DDI 0487, D19.3.3).
const ALL_TAGS: u64 = 0xff;

/// They exist, as the architecture has it; not every emulator does. The same on every core.
static HAS_CLAIM_TAGS: AtomicBool = AtomicBool::new(false);

/// x0, and x1: not 0 if there are none.
#[repr(C)]
struct ClaimTags(u64, u64);

unsafe extern "C" {
    /// In `device.S`.
    safe fn clear_claim_tags(tags: u64) -> ClaimTags;
}

unsafe extern "C" {
    /// In `vectors.S`.
    safe fn reset_fp();
}

/// The traps of this core for whatever guest it will run.
pub fn init_core() {
    let pmu = (read_id(5, 0) >> 8) & 0xf;
    let event_counters = if pmu == 0 || pmu == 0xf {
        0
    } else {
        (read!("PMCR_EL0") >> 11) & 0x1f
    };
    let controls = Controls::new(event_counters, read_id);
    HCR_EL2.set(controls.hcr_el2);
    MDCR_EL2.set(controls.mdcr_el2);
    CPTR_EL2.set(controls.cptr_el2);
    CNTHCTL_EL2.set(controls.cnthctl_el2);
    CNTVOFF_EL2.set(0);
    super::timer::disarm();
    // OSLAR_EL1 opens the OS lock, whose trapped accesses then say so.
    write!("HSTR_EL2" => controls.hstr_el2, "VPIDR_EL2" => MIDR_EL1.get(), "OSLAR_EL1" => 0);
    if controls.has_hcrx {
        write!("S3_4_C1_C2_2" => 0);
    }
    if controls.has_fine_grained_traps {
        // HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR.
        write!("S3_4_C1_C1_4" => 0, "S3_4_C1_C1_5" => 0, "S3_4_C1_C1_6" => 0, "S3_4_C3_C1_4" => 0, "S3_4_C3_C1_5" => 0);
    }
    let ClaimTags(_, is_missing) = clear_claim_tags(ALL_TAGS);
    HAS_CLAIM_TAGS.store(is_missing == 0, Ordering::Relaxed);
    // CPTR_EL2 is in effect: what follows uses FP registers.
    barrier::isb(barrier::SY);
    reset_guest_state();
    barrier::isb(barrier::SY);
    super::tlb::invalidate_all_local();
}

macro_rules! breakpoints {
    ($($n:literal)*) => {
        /// Breakpoints and watchpoints off, as many as there are.
        #[allow(unused_comparisons, reason = "the first exists always")]
        fn reset_breakpoints() {
            let features = read_id(5, 0);
            let (breakpoints, watchpoints) = ((features >> 12) & 0xf, (features >> 20) & 0xf);
            $(
                if breakpoints >= $n {
                    write!(concat!("DBGBCR", $n, "_EL1") => 0, concat!("DBGBVR", $n, "_EL1") => 0);
                }
                if watchpoints >= $n {
                    write!(concat!("DBGWCR", $n, "_EL1") => 0, concat!("DBGWVR", $n, "_EL1") => 0);
                }
            )*
        }
    };
}
breakpoints!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

/// Puts everything a guest can see or set on this core into its reset state, so that neither the
/// former guest's values nor their effects reach the next one: when the core comes up, and whenever it has left
/// a guest. EL2 changes none of it in between, so that a guest can be entered at once. General registers are
/// `enter_guest`'s.
pub fn reset_guest_state() {
    /// RES1 bits of SCTLR_EL1 without any extension; MMU, caches and big endian off (DDI 0487, D19.2.122).
    const SCTLR_EL1_RESET: u64 = 0x30d0_0800;
    /// ID_AA64PFR0_EL1.RAS.
    const RAS_SHIFT: u32 = 28;
    write!(
        "SCTLR_EL1" => SCTLR_EL1_RESET, "CPACR_EL1" => 0, "TTBR0_EL1" => 0, "TTBR1_EL1" => 0, "TCR_EL1" => 0,
        "MAIR_EL1" => 0, "AMAIR_EL1" => 0, "VBAR_EL1" => 0, "AFSR0_EL1" => 0, "AFSR1_EL1" => 0, "ESR_EL1" => 0,
        "FAR_EL1" => 0, "PAR_EL1" => 0, "ELR_EL1" => 0, "SPSR_EL1" => 0, "SP_EL0" => 0, "SP_EL1" => 0,
        "CONTEXTIDR_EL1" => 0, "TPIDR_EL0" => 0, "TPIDR_EL1" => 0, "TPIDRRO_EL0" => 0, "CSSELR_EL1" => 0,
        "CNTKCTL_EL1" => 0, "CNTV_CTL_EL0" => 0, "CNTV_CVAL_EL0" => 0, "CNTP_CTL_EL0" => 0, "CNTP_CVAL_EL0" => 0,
        "MDSCR_EL1" => 0, "MDCCINT_EL1" => 0,
    );
    if read_id(4, 0) >> RAS_SHIFT & 0xf != 0 {
        // With AMO set a guest's DISR_EL1 is VDISR_EL2; the other is what it would be given for a virtual SError.
        write!("S3_4_C12_C1_1" => 0, "S3_4_C5_C2_3" => 0);
    }
    reset_breakpoints();
    reset_fp();
    if HAS_CLAIM_TAGS.load(Ordering::Relaxed) {
        clear_claim_tags(ALL_TAGS);
    }
    barrier::isb(barrier::SY);
}

/// Makes this core translate and trap for vCPU `vcpu` of the guest with this stage 2. EL1 is in its reset
/// state, and EL2 has no AT instruction (Cortex-A72 erratum 1319367, docs/errata.md).
pub fn load_guest(vttbr: u64, vtcr: u64, vcpu: usize) {
    /// Bit 31 is RES1 (DDI 0487, D19.2.115 MPIDR_EL1).
    const MPIDR_RES1: u64 = 1 << 31;
    VTTBR_EL2.set(vttbr);
    VTCR_EL2.set(vtcr);
    VMPIDR_EL2.set(MPIDR_RES1 | vcpu as u64);
    barrier::isb(barrier::SY);
}

/// The geometry of the cache that CSSELR_EL1 `selected` names; the guest's own selection stays.
pub fn cache_geometry(selected: u64) -> u64 {
    let own = read!("CSSELR_EL1");
    write!("CSSELR_EL1" => selected);
    barrier::isb(barrier::SY);
    let geometry = read!("CCSIDR_EL1");
    write!("CSSELR_EL1" => own);
    barrier::isb(barrier::SY);
    geometry
}

/// Gives the core's PMU to a guest that measures the board, or takes it back, stopped and empty.
pub fn give_pmu(given: bool) {
    /// TPMCR and TPM (DDI 0487, D19.3.17).
    const TRAPPED: u64 = 0b11 << 5;
    /// PMCR_EL0: all counters to zero, and off (D19.4.8).
    const RESET: u64 = 1 << 1 | 1 << 2;
    if (read_id(5, 0) >> 8) & 0xf == 0 {
        return;
    }
    let others = MDCR_EL2.get() & !TRAPPED;
    MDCR_EL2.set(if given { others } else { others | TRAPPED });
    write!("PMCR_EL0" => RESET, "PMCNTENCLR_EL0" => u64::from(u32::MAX), "PMCCFILTR_EL0" => 0);
    barrier::isb(barrier::SY);
}

unsafe extern "C" {
    /// In `device.S`.
    safe fn take_serror() -> u64;
}

/// Takes the SError that an access of this core's guest has left behind: its syndrome. Before the core changes
/// hands, so that nobody else is blamed for it.
pub fn pending_serror() -> Option<u64> {
    /// A syndrome has its exception class, 0x2f, whatever else the core says (DDI 0487, D19.2.40).
    const NONE: u64 = 0;
    Some(take_serror()).filter(|syndrome| *syndrome != NONE)
}

/// Whether a guest's WFI comes to EL2 (HCR_EL2.TWI; DDI 0487, D19.2.48). In effect from the return to the guest on.
pub fn trap_wfi(does: bool) {
    const TWI: u64 = 1 << 13;
    let others = HCR_EL2.get() & !TWI;
    HCR_EL2.set(if does { others | TWI } else { others });
}

/// Whether an interrupt waits for this core, which has them masked (DDI 0487, D19.2.62 ISR_EL1: A, I and F).
#[inline]
pub fn is_interrupted() -> bool {
    const ANY: u64 = 0b111 << 6;
    read!("ISR_EL1") & ANY != 0
}

/// Moves the guest behind the instruction that trapped, as if it had been executed: a single step is
/// done with it (PSTATE.SS), and so is a branch that led to it (BTYPE; DDI 0487, D2.12 and D8.4.6).
#[inline]
pub fn step(bytes: u64) {
    const SS_BTYPE: u64 = 1 << 21 | 0b11 << 10;
    ELR_EL2.set(ELR_EL2.get().wrapping_add(bytes));
    let pstate = SPSR_EL2.get();
    if pstate & SS_BTYPE != 0 {
        // In AArch32, which only EL0 has, the bits that are BTYPE here belong to IT.
        let done = if pstate & 1 << 4 == 0 {
            SS_BTYPE
        } else {
            1 << 21
        };
        SPSR_EL2.set(pstate & !done);
    }
}

/// The guest at the instruction that trapped.
pub fn context() -> Context {
    Context {
        pc: ELR_EL2.get(),
        pstate: SPSR_EL2.get(),
        vbar_el1: read!("VBAR_EL1"),
        sctlr_el1: read!("SCTLR_EL1"),
    }
}

/// Lets the guest continue in its handler.
pub fn inject(injection: Injection) {
    ELR_EL2.set(injection.pc);
    SPSR_EL2.set(injection.pstate);
    write!("ELR_EL1" => injection.elr_el1, "SPSR_EL1" => injection.spsr_el1, "ESR_EL1" => injection.esr_el1);
    if let Some(far) = injection.far_el1 {
        write!("FAR_EL1" => far);
    }
}
