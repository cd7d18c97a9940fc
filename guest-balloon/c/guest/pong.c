/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The second side of two channels, "there" and "back" (numbers follow from the names): it answers each message of the
 * bare-metal guest's `ping` until that says number 0. Each has 4 KiB or more, at 2 MiB from the other.
 */
#include <ballast.h>

#include "board.h"
#include "guest.h"

#define BACK 0u
#define THERE 1u
#define LINE(n) ((void *)(SHARED + 0x10000000ul + (n) * 0x200000ul))
#define BYTES 0x1000u

/* Message @number, as ping makes it; its answer has every byte behind the number inverted. */
static uint32_t message(uint32_t number, uint8_t invert, uint8_t *buffer)
{
	for (uint32_t at = 0; at < 64; at++)
		buffer[at] = (uint8_t)(number * 31 + at) ^ invert;
	for (uint32_t at = 0; at < 4; at++)
		buffer[at] = (uint8_t)(number >> 8 * at);
	return 4 + number % 57;
}

int has_channels(void)
{
	struct ballast_events events;

	return ballast_fetch(THERE, &events) == BALLAST_SUCCESS;
}

static int64_t receive(struct ballast_ring *ring, uint8_t *buffer)
{
	struct ballast_events events;
	uint32_t interrupt;
	int64_t length;

	while ((length = ballast_pop(ring, buffer, 64)) == BALLAST_RING_EMPTY) {
		sleep();
		interrupt = gic_acknowledge();
		if (interrupt < NO_INTERRUPT)
			gic_end(interrupt);
		/* Without it the next doorbell is no interrupt. */
		ballast_fetch(THERE, &events);
	}
	if (length < 0)
		fail("pop", (uint64_t)-length);
	return length;
}

void pong(void)
{
	struct ballast_ring in, out;
	uint8_t found[64], expected[64];
	uint32_t number, length, i;
	int64_t got;
	int rung;

	if (ballast_consumer_init(&in, LINE(THERE), BYTES * 2, LINE(BACK), BYTES) ||
	    ballast_producer_init(&out, LINE(BACK), BYTES, LINE(THERE), BYTES * 2))
		fail("too small", BYTES);
	gic_enable(SPI(BALLAST_CHANNEL_SPI + THERE));
	print("c-guest listens\n");
	do {
		got = receive(&in, found);
		number = found[0] | found[1] << 8 | found[2] << 16 | (uint32_t)found[3] << 24;
		length = message(number, 0, expected);
		for (i = 0; i < length; i++)
			if (got != length || found[i] != expected[i])
				fail("message", number);
		rung = ballast_push(&out, found, message(number, 0xff, found));
		if (rung < 0)
			fail("push", (uint64_t)-rung);
		if (rung && ballast_signal(BACK) != BALLAST_SUCCESS)
			fail("signal", number);
	} while (number);
	print("PASS pong\n");
}
