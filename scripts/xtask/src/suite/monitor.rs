//! The console and its monitor.

use anyhow::ensure;

use super::{Guest, Scenario};

/// Commands, typed and pasted, and the views.
pub fn scenarios() -> Vec<Scenario> {
    vec![commands(), stop_and_start()]
}

fn two(scenario: Scenario) -> Scenario {
    scenario
        .guest(Guest::linux("linux-a").memory(256))
        .guest(Guest::linux("linux-b").memory(256))
}

fn commands() -> Scenario {
    two(Scenario::new("monitor-commands", 3, |console| {
        console.patience(180);
        // Lines of both guests, each with its name.
        console.expect("[linux-")?;
        for guest in [1, 2] {
            console.expect_up(guest)?;
        }
        let help = console.monitor("help")?;
        for word in [
            "status",
            "mem GUEST MIB",
            "reset GUEST",
            "stats GUEST",
            "log",
        ] {
            ensure!(help.contains(word), "help does not name `{word}`:\n{help}");
        }
        let status = console.status()?;
        ensure!(
            status.guests().count() == 2 && status.memory_mib(1) == 256,
            "{status}"
        );
        ensure!(console.monitor("mem 7 100")?.contains("no guest '7'"));
        ensure!(console.monitor("mem linux-a 1")?.contains("memory-min-mib"));
        ensure!(console.monitor("stats linux-b")?.contains("mmio-uart="));
        // A paste of several commands gets every answer, in order.
        let pasted = console.monitor("stats 1\rlog\rstatus")?;
        ensure!(
            pasted.contains("mmio-gic=") && pasted.contains("host free-mib="),
            "{pasted}"
        );
        Ok(())
    }))
}

fn stop_and_start() -> Scenario {
    two(Scenario::new("monitor-stop-start-reset", 3, |console| {
        console.patience(180);
        for guest in [1, 2] {
            console.expect_up(guest)?;
        }
        console.shell(2, "echo mine > /tmp/mark")?;
        console.monitor("stop linux-a")?;
        console.wait_for_status("guest 1 to stop", |s| s.guest(1).get("state") == "stopped")?;
        console.monitor("start linux-a")?;
        console.expect_up(1)?;
        for _ in 0..3 {
            console.monitor("reset linux-a")?;
            console.expect_up(1)?;
        }
        // The other never noticed.
        console.shell(2, "grep -q mine /tmp/mark")?;
        Ok(())
    }))
}
