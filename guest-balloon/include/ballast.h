/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Ballast's interface for C: the calls, channels to other guests, and the queue of messages over their memory.
 * docs/abi.md is the prose. One header, C99 with GCC's or Clang's builtins, no library, for RTOS and bare metal; the
 * numbers are held against guest-balloon/abi by guest-balloon/tests/header.rs.
 *
 * The memory of a channel must be mapped as RAM is: normal, write-back, inner shareable.
 */
#ifndef BALLAST_INTERFACE_H
#define BALLAST_INTERFACE_H

#include <stddef.h>
#include <stdint.h>

/* --- The numbers. --- */

#define BALLAST_VERSION 0x00010002u
#define BALLAST_PAGE_SIZE 4096u
#define BALLAST_LIST_ENTRIES 512u

#define BALLAST_UID_0 0xc2a5b8b4u
#define BALLAST_UID_1 0x5b4d0e6fu
#define BALLAST_UID_2 0x61423a9cu
#define BALLAST_UID_3 0x74736c6cu

#define BALLAST_FN_UID 0x8600ff01u
#define BALLAST_FN_VERSION 0xc6000001u
#define BALLAST_FN_FEATURES 0xc6000002u
#define BALLAST_FN_HELLO 0xc6000003u
#define BALLAST_FN_TARGET 0xc6000004u
#define BALLAST_FN_RESERVE 0xc6000005u
#define BALLAST_FN_RELEASE 0xc6000006u
#define BALLAST_FN_PRESSURE 0xc6000007u
#define BALLAST_FN_REPORT 0xc6000008u
#define BALLAST_FN_QUERY 0xc6000009u
#define BALLAST_FN_GOODBYE 0xc600000au
#define BALLAST_FN_SIGNAL 0xc6000010u
#define BALLAST_FN_CHANNEL 0xc6000011u

#define BALLAST_FEATURE_MEMORY (1u << 0)
#define BALLAST_FEATURE_CPUS (1u << 1)
#define BALLAST_FEATURE_PRESSURE (1u << 2)
#define BALLAST_FEATURE_REPORT (1u << 3)
#define BALLAST_FEATURE_RUN_QUEUE (1u << 6)
#define BALLAST_FEATURE_CHANNELS (1u << 4)
#define BALLAST_FEATURE_GRANULE (1u << 7)

#define BALLAST_SUCCESS 0
#define BALLAST_NOT_SUPPORTED (-1)
#define BALLAST_INVALID_PARAMETERS (-2)
#define BALLAST_DENIED (-3)
#define BALLAST_BUSY (-4)
#define BALLAST_WRONG_EPOCH (-5)
#define BALLAST_NO_DRIVER (-6)
#define BALLAST_PEER_STOPPED (-7)
#define BALLAST_INVALID_ADDRESS (-9)

/* The other guest has rung, started, stopped (for a reset or for good). */
#define BALLAST_RUNG (1u << 0)
#define BALLAST_PEER_STARTED (1u << 1)
#define BALLAST_PEER_STOPPED_EVENT (1u << 2)
/* Of struct ballast_events.peer: it runs now; how often it has started. */
#define BALLAST_PEER_RUNNING ((uint64_t)1 << 32)
#define BALLAST_PEER_GENERATION ((uint64_t)0xffffffff)

#define BALLAST_MAX_CHANNELS 16u
/* SPI of channel 0, others counting on from it. */
#define BALLAST_CHANNEL_SPI 192u
#define BALLAST_BALLOON_SPI 12u
#define BALLAST_CHANNEL_COMPATIBLE "ballast,shared-memory"
#define BALLAST_BALLOON_COMPATIBLE "ballast,balloon"

/* --- The calls. --- */

#if defined(__aarch64__)
/* x[0]: the function, x[1] to x[4]: arguments. Afterwards x[0] to x[3] are the results. */
static inline void ballast_hvc(uint64_t x[5])
{
	register uint64_t x0 __asm__("x0") = x[0];
	register uint64_t x1 __asm__("x1") = x[1];
	register uint64_t x2 __asm__("x2") = x[2];
	register uint64_t x3 __asm__("x3") = x[3];
	register uint64_t x4 __asm__("x4") = x[4];

	__asm__ volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : "r"(x4) : "memory");
	x[0] = x0;
	x[1] = x1;
	x[2] = x2;
	x[3] = x3;
}

