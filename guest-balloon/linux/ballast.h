/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The boundary between the module's parts: the driver core (Rust, core/), the allocator's side (pages.c), the CPU
 * hotplug's (cpus.c) and the device (main.c). core/src is the other half of the functions of the core's and of those
 * it calls, and is kept in step by hand.
 */
#ifndef BALLAST_H
#define BALLAST_H

#include <linux/atomic.h>
#include <linux/types.h>

/* --- The driver core. One call at a time: ballast->lock. May sleep. --- */

struct ballast_core;

struct ballast_status {
	u32 state;		/* enum ballast_state */
	u32 cpu_target;		/* 0: none */
	u64 sequence;		/* of the target fetched last */
	u64 epoch;
	u64 reserved_pages;
	u64 target_pages;
	u64 rate;		/* pages a second */
	u64 total_reserved;	/* pages */
	u64 total_released;	/* pages */
	u64 batches;
	u64 strained;
	u64 floor;
	u64 no_memory;
	u64 refused;
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

/* Bytes to allocate for a struct ballast_core. */
size_t ballast_core_size(void);
/*
 * Initialises the core and registers it with Ballast over the page @list at physical address @list_ipa. Calls
 * ballast_front_hold() for all that is reserved already, and fetches the target.
 */
int ballast_core_hello(struct ballast_core *core, void *list, u64 list_ipa);
/* Fetches the target, which lowers the interrupt. */
void ballast_core_interrupt(struct ballast_core *core);
/* One batch towards the target. */
u32 ballast_core_step(struct ballast_core *core, u64 *wait_ns);
/* Asks for @need_pages at once; pages that the next steps will bring. */
u64 ballast_core_pressure(struct ballast_core *core, u64 need_pages);
/* From now on gives everything back: step until BALLAST_IDLE. */
void ballast_core_drain(struct ballast_core *core);
/* Leaves Ballast: the list page is the kernel's again. */
void ballast_core_goodbye(struct ballast_core *core);
void ballast_core_status(const struct ballast_core *core, struct ballast_status *status);
/* The CPU target fetched last, 0 for none, with its sequence in 63:32. */
u64 ballast_core_cpu_target(const struct ballast_core *core);

/* --- The core's other half: CPUs. One call at a time, apart from the first half. May sleep for long. --- */

struct ballast_cpus;

struct ballast_cpus_status {
	u64 taken_offline;
	u64 brought_online;
	u64 denied;
	u64 failed;
};

size_t ballast_cpus_size(void);
void ballast_cpus_init(struct ballast_cpus *cpus);
/* What ballast_core_cpu_target() says. */
void ballast_cpus_target(struct ballast_cpus *cpus, u64 target);
/* Moves one CPU at most: enum ballast_next. */
u32 ballast_cpus_step(struct ballast_cpus *cpus, u64 *wait_ns);
/* From now on brings all back online: step until it is no longer BALLAST_AGAIN. */
void ballast_cpus_drain(struct ballast_cpus *cpus);
void ballast_cpus_status(const struct ballast_cpus *cpus, struct ballast_cpus_status *status);

/* --- What the core asks of the kernel (pages.c). A run is 2^order pages, order 0, 4 or 9. --- */

/* Pages that can be given before the floor is reached. */
u64 ballast_front_headroom(void);
/* Takes up to @runs runs from the allocator; how many. @strained: it had to reclaim, or failed. */
u32 ballast_front_take(u32 order, u64 *ipas, u32 runs, bool *strained);
/* Gives a backed run to the allocator. */
void ballast_front_give(u64 ipa, u32 order);
/* Records a run that is not backed. */
void ballast_front_hold(u64 ipa, u32 order);
/* Takes a run out of the record. */
bool ballast_front_pick(u32 order, u64 *ipa);
/* The index-th range of RAM that the guest may ever have. */
bool ballast_front_ram(u32 index, u64 *ipa, u64 *pages);
/* A batch is over. */
void ballast_front_settle(void);
/* The core has panicked. */
void __noreturn ballast_front_panic(void);

/* --- What the core asks of the kernel's hotplug (cpus.c). --- */

/* CPU numbers are below this. */
u32 ballast_front_cpus(void);
/* 0: absent, 1: offline, 2: online. */
u32 ballast_front_cpu_state(u32 cpu);
/* 0: done, 1: Ballast has no core for it, 2: not possible now. */
u32 ballast_front_cpu_take_offline(u32 cpu);
u32 ballast_front_cpu_bring_online(u32 cpu);

/* --- Between cpus.c and main.c. --- */

int ballast_cpus_start(void);
void ballast_cpus_stop(void);
/* A target may be new; from any context that has fetched it. */
void ballast_cpus_follow(u64 target);
extern const struct attribute_group ballast_cpus_group;

/* --- Between pages.c and main.c. --- */

/* Reads the RAM ranges from the device tree and starts to watch for reclaim. */
int ballast_pages_init(u64 floor_pages);
void ballast_pages_exit(void);
/* While true, ballast_front_hold() gets runs that this module has not taken itself. */
void ballast_pages_adopting(bool adopting);
/* Look at each page that comes back, and count those that do not read zero. */
extern bool ballast_verify;
extern unsigned int ballast_largest_order;
extern atomic_long_t ballast_pages_not_zero;

/* --- Reports for the resource scheduler (report.c). --- */

void ballast_report_start(void);
void ballast_report_stop(void);
/* Ballast asks. */
void ballast_report_now(void);
/* The kernel reclaims memory; from any context. */
void ballast_report_reclaim(void);

/* --- The monitor's calls (control.c). --- */

/* Makes the device if this guest has the right to them. */
int ballast_control_init(void);
void ballast_control_exit(void);

/* --- Channels (channel.c), apart from the balloon. --- */

/* Of guest-balloon/abi, in which they are kept the same by guest-balloon/tests/header.rs. */
#define BALLAST_FN_SIGNAL 0xc6000010u
#define BALLAST_FN_CHANNEL 0xc6000011u
#define BALLAST_PEER_STOPPED (-7)
#define BALLAST_PEER_RUNNING ((uint64_t)1 << 32)

/* What read() on /dev/ballast-LABEL gives. */
struct ballast_channel_event {
	u32 events;		/* bit 0: rung; 1: the other guest has started; 2: it has stopped; 31: it runs now */
	u32 generation;		/* how often the other guest has started */
};
#define BALLAST_EVENT_RUNNING (1u << 31)

struct platform_driver;
extern struct platform_driver ballast_channel_driver;

#endif
