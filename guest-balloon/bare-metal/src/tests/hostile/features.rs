//! What the ID registers say of the core, and what it does. On a core that has more than they say it is Ballast's traps
//! that see to it.

use aarch64_cpu::registers::{CPACR_EL1, Readable, SCTLR_EL1, Writeable};

use super::super::Outcome;
use super::system::register;
use crate::probe::{self, Encoding};
use crate::{ensure, memory, println};

/// S8: what the ID registers do not announce is undefined, even to a guest that has switched it on at its own level: SVE,
/// SME, pointer authentication, memory tags, RAS, regions of limited order, and what is newer. What they announce works,
/// and what they do not is not there.
pub fn s8() -> Outcome {
    let (access, control) = (CPACR_EL1.get(), SCTLR_EL1.get());
    /// CPACR_EL1's SMEN, FPEN and ZEN.
    const ACCESS: u64 = 0b11 << 24 | 0b11 << 20 | 0b11 << 16;
    /// SCTLR_EL1's EnIA, EnIB, EnDA and EnDB.
    const KEYS: u64 = 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13;
    CPACR_EL1.set(access | ACCESS);
    SCTLR_EL1.set(control | KEYS);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    let outcome = hidden().and_then(|()| agree());
    SCTLR_EL1.set(control);
    CPACR_EL1.set(access);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    outcome
}

/// Op1, CRn, CRm, Op2 of S3. What fine-grained traps alone hide, such as SMPRI, is not among them: QEMU has those from
/// version 8 on.
const REGISTERS: [(u32, u32, u32, u32); 40] = [
    // ZCR, TRFCR, SMCR; RGSR, GCR, SCTLR2; TCR2.
    (0, 1, 2, 0),
    (0, 1, 2, 1),
    (0, 1, 2, 6),
    (0, 1, 0, 5),
    (0, 1, 0, 6),
    (0, 1, 0, 3),
    (0, 2, 0, 3),
    // The keys.
    (0, 2, 1, 0),
    (0, 2, 1, 1),
    (0, 2, 1, 2),
    (0, 2, 1, 3),
    (0, 2, 2, 0),
    (0, 2, 2, 1),
    (0, 2, 2, 2),
    (0, 2, 2, 3),
    (0, 2, 3, 0),
    (0, 2, 3, 1),
    // ERRIDR, ERRSELR, ERXFR, ERXCTLR, ERXSTATUS; TFSR, TFSRE0.
    (0, 5, 3, 0),
    (0, 5, 3, 1),
    (0, 5, 4, 0),
    (0, 5, 4, 1),
    (0, 5, 4, 2),
    (0, 5, 6, 0),
    (0, 5, 6, 1),
    // PMSCR, PMSIDR, PMBLIMITR; TRBLIMITR.
    (0, 9, 9, 0),
    (0, 9, 9, 7),
    (0, 9, 10, 0),
    (0, 9, 11, 0),
    // PIRE0, PIR, POR; LORSA to LORC, LORID.
    (0, 10, 2, 2),
    (0, 10, 2, 3),
    (0, 10, 2, 4),
    (0, 10, 4, 0),
    (0, 10, 4, 1),
    (0, 10, 4, 2),
    (0, 10, 4, 3),
    (0, 10, 4, 7),
    // SCXTNUM_EL1, ACCDATA; SVCR, AMCR.
    (0, 13, 0, 7),
    (0, 13, 0, 5),
    (3, 4, 2, 2),
    (3, 13, 2, 0),
];

/// `cntb x0`, `rdsvl x0, #1`, `smstart`; `pacia`, `pacib`, `pacda`, `pacdb`, `autia x0, x0`, `pacga x0, x0, x0`; `tcommit`.
const INSTRUCTIONS: [u32; 10] = [
    0x0420_e3e0,
    0x04bf_5820,
    0xd503_477f,
    0xdac1_0000,
    0xdac1_0400,
    0xdac1_0800,
    0xdac1_0c00,
    0xdac1_1000,
    0x9ac0_3000,
    0xd503_307f,
];

