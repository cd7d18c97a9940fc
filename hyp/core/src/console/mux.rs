//! The console's state machine.

mod typed;

use core::fmt;

use super::label::Labels;
use super::messages::Messages;
use super::painter::Lane;
use super::ring::Attention;
use super::stage::Stage;
use crate::limits::MAX_GUESTS;
use crate::monitor::{Monitor, Operator, Step};
use crate::pl011::{LONG_LINE, Pl011};

/// Bytes of a focused guest moved at a time.
const RAW_CHUNK: usize = 64;
/// Bytes a focused guest may still show in the middle of a line while a message waits.
const MESSAGE_PATIENCE: usize = 256;
/// Part of a second after which a silent guest's unfinished line counts as a prompt.
const SILENCE_FRACTION: u64 = 50;

/// Puts a terminal right that a guest may have left in any state: CAN ends an escape sequence, then
/// leave the alternate screen, soft reset, plain text, ASCII.
const TERMINAL_RESET: &[u8] = b"\x18\x1b[?1049l\x1b[!p\x1b[0m\x1b(B";

/// Where the console finds the guests' UARTs and the hypervisor's messages.
pub trait Sources {
    /// Runs `f` on a guest's UART under its lock and, before that is released, carries the UART's
    /// [`Pl011::effects`] on the interrupt line into the guest's GIC.
    fn uart<R>(&self, guest: usize, f: impl FnOnce(&mut Pl011) -> R) -> R;

    /// Runs `f` on the messages under their lock.
    fn messages<R>(&self, f: impl FnOnce(&mut Messages) -> R) -> R;
}

/// What the terminal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// All guests, line by line.
    Shared,
    /// One guest, by index.
    Focus(usize),
    /// The monitor.
    Monitor,
}

/// Where the cursor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// At the start of a row.
    Start,
    /// After a guest's unfinished line in the shared view.
    Open(usize),
    /// On the monitor's command line.
    Prompt,
    /// Wherever a focused guest has put it.
    Raw,
}

/// The console. See the module's documentation for who calls it and when.
#[derive(Debug)]
pub struct Console {
    labels: Labels,
    monitor: Monitor,
    ticks_per_second: u64,
    /// What the operator chose: where typed bytes go.
    view: View,
    /// What the terminal shows; follows `view` once the monitor has finished.
    screen: Option<View>,
    row: Row,
    stage: Stage,
    lanes: [Lane; MAX_GUESTS],
    /// The guest whose turn is next in the shared view.
    next: usize,
    /// Ctrl-] was typed.
    escaped: bool,
    /// Ticks of the last byte typed at nobody.
    stray_ticks: Option<u64>,
    /// Input of the view at hand is being refused, and the operator has been told.
    refusing: bool,
    /// A focused guest has sent ESC, so the terminal may be in any state.
    tainted: bool,
    /// Bytes a focused guest has shown since a message began to wait.
    patience: usize,
}

impl Console {
    /// A console for these guests; `ticks_per_second` is CNTFRQ_EL0. The terminal begins with the
    /// only guest if there is exactly one, else with the shared view. To be pulled once before the
    /// guests start.
    #[must_use]
    pub fn new(labels: Labels, ticks_per_second: u64) -> Self {
        let view = match labels.len() {
            0 => View::Monitor,
            1 => View::Focus(0),
            _ => View::Shared,
        };
        Self {
            labels,
            monitor: Monitor::new(ticks_per_second),
            ticks_per_second,
            view,
            screen: None,
            row: Row::Start,
            stage: Stage::default(),
            lanes: [Lane::default(); MAX_GUESTS],
            next: 0,
            escaped: false,
            stray_ticks: None,
            refusing: false,
            tainted: false,
            patience: 0,
        }
    }

    /// Where typed bytes go.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// Fills `out`, the room in the physical transmit FIFO, at `now` (CNTVCT_EL0), and says how many
    /// bytes there are. Fewer than fit means that there is nothing more to show.
    ///
    /// Bounded: a line is rendered at a time, and few bytes of any source vanish in it.
    pub fn pull<S: Sources + Operator>(&mut self, shell: &S, now: u64, out: &mut [u8]) -> usize {
        let mut count: usize = 0;
        while let Some(room) = out.get_mut(count..).filter(|room| !room.is_empty()) {
            while self.stage.is_empty() {
                if !self.render(shell, now) {
                    return count;
                }
            }
            count = count.saturating_add(self.stage.take(room));
        }
        count
    }

