//! Debian's Linux as a guest.

use anyhow::ensure;

use super::{Guest, Scenario};

/// Linux boots to its shell, alone and in company.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for gic in [2, 3] {
        for cores in [1, 2, 4, 8] {
            all.push(boots(gic, cores));
        }
        all.push(two_boot(gic));
    }
    all
}

/// Alone on the board with all its cores; the board goes off with it.
fn boots(gic: u8, cores: u8) -> Scenario {
    Scenario::new(
        format!("linux-boots-gic{gic}-{cores}cpu"),
        gic,
        move |console| {
            console.patience(240).expect_up(1)?;
            let online = console.shell(1, "nproc")?;
            ensure!(
                online.trim() == cores.to_string(),
                "{cores} CPUs were given and Linux has {online:?}"
            );
            console.send("poweroff\r")?;
            console.expect_power_off()
        },
    )
    .cores(cores)
    .guest(Guest::linux("linux").memory(512).cpus(cores))
}

/// Two side by side; the board goes off with the last.
fn two_boot(gic: u8) -> Scenario {
    Scenario::new(format!("linux-two-guests-gic{gic}"), gic, |console| {
        console.patience(180);
        for guest in [1, 2] {
            console.expect_up(guest)?;
        }
        for guest in [1, 2] {
            console.shell(guest, "uname -a")?;
        }
        for guest in [1, 2] {
            console.focus(guest)?;
            console.send("poweroff\r")?;
        }
        console.expect_power_off()
    })
    .cores(2)
    .ram(1536)
    .guest(Guest::linux("linux-a").memory(512))
    .guest(Guest::linux("linux-b").memory(512))
}
