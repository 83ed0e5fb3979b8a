/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When kernels begin and end, as the device saw it, inside replayed graphs too: a library that CUDA loads into any program
 * (CUDA_INJECTION64_PATH) and that listens through CUPTI. It costs a decode step less than 1%. Not part of any build:
 *
 *     gcc -O2 -shared -fPIC bench/timeline.c -o timeline.so -I$CUDA/include -I$CUDA/extras/CUPTI/include \
 *         -L$CUDA/extras/CUPTI/lib64 -lcupti
 *     CUDA_INJECTION64_PATH=$PWD/timeline.so TIMELINE=out.txt tenon bench latency --device cuda ...
 *     bench/timeline.py out.txt
 *
 * The last KEPT kernels are written at exit, a line each, by their begin: begin and end in ns, blocks, threads of a block, bytes of
 * dynamic shared memory, stream, name.
 */
#include <cupti.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define KEPT 20000
#define BUFFER_BYTES (16u << 20)

struct launch {
    uint64_t begin, end;
    char name[96];
    uint32_t blocks, threads, shared, stream;
};

static struct launch kept[KEPT];
static uint64_t n_seen;

int InitializeInjection(void);

static void give_buffer(uint8_t **buffer, size_t *size, size_t *max_records)
{
    *size = BUFFER_BYTES;
    *buffer = aligned_alloc(64, BUFFER_BYTES);
    *max_records = 0;
}

static void keep(const CUpti_ActivityKernel9 *k)
{
    struct launch *l = &kept[n_seen++ % KEPT];

    *l = (struct launch){.begin = k->start,
                         .end = k->end,
                         .blocks = (uint32_t)(k->gridX * k->gridY * k->gridZ),
                         .threads = (uint32_t)(k->blockX * k->blockY * k->blockZ),
                         .shared = (uint32_t)k->dynamicSharedMemory,
                         .stream = k->streamId};
    snprintf(l->name, sizeof l->name, "%s", k->name ? k->name : "?");
}

static void take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size,
                        size_t valid)
{
    CUpti_Activity *record = NULL;

    (void)context;
    (void)stream;
    (void)size;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS)
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL)
            keep((const CUpti_ActivityKernel9 *)(const void *)record);
    free(buffer);
}

static int by_begin(const void *a, const void *b)
{
    const struct launch *x = a, *y = b;

    return (x->begin > y->begin) - (x->begin < y->begin);
}

static void write_kept(void)
{
    const char *path = getenv("TIMELINE");
    size_t n = n_seen < KEPT ? (size_t)n_seen : KEPT;
    FILE *f;

    cuptiActivityFlushAll(1);
    f = path ? fopen(path, "w") : NULL;
    if (!f) {
        fprintf(stderr, "timeline: TIMELINE names no file that can be written\n");
        return;
    }
    qsort(kept, n, sizeof *kept, by_begin);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%" PRIu64 " %" PRIu64 " %u %u %u %u %s\n", kept[i].begin, kept[i].end,
                kept[i].blocks, kept[i].threads, kept[i].shared, kept[i].stream, kept[i].name);
    fclose(f);
}

int InitializeInjection(void)
{
    if (cuptiActivityRegisterCallbacks(give_buffer, take_buffer) != CUPTI_SUCCESS ||
        cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS)
        fprintf(stderr, "timeline: CUPTI refuses\n");
    else
        atexit(write_kept);
    return 1;
}
