//! Turning the board off and resetting it: the only place that does.

use core::ptr::NonNull;

use ballast_core::board::Power;
use spin::mutex::TicketMutex;

use crate::aarch64::{firmware, mmu};
use crate::console;
use crate::mmio::pm::Pm;

/// What to do with the board.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Turn it off.
    Off,
    /// Start it anew.
    Reset,
}

enum Method {
    Psci,
    Pm(Pm),
}

/// How, once it is known.
static METHOD: TicketMutex<Option<Method>> = TicketMutex::new(None);

/// Maps what is needed. Early, so that a board that is refused can be turned off.
pub fn init(power: Power) {
    let method = match power {
        Power::Psci => Method::Psci,
        Power::Pm(registers) => {
            let Some(base) = NonNull::new(mmu::map_device(registers.start, Pm::SIZE)) else {
                return;
            };
            // SAFETY: the device tree says that the block is there; this is the only driver of it, and no
            // guest is given its page.
            Method::Pm(unsafe { Pm::new(base) })
        }
    };
    *METHOD.lock() = Some(method);
}

/// Does it, once the UART has sent what it holds. Returns where the board cannot do it, or a moment before it does.
pub fn perform(action: Action) {
    console::flush();
    match (METHOD.lock().as_mut(), action) {
        (None, _) => {}
        (Some(Method::Pm(pm)), Action::Off) => pm.power_off(),
        (Some(Method::Pm(pm)), Action::Reset) => pm.reset(),
        (Some(Method::Psci), action) => {
            let function = match action {
                Action::Off => firmware::SYSTEM_OFF,
                Action::Reset => firmware::SYSTEM_RESET,
            };
            // SAFETY: `find_power` names PSCI only where the device tree says that it listens to SMC.
            unsafe { firmware::smc(function, [0; 3]) };
        }
    }
}
