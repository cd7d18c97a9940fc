// SPDX-License-Identifier: GPL-2.0-only
/*
 * What this guest uses of its memory, for Ballast's resource scheduler.
 *
 * There is no timer at rest. A report is made when the kernel reclaims, and then four times a second until nothing
 * changes any more, and when Ballast asks, which it does by its interrupt while other guests lack memory. Numbers
 * that are nearly the same are not reported.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/arm-smccc.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/swap.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include "ballast.h"

/* guest-balloon/abi: function::REPORT. */
#define FN_REPORT 0xc6000008u

#define PERIOD (HZ / 4)
/* What is said of a period in which somebody had to wait for reclaim: a tenth of the time. */
#define PRESSURE_RECLAIM 100

static void report(struct work_struct *work);
static DECLARE_DELAYED_WORK(reporter, report);
static bool running;
/* Reclaim was seen since the last look, and somebody waited for it. Set by the shrinker, in any context. */
static atomic_t reclaimed, waited;

static struct {
	u64 available, refault_rate, refaults, at_ns;
	u32 pressure;
	bool valid;
} last;

static u64 refaults_now(void)
{
	return global_node_page_state(WORKINGSET_REFAULT_ANON) +
	       global_node_page_state(WORKINGSET_REFAULT_FILE);
}

static bool differs(u64 was, u64 is, u64 least)
{
	u64 far = was > is ? was - is : is - was;

	return far > max(least, max(was, is) / 32);
}

static void report(struct work_struct *work)
{
	bool reclaims = atomic_xchg(&reclaimed, 0);
	u32 pressure = atomic_xchg(&waited, 0) ? PRESSURE_RECLAIM : 0;
	u64 free = global_zone_page_state(NR_FREE_PAGES);
	u64 available = max(si_mem_available(), 0L);
	u64 now = ktime_get_ns(), refaults = refaults_now(), rate = 0;
	struct arm_smccc_res res;
	bool news;

	if (last.valid && now > last.at_ns && refaults > last.refaults)
		rate = div64_u64((refaults - last.refaults) * NSEC_PER_SEC, now - last.at_ns);
	last.refaults = refaults;
	last.at_ns = now;
	news = !last.valid || differs(last.available, available, SZ_1M >> PAGE_SHIFT) ||
	       differs(last.refault_rate, rate, 32) || last.pressure != pressure;
	if (news) {
		arm_smccc_1_1_hvc(FN_REPORT, free, available, pressure, rate, &res);
		last.available = available;
		last.refault_rate = rate;
		last.pressure = pressure;
		last.valid = true;
	}
	if (READ_ONCE(running) && (news || reclaims))
		schedule_delayed_work(&reporter, PERIOD);
}

void ballast_report_reclaim(void)
{
	atomic_set(&reclaimed, 1);
	if (!current_is_kswapd())
		atomic_set(&waited, 1);
	if (READ_ONCE(running))
		schedule_delayed_work(&reporter, 0);
}

void ballast_report_now(void)
{
	if (READ_ONCE(running))
		schedule_delayed_work(&reporter, 0);
}

void ballast_report_start(void)
{
	last.valid = false;
	WRITE_ONCE(running, true);
	ballast_report_now();
}

void ballast_report_stop(void)
{
	WRITE_ONCE(running, false);
	cancel_delayed_work_sync(&reporter);
}
