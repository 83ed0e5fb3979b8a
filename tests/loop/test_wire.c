/* SPDX-License-Identifier: Apache-2.0 */
/* What goes between processes: steps as bytes, and the links that carry them. Damage of any byte, and strangers, must be found. */
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check_util.h"
#include "loop/link.h"
#include "loop/wire.h"

/* A step of two parts: a prompt of five tokens and one decoding row with a bias and a history. */
static int32_t tokens[] = {1, 2, 3, 4, 5, 6}, positions[] = {0, 1, 2, 3, 4, 20};
static int32_t row_seq[] = {0, 0, 0, 0, 0, 0}, first_row[] = {0, 5}, first_row2[] = {0, 1};
static int64_t row_slot[] = {0, 1, 2, 3, 16, 36};
static int32_t context[] = {5, 21}, prompt_len[] = {5, 10};
static int32_t table[] = {0, 4}, table2[] = {1, 2, 3, 5, 6, 9};
static int32_t logits_row[] = {0}, bias_ids[] = {7}, history[] = {1, 2, 3};
static float bias_values[] = {0.5f};
static tn_sample_row sample[] = {{.top_p = 1, .n_bias = 1, .history_len = 3}};

static const struct wire_limits limits = {.rows = 8,
                                          .seqs = 3,
                                          .logits = 4,
                                          .block_tokens = 4,
                                          .n_pages = 10,
                                          .vocab = 50,
                                          .max_context = 40};

static void make_step(struct step_parts *p)
{
    *p = (struct step_parts){.n = 2};
    p->arrays[0] = (tn_batch_arrays){.tokens = tokens,
                                     .positions = positions,
                                     .row_seq = row_seq,
                                     .row_slot = row_slot,
                                     .first_row = first_row,
                                     .context = context,
                                     .prompt_len = prompt_len,
                                     .block_table = table,
                                     .logits_row = logits_row,
                                     .sample = sample};
    p->batch[0] = (tn_batch){.n_rows = 5,
                             .n_seqs = 1,
                             .block_tokens = 4,
                             .max_blocks = 2,
                             .max_rows_per_seq = 5,
                             .max_context = 5,
                             .step = 77,
                             .host = &p->arrays[0]};
    p->arrays[1] = (tn_batch_arrays){.tokens = tokens + 5,
                                     .positions = positions + 5,
                                     .row_seq = row_seq + 5,
                                     .row_slot = row_slot + 5,
                                     .first_row = first_row2,
                                     .context = context + 1,
                                     .prompt_len = prompt_len + 1,
                                     .block_table = table2,
                                     .logits_row = logits_row,
                                     .sample = sample,
                                     .bias_ids = bias_ids,
                                     .bias_values = bias_values,
                                     .history = history};
    p->batch[1] = (tn_batch){.n_rows = 1,
                             .n_seqs = 1,
                             .n_logits = 1,
                             .block_tokens = 4,
                             .max_blocks = 6,
                             .max_rows_per_seq = 1,
                             .max_context = 21,
                             .step = 77,
                             .host = &p->arrays[1]};
}

static size_t write_step(uint8_t **buffer, size_t *capacity)
{
    static struct step_parts p;
    tn_err err = TN_ERR_INIT;
    size_t n = 0;

    make_step(&p);
    ck_assert_ok(wire_write(&p, buffer, capacity, &n, &err), &err);
    return n;
}

START_TEST(a_step_comes_back_as_it_went)
{
    static struct step_parts back;
    uint8_t *buffer = NULL;
    size_t capacity = 0, n = write_step(&buffer, &capacity);
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(wire_read(buffer, n, &limits, &back, &err), &err);
    ck_assert_uint_eq(back.n, 2);
    ck_assert_uint_eq(back.batch[0].step, 77);
    ck_assert_int_eq(back.batch[0].host->tokens[4], 5);
    ck_assert_int_eq(back.batch[1].host->block_table[5], 9);
    ck_assert_int_eq(back.batch[1].host->history[2], 3);
    ck_assert_float_eq(back.batch[1].host->bias_values[0], 0.5f);
    ck_assert_uint_eq(back.batch[1].host->sample[0].history_len, 3);
    mem_free(buffer);
}
END_TEST

