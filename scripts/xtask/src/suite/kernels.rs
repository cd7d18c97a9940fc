//! Kernels of every kind, wherever they want to be, and memory that some software expects.

use super::{Guest, Scenario};

/// One boot for each way to hand over a kernel.
pub fn scenarios() -> Vec<Scenario> {
    let hello = || Guest::bare_metal("guest", "hello").cpus(1);
    let raw = "load-address = <0 0x40080000>;\n            entry = <0 0x40080000>";
    vec![
        boots("elf", hello().kernel("bare-metal-elf"), &[]),
        boots("gzipped", hello().kernel("bare-metal-gz"), &[]),
        boots("raw", hello().property(raw), &[]),
        boots(
            "extra-ram",
            hello().property("extra-ram = <0 0x10000000 0 0x100000>"),
            &["ram 0x10000000..0x10100000"],
        ),
        boots(
            "dtb-at-the-base",
            hello().property("dtb-address = <0 0x40000000>"),
            &["dtb 0x40000000"],
        ),
        boots(
            "raz-window",
            hello()
                .property("raz-windows = <0 0x0a000000 0 0x1000>")
                .args("probe=167776248"),
            &["probe 0xa000ff8 reads 0x0"],
        ),
    ]
}

/// The guest says all of `expected`, passes and powers off.
fn boots(name: &str, guest: Guest, expected: &'static [&'static str]) -> Scenario {
    Scenario::new(format!("kernel-{name}"), 3, move |console| {
        for text in expected {
            console.expect(text)?;
        }
        console.expect("PASS hello")?;
        console.expect_power_off()
    })
    .ram(512)
    .guest(guest)
}
