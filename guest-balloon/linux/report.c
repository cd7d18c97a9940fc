// SPDX-License-Identifier: GPL-2.0-only
/*
 * What this guest uses of its memory, for Ballast's resource scheduler.
 *
 * There is no timer at rest. A report is made when the kernel reclaims, and then four times a second until nothing
 * changes any more, and when Ballast asks, which it does by its interrupt while other guests lack memory. Numbers
 * that are nearly the same are not reported.
 *
 * How many threads run or wait to run is looked at once a second by a deferrable timer: one that wakes no idle CPU, so
 * that at rest there is none. While a CPU is idle the time that the CPUs were busy says it; while none is, the kernel's
 * own count does, which is taken back out of the load average.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/arm-smccc.h>
#include <linux/cpumask.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/loadavg.h>
#include <linux/swap.h>
#include <linux/tick.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include "ballast.h"

/* guest-balloon/abi: function::REPORT. */
#define FN_FEATURES 0xc6000002u
#define FN_REPORT 0xc6000008u
#define FEATURE_RUN_QUEUE (1u << 6)

#define PERIOD (HZ / 4)
/* What is said of a period in which somebody had to wait for reclaim: a tenth of the time. */
#define PRESSURE_RECLAIM 100

static void report(struct work_struct *work);
static DECLARE_DELAYED_WORK(reporter, report);
static void watch(struct work_struct *work);
static DECLARE_DEFERRABLE_WORK(watcher, watch);
static bool running, says_runnable;
/* Reclaim was seen since the last look, and somebody waited for it. Set by the shrinker, in any context. */
static atomic_t reclaimed, waited;

static struct {
	u64 available, refault_rate, refaults, at_ns;
	u32 pressure, runnable;
	bool valid;
} last;

/* The last look at the run queue. */
static struct {
	u64 idle_us[NR_CPUS], at_us, load_at_us, active_at_us;
	unsigned long load;
	u32 active, runnable;
} queue;

/* All in thousandths of a CPU or thread. */
#define MILLI 1000u
/* CPUs this busy are taken to have no time left. */
#define BUSY_MILLI 950u

/*
 * The number of active threads that made the load average what it is, if it was brought up to date once since the last
 * look: it goes a fixed part of the way each five seconds (include/linux/sched/loadavg.h).
 */
static void look_at_load(u64 now_us)
{
	unsigned long load = avenrun[0], was = queue.load;
	/* It was seen up to a look later than it was, each time. */
	bool once = now_us - queue.load_at_us < 8 * USEC_PER_SEC;

	if (load == was)
		return;
	if (queue.load_at_us && once) {
		s64 active = ((s64)load * FIXED_1 - (s64)was * EXP_1) * MILLI;

		active = max(div_s64(active, FIXED_1 - EXP_1) >> FSHIFT, 0);
		queue.active = min_t(s64, active, 64 * MILLI);
		queue.active_at_us = now_us;
	}
	queue.load = load;
	queue.load_at_us = now_us;
}

/* Threads that run or wait to run, since the last look. */
static u32 runnable_now(void)
{
	u64 now_us = ktime_to_us(ktime_get()), elapsed = now_us - queue.at_us;
	u32 busy = 0, cpus = 0;
	int cpu;

	/* Twice within a moment tells nothing. */
	if (queue.runnable && elapsed < 200 * USEC_PER_MSEC)
		return queue.runnable;
	look_at_load(now_us);
	for_each_online_cpu(cpu) {
		u64 wall, idle = get_cpu_idle_time_us(cpu, &wall), was = queue.idle_us[cpu];

		queue.idle_us[cpu] = idle;
		if (idle == (u64)-1 || !elapsed)
			continue;
		idle = min(idle > was ? idle - was : 0, elapsed);
		busy += MILLI - (u32)div64_u64(idle * MILLI, elapsed);
		cpus++;
	}
	queue.at_us = now_us;
	if (cpus && busy >= cpus * BUSY_MILLI) {
		bool fresh = queue.active_at_us && now_us - queue.active_at_us < 8 * USEC_PER_SEC;

		/* An average that does not change is the number itself; one that jumped is at least a hint. */
		busy = max_t(u32, busy, fresh ? queue.active : (queue.load * MILLI) >> FSHIFT);
	}
	queue.runnable = max(busy, 1u);
	return queue.runnable;
}

/* In Ballast's pages, as all that is reported. */
static u64 refaults_now(void)
{
	u64 pages = global_node_page_state(WORKINGSET_REFAULT_ANON) +
		    global_node_page_state(WORKINGSET_REFAULT_FILE);

	return pages << GRANULE;
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
	u64 free = (u64)global_zone_page_state(NR_FREE_PAGES) << GRANULE;
	u64 available = (u64)max(si_mem_available(), 0L) << GRANULE;
	u64 now = ktime_get_ns(), refaults = refaults_now(), rate = 0;
	u32 runnable = says_runnable ? runnable_now() : 0;
	struct arm_smccc_res res;
	bool news;

	if (last.valid && now > last.at_ns && refaults > last.refaults)
		rate = div64_u64((refaults - last.refaults) * NSEC_PER_SEC, now - last.at_ns);
	last.refaults = refaults;
	last.at_ns = now;
	news = !last.valid || differs(last.available, available, SZ_1M >> BALLAST_PAGE_SHIFT) ||
	       differs(last.refault_rate, rate, 32) || last.pressure != pressure ||
	       differs(last.runnable, runnable, MILLI / 4);
	if (news) {
		arm_smccc_1_1_hvc(FN_REPORT, free, available,
				  pressure | (u64)runnable << 32, rate, &res);
		last.available = available;
		last.refault_rate = rate;
		last.pressure = pressure;
		last.runnable = runnable;
		last.valid = true;
	}
	if (READ_ONCE(running) && (news || reclaims))
		schedule_delayed_work(&reporter, PERIOD);
}

static void watch(struct work_struct *work)
{
	u32 runnable = runnable_now();

	if (differs(last.runnable, runnable, MILLI / 4))
		ballast_report_now();
	if (READ_ONCE(running))
		schedule_delayed_work(&watcher, HZ);
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
	struct arm_smccc_res res;

	arm_smccc_1_1_hvc(FN_FEATURES, &res);
	says_runnable = !res.a0 && res.a1 & FEATURE_RUN_QUEUE;
	last.valid = false;
	WRITE_ONCE(running, true);
	if (says_runnable)
		schedule_delayed_work(&watcher, HZ);
	ballast_report_now();
}

void ballast_report_stop(void)
{
	WRITE_ONCE(running, false);
	cancel_delayed_work_sync(&watcher);
	cancel_delayed_work_sync(&reporter);
}
