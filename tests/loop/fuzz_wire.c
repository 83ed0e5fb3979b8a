/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from another process. The first byte of an input says what the rest is:
 *   'h'  what somebody sends who connects, up to the end of the connection: the handshake must turn it away;
 *   'f'  the bytes of frames behind a handshake that went well;
 *   else a step. What is accepted is walked through as a kernel would: a sanitizer sees every index that leads outside.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/link.h"
#include "loop/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t key[SECRET_KEY_BYTES] = {1};

/* -- Steps ---------------------------------------------------------------------------------------------- */

static uint64_t walk(const tn_batch *b, const struct wire_limits *l)
{
    const tn_batch_arrays *a = b->host;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < b->n_rows; i++) {
        const int32_t *table = a->block_table + (size_t)a->row_seq[i] * b->max_blocks;
        int32_t pages =
            (a->context[a->row_seq[i]] + (int32_t)b->block_tokens - 1) / (int32_t)b->block_tokens;
        for (int32_t p = 0; p < pages; p++)
            if (table[p] < 0 || (uint32_t)table[p] >= l->n_pages)
                abort();
        if (a->tokens[i] < 0 || (uint32_t)a->tokens[i] >= l->vocab ||
            (uint64_t)a->row_slot[i] / b->block_tokens >= l->n_pages)
            abort();
        sum += (uint64_t)a->positions[i];
    }
    for (uint32_t i = 0; i < b->n_logits; i++) {
        const tn_sample_row *s = &a->sample[i];
        sum += (uint64_t)a->tokens[a->logits_row[i]];
        for (uint32_t k = 0; k < s->n_bias; k++)
            sum +=
                (uint64_t)a->bias_ids[s->first_bias + k] + (a->bias_values[s->first_bias + k] > 0);
        for (uint32_t k = 0; k < s->history_len; k++)
            sum += (uint64_t)a->history[s->first_history + k];
    }
    return sum;
}

static void try_step(const uint8_t *data, size_t size)
{
    static const struct wire_limits limits = {.rows = 64,
                                              .seqs = 9,
                                              .logits = 16,
                                              .block_tokens = 4,
                                              .n_pages = 40,
                                              .vocab = 50,
                                              .max_context = 100};
    static struct step_parts parts;
    volatile uint64_t sum = 0;
    tn_err err = TN_ERR_INIT;
    uint8_t *copy = mem_aligned(size ? size : 1, 8);

    memcpy(copy, data, size);
    if (wire_read(copy, size, &limits, &parts, &err) == TN_OK)
        for (uint32_t i = 0; i < parts.n; i++)
            sum = sum + walk(&parts.batch[i], &limits);
    mem_free(copy);
}

/* -- Connections ---------------------------------------------------------------------------------------- */

struct stranger {
    uint16_t port;
    const uint8_t *data;
    size_t size;
    bool knows_key;
};

/* Sends the bytes and hangs up. */
static void *visit(void *arg)
{
    const struct stranger *s = arg;
    struct link *l = NULL;
    tn_err err = TN_ERR_INIT;
    uint64_t until = clock_ns() + 5 * NS_PER_S;

    if (s->knows_key && link_connect("127.0.0.1", s->port, key, until, &l, &err) == TN_OK) {
        if (send(link_fd(l), s->data, s->size, MSG_NOSIGNAL) >= 0)
            shutdown(link_fd(l), SHUT_WR);
        link_close(l);
    }
    return NULL;
}

static void knock(const struct stranger *s)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    int fd, listener = -1;
    uint16_t port = 0;
    tn_err err = TN_ERR_INIT;
    struct link *l = NULL;

    if (link_listen("127.0.0.1", &port, &listener, &err) != TN_OK)
        return;
    if (getsockname(listener, (struct sockaddr *)&a, &n) == 0 &&
        (fd = socket(AF_INET, SOCK_STREAM, 0)) >= 0) {
        if (connect(fd, (struct sockaddr *)&a, n) == 0 &&
            send(fd, s->data, s->size, MSG_NOSIGNAL) >= 0)
            shutdown(fd, SHUT_WR);
        if (link_accept(listener, key, clock_ns() + 20 * NS_PER_MS, &l, &err) == TN_OK)
            abort(); /* nobody can know the answer to a fresh number */
        close(fd);
    }
    close(listener);
}

static void speak(struct stranger *s)
{
    const uint8_t *data;
    uint64_t bytes;
    uint16_t kind;
    tn_err err = TN_ERR_INIT;
    struct link *l = NULL;
    pthread_t t;
    int listener;

    if (link_listen("127.0.0.1", &s->port, &listener, &err) != TN_OK)
        return;
    if (pthread_create(&t, NULL, visit, s) == 0) {
        if (link_accept(listener, key, clock_ns() + 5 * NS_PER_S, &l, &err) == TN_OK &&
            link_recv(l, clock_ns() + NS_PER_S, &kind, &data, &bytes, &err) == TN_OK)
            abort(); /* nobody made its hash */
        link_close(l);
        pthread_join(t, NULL);
    }
    close(listener);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stranger s = {.data = data + 1, .size = size ? size - 1 : 0};

    if (size == 0)
        return 0;
    log_set_level(TN_LOG_ERROR);
    s.knows_key = data[0] == 'f';
    if (data[0] == 'h')
        knock(&s);
    else if (data[0] == 'f')
        speak(&s);
    else
        try_step(data + 1, size - 1);
    return 0;
}