START_TEST(a_shortened_step_is_refused)
{
    static struct step_parts back;
    uint8_t *buffer = NULL;
    size_t capacity = 0, n = write_step(&buffer, &capacity);

    for (size_t len = 0; len < n; len++) {
        tn_err err = TN_ERR_INIT;
        uint8_t *copy = mem_aligned(len + 8, 8);
        memcpy(copy, buffer, len);
        ck_assert_int_eq(wire_read(copy, len, &limits, &back, &err), TN_E_FORMAT);
        mem_free(copy);
    }
    mem_free(buffer);
}
END_TEST

/* Whatever the bytes are: what is accepted has no index outside of its array. Under a sanitizer, kernels' reads are too. */
START_TEST(damaged_steps_are_refused_or_harmless)
{
    static struct step_parts back;
    uint8_t *buffer = NULL;
    size_t capacity = 0, n = write_step(&buffer, &capacity);
    struct rng r = {11};

    for (int i = 0; i < 20000; i++) {
        uint8_t *copy = mem_aligned(n, 8);
        tn_err err = TN_ERR_INIT;
        memcpy(copy, buffer, n);
        for (uint64_t k = 0; k < 1 + rng_below(&r, 3); k++)
            copy[rng_below(&r, n)] = (uint8_t)rng_u64(&r);
        if (wire_read(copy, n, &limits, &back, &err) == TN_OK)
            for (uint32_t p = 0; p < back.n; p++) {
                const tn_batch *b = &back.batch[p];
                ck_assert_uint_le(b->n_rows, limits.rows);
                for (uint32_t row = 0; row < b->n_rows; row++) {
                    ck_assert(b->host->tokens[row] >= 0 && b->host->tokens[row] < 50);
                    ck_assert(b->host->row_slot[row] >= 0 && b->host->row_slot[row] < 40);
                }
            }
        mem_free(copy);
    }
    mem_free(buffer);
}
END_TEST

/* -- Links ------------------------------------------------------------------------------------------------------ */

static uint8_t right[SECRET_KEY_BYTES] = {1}, wrong[SECRET_KEY_BYTES] = {2};

struct client {
    uint16_t port;
    const uint8_t *key;
    struct link *link;
    int32_t rc;
    tn_err err;
};

static void *connect_main(void *arg)
{
    struct client *c = arg;

    c->rc =
        link_connect("127.0.0.1", c->port, c->key, clock_ns() + 5 * NS_PER_S, &c->link, &c->err);
    return NULL;
}

START_TEST(frames_arrive_and_only_those_of_who_knows_the_key)
{
    struct client good = {.key = right, .err = TN_ERR_INIT},
                  bad = {.key = wrong, .err = TN_ERR_INIT};
    pthread_t a, b;
    struct link *server = NULL;
    const uint8_t *data;
    uint64_t bytes;
    uint16_t port = 0, kind;
    tn_err err = TN_ERR_INIT;
    int listener;

    ck_assert_ok(link_listen("127.0.0.1", &port, &listener, &err), &err);
    good.port = bad.port = port;
    ck_assert_int_eq(pthread_create(&b, NULL, connect_main, &bad), 0);
    /* The stranger is turned away, and the wait goes on. */
    ck_assert_int_eq(link_accept(listener, right, clock_ns() + NS_PER_S / 2, &server, &err),
                     TN_E_TIMEOUT);
    pthread_join(b, NULL);
    ck_assert_int_eq(bad.rc, TN_E_REFUSED);
    ck_assert_int_eq(pthread_create(&a, NULL, connect_main, &good), 0);
    ck_assert_ok(link_accept(listener, right, clock_ns() + 5 * NS_PER_S, &server, &err), &err);
    pthread_join(a, NULL);
    ck_assert_ok(good.rc, &good.err);
    for (uint64_t i = 0; i < 3; i++) {
        ck_assert_ok(link_send(good.link, (uint16_t)(5 + i), "hello", i, &err), &err);
        ck_assert_ok(link_recv(server, clock_ns() + NS_PER_S, &kind, &data, &bytes, &err), &err);
        ck_assert(kind == 5 + i && bytes == i && memcmp(data, "hello", i) == 0);
    }
    /* Nothing is there; then the other side is gone. */
    ck_assert_int_eq(link_recv(server, clock_ns(), &kind, &data, &bytes, &err), TN_E_TIMEOUT);
    link_close(good.link);
    ck_assert_int_eq(link_recv(server, clock_ns() + NS_PER_S, &kind, &data, &bytes, &err),
                     TN_E_CLOSED);
    link_close(server);
    close(listener);
}
END_TEST

