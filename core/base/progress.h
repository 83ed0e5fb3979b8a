/* SPDX-License-Identifier: Apache-2.0 */
/* Progress of a long task on stderr: a bar that redraws itself on a terminal, else one line per 10 %. */
#ifndef CORE_BASE_PROGRESS_H
#define CORE_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what;
    uint64_t total;
    uint64_t last_ns; /* when it was drawn last */
    uint64_t start_ns;
    int last_tenth;
    bool tty;
    bool quiet;
    bool counted; /* what is done are things, not bytes; set it after progress_begin */
};

void progress_begin(struct progress *p, const char *what, uint64_t total_bytes, bool quiet);
void progress_update(struct progress *p, uint64_t done_bytes);
void progress_end(struct progress *p, bool ok);

#endif