fn hidden() -> Outcome {
    let registers = REGISTERS.map(|(op1, crn, crm, op2)| Encoding::new(3, op1, crn, crm, op2));
    // SAFETY: should one be there, its value is nothing that this code rests on; zeroes turn off what is not used.
    unsafe {
        probe::all_undefined(registers.iter().map(|r| r.read()), 0)?;
        probe::all_undefined(registers.iter().map(|r| r.write()), 0)?;
        probe::all_undefined(INSTRUCTIONS.into_iter(), 0)?;
    }
    println!(
        "s8: {} registers of hidden features undefined",
        registers.len()
    );
    Ok(())
}

/// What an instruction needs, as the ID registers announce it: CRm and Op2 of S3_0_C0, the field's lowest bit, its least
/// value; and the instruction, of x0 and v0 alone. x0 is the address of memory that it may change.
type Announced = (&'static str, (u32, u32, u32, u64), u32);

const ANNOUNCED: [Announced; 27] = [
    ("aese", (6, 0, 4, 1), 0x4e28_4800),
    ("sha1h", (6, 0, 8, 1), 0x5e28_0800),
    ("sha256su0", (6, 0, 12, 1), 0x5e28_2800),
    ("crc32b", (6, 0, 16, 1), 0x1ac0_4000),
    ("ldadd", (6, 0, 20, 2), 0xf820_0000),
    ("swp", (6, 0, 20, 2), 0xf820_8000),
    ("sqrdmlah", (6, 0, 28, 1), 0x6e80_8400),
    ("eor3", (6, 0, 32, 1), 0xce00_0000),
    ("udot", (6, 0, 44, 1), 0x6e80_9400),
    ("cfinv", (6, 0, 52, 1), 0xd500_401f),
    ("mrs rndr", (6, 0, 60, 1), 0xd53b_2400),
    ("mrs rndrrs", (6, 0, 60, 1), 0xd53b_2420),
    ("dc cvap", (6, 1, 0, 1), 0xd50b_7c20),
    ("dc cvadp", (6, 1, 0, 2), 0xd50b_7d20),
    ("fjcvtzs", (6, 1, 12, 1), 0x1e7e_0000),
    ("ldapr", (6, 1, 20, 1), 0xf8bf_c000),
    ("frint32z", (6, 1, 32, 1), 0x1e68_4000),
    ("cfp rctx", (6, 1, 40, 1), 0xd50b_7380),
    ("bfcvt", (6, 1, 44, 1), 0x1e63_4000),
    ("smmla", (6, 1, 52, 1), 0x4e80_a400),
    ("msr pan", (7, 1, 20, 1), 0xd500_409f),
    ("at s1e1rp", (7, 1, 20, 2), 0xd508_7900),
    ("msr uao", (7, 2, 4, 1), 0xd500_407f),
    ("ldapur", (6, 1, 20, 2), 0xd940_0000),
    ("setf8", (6, 0, 52, 1), 0x3a00_080d),
    ("msr dit", (4, 0, 48, 1), 0xd503_405f),
    ("mrs ssbs", (4, 1, 4, 2), 0xd53b_42c0),
];

fn agree() -> Outcome {
    let mut there = 0;
    for (name, (crm, op2, shift, least), instruction) in ANNOUNCED {
        let word = register(Encoding::new(3, 0, 0, crm, op2))?;
        let announced = word >> shift & 0xf;
        // SAFETY: of the scratch page only what is behind the instruction and its return is changed.
        let found = unsafe { probe::run(&[instruction], memory::scratch_code() + 0x800) };
        ensure!(
            found.is_ok() == (announced >= least),
            "{name}, announced as {announced}: {found:x?}"
        );
        there += u32::from(found.is_ok());
    }
    println!(
        "s8: {there} of {} extensions, as announced",
        ANNOUNCED.len()
    );
    Ok(())
}
