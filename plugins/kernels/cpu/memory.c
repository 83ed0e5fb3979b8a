/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of a cpu device, and how much there is. Any thread; no state but the blocks themselves. */
#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGN 256u /* what tn_device_api promises */
#define HUGE_PAGE (2u * 1024 * 1024)
#define MAP_FROM (1024u * 1024) /* blocks from this size on are mapped on their own */
#define HEADER_PAGE 4096u       /* of a mapped block: the page before it */

/* Lies just before every block. */
struct header {
    void *start;     /* of the mapping, or what host->alloc gave */
    uint64_t mapped; /* bytes of the mapping; 0: from host->alloc */
};

static struct header *header_of(void *ptr)
{
    return (struct header *)((char *)ptr - sizeof(struct header));
}

static void *map_block(uint64_t bytes)
{
    uint64_t body = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    uint64_t total = body + 2 * (uint64_t)HUGE_PAGE; /* room for the header and to align the body */
    char *start, *block;

    if (bytes > UINT64_MAX / 2)
        return NULL;
    start = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    uint64_t skip = HUGE_PAGE - (uint64_t)(uintptr_t)start % HUGE_PAGE;
    block =
        start + skip; /* a boundary at least one page after start, since start is page-aligned */
#ifdef MADV_HUGEPAGE
    madvise(block, body, MADV_HUGEPAGE); /* a wish: without it things are slower, not wrong */
#endif
    if (skip > HEADER_PAGE) {
        munmap(start, skip - HEADER_PAGE);
        total -= skip - HEADER_PAGE;
        start = block - HEADER_PAGE;
    }
    munmap(block + body, (uint64_t)(start + total - (block + body)));
    *header_of(block) = (struct header){start, (uint64_t)(block + body - start)};
    return block;
}

void *memory_alloc(const tn_host *host, uint64_t bytes)
{
    char *start;

    if (bytes >= MAP_FROM)
        return map_block(bytes);
    start = host->alloc(host->ctx, bytes + ALIGN, ALIGN);
    if (!start)
        return NULL;
    *header_of(start + ALIGN) = (struct header){start, 0};
    return start + ALIGN;
}

void memory_free(const tn_host *host, void *ptr)
{
    struct header h;

    if (!ptr)
        return;
    h = *header_of(ptr);
    if (h.mapped)
        munmap(h.start, h.mapped);
    else
        host->free(host->ctx, h.start);
}

/* The number after the word `key` in the text file `path`, or at its start if key is ""; UINT64_MAX if
 * there is none (a control group without a limit says "max"). */
static uint64_t read_number(const char *path, const char *key)
{
    char line[256];
    uint64_t value = UINT64_MAX;
    size_t n = strlen(key);
    FILE *f = fopen(path, "re");

    if (!f)
        return value;
    while (value == UINT64_MAX && fgets(line, sizeof line, f)) {
        char *end;
        if (strncmp(line, key, n) != 0 || (n && line[n] != ' ' && line[n] != ':'))
            continue;
        const char *digits = line + n + (n && line[n] == ':');
        unsigned long long v = strtoull(digits, &end, 10);
        if (end != digits)
            value = v;
    }
    fclose(f);
    return value;
}

int32_t memory_info(uint64_t *free_bytes, uint64_t *total_bytes, tn_err *err)
{
    uint64_t total = read_number("/proc/meminfo", "MemTotal");
    uint64_t available = read_number("/proc/meminfo", "MemAvailable");
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max", "");
    uint64_t used = read_number("/sys/fs/cgroup/memory.current", "");
    uint64_t cache = read_number("/sys/fs/cgroup/memory.stat", "file");

    if (total == UINT64_MAX || available == UINT64_MAX)
        return tn_err_set(err, TN_E_IO, "/proc/meminfo tells no MemTotal or MemAvailable");
    total *= 1024;
    available *= 1024;
    if (limit < total && used != UINT64_MAX) {
        if (cache <= used)
            used -= cache; /* page cache is given up before the limit bites */
        total = limit;
        if (available > limit - (used < limit ? used : limit))
            available = limit - (used < limit ? used : limit);
    }
    *free_bytes = available;
    *total_bytes = total;
    return TN_OK;
}
