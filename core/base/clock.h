/* SPDX-License-Identifier: Apache-2.0 */
/* Time. Deadlines use the monotonic clock only, so that NTP steps cannot expire requests. */
#ifndef CORE_BASE_CLOCK_H
#define CORE_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

uint64_t clock_ns(void);

/* Seconds since 1970 UTC; for passports and file names, never for deadlines. */
int64_t clock_wall_s(void);

#endif
