//! The console and its monitor.

use anyhow::ensure;

use super::{Guest, Scenario};

/// Commands, typed and pasted, and the views.
pub fn scenarios() -> Vec<Scenario> {
    vec![commands(), stop_and_start(), control(2), control(3)]
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

/// A transfer of memory away from a guest has every phase, in order.
fn is_told(event: &serde_json::Value) -> bool {
    let at = |key: &str| event[key].as_u64().unwrap_or(0);
    let phases = ["target-ns", "first-ns", "unmap-ns", "tlb-ns"].map(at);
    event["direction"] == "give"
        && event["state"] == "done"
        && phases[0] > 0
        && phases.is_sorted()
        && at("done-ns") >= at("tlb-ns")
        && at("kib-4k") + at("kib-64k") + at("kib-2m") > 0
}

/// A guest with the right does from inside what the operator does; one without it may not.
fn control(gic: u8) -> Scenario {
    Scenario::new(format!("monitor-from-a-guest-gic{gic}"), gic, |console| {
        console.patience(180);
        for guest in [1, 2] {
            console.expect_up(guest)?;
        }
        let mut ctl = |arguments: &str| console.shell_status(1, &format!("ballastctl {arguments}"));
        let (code, said) = ctl("status")?;
        ensure!(code == 0 && said.contains("host free-mib="), "{said}");
        let (code, said) = ctl("mem linux-b 192 --wait")?;
        ensure!(
            code == 0 && said.contains("name=linux-b") && said.contains("memory-mib=192"),
            "the move was not seen through: {said}"
        );
        let (code, said) = ctl("--json status")?;
        let host = said
            .lines()
            .find_map(|line| serde_json::from_str::<serde_json::Value>(line.trim()).ok());
        ensure!(
            code == 0 && host.is_some_and(|host| host["free-mib"].is_u64()),
            "no JSON: {said}"
        );
        let (code, said) = ctl("mem linux-b 1")?;
        ensure!(code == 1 && said.contains("memory-min-mib"), "{said}");
        let (code, said) = ctl("log")?;
        ensure!(code == 0 && said.contains("by=control"), "{said}");
        let (code, said) = ctl("policy auto")?;
        ensure!(code == 0 && said.contains("ok"), "{said}");
        let (code, said) = ctl("status")?;
        ensure!(code == 0 && said.contains("policy=auto"), "{said}");
        let (code, _) = ctl("policy manual")?;
        ensure!(code == 0, "policy manual");
        let (code, said) = ctl("transfers")?;
        ensure!(code == 0, "{said}");
        let (code, said) = ctl("--json events --all --count 1")?;
        let event = said
            .lines()
            .find_map(|line| serde_json::from_str::<serde_json::Value>(line.trim()).ok());
        ensure!(code == 0 && event.as_ref().is_some_and(is_told), "{said}");
        let (code, said) = ctl("move linux-b linux-a 16 --wait")?;
        ensure!(code == 0 && said.contains("state=done"), "{said}");
        let (code, said) = ctl("move linux-a linux-b 16 0 --within 20 --wait")?;
        ensure!(code == 0 && said.contains("state=done"), "{said}");
        let (code, said) = ctl("move linux-b linux-a 512")?;
        ensure!(code == 1 && said.contains("memory-min-mib"), "{said}");
        let (code, said) = ctl("cpus linux-b 1 --wait")?;
        ensure!(code == 0 && said.contains("cpus=1/1"), "{said}");
        let (code, said) = ctl("top --count 1")?;
        ensure!(code == 0 && said.contains("linux-b"), "{said}");
        let (code, said) = ctl("completion bash")?;
        ensure!(code == 0 && said.contains("complete -F"), "no completion");
        let (code, said) = ctl("reset 2")?;
        ensure!(code == 0 && said.contains("ok guest=2"), "{said}");
        console.expect_up(2)?;
        let (code, said) = console.shell_status(2, "ballastctl status")?;
        ensure!(
            code == 2 && said.contains("no /dev/ballast-control"),
            "a guest without the right has a way: {said}"
        );
        Ok(())
    })
    .guest(
        Guest::linux("linux-a")
            .memory(256)
            .memory_bounds(192, 512)
            .property("control"),
    )
    .guest(Guest::linux("linux-b").memory(256).memory_bounds(128, 512))
}