    /// Does the next thing for the terminal; false when there is none. Steps that stage nothing
    /// change the screen or the monitor's state and do not repeat.
    fn render<S: Sources + Operator>(&mut self, shell: &S, now: u64) -> bool {
        let screen = if self.monitor.is_busy() {
            View::Monitor
        } else {
            self.view
        };
        if self.screen != Some(screen) {
            self.switch(shell, screen);
            return true;
        }
        if self.message(shell, screen) {
            return true;
        }
        match screen {
            View::Shared => self.shared(shell, now),
            View::Focus(guest) => self.focus(shell, guest),
            View::Monitor => self.monitor(shell),
        }
    }

    /// Changes what the terminal shows.
    fn switch(&mut self, shell: &impl Sources, screen: View) {
        let first = self.screen.replace(screen).is_none();
        if core::mem::take(&mut self.tainted) {
            self.stage.put_all(TERMINAL_RESET);
        }
        self.patience = 0;
        for (guest, lane) in self.lanes.iter_mut().enumerate().take(self.labels.len()) {
            *lane = Lane::default();
            let attention = match screen {
                View::Shared => Attention::Lines,
                View::Focus(focus) if focus == guest => Attention::Raw,
                _ => Attention::Unattended,
            };
            shell.uart(guest, |uart| {
                uart.output().set_attention(attention);
                uart.output_taken();
            });
        }
        if first {
            return;
        }
        match screen {
            View::Shared => {
                self.start_row();
                self.stage
                    .text(format_args!("[ballast] all guests: {}\r\n", self.labels));
            }
            View::Focus(guest) => self.announce_focus(shell, guest),
            View::Monitor => {}
        }
    }

    /// Says who is in focus and how much of what follows is a replay of what was missed.
    fn announce_focus(&mut self, shell: &impl Sources, guest: usize) {
        self.start_row();
        let (missed, lost) = shell.uart(guest, |uart| {
            let output = uart.output();
            let lost = output.take_lost();
            let missed = output.unshown();
            output.rewind_line();
            (missed, lost)
        });
        let name = Name(&self.labels, guest);
        self.stage
            .text(format_args!("[ballast] focus on guest {name}"));
        if missed > 0 {
            self.stage.text(format_args!(", replaying {missed} bytes"));
        }
        if lost > 0 {
            self.stage
                .text(format_args!(", {lost} before them are lost"));
        }
        self.stage.end_line();
    }

    /// Shows the oldest message if its time has come. In a focus that is at the end of a line or of
    /// the output, or when the guest has gone on for long enough.
    fn message(&mut self, shell: &impl Sources, screen: View) -> bool {
        if shell.messages(|messages| messages.is_empty()) {
            self.patience = 0;
            return false;
        }
        if let View::Focus(guest) = screen {
            let mid_line = self.row == Row::Raw && self.patience < MESSAGE_PATIENCE;
            if mid_line && shell.uart(guest, |uart| uart.output().unshown()) > 0 {
                return false;
            }
            if self.tainted && self.row == Row::Raw {
                self.stage.put_all(b"\x18\x1b[0m");
            }
        }
        self.start_row();
        shell.messages(|messages| messages.stage(&mut self.stage));
        true
    }

    fn monitor(&mut self, shell: &impl Operator) -> bool {
        if !self.monitor.is_running() && self.row != Row::Prompt {
            self.start_row();
            self.monitor.stage_prompt(&mut self.stage);
            self.row = Row::Prompt;
            return true;
        }
        match self.monitor.step(&self.labels, shell, &mut self.stage) {
            Step::Waits => return false,
            Step::Echoed => {}
            Step::Lines => self.row = Row::Start,
        }
        true
    }

