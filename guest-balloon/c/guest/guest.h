/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the C guest's parts have of each other. */
#ifndef GUEST_H
#define GUEST_H

#include <stdint.h>

/* memory-max-mib of the guest's node. */
#define RAM_MIB 96u

/* pages.c */
void pages_init(void);
void pages_fill(void);
uint64_t pages_free(void);
__attribute__((noreturn)) void fail(const char *what, uint64_t number);

/* pong.c: whether there are channels, and answering on them. */
int has_channels(void);
void pong(void);

#endif
