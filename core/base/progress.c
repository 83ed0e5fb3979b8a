/* SPDX-License-Identifier: Apache-2.0 */
#include "base/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/strbuf.h"

#define REDRAW_NS (100 * NS_PER_MS)
#define BAR 30

void progress_begin(struct progress *p, const char *what, uint64_t total_bytes, bool quiet)
{
    *p = (struct progress){.what = what,
                           .total = total_bytes,
                           .start_ns = clock_ns(),
                           .last_tenth = -1,
                           .tty = isatty(STDERR_FILENO),
                           .quiet = quiet};
}

static void draw(const struct progress *p, uint64_t done, uint64_t now)
{
    double part = p->total ? (double)done / (double)p->total : 1.0;
    double secs = (double)(now - p->start_ns) / 1e9;
    struct strbuf line = STRBUF_INIT;
    int filled = (int)(part * BAR);

    strbuf_printf(&line, "%s%s ", p->tty ? "\r" : "", p->what);
    if (p->tty)
        strbuf_printf(&line, "[%.*s%*s] ", filled, "##############################", BAR - filled,
                      "");
    strbuf_printf(&line, "%3d%% ", (int)(part * 100));
    if (p->counted) {
        strbuf_printf(&line, "%llu of %llu", (unsigned long long)done,
                      (unsigned long long)p->total);
    } else {
        strbuf_put_bytes(&line, done);
        strbuf_puts(&line, " of ");
        strbuf_put_bytes(&line, p->total);
    }
    if (secs > 0.2 && !p->counted) {
        strbuf_puts(&line, ", ");
        strbuf_put_bytes(&line, (uint64_t)((double)done / secs));
        strbuf_puts(&line, "/s");
    }
    fprintf(stderr, "%s%s", strbuf_str(&line), p->tty ? "\033[K" : "\n");
    strbuf_release(&line);
}

void progress_update(struct progress *p, uint64_t done)
{
    uint64_t now = clock_ns();
    int tenth = p->total ? (int)(done * 10 / p->total) : 10;

    if (p->quiet)
        return;
    if (p->tty ? now - p->last_ns < REDRAW_NS : tenth == p->last_tenth)
        return;
    p->last_ns = now;
    p->last_tenth = tenth;
    draw(p, done, now);
}

void progress_end(struct progress *p, bool ok)
{
    if (p->quiet)
        return;
    if (p->tty) {
        if (ok)
            draw(p, p->total, clock_ns());
        fputc('\n', stderr);
    } else if (ok && p->last_tenth != 10) {
        draw(p, p->total, clock_ns());
    }
}
