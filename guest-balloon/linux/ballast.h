/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The boundary between the module's parts: the driver core (Rust, ballast_driver.h), the allocator's side (pages.c), the
 * CPU hotplug's (cpus.c) and the device (main.c).
 */
#ifndef BALLAST_H
#define BALLAST_H

#include <linux/atomic.h>
#include <linux/types.h>

#include "ballast_driver.h"

/* Ballast's pages, and the order of the kernel's own in them. */
#define BALLAST_PAGE_SHIFT 12
#define GRANULE (PAGE_SHIFT - BALLAST_PAGE_SHIFT)

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