    /// A chunk of the focused guest's output as it is.
    fn focus(&mut self, shell: &impl Sources, guest: usize) -> bool {
        if self.report_loss(shell, guest) {
            return true;
        }
        let stage = &mut self.stage;
        let (mut last, mut escape) = (None, false);
        shell.uart(guest, |uart| {
            for _ in 0..RAW_CHUNK {
                let Some(byte) = uart.output().pop() else {
                    break;
                };
                stage.put(byte);
                escape |= byte == 0x1b;
                last = Some(byte);
                if byte == b'\n' {
                    break;
                }
            }
            uart.output_taken();
        });
        self.tainted |= escape;
        self.patience = self.patience.saturating_add(stage.len());
        match last {
            Some(b'\n') => self.row = Row::Start,
            Some(_) => self.row = Row::Raw,
            None => return false,
        }
        true
    }

    /// One row of the next guest that has one: whole lines first, in turn, then unfinished ones.
    fn shared(&mut self, shell: &impl Sources, now: u64) -> bool {
        let silence = self.ticks_per_second.div_euclid(SILENCE_FRACTION);
        let whole = |_: &mut Lane, uart: &mut Pl011| match uart.output().unshown() {
            long if long >= LONG_LINE => long,
            _ => uart.output().complete(),
        };
        let unfinished = |lane: &mut Lane, uart: &mut Pl011| {
            let silent = lane.quiet_ticks(uart.output(), now) >= silence;
            if silent || uart.has_paused() {
                uart.output().unshown()
            } else {
                0
            }
        };
        self.turn(shell, whole) || self.turn(shell, unfinished)
    }

    /// Lets the guests, beginning with the one whose turn it is, show a row of the bytes that
    /// `ready` allows; true once one has.
    fn turn(
        &mut self,
        shell: &impl Sources,
        ready: impl Fn(&mut Lane, &mut Pl011) -> usize,
    ) -> bool {
        let guests = self.labels.len();
        for _ in 0..guests {
            let guest = self.next;
            self.next = guest.wrapping_add(1);
            if self.next >= guests {
                self.next = 0;
            }
            if self.report_loss(shell, guest) || self.paint(shell, guest, &ready) {
                return true;
            }
        }
        false
    }

    /// A row of one guest; false when nothing of it is to be seen.
    fn paint(
        &mut self,
        shell: &impl Sources,
        guest: usize,
        ready: &impl Fn(&mut Lane, &mut Pl011) -> usize,
    ) -> bool {
        let Some(lane) = self.lanes.get_mut(guest) else {
            return false;
        };
        let ready = shell.uart(guest, |uart| ready(lane, uart));
        if ready == 0 {
            return false;
        }
        if self.row != Row::Open(guest) {
            self.start_row();
        }
        let (Some(lane), Some(label)) = (self.lanes.get_mut(guest), self.labels.get(guest)) else {
            return false;
        };
        shell.uart(guest, |uart| {
            lane.paint(label, uart.output(), ready, &mut self.stage);
            uart.output_taken();
        });
        self.row = if lane.is_open() {
            Row::Open(guest)
        } else {
            Row::Start
        };
        !self.stage.is_empty()
    }

    /// Says so if output of a guest was overwritten before it could be shown.
    fn report_loss(&mut self, shell: &impl Sources, guest: usize) -> bool {
        let lost = shell.uart(guest, |uart| uart.output().take_lost());
        if lost > 0 {
            self.start_row();
            self.stage.text(format_args!(
                "[ballast] guest {}: {lost} bytes of output are lost\r\n",
                Name(&self.labels, guest)
            ));
        }
        lost > 0
    }

    /// Brings the cursor to the start of a row.
    fn start_row(&mut self) {
        if self.row == Row::Start {
            return;
        }
        if let Row::Open(guest) = self.row
            && let Some(lane) = self.lanes.get_mut(guest)
        {
            lane.interrupt();
        }
        self.stage.end_line();
        self.row = Row::Start;
    }
}

/// A guest's label by index.
struct Name<'a>(&'a Labels, usize);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.get(self.1).map_or(Ok(()), |label| label.fmt(f))
    }
}

#[cfg(test)]
mod tests;
