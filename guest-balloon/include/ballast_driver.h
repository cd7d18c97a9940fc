/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The balloon driver for C: what an RTOS calls, and what it has to provide. The library is guest-balloon/c, which the
 * Linux module is built on too; guest-balloon/c/guest is a small guest that uses it. docs/abi.md says what all of it
 * is for. c/src is the other half, kept in step by hand.
 *
 * Say hello once. At each balloon interrupt (BALLAST_BALLOON_SPI, level) call ballast_core_interrupt(), then
 * ballast_core_step() for as long as it says BALLAST_AGAIN, or at the time it says. At rest nothing is called.
 */
#ifndef BALLAST_DRIVER_H
#define BALLAST_DRIVER_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif

/* --- The driver core. One call at a time; a lock around it must allow the guest's allocator to sleep. --- */

struct ballast_core;

struct ballast_status {
	uint32_t state;		/* enum ballast_state */
	uint32_t cpu_target;		/* 0: none */
	uint64_t sequence;		/* of the target fetched last */
	uint64_t epoch;
	uint64_t reserved_pages;
	uint64_t target_pages;
	uint64_t rate;		/* pages a second */
	uint64_t total_reserved;	/* pages */
	uint64_t total_released;	/* pages */
	uint64_t batches;
	uint64_t strained;
	uint64_t floor;
	uint64_t no_memory;
	uint64_t refused;
};

enum ballast_state {
	BALLAST_NEW, BALLAST_ACTIVE, BALLAST_DRAINING, BALLAST_STALE, BALLAST_FAILED,
};

enum ballast_hello {
	BALLAST_HELLO_OK = 0,
	BALLAST_NOT_BALLAST = -1,
	BALLAST_OTHER_VERSION = -2,
	BALLAST_REFUSED = -3,
};

enum ballast_next {
	BALLAST_IDLE,		/* until the next interrupt */
	BALLAST_AGAIN,		/* call step again */
	BALLAST_WAIT,		/* call step again in *wait_ns */
};

/* Bytes to allocate for a struct ballast_core, aligned to 8; at most BALLAST_CORE_BYTES. */
#define BALLAST_CORE_BYTES 1024
size_t ballast_core_size(void);
/*
 * Initialises the core and registers it with Ballast over the page @list at physical address @list_ipa. Calls
 * ballast_front_hold() for all that is reserved already, and fetches the target.
 */
int ballast_core_hello(struct ballast_core *core, void *list, uint64_t list_ipa);
/* Fetches the target, which lowers the interrupt. */
void ballast_core_interrupt(struct ballast_core *core);
/* One batch towards the target. */
uint32_t ballast_core_step(struct ballast_core *core, uint64_t *wait_ns);
/* Asks for @need_pages at once; pages that the next steps will bring. */
uint64_t ballast_core_pressure(struct ballast_core *core, uint64_t need_pages);
/* How the guest fares. */
struct ballast_report {
	uint64_t free_pages;
	uint64_t available_pages;	/* to be had without swapping */
	uint64_t refaults;		/* pages a second that had been dropped and were needed again */
	uint32_t pressure;		/* time lost waiting for memory, in thousandths */
	uint32_t runnable_milli;	/* tasks that run or wait to run, in thousandths; 0: not said */
};
/*
 * Tells Ballast's resource scheduler, if it is news; whether it was. To be called when something changes, and after each
 * ballast_core_interrupt(): Ballast asks by its interrupt while other guests lack something.
 */
bool ballast_core_report(struct ballast_core *core, const struct ballast_report *report);
/* From now on gives everything back: step until BALLAST_IDLE. */
void ballast_core_drain(struct ballast_core *core);
/* Leaves Ballast: the list page is the kernel's again. */
void ballast_core_goodbye(struct ballast_core *core);
void ballast_core_status(const struct ballast_core *core, struct ballast_status *status);
/* The CPU target fetched last, 0 for none, with its sequence in 63:32. */
uint64_t ballast_core_cpu_target(const struct ballast_core *core);

/* --- The core's other half: CPUs. One call at a time, apart from the first half. May sleep for long. --- */

struct ballast_cpus;

struct ballast_cpus_status {
	uint64_t taken_offline;
	uint64_t brought_online;
	uint64_t denied;
	uint64_t failed;
};

/* Bytes for a struct ballast_cpus, aligned to 8; at most BALLAST_CPUS_BYTES. */
#define BALLAST_CPUS_BYTES 512
size_t ballast_cpus_size(void);
void ballast_cpus_init(struct ballast_cpus *cpus);
/* What ballast_core_cpu_target() says. */
void ballast_cpus_target(struct ballast_cpus *cpus, uint64_t target);
/* Moves one CPU at most: enum ballast_next. */
uint32_t ballast_cpus_step(struct ballast_cpus *cpus, uint64_t *wait_ns);
/* From now on brings all back online: step until it is no longer BALLAST_AGAIN. */
void ballast_cpus_drain(struct ballast_cpus *cpus);
void ballast_cpus_status(const struct ballast_cpus *cpus, struct ballast_cpus_status *status);

/*
 * --- What the core asks of the guest's allocator. ---
 *
 * Pages are of 4 KiB here, whatever the guest's own. A run is 2^order of them: the guest's own page (order 0, 2 or 4),
 * 64 KiB (4) or 2 MiB (9).
 */

/* The order of the guest's own page: 0 for 4 KiB, 2 for 16 KiB, 4 for 64 KiB. */
uint32_t ballast_front_granule(void);

/* Pages that can be given before the floor is reached. */
uint64_t ballast_front_headroom(void);
/* Takes up to @runs runs from the allocator; how many. @strained: it had to reclaim, or failed. */
uint32_t ballast_front_take(uint32_t order, uint64_t *ipas, uint32_t runs, bool *strained);
/* Gives a backed run to the allocator. */
void ballast_front_give(uint64_t ipa, uint32_t order);
/* Records a run that is not backed. */
void ballast_front_hold(uint64_t ipa, uint32_t order);
/* Takes a run out of the record. */
bool ballast_front_pick(uint32_t order, uint64_t *ipa);
/* The index-th range of RAM that the guest may ever have. */
bool ballast_front_ram(uint32_t index, uint64_t *ipa, uint64_t *pages);
/* A batch is over. */
void ballast_front_settle(void);
/* The core has panicked. */
__attribute__((noreturn)) void ballast_front_panic(void);

/* --- What the core asks of the guest's CPU hotplug. --- */

/* CPU numbers are below this. */
uint32_t ballast_front_cpus(void);
/* 0: absent, 1: offline, 2: online. */
uint32_t ballast_front_cpu_state(uint32_t cpu);
/* 0: done, 1: Ballast has no core for it, 2: not possible now. */
uint32_t ballast_front_cpu_take_offline(uint32_t cpu);
uint32_t ballast_front_cpu_bring_online(uint32_t cpu);

#endif
