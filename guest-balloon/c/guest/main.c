/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A guest in C, as small as an RTOS's port of the balloon would begin: it follows its memory target for as long as it
 * runs, or, if it shares memory with another guest, answers that one's messages.
 */
#include <ballast.h>
#include <ballast_driver.h>

#include "board.h"
#include "guest.h"

static _Alignas(8) unsigned char core_bytes[BALLAST_CORE_BYTES];
static _Alignas(4096) uint64_t list[BALLAST_LIST_ENTRIES];

static void say_state(const struct ballast_core *core)
{
	struct ballast_status status;

	ballast_core_status(core, &status);
	print("holds ");
	print_number(status.reserved_pages);
	print(" of ");
	print_number(status.target_pages);
	print(" pages\n");
	if (status.state != BALLAST_ACTIVE)
		fail("driver state", status.state);
}

/* Until the target is reached or Ballast has no more. */
static void follow(struct ballast_core *core)
{
	uint64_t wait_ns;
	uint32_t next;

	/* BALLAST_WAIT: its rate is limited, or its floor reached. An RTOS would set a timer. */
	while ((next = ballast_core_step(core, &wait_ns)) != BALLAST_IDLE)
		if (next == BALLAST_WAIT)
			__asm__ volatile("yield");
	say_state(core);
}

/* Nothing is in use beside the image, and one task runs: this one, when it is woken. */
static void report(struct ballast_core *core)
{
	struct ballast_report report = {
		.free_pages = pages_free(),
		.available_pages = ballast_front_headroom(),
		.runnable_milli = 1,
	};

	ballast_core_report(core, &report);
}

static void balloon(void)
{
	struct ballast_core *core = (struct ballast_core *)core_bytes;
	uint32_t interrupt;
	int hello;

	if (ballast_core_size() > sizeof(core_bytes))
		fail("core bytes", ballast_core_size());
	pages_init();
	hello = ballast_core_hello(core, list, (uint64_t)list);
	if (hello != BALLAST_HELLO_OK)
		fail("hello", (uint64_t)-hello);
	pages_fill();
	gic_enable(SPI(BALLAST_BALLOON_SPI));
	print("c-guest is up\n");
	follow(core);
	report(core);
	for (;;) {
		sleep();
		interrupt = gic_acknowledge();
		if (interrupt == SPI(BALLAST_BALLOON_SPI))
			ballast_core_interrupt(core);
		if (interrupt < NO_INTERRUPT)
			gic_end(interrupt);
		follow(core);
		report(core);
	}
}

int main(void)
{
	if (!ballast_present())
		fail("no Ballast", 0);
	gic_init();
	if (has_channels())
		pong();
	else
		balloon();
	power_off();
}