/* Whether the hypervisor is Ballast, with this major version. */
static inline int ballast_present(void)
{
	uint64_t x[5] = { BALLAST_FN_UID, 0, 0, 0, 0 };

	ballast_hvc(x);
	if ((uint32_t)x[0] != BALLAST_UID_0 || (uint32_t)x[1] != BALLAST_UID_1 || (uint32_t)x[2] != BALLAST_UID_2 ||
	    (uint32_t)x[3] != BALLAST_UID_3)
		return 0;
	x[0] = BALLAST_FN_VERSION;
	ballast_hvc(x);
	return x[0] == BALLAST_SUCCESS && x[1] >> 16 == BALLAST_VERSION >> 16;
}

/*
 * Rings the doorbell of the other guest. What was stored before is visible to it once it has fetched the event.
 * BALLAST_SUCCESS, BALLAST_PEER_STOPPED, or BALLAST_INVALID_PARAMETERS: no such channel.
 */
static inline int64_t ballast_signal(uint32_t channel)
{
	uint64_t x[5] = { BALLAST_FN_SIGNAL, channel, 0, 0, 0 };

	ballast_hvc(x);
	return (int64_t)x[0];
}

struct ballast_events {
	uint64_t events;	/* since the last fetch */
	uint64_t peer;		/* the other guest's life */
};

/*
 * Fetches the events: once at the start, and at each interrupt of the channel, before its memory is looked at. The
 * interrupt is an edge and comes again with the next event.
 */
static inline int64_t ballast_fetch(uint32_t channel, struct ballast_events *events)
{
	uint64_t x[5] = { BALLAST_FN_CHANNEL, channel, 0, 0, 0 };

	ballast_hvc(x);
	events->events = x[1];
	events->peer = x[2];
	return (int64_t)x[0];
}
#endif

/* --- A queue of messages from one producer to one consumer. --- */

/*
 * Layout and rules: docs/abi.md, "Messages". Memory of zeros is an empty queue, and a guest that was reset goes on
 * where its last life has stopped. Whatever the other side writes, nothing outside of the memory is touched and no
 * call takes longer than its message.
 */
#define BALLAST_RING_HEADER_WORDS 32u
#define BALLAST_RING_HEAD 0u
#define BALLAST_RING_TAIL 16u

/* Results of push and pop below zero. */
#define BALLAST_RING_TOO_LONG (-1)	/* for the queue, or for the buffer; nothing was moved */
#define BALLAST_RING_FULL (-2)
#define BALLAST_RING_CORRUPT (-3)	/* what the other side has written makes no sense */
#define BALLAST_RING_EMPTY (-4)

/* One side of a queue. */
struct ballast_ring {
	uint32_t *head;
	uint32_t *tail;
	uint32_t *data;
	uint32_t words;		/* a power of two */
	uint32_t at;		/* own position */
};

static inline int ballast_ring_init(struct ballast_ring *ring, void *producers, size_t producers_bytes,
				    void *consumers, size_t consumers_bytes)
{
	size_t room = producers_bytes / 4;
	uint32_t words = 1;

	if (room <= BALLAST_RING_HEADER_WORDS || consumers_bytes / 4 <= BALLAST_RING_TAIL)
		return BALLAST_RING_TOO_LONG;
	room -= BALLAST_RING_HEADER_WORDS;
	while (words < 1u << 30 && words * (size_t)2 <= room)
		words *= 2;
	ring->head = (uint32_t *)producers + BALLAST_RING_HEAD;
	ring->tail = (uint32_t *)consumers + BALLAST_RING_TAIL;
	ring->data = (uint32_t *)producers + BALLAST_RING_HEADER_WORDS;
	ring->words = words;
	return 0;
}

/*
 * The side that writes: head and data in @producers, which this guest can write, the tail in @consumers. The same
 * memory twice, if both guests can write it.
 */
static inline int ballast_producer_init(struct ballast_ring *ring, void *producers, size_t producers_bytes,
					void *consumers, size_t consumers_bytes)
{
	int error = ballast_ring_init(ring, producers, producers_bytes, consumers, consumers_bytes);

	if (!error)
		ring->at = __atomic_load_n(ring->head, __ATOMIC_RELAXED);
	return error;
}

