/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A page allocator as small as can be, and the balloon's side of it. Every free page holds its own address, which is
 * checked before it is given away; a page that comes back must read zero.
 */
#include <ballast.h>
#include <ballast_driver.h>

#include "board.h"
#include "guest.h"

#define PAGE 4096ul
#define RAM 0x40000000ul
/* The first 2 MiB are the image. */
#define FIRST 512u
#define PAGES ((uint32_t)(RAM_MIB * 256u))
/* What the guest keeps for itself. */
#define FLOOR_PAGES 1024u

enum page { OFFERED, FREE, HELD };

/* OFFERED: handed to Ballast, or to be so; HELD: not backed. */
static uint8_t pages[PAGES];
static uint32_t free_pages;

void fail(const char *what, uint64_t number)
{
	print("FAIL ");
	print(what);
	print(" ");
	print_number(number);
	print("\n");
	power_off();
}

static volatile uint64_t *words(uint32_t page)
{
	return (volatile uint64_t *)(RAM + page * PAGE);
}

static uint32_t index_of(uint64_t ipa)
{
	return (uint32_t)((ipa - RAM) / PAGE);
}

static void set(uint32_t first, uint32_t count, enum page state)
{
	while (count--)
		pages[first++] = state;
}

/* All pages are free at first; those that turn out not to be backed are held. */
void pages_init(void)
{
	set(0, FIRST, OFFERED);
	set(FIRST, PAGES - FIRST, FREE);
	free_pages = PAGES - FIRST;
}

/* Fills what is free, after hello: what is held must not be touched. */
void pages_fill(void)
{
	for (uint32_t page = FIRST; page < PAGES; page++)
		if (pages[page] == FREE)
			words(page)[0] = words(page)[511] = page;
}

uint64_t pages_free(void)
{
	return free_pages;
}

/* An aligned run of 2^order pages in this state. */
static uint32_t find(uint32_t order, enum page state)
{
	uint32_t count = 1u << order, page, i;

	for (page = FIRST; page < PAGES; page += count) {
		for (i = 0; i < count && pages[page + i] == state; i++)
			;
		if (i == count)
			return page;
	}
	return PAGES;
}

uint32_t ballast_front_granule(void)
{
	return 0;
}

uint64_t ballast_front_headroom(void)
{
	return free_pages > FLOOR_PAGES ? free_pages - FLOOR_PAGES : 0;
}

uint32_t ballast_front_take(uint32_t order, uint64_t *ipas, uint32_t runs, bool *strained)
{
	uint32_t taken, page, i;

	for (taken = 0; taken < runs; taken++) {
		page = find(order, FREE);
		if (page == PAGES) {
			*strained = true;
			break;
		}
		for (i = 0; i < 1u << order; i++)
			if (words(page + i)[0] != page + i || words(page + i)[511] != page + i)
				fail("page changed", page + i);
		set(page, 1u << order, OFFERED);
		free_pages -= 1u << order;
		ipas[taken] = RAM + page * PAGE;
	}
	return taken;
}

void ballast_front_give(uint64_t ipa, uint32_t order)
{
	uint32_t page = index_of(ipa), i, word;

	for (i = 0; i < 1u << order; i++) {
		/* What Ballast would not take comes back as it was. */
		bool is_own = words(page + i)[0] == page + i && words(page + i)[511] == page + i;

		for (word = 0; !is_own && word < 512; word++)
			if (words(page + i)[word])
				fail("page not zero", page + i);
		words(page + i)[0] = words(page + i)[511] = page + i;
	}
	set(page, 1u << order, FREE);
	free_pages += 1u << order;
}

void ballast_front_hold(uint64_t ipa, uint32_t order)
{
	uint32_t page = index_of(ipa);

	if (pages[page] == FREE)
		free_pages -= 1u << order;
	set(page, 1u << order, HELD);
}

bool ballast_front_pick(uint32_t order, uint64_t *ipa)
{
	uint32_t page = find(order, HELD);

	if (page == PAGES)
		return false;
	set(page, 1u << order, OFFERED);
	*ipa = RAM + page * PAGE;
	return true;
}

bool ballast_front_ram(uint32_t index, uint64_t *ipa, uint64_t *count)
{
	*ipa = RAM;
	*count = PAGES;
	return index == 0;
}

void ballast_front_settle(void)
{
}

void ballast_front_panic(void)
{
	fail("the driver core panicked", 0);
}
