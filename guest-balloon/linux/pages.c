// SPDX-License-Identifier: GPL-2.0-only
/*
 * The allocator's side of the balloon: takes runs of pages, keeps the record of those that are not backed, and
 * gives them back.
 *
 * A run is taken without __GFP_COMP (freeing a compound block costs three times as much). Its head page has a
 * reference count of one, the others of zero. From before it is handed over until after it has come back each of
 * its pages is marked PageOffline, so that nobody (/proc/kcore, a crash dump) reads what is not there. The record
 * is one list for each order, linked through page->lru of the heads.
 *
 * Runs that were never taken from the allocator are "adopted": the balloon inflated at boot, whose pages are
 * PageReserved, and what an earlier load of this module left. Their reference counts are set right when they are
 * given. page->private of a head says which it is.
 *
 * Ballast counts in pages of 4 KiB, the kernel in its own, which may be of 16 or 64 KiB: an "order" is Ballast's, and
 * of a kernel's page it is at least GRANULE, so that none is ever handed over in part.
 *
 * Everything here runs under the lock that serialises the driver core, except where it says otherwise.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/of.h>
#include <linux/of_address.h>
#include <linux/shrinker.h>
#include <linux/string.h>
#include <linux/version.h>
#include <linux/vmstat.h>

#include "ballast.h"

#define MAX_RAM_RANGES 16

/* Does not reclaim at all, and then only lightly; never touches the emergency reserves. */
#define GFP_LIGHT (GFP_HIGHUSER | __GFP_NORETRY | __GFP_NOWARN | __GFP_NOMEMALLOC)
#define GFP_NONE (GFP_LIGHT & ~__GFP_DIRECT_RECLAIM)

#define RUN_TAKEN 0
#define RUN_ADOPTED BIT(0)
/* It was held and is on its way back, so Ballast has scrubbed it. */
#define RUN_RETURNS BIT(1)

/* The orders there are: the kernel's own page, 64 KiB (where that is not the same), 2 MiB. */
static const unsigned int order_of[] = {
#if GRANULE < 4
	GRANULE,
#endif
	4, 9
};
#define ORDERS ARRAY_SIZE(order_of)

static struct list_head held[ORDERS];

static struct { u64 ipa, pages; } ram[MAX_RAM_RANGES];
static u32 ram_ranges;
static u64 floor_pages;
static bool adopting;
bool ballast_verify;
unsigned int ballast_largest_order = 9;
atomic_long_t ballast_pages_not_zero;
/* Somebody reclaims memory: set by the shrinker, in any context. */
static atomic_t reclaim_seen;
/* Who takes pages for the balloon at this moment. */
static struct task_struct *taker;

/* What adjust_managed_page_count() is owed, per zone, until the batch is over: 39 instructions a call. */
static struct { struct page *page; long count; } managed[MAX_NR_ZONES];

static void count_managed(struct page *page, long count)
{
	unsigned int zone = page_zonenum(page);

	managed[zone].page = page;
	managed[zone].count += count;
}

void ballast_front_settle(void)
{
	unsigned int zone;

	for (zone = 0; zone < MAX_NR_ZONES; zone++) {
		if (managed[zone].count)
			adjust_managed_page_count(managed[zone].page, managed[zone].count);
		managed[zone].count = 0;
	}
}

static unsigned int index_of(u32 order)
{
	return order == 9 ? ORDERS - 1 : order == 4 ? ORDERS - 2 : 0;
}

/* The kernel's pages in a run. */
static unsigned long pages_of(u32 order)
{
	return 1UL << (order - GRANULE);
}

u32 ballast_front_granule(void)
{
	return GRANULE;
}

u64 ballast_front_headroom(void)
{
	/* What is kept for contiguous allocations the kernel cannot use for itself. */
	long available = si_mem_available() - global_zone_page_state(NR_FREE_CMA_PAGES);

	return available > 0 && available > floor_pages ? (available - floor_pages) << GRANULE : 0;
}

static void mark_offline(struct page *page, u32 order)
{
	unsigned long i;

	for (i = 0; i < pages_of(order); i++)
		__SetPageOffline(page + i);
}

static u32 take_singles(u64 *ipas, u32 runs, gfp_t gfp)
{
	struct page *pages[32] = {};
	u32 i, taken;

	runs = min_t(u32, runs, ARRAY_SIZE(pages));
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	taken = alloc_pages_bulk(gfp, runs, pages);
#else
	taken = alloc_pages_bulk_array(gfp, runs, pages);
#endif
	for (i = 0; i < taken; i++)
		ipas[i] = page_to_phys(pages[i]);
	return taken;
}

static u32 take_runs(u32 order, u64 *ipas, u32 runs, gfp_t gfp)
{
	u32 taken;

	if (order == GRANULE)
		return take_singles(ipas, runs, gfp);
	for (taken = 0; taken < runs; taken++) {
		struct page *page = alloc_pages(gfp, order - GRANULE);

		if (!page)
			break;
		ipas[taken] = page_to_phys(page);
	}
	return taken;
}

u32 ballast_front_take(u32 order, u64 *ipas, u32 runs, bool *strained)
{
	u32 taken = 0, more, i;

	*strained = atomic_xchg(&reclaim_seen, 0);
	if (order > max_t(u32, READ_ONCE(ballast_largest_order), GRANULE))
		return 0;
	while (taken < runs) {
		more = take_runs(order, ipas + taken, runs - taken, GFP_NONE);
		if (!more) {
			*strained = true;
			break;
		}
		taken += more;
	}
	/* Once, lightly: it counts as strain, so the driver slows down. */
	if (!taken) {
		WRITE_ONCE(taker, current);
		taken = take_runs(order, ipas, 1, GFP_LIGHT);
		WRITE_ONCE(taker, NULL);
	}

	/* Waits for readers of /proc/kcore that have seen one of these pages online. */
	page_offline_begin();
	for (i = 0; i < taken; i++) {
		struct page *page = phys_to_page(ipas[i]);

		set_page_private(page, RUN_TAKEN);
		mark_offline(page, order);
		count_managed(page, -(long)pages_of(order));
	}
	page_offline_end();
	return taken;
}