static void *finish_main(void *arg)
{
    struct link *l = arg;

    link_finish(l, clock_ns() + 20 * NS_PER_S);
    link_close(l);
    return NULL;
}

/* Frames that were not read when the other side closed do not cost the last one of that side. */
START_TEST(the_last_frame_arrives)
{
    struct client c = {.key = right, .err = TN_ERR_INIT};
    struct link *server = NULL;
    const uint8_t *data;
    uint64_t bytes;
    uint16_t kind;
    tn_err err = TN_ERR_INIT;
    pthread_t t;
    int listener;

    ck_assert_ok(link_listen("127.0.0.1", &c.port, &listener, &err), &err);
    ck_assert_int_eq(pthread_create(&t, NULL, connect_main, &c), 0);
    ck_assert_ok(link_accept(listener, right, clock_ns() + 5 * NS_PER_S, &server, &err), &err);
    pthread_join(t, NULL);
    ck_assert_ok(c.rc, &c.err);
    for (int i = 0; i < 100; i++)
        ck_assert_ok(link_send(c.link, 1, "a beat", 6, &err), &err);
    ck_assert_ok(link_send(server, 9, "bye", 3, &err), &err);
    ck_assert_int_eq(pthread_create(&t, NULL, finish_main, server), 0);
    ck_assert_ok(link_send(c.link, 1, "a beat", 6, &err), &err);
    ck_assert_ok(link_recv(c.link, clock_ns() + 5 * NS_PER_S, &kind, &data, &bytes, &err), &err);
    ck_assert(kind == 9 && bytes == 3 && memcmp(data, "bye", 3) == 0);
    ck_assert_int_eq(link_recv(c.link, clock_ns() + 5 * NS_PER_S, &kind, &data, &bytes, &err),
                     TN_E_CLOSED);
    link_close(c.link);
    pthread_join(t, NULL);
    close(listener);
}
END_TEST

/* What somebody writes into an open connection from outside is no frame of the peer's. */
START_TEST(foreign_bytes_in_a_link_are_refused)
{
    struct client c = {.key = right, .err = TN_ERR_INIT};
    struct link *server = NULL;
    const uint8_t *data;
    uint8_t junk[64];
    uint64_t bytes;
    uint16_t port = 0, kind;
    pthread_t t;
    tn_err err = TN_ERR_INIT;
    int listener;

    ck_assert_ok(link_listen("127.0.0.1", &port, &listener, &err), &err);
    c.port = port;
    ck_assert_int_eq(pthread_create(&t, NULL, connect_main, &c), 0);
    ck_assert_ok(link_accept(listener, right, clock_ns() + 5 * NS_PER_S, &server, &err), &err);
    pthread_join(t, NULL);
    ck_assert_ok(c.rc, &c.err);
    memset(junk, 0, sizeof junk);
    memcpy(junk, "TNF1\1\0", 6); /* a frame of no bytes, in order, with a hash that nobody made */
    if (_i == 1)
        junk[4] = 9; /* another version */
    if (_i == 2)
        junk[23] = 1; /* 2^56 bytes */
    if (_i == 3)
        junk[8] = 3; /* out of order: a frame played back */
    ck_assert_int_eq(send(link_fd(c.link), junk, sizeof junk, 0), sizeof junk);
    ck_assert_int_eq(link_recv(server, clock_ns() + NS_PER_S, &kind, &data, &bytes, &err),
                     _i == 1   ? TN_E_VERSION
                     : _i == 2 ? TN_E_LIMIT
                               : TN_E_FORMAT);
    link_close(c.link);
    link_close(server);
    close(listener);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("wire");
    TCase *t = tcase_create("wire");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_step_comes_back_as_it_went);
    tcase_add_test(t, a_shortened_step_is_refused);
    tcase_add_test(t, damaged_steps_are_refused_or_harmless);
    tcase_add_test(t, frames_arrive_and_only_those_of_who_knows_the_key);
    tcase_add_test(t, the_last_frame_arrives);
    tcase_add_loop_test(t, foreign_bytes_in_a_link_are_refused, 0, 4);
    suite_add_tcase(s, t);
    return run_suite(s);
}
