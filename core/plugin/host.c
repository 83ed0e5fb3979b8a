/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log, memory, threads and time for plugins. Every block carries a header in front and hangs in a list, so that a
 * plugin's leak is found, logged and given back when its instance ends. All functions: any thread.
 */
#include "plugin/host.h"

#include <assert.h>
#include <inttypes.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/ledger.h"
#include "base/log.h"
#include "base/mem.h"
#include "plugin/os.h"

#define MAX_ALIGN 4096
#define BLOCK_MAGIC UINT64_C(0x6b636f6c62746e74)

struct host {
    tn_host table;
    char name[32];
    struct ledger_owner *owner; /* NULL: not booked */
    pthread_mutex_t lock;       /* guards the list of blocks */
    struct block *blocks;
    _Atomic uint64_t bytes;
    _Atomic uint32_t threads;
};

/* Stands directly in front of what the plugin gets. */
struct block {
    struct block *prev, *next;
    struct host *host;
    void *start; /* of the allocation */
    uint64_t bytes;
    uint64_t magic;
};

struct tn_thread {
    pthread_t id;
    void (*fn)(void *);
    void *arg;
};

static struct host *host_of(tn_host_ctx *ctx)
{
    return (struct host *)ctx;
}

static void host_log(tn_host_ctx *ctx, uint32_t level, const char *msg)
{
    if (level < TN_LOG_ERROR || level > TN_LOG_DEBUG)
        level = TN_LOG_ERROR;
    log_write(level, "plugin %s: %s", host_of(ctx)->name, msg ? msg : "(null)");
}

/* -- Memory --------------------------------------------------------------------------------------- */

static void *host_alloc(tn_host_ctx *ctx, uint64_t bytes, uint64_t align)
{
    struct host *h = host_of(ctx);
    uint64_t head, total;
    struct block *b;
    unsigned char *start;

    if (align == 0 || (align & (align - 1)) != 0 || align > MAX_ALIGN) {
        log_error("plugin %s: asked for memory aligned to %" PRIu64 " bytes", h->name, align);
        return NULL;
    }
    if (align < alignof(max_align_t))
        align = alignof(max_align_t);
    head = align_up(sizeof *b, align);
    if (!checked_add(head, bytes, &total) || total > SIZE_MAX)
        return NULL;
    start = mem_aligned((size_t)total, (size_t)align);
    if (!start)
        return NULL;
    b = (struct block *)(void *)(start + head) - 1;
    *b = (struct block){NULL, NULL, h, start, bytes, BLOCK_MAGIC};
    pthread_mutex_lock(&h->lock);
    b->next = h->blocks;
    if (b->next)
        b->next->prev = b;
    h->blocks = b;
    pthread_mutex_unlock(&h->lock);
    atomic_fetch_add(&h->bytes, bytes);
    if (h->owner)
        ledger_take(h->owner, bytes);
    return start + head;
}

static void unlink_block(struct host *h, struct block *b)
{
    pthread_mutex_lock(&h->lock);
    if (b->prev)
        b->prev->next = b->next;
    else
        h->blocks = b->next;
    if (b->next)
        b->next->prev = b->prev;
    pthread_mutex_unlock(&h->lock);
}

static void host_free_block(tn_host_ctx *ctx, void *ptr)
{
    struct host *h = host_of(ctx);
    struct block *b;

    if (!ptr)
        return;
    b = (struct block *)ptr - 1;
    if (b->magic != BLOCK_MAGIC || b->host != h) {
        /* Freeing it would turn the plugin's mistake into a corrupt heap. */
        log_error("plugin %s: gave back memory that it did not get here, or wrote in front of it",
                  h->name);
        return;
    }
    b->magic = 0;
    unlink_block(h, b);
    atomic_fetch_sub(&h->bytes, b->bytes);
    if (h->owner)
        ledger_give(h->owner, b->bytes);
    mem_free(b->start);
}

