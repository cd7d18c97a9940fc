//! From the entry of Ballast to a guest's first instruction: what it costs to boot, whatever the guest's size.
//!
//! So the guest is nothing but that instruction, which reads the counter, and what it takes to say the result; copying a
//! large image would be most of the figure.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::console::Console;
use crate::paths;

/// The digits of the counter that the guest prints.
const DIGITS: usize = 16;
/// The first of them: they follow one another in ASCII, those beyond 9 too.
const ZERO: u8 = b'0';

/// Behind the header of an arm64 Image (Linux `booting.rst`).
const CODE: [u32; 15] = [
    0xd53b_e041, // mrs  x1, cntvct_el0
    0xd2a1_2002, // mov  x2, #0x9000000      the guest machine's PL011
    0x5280_0203, // mov  w3, #DIGITS
    0x93c1_f021, // ror  x1, x1, #60         the next four bits
    0x1200_0c24, // and  w4, w1, #15
    0x1100_c084, // add  w4, w4, #ZERO
    0xb900_0044, // str  w4, [x2]
    0x7100_0463, // subs w3, w3, #1
    0x54ff_ff61, // b.ne ror
    0x5280_0144, // mov  w4, #'\n'
    0xb900_0044, // str  w4, [x2]
    0x5280_0100, // mov  w0, #8              PSCI SYSTEM_OFF, 0x84000008
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0002, // hvc  #0
    0x1400_0000, // b    .
];
const HEADER_BYTES: usize = 64;
const PAGE: usize = 4096;

/// Writes the guest's image into `dir`.
pub fn image(dir: &Path) -> Result<PathBuf> {
    let mut image = vec![0; PAGE];
    let mut put = |at: usize, bytes: &[u8]| image[at..][..bytes.len()].copy_from_slice(bytes);
    // b: over the header.
    put(0, &(0x1400_0000 | (HEADER_BYTES as u32 / 4)).to_le_bytes());
    put(16, &(PAGE as u64).to_le_bytes());
    // Little-endian, 4 KiB pages, anywhere.
    put(24, &0xa_u64.to_le_bytes());
    put(56, b"ARM\x64");
    for (at, word) in (HEADER_BYTES..).step_by(4).zip(CODE) {
        put(at, &word.to_le_bytes());
    }
    let path = dir.join("first.img");
    paths::write(&path, image)?;
    Ok(path)
}

/// What the counter was, in instructions.
pub fn measure(console: &mut Console) -> Result<u64> {
    let said = console.patience(60).expect("every guest is off")?;
    let counter = said.lines().find_map(counter);
    counter.with_context(|| format!("the guest did not say its counter:\n{said}"))
}

/// The counter, if this line is nothing but it.
fn counter(line: &str) -> Option<u64> {
    let line = line.trim_end();
    let digit = |byte: u8| byte.checked_sub(ZERO).filter(|digit| *digit < 16);
    (line.len() == DIGITS)
        .then(|| {
            line.bytes()
                .try_fold(0, |sum, byte| Some(sum << 4 | u64::from(digit(byte)?)))
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_read_from_the_line_that_is_it() {
        assert_eq!(counter("00000000000490;?\r"), Some(0x490bf));
        assert_eq!(counter("0000000000000000"), Some(0));
        assert_eq!(counter("every guest is off"), None);
        assert_eq!(counter("000000000000000@"), None);
    }
}
