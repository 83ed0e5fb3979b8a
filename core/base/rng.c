/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include <sys/random.h>

#include "base/clock.h"

uint64_t rng_entropy(void)
{
    uint64_t v = 0;

    /* Eight bytes never come short once the kernel's pool is ready; before that, time must do. */
    if (getrandom(&v, sizeof v, GRND_NONBLOCK) != (ssize_t)sizeof v) {
        struct rng r = {clock_ns() ^ (uint64_t)(uintptr_t)&v};
        v = rng_u64(&r);
    }
    return v;
}