/* -- Threads ---------------------------------------------------------------------------------------- */

static void *thread_main(void *arg)
{
    struct tn_thread *t = arg;

    t->fn(t->arg);
    return NULL;
}

static int32_t host_thread_spawn(tn_host_ctx *ctx, const char *name, int32_t cpu,
                                 void (*fn)(void *), void *arg, tn_thread **out, tn_err *err)
{
    struct host *h = host_of(ctx);
    int32_t system_cpu = cpu < 0 ? -1 : os_cpu_at((uint32_t)cpu);
    struct tn_thread *t;
    int e;

    if (!fn || !out)
        return tn_err_set(err, TN_E_INVALID,
                          "thread_spawn needs a function and a place for the result");
    if (cpu >= 0 && system_cpu < 0)
        return tn_err_set(err, TN_E_RANGE,
                          "there is no CPU %" PRId32 " among the %" PRIu32 " of this process", cpu,
                          os_cpu_count());
    t = mem_zalloc(sizeof *t);
    if (!t)
        return err_nomem(err, "a thread");
    t->fn = fn;
    t->arg = arg;
    atomic_fetch_add(&h->threads, 1);
    e = os_thread_start(name, system_cpu, thread_main, t, &t->id);
    if (e != 0) {
        atomic_fetch_sub(&h->threads, 1);
        mem_free(t);
        return err_errno(err, "start the thread", name, e);
    }
    *out = t;
    return TN_OK;
}

static void host_thread_join(tn_host_ctx *ctx, tn_thread *thread)
{
    if (!thread)
        return;
    pthread_join(thread->id, NULL);
    mem_free(thread);
    atomic_fetch_sub(&host_of(ctx)->threads, 1);
}

static uint64_t host_now_ns(tn_host_ctx *ctx)
{
    (void)ctx;
    return clock_ns();
}

/* -- Life --------------------------------------------------------------------------------------------- */

int32_t host_new(const char *name, const uint64_t cpu[2], struct ledger *ledger, struct host **out,
                 tn_err *err)
{
    struct host *h = mem_zalloc(sizeof *h);
    char owner[48];
    int32_t rc = TN_OK;

    if (!h)
        return err_nomem(err, "a plugin");
    snprintf(h->name, sizeof h->name, "%s", name);
    h->table = (tn_host){.h = TN_HDR(tn_host),
                         .cpu = {cpu[0], cpu[1]},
                         .n_cpus = os_cpu_count(),
                         .ctx = (tn_host_ctx *)h,
                         .log = host_log,
                         .alloc = host_alloc,
                         .free = host_free_block,
                         .thread_spawn = host_thread_spawn,
                         .thread_join = host_thread_join,
                         .now_ns = host_now_ns};
    snprintf(owner, sizeof owner, "plugin %s", name);
    if (ledger)
        rc = ledger_owner(ledger, owner, "host", &h->owner, err);
    if (rc != TN_OK) {
        mem_free(h);
        return rc;
    }
    pthread_mutex_init(&h->lock, NULL);
    *out = h;
    return TN_OK;
}

const tn_host *host_table(const struct host *h)
{
    return &h->table;
}

uint64_t host_bytes(const struct host *h)
{
    return atomic_load(&h->bytes);
}

uint32_t host_threads(const struct host *h)
{
    return atomic_load(&h->threads);
}

bool host_free(struct host *h)
{
    if (!h)
        return true;
    if (host_threads(h) > 0) {
        log_error("plugin %s: left %" PRIu32 " threads running; its memory is kept", h->name,
                  host_threads(h));
        return false;
    }
    if (host_bytes(h) > 0)
        log_warn("plugin %s: left %" PRIu64 " bytes behind", h->name, host_bytes(h));
    while (h->blocks)
        host_free_block((tn_host_ctx *)h, h->blocks + 1);
    pthread_mutex_destroy(&h->lock);
    mem_free(h);
    return true;
}
