/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "base/strbuf.h"

static _Atomic uint32_t max_level = TN_LOG_WARN;
static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* guards the two below and the order of lines */
static log_sink sink;
static void *sink_arg;

void log_set_level(uint32_t level)
{
    atomic_store(&max_level, level);
}

uint32_t log_level(void)
{
    return atomic_load(&max_level);
}

void log_set_sink(log_sink s, void *arg)
{
    pthread_mutex_lock(&lock);
    sink = s;
    sink_arg = arg;
    pthread_mutex_unlock(&lock);
}

static void write_stderr(uint32_t level, const char *line)
{
    static const char *const names[] = {"?", "error", "warn", "info", "debug"};
    struct timespec now;
    struct tm tm;
    char when[32];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    fprintf(stderr, "%s.%03ldZ %-5s %s\n", when, now.tv_nsec / 1000000,
            names[level <= TN_LOG_DEBUG ? level : 0], line);
}

void log_write(uint32_t level, const char *fmt, ...)
{
    char raw[2048];
    struct strbuf line = STRBUF_INIT;
    va_list ap;

    if (level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    strbuf_puts_escaped(&line, raw);
    pthread_mutex_lock(&lock);
    if (sink)
        sink(sink_arg, level, strbuf_str(&line));
    else
        write_stderr(level, strbuf_str(&line));
    pthread_mutex_unlock(&lock);
    strbuf_release(&line);
}
