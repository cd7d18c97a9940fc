//! Devices whose page or interrupt several guests share. (The pins and UARTs of the Raspberry Pi 4 are in
//! [`super::rpi4_pins`].)

use super::{Guest, Scenario};

/// QEMU virt's PL061 as two devices of one page and one interrupt, data registers and the rest, and an address
/// in the same guest's hands where the bus answers with an error.
const HALVES: &str = "\
    gpio-data@9030000 {
        compatible = \"arm,pl061\"; reg = <0 0x9030000 0 0x400>; interrupts = <0 7 4>;
    };
    gpio-control@9030400 {
        compatible = \"arm,pl061\"; reg = <0 0x9030400 0 0xc00>; interrupts = <0 7 4>;
    };
    hole-data@9048000 {
        compatible = \"arm,pl061\"; reg = <0 0x9048000 0 0x400>;
    };
    hole-control@9048400 {
        compatible = \"arm,pl061\"; reg = <0 0x9048400 0 0x400>;
    };
";
const BASE: u32 = 0x903_0000;
const HOLE: u32 = 0x904_8000;
const INTID: u32 = 39;

/// Both guests at work, and one guest against each kind of bad neighbour.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for gic in [2, 3] {
        all.push(halves("prompt", gic, 100));
        all.push(halves("silent", gic, 100));
        all.push(halves("noisy", gic, 100));
    }
    all.extend(refusals());
    all
}

/// The first guest gets `least` interrupts whatever the manners of the second.
fn halves(manner: &'static str, gic: u8, least: u32) -> Scenario {
    let data = Guest::bare_metal("data", "shared-data")
        .args(&format!(
            "base={BASE} hole={HOLE} intid={INTID} least={least}"
        ))
        .property("devices = \"/gpio-data@9030000\", \"/hole-data@9048000\"");
    let control = Guest::bare_metal("control", "shared-control")
        .args(&format!(
            "base={} intid={INTID} manner={manner}",
            BASE + 0x400
        ))
        .property("devices = \"/gpio-control@9030400\", \"/hole-control@9048400\"");
    Scenario::new(format!("shared-page-{manner}-gic{gic}"), gic, |console| {
        console.patience(60);
        for _ in 0..2 {
            console.expect("PASS shared-")?;
        }
        console.expect_power_off()?;
        console.expect_never("FAIL")
    })
    .ram(512)
    .nodes(HALVES)
    .guest(data)
    .guest(control)
}

/// What cannot be divided, between guests and between a guest and Ballast.
fn refusals() -> Vec<Scenario> {
    const NODES: &str = "\
    whole@9030000 {
        compatible = \"arm,pl061\"; reg = <0 0x9030000 0 0x1000>; interrupts = <0 7 4>;
    };
    part@9030800 {
        compatible = \"arm,pl061\"; reg = <0 0x9030800 0 0x100>; interrupts = <0 9 4>;
    };
    edge@9050000 {
        compatible = \"arm,pl061\"; reg = <0 0x9050000 0 0x1000>; interrupts = <0 9 1>;
    };
";
    let guest = |name: &str, property: &str| {
        let guest = Guest::bare_metal(name, "hello");
        guest.property(property)
    };
    let devices = |name: &str, path: &str| guest(name, &format!("devices = \"{path}\""));
    let refused = |name: &str, guests: [Guest; 2], word: &'static str| {
        let scenario = Scenario::new(format!("refuses-shared-{name}"), 3, move |console| {
            console.expect("[ballast] refused: /ballast")?;
            console.expect(word)?;
            console.expect("no guest was started")?;
            console.expect_power_off()
        });
        let [first, second] = guests;
        let scenario = scenario.ram(512).nodes(NODES).guest(first).guest(second);
        scenario.refused(word)
    };
    let other = || Guest::bare_metal("other", "hello");
    vec![
        refused(
            "registers",
            [
                devices("a", "/whole@9030000"),
                devices("b", "/part@9030800"),
            ],
            "their registers overlap",
        ),
        refused(
            "edge",
            [devices("a", "/part@9030800"), devices("b", "/edge@9050000")],
            "only level-sensitive",
        ),
        refused(
            "console",
            [devices("a", "/pl011@9000000"), other()],
            "is the console UART",
        ),
        refused("pins", [guest("a", "gpios = <17>"), other()], "gpios"),
    ]
}