/* The side that reads, and can write @consumers. */
static inline int ballast_consumer_init(struct ballast_ring *ring, void *producers, size_t producers_bytes,
					void *consumers, size_t consumers_bytes)
{
	int error = ballast_ring_init(ring, producers, producers_bytes, consumers, consumers_bytes);

	if (!error)
		ring->at = __atomic_load_n(ring->tail, __ATOMIC_RELAXED);
	return error;
}

static inline uint32_t *ballast_ring_word(const struct ballast_ring *ring, uint32_t at)
{
	return ring->data + (at & (ring->words - 1));
}

/* Writes a message. 1: the consumer had read everything and may be asleep, so ring. 0: it will find it. */
static inline int ballast_push(struct ballast_ring *ring, const void *message, size_t bytes)
{
	const uint8_t *from = message;
	uint32_t first = ring->at, need, used, word;
	size_t i, j;

	if (bytes > ((size_t)ring->words - 1) * 4)
		return BALLAST_RING_TOO_LONG;
	need = 1 + (uint32_t)((bytes + 3) / 4);
	/* Acquire: the consumer has read what is now written over. */
	used = first - __atomic_load_n(ring->tail, __ATOMIC_ACQUIRE);
	if (used > ring->words)
		return BALLAST_RING_CORRUPT;
	if (need > ring->words - used)
		return BALLAST_RING_FULL;
	__atomic_store_n(ballast_ring_word(ring, first), (uint32_t)bytes, __ATOMIC_RELAXED);
	for (i = 0; i < bytes; i += 4) {
		word = 0;
		for (j = i; j < bytes && j < i + 4; j++)
			word |= (uint32_t)from[j] << 8 * (j - i);
		__atomic_store_n(ballast_ring_word(ring, first + 1 + (uint32_t)(i / 4)), word, __ATOMIC_RELAXED);
	}
	ring->at = first + need;
	/* Release: the message before the head. */
	__atomic_store_n(ring->head, ring->at, __ATOMIC_RELEASE);
	/* Head, then tail here; tail, then head in pop: at least one of the two sees the other's. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(ring->tail, __ATOMIC_RELAXED) == first;
}

static inline void ballast_ring_publish(struct ballast_ring *ring, uint32_t at)
{
	ring->at = at;
	/* Release: what was read before the tail, which lets it be written over. */
	__atomic_store_n(ring->tail, at, __ATOMIC_RELEASE);
}

/*
 * Reads the next message to @buffer and gives its length. BALLAST_RING_EMPTY: there is none, and whoever writes the
 * next is told to ring.
 */
static inline int64_t ballast_pop(struct ballast_ring *ring, void *buffer, size_t room)
{
	uint8_t *to = buffer;
	uint32_t used, bytes, word = 0;
	uint64_t need;
	size_t i;

	/* Acquire: the message after the head. */
	used = __atomic_load_n(ring->head, __ATOMIC_ACQUIRE) - ring->at;
	if (!used) {
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		used = __atomic_load_n(ring->head, __ATOMIC_ACQUIRE) - ring->at;
		if (!used)
			return BALLAST_RING_EMPTY;
	}
	bytes = __atomic_load_n(ballast_ring_word(ring, ring->at), __ATOMIC_RELAXED);
	need = 1 + ((uint64_t)bytes + 3) / 4;
	if (used > ring->words || need > used)
		return BALLAST_RING_CORRUPT;
	if (bytes > room)
		return BALLAST_RING_TOO_LONG;
	for (i = 0; i < bytes; i++) {
		if (i % 4 == 0)
			word = __atomic_load_n(ballast_ring_word(ring, ring->at + 1 + (uint32_t)(i / 4)),
					       __ATOMIC_RELAXED);
		to[i] = (uint8_t)(word >> 8 * (i % 4));
	}
	ballast_ring_publish(ring, ring->at + (uint32_t)need);
	return bytes;
}

/* Takes everything that is there for read, whatever it is. */
static inline void ballast_discard(struct ballast_ring *ring)
{
	ballast_ring_publish(ring, __atomic_load_n(ring->head, __ATOMIC_ACQUIRE));
}

#endif