void ballast_front_give(u64 ipa, u32 order)
{
	struct page *page = phys_to_page(ipa);
	bool is_adopted = page_private(page) & RUN_ADOPTED;
	bool returns = page_private(page) & RUN_RETURNS;
	unsigned long i;

	set_page_private(page, 0);
	if (returns && ballast_verify)
		for (i = 0; i < pages_of(order); i++)
			if (memchr_inv(page_address(page + i), 0, PAGE_SIZE))
				atomic_long_inc(&ballast_pages_not_zero);
	for (i = 0; i < pages_of(order); i++) {
		__ClearPageOffline(page + i);
		if (is_adopted) {
			ClearPageReserved(page + i);
			set_page_count(page + i, i == 0);
		}
	}
	count_managed(page, pages_of(order));
	__free_pages(page, order - GRANULE);
}

/* Whether these pages are in nobody's hands but a balloon's. */
static bool may_adopt(struct page *page, u32 order)
{
	unsigned long i;

	for (i = 0; i < pages_of(order); i++)
		if (!PageReserved(page + i) && !PageOffline(page + i))
			return false;
	return true;
}

void ballast_front_hold(u64 ipa, u32 order)
{
	struct page *page = phys_to_page(ipa);

	if (adopting) {
		if (!pfn_valid(PHYS_PFN(ipa)) || !may_adopt(page, order)) {
			pr_err("memory at %#llx (order %u) is not there, but the kernel uses it\n", ipa, order);
			return;
		}
		set_page_private(page, RUN_ADOPTED);
		mark_offline(page, order);
	}
	list_add(&page->lru, &held[index_of(order)]);
}

/* Takes a run of this order out of the record, or NULL; splits a larger one if need be (at most twice). */
static struct page *pick(unsigned int index)
{
	struct page *page, *part;
	unsigned long i, pages = pages_of(order_of[index]);

	page = list_first_entry_or_null(&held[index], struct page, lru);
	if (page) {
		list_del(&page->lru);
		return page;
	}
	if (index + 1 == ORDERS)
		return NULL;
	page = pick(index + 1);
	if (!page)
		return NULL;
	for (i = pages; i < pages_of(order_of[index + 1]); i += pages) {
		part = page + i;
		/* A tail until now: as the head of its own run it needs its reference. */
		set_page_count(part, 1);
		set_page_private(part, page_private(page));
		list_add_tail(&part->lru, &held[index]);
	}
	return page;
}

bool ballast_front_pick(u32 order, u64 *ipa)
{
	struct page *page = pick(index_of(order));

	if (page) {
		set_page_private(page, page_private(page) | RUN_RETURNS);
		*ipa = page_to_phys(page);
	}
	return page;
}

bool ballast_front_ram(u32 index, u64 *ipa, u64 *pages)
{
	if (index >= ram_ranges)
		return false;
	*ipa = ram[index].ipa;
	*pages = ram[index].pages;
	return true;
}

void __noreturn ballast_front_panic(void)
{
	panic("ballast: the balloon driver's core has panicked");
}

/* Reclaim anywhere in the system is the sign to slow down; there is nothing to shrink. */
static unsigned long count_reclaim(struct shrinker *shrinker, struct shrink_control *control)
{
	atomic_set(&reclaim_seen, 1);
	/* The balloon's own doing is no sign that the guest lacks memory. */
	if (READ_ONCE(taker) != current)
		ballast_report_reclaim();
	return 0;
}

static unsigned long scan_nothing(struct shrinker *shrinker, struct shrink_control *control)
{
	return SHRINK_STOP;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
static struct shrinker *shrinker;

static int watch_reclaim(void)
{
	shrinker = shrinker_alloc(0, "ballast-balloon");
	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = count_reclaim;
	shrinker->scan_objects = scan_nothing;
	shrinker_register(shrinker);
	return 0;
}

static void unwatch_reclaim(void)
{
	shrinker_free(shrinker);
}
#else
static struct shrinker shrinker = {
	.count_objects = count_reclaim,
	.scan_objects = scan_nothing,
	.seeks = DEFAULT_SEEKS,
};

static int watch_reclaim(void)
{
	return register_shrinker(&shrinker, "ballast-balloon");
}

static void unwatch_reclaim(void)
{
	unregister_shrinker(&shrinker);
}
#endif

void ballast_pages_adopting(bool on)
{
	adopting = on;
}

int ballast_pages_init(u64 floor)
{
	struct device_node *node;
	struct resource range;
	int i;

	floor_pages = floor;
	for (i = 0; i < ORDERS; i++)
		INIT_LIST_HEAD(&held[i]);
	ram_ranges = 0;
	for_each_node_by_type(node, "memory") {
		for (i = 0; ram_ranges < MAX_RAM_RANGES && !of_address_to_resource(node, i, &range); i++) {
			ram[ram_ranges].ipa = range.start;
			ram[ram_ranges].pages = resource_size(&range) >> BALLAST_PAGE_SHIFT;
			ram_ranges++;
		}
	}
	if (!ram_ranges) {
		pr_err("no memory node in the device tree\n");
		return -ENODEV;
	}
	return watch_reclaim();
}

/* What is still held stays marked offline, for the next load to adopt. */
void ballast_pages_exit(void)
{
	unwatch_reclaim();
}
