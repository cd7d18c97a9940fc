//! The console in a primary guest's tree: where Ballast's is in the board's, the guest has the emulated PL011.
//!
//! It takes the place of the board's node if that is a PL011, and else stands beside the tree's own devices;
//! `/aliases` and the command line follow, so that Linux gives it the name that the board's had.

use alloc::format;
use alloc::string::String;

use super::Copy;
use crate::board::{Console, Uart};
use crate::dt::{Node, Writer};
use crate::guest_dt::command_line::Names;
use crate::guest_dt::{LEVEL_HIGH, SPI, spi};
use crate::machine::UART_CLOCK_HZ;

/// Name of the emulated console's node where it does not take the place of the board's.
const UART_APART: &str = "ballast-console";

impl<'n> Copy<'_, 'n> {
    /// The emulated PL011 in the console's place. It keeps the clocks of the real one, which Ballast goes on
    /// using: a clock without a user is turned off by Linux.
    pub(super) fn uart(&self, fdt: &mut Writer<'n>, node: Node<'n>) {
        fdt.node(node.name(), |fdt| {
            fdt.texts("compatible", &["arm,pl011", "arm,primecell"]);
            for property in node.properties() {
                if matches!(
                    property.name,
                    "reg"
                        | "interrupts"
                        | "interrupts-extended"
                        | "interrupt-parent"
                        | "phandle"
                        | "clocks"
                        | "clock-names"
                        | "arm,primecell-periphid"
                ) {
                    fdt.bytes(property.name, property.value);
                }
            }
        });
    }

    /// The emulated PL011 where the console is none and its place too small for one.
    pub(super) fn uart_apart(&self, fdt: &mut Writer<'n>) {
        if self.console_in_place().is_some() || self.console.is_none() {
            return;
        }
        let clock = self.free_phandle;
        super::super::clock(fdt, "ballast-uart-clock", UART_CLOCK_HZ, clock);
        let machine = self.machine.machine;
        fdt.node_at(UART_APART, machine.uart.start.0, |fdt| {
            fdt.texts("compatible", &["arm,pl011", "arm,primecell"]);
            fdt.cells("reg", &self.reg(&[machine.uart]));
            if let Some(gic) = self.gic.and_then(|gic| gic.u32("phandle").ok()?) {
                fdt.cells("interrupt-parent", &[gic]);
            }
            fdt.cells("interrupts", &[SPI, spi(machine.uart_intid), LEVEL_HIGH]);
            fdt.cells("clocks", &[clock, clock]);
            fdt.texts("clock-names", &["uartclk", "apb_pclk"]);
        });
    }

    /// The board's console if the emulated one takes its place: if it is a PL011, too.
    pub(super) fn console_in_place(&self) -> Option<&'n Console> {
        self.console.filter(|console| console.uart == Uart::Pl011)
    }

    /// Path of the emulated console.
    pub(super) fn console_path(&self) -> Option<String> {
        let console = self.console?;
        Some(match self.console_in_place() {
            Some(_) => console.path.clone(),
            None => format!("/{UART_APART}@{:x}", self.machine.machine.uart.start.0),
        })
    }

    /// What Linux calls the console: by its alias.
    pub(super) fn console_names(&self) -> Option<Names> {
        let (console, gic) = (self.console?, self.gic?);
        let aliases = gic.tree().root().child("aliases")?;
        let number = aliases.properties().find_map(|property| {
            let is_here = property.as_str().ok() == Some(&console.path);
            property
                .name
                .strip_prefix("serial")
                .filter(|_| is_here)?
                .parse()
                .ok()
        })?;
        Some(Names {
            number,
            is_8250: matches!(console.uart, Uart::Mini { .. }),
        })
    }

    /// `/aliases`, in which the console's name is the emulated one's.
    pub(super) fn aliases(&self, fdt: &mut Writer<'n>, node: Node<'n>) {
        let path = self.console_path();
        fdt.node(node.name(), |fdt| {
            for property in node.properties() {
                let named = property.as_str().ok();
                match (&path, self.console) {
                    (Some(path), Some(console)) if named == Some(&console.path) => {
                        fdt.text(property.name, path);
                    }
                    _ => fdt.bytes(property.name, property.value),
                }
            }
        });
    }
}
