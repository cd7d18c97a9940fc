//! The table: goals, peers, and what was measured.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::Figures;

/// One line of the table.
struct Row {
    /// The figure's name.
    name: &'static str,
    /// What it says to a reader.
    what: &'static str,
    /// The most it should be.
    goal: u64,
    /// The same for Xen 4.20, Bao, hvisor and KVM (nVHE), "v3 / v2" where both were measured.
    peers: [&'static str; 4],
}

const fn row(name: &'static str, what: &'static str, goal: u64, peers: [&'static str; 4]) -> Row {
    Row {
        name,
        what,
        goal,
        peers,
    }
}

/// Instructions, measured on QEMU's cortex-a72 in the same way, on 2026-11-22.
#[rustfmt::skip]
const ROWS: [Row; 37] = [
    row("hvc_psci_version", "HVC PSCI_VERSION", 64, ["464 / 467", "189 / 189", "-", "1730"]),
    row("hvc_hardened", "HVC PSCI_VERSION, `harden`", 96, ["-"; 4]),
    row("hvc_psci_features", "HVC PSCI_FEATURES", 80, ["-"; 4]),
    row("smc_psci_version", "SMC PSCI_VERSION", 72, ["495 / 498", "203 / 203", "126", "-"]),
    row("gicd_typer_read", "read GICD_TYPER", 120, ["589 / 628", "225 / 225", "325", "2445"]),
    row("isenabler0_read", "read ISENABLER0", 130, ["671 / 641", "1314 / 1290", "363", "4106"]),
    row("isenabler0_write", "write ISENABLER0", 180, ["720 / 685", "3589 / 3277", "358", "2582"]),
    row("ipriorityr0_write", "write IPRIORITYR0", 180, ["653 / 622", "726 / 658", "373", "2700"]),
    row("sgi_to_self", "SGI to self, to handler", 160, ["1027 / 1076", "775 / 806", "334", "3119"]),
    row("sgi_to_other", "SGI to another vCPU, both cores", 400, ["-"; 4]),
    row("channel_round", "message to another guest and its answer, both asleep, both cores", 3200, ["-"; 4]),
    row("timer_spinning", "virtual timer to handler", 100, ["1086", "201 / 206", "225", "3064"]),
    row("timer_wfi", "virtual timer to handler, from WFI", 100, ["4492", "-", "-", "-"]),
    row("cpu_on", "CPU_ON to first instruction", 600, ["5037 / 5069", "1588 / 1521", "-", "32246"]),
    row("first_instruction", "entry of Ballast to the guest's", 300_000, ["20.95 M", "318 k", "783 k", "1166 M"]),
    row("reserve_4k_per_page", "RESERVE 4 KiB, per page", 80, ["~2440", "-", "-", "-"]),
    row("release_4k_per_page", "RELEASE 4 KiB, per page", 80, ["~2050", "-", "-", "-"]),
    row("reserve_64k_per_page", "RESERVE 64 KiB, per page", 65, ["-"; 4]),
    row("release_64k_per_page", "RELEASE 64 KiB, per page", 60, ["-"; 4]),
    row("reserve_2m_per_entry", "RESERVE 2 MiB, per entry", 100, ["-"; 4]),
    row("release_2m_per_entry", "RELEASE 2 MiB, per entry", 100, ["-"; 4]),
    row("scrub_per_page", "scrub, per page", 180, ["-"; 4]),
    row("relocation_per_page", "relocation, per page", 1000, ["-"; 4]),
    row("relocation_pause", "relocation, pause of a page that moves", 20_000, ["-"; 4]),
    row("longest_memory_call", "longest RESERVE or RELEASE", 60_000, ["-"; 4]),
    row("message_longest_stay", "longest stay for a request by message", 60_000, ["-"; 4]),
    row("longest_exit", "longest exit but for those", 60_000, ["-"; 4]),
    row("linux_down_4k", "Linux down in 4 KiB, per page", 550, ["3720-3746", "-", "-", "-"]),
    row("linux_down_64k", "Linux down in 64 KiB, per page", 65, ["-"; 4]),
    row("linux_down_2m", "Linux down in 2 MiB, per page", 11, ["-"; 4]),
    row("linux_up_4k", "Linux up in 4 KiB, per page, scrubbed", 880, ["2747-2767", "-", "-", "-"]),
    row("linux_up_64k", "Linux up in 64 KiB, per page, scrubbed", 240, ["-"; 4]),
    row("linux_up_2m", "Linux up in 2 MiB, per page, scrubbed", 198, ["-"; 4]),
    row("linux_first_growth_2m", "Linux out of its boot balloon, per page", 22, ["-"; 4]),
    row("image_bytes", "image, bytes", 160 << 10, ["1,015,816", "~94 KB", "164,016", "-"]),
    row("own_kib", "RAM kept, 512 MiB board, KiB", 1024, ["11,460", "236", "66 MiB", "-"]),
    row("own_kib_per_guest", "RAM kept per further guest, KiB", 96, ["-"; 4]),
];

fn over(row: &Row, figures: &Figures) -> bool {
    figures.get(row.name).is_some_and(|&value| value > row.goal)
}

/// Whether a figure is over its goal.
pub fn is_over(all: &BTreeMap<u8, Figures>) -> bool {
    ROWS.iter()
        .any(|row| all.values().any(|figures| over(row, figures)))
}

/// The table as Markdown; figures over their goal are marked.
pub fn render(all: &BTreeMap<u8, Figures>) -> String {
    let mut text = String::from("|");
    let mut head = vec!["".to_owned()];
    head.extend(all.keys().rev().map(|gic| format!("Ballast v{gic}")));
    head.extend(["goal", "Xen 4.20", "Bao", "hvisor v3", "KVM nVHE v3"].map(str::to_owned));
    for cell in &head {
        let _ = write!(text, " {cell} |");
    }
    text += "\n|---|";
    text += &"---:|".repeat(head.len() - 1);
    for row in &ROWS {
        let _ = write!(text, "\n| {} |", row.what);
        for figures in all.values().rev() {
            let value = figures
                .get(row.name)
                .map_or_else(|| "?".to_owned(), |value| grouped(*value));
            let mark = if over(row, figures) { " (over)" } else { "" };
            let _ = write!(text, " {value}{mark} |");
        }
        let _ = write!(text, " {} |", grouped(row.goal));
        for peer in row.peers {
            let _ = write!(text, " {peer} |");
        }
    }
    text
}

/// The same for programs.
pub fn json(all: &BTreeMap<u8, Figures>) -> Value {
    let goals: BTreeMap<_, _> = ROWS.iter().map(|row| (row.name, row.goal)).collect();
    let measured: BTreeMap<_, _> = all
        .iter()
        .map(|(gic, figures)| (format!("gicv{gic}"), figures))
        .collect();
    json!({ "unit": "instructions unless the name says otherwise", "goals": goals, "measured": measured })
}

/// Digits in groups of three.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn what_is_over_its_goal_is_marked_and_what_is_missing_shows() {
        let figures = Figures::from([
            ("hvc_psci_version".to_owned(), 65),
            ("smc_psci_version".to_owned(), 72),
        ]);
        let all = BTreeMap::from([(3, figures)]);
        let text = render(&all);
        assert!(
            text.contains("| HVC PSCI_VERSION | 65 (over) | 64 |"),
            "{text}"
        );
        assert!(text.contains("| SMC PSCI_VERSION | 72 | 72 |"), "{text}");
        assert!(text.contains("| read GICD_TYPER | ? |"), "{text}");
        assert!(is_over(&all));
    }
}
