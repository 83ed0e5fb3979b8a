/* SPDX-License-Identifier: Apache-2.0 */
/* model.engine as a whole: written, opened, verified; and files whose sections disagree with each other. */
#include <fcntl.h>
#include <math.h>

#include "base/file.h"
#include "base/mem.h"
#include "check_util.h"
#include "engine/dummy.h"
#include "engine/engine.h"
#include "engine/engine_bytes.h"
#include "engine/meta.h"
#include "engine/plan_json.h"
#include "engine/sample_plan.h"
#include "engine/writer.h"
#include "tenon/float.h"

static char dir[64];

static void make_dir(void)
{
    temp_dir(dir, sizeof dir);
}

static void remove_dir(void)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(dir_remove(dir, &err), &err);
}

static const char *engine_path(void)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", dir, ENGINE_FILE);
    return path;
}

/* Writes a sample engine of one layer and returns its bytes (mem_free). */
static char *good_bytes(enum sample_weights weights, size_t *size)
{
    struct sample_model m = SAMPLE_MODEL;
    tn_err err = TN_ERR_INIT;
    char *bytes = NULL;
    struct plan *p;

    m.layers = 1;
    p = sample_model(&m);
    sample_engine(dir, p, weights);
    plan_free(p);
    ck_assert_ok(file_read(engine_path(), UINT64_MAX, &bytes, size, &err), &err);
    ck_assert_int_eq(unlink(engine_path()), 0);
    return bytes;
}

/* -- Round trip -------------------------------------------------------------------------------------- */

static void check_same_weight(const struct engine *e, uint32_t i, bool dummy)
{
    const unsigned char *data = engine_weight(e, i);
    uint64_t bytes = plan_weight_bytes(&e->plan->weights[i]);

    ck_assert(e->tensors[i].dummy == dummy);
    ck_assert_uint_eq(e->tensors[i].bytes, bytes);
    if (dummy) {
        ck_assert_ptr_null(data);
        ck_assert_uint_eq(e->tensors[i].seed, i);
        return;
    }
    ck_assert_uint_eq((uintptr_t)data % ENGINE_ALIGN, 0);
    for (uint64_t at = 0; at < bytes; at++)
        ck_assert_msg(data[at] == sample_byte(i, at), "weight %u differs at %d", i, (int)at);
}

static void round_trip(enum sample_weights weights)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    tn_err err = TN_ERR_INIT;
    struct engine *e = NULL;
    json_t *want = NULL, *have = NULL;

    sample_engine(dir, p, weights);
    ck_assert_ok(engine_open(dir, &e, &err), &err);
    ck_assert_ok(engine_verify(e, NULL, NULL, &err), &err);
    ck_assert_ok(plan_to_json(p, &want, &err), &err);
    ck_assert_ok(plan_to_json(e->plan, &have, &err), &err);
    ck_assert(json_equal(want, have));
    for (uint32_t i = 0; i < p->n_weights; i++)
        check_same_weight(e, i, weights == SAMPLE_DUMMY || (weights == SAMPLE_MIXED && i % 2 == 0));
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(e->meta, "tokens"), "bos")),
                     1);
    json_decref(want);
    json_decref(have);
    engine_close(e);
    plan_free(p);
}

START_TEST(what_was_written_is_read_back)
{
    round_trip((enum sample_weights)_i);
}
END_TEST

START_TEST(engine_opens_by_its_file_name_too)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    tn_err err = TN_ERR_INIT;
    struct engine *e = NULL;

    sample_engine(dir, p, SAMPLE_DUMMY);
    ck_assert_ok(engine_open(engine_path(), &e, &err), &err);
    ck_assert_int_eq(strncmp(e->dir, dir, strlen(dir)), 0);
    engine_close(e);
    plan_free(p);
}
END_TEST

START_TEST(absent_and_empty_engines_are_refused)
{
    struct engine *e = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_int_eq(engine_open(dir, &e, &err), TN_E_NOTFOUND);
    ck_assert_err_has(&err, "tenon build");
    write_file(engine_path(), "", 0);
    ck_assert_int_eq(engine_open(dir, &e, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, ENGINE_FILE);
    ck_assert_ptr_null(e);
}
END_TEST

START_TEST(interrupted_file_is_not_an_engine)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    struct engine_writer *w = NULL;
    struct engine *e = NULL;
    tn_err err = TN_ERR_INIT;
    static const char zeros[2048];

    ck_assert_ok(engine_writer_open(engine_path(), p, &w, &err), &err);
    ck_assert_ok(engine_writer_append(w, zeros, plan_weight_bytes(&p->weights[0]), &err), &err);
    engine_writer_free(w);
    ck_assert_int_eq(engine_open(dir, &e, &err), TN_E_FORMAT);
    ck_assert_int_eq(engine_writer_open(engine_path(), p, &w, &err), TN_E_IO); /* exists */
    plan_free(p);
}
END_TEST

START_TEST(weights_may_come_in_pieces_of_any_size)
{
    static const unsigned char piece[3] = {1, 2, 3};
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    struct engine_writer *w = NULL;
    struct engine *e = NULL;
    json_t *meta = sample_meta();
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(engine_writer_open(engine_path(), p, &w, &err), &err);
    for (size_t i = 0; i < p->n_weights; i++)
        for (uint64_t at = 0, n, bytes = plan_weight_bytes(&p->weights[i]); at < bytes; at += n) {
            n = at % 3 + 1 < bytes - at ? at % 3 + 1 : bytes - at;
            ck_assert_ok(engine_writer_append(w, piece, (size_t)n, &err), &err);
        }
    ck_assert_ok(engine_writer_finish(w, meta, &err), &err);
    engine_writer_free(w);
    ck_assert_ok(engine_open(dir, &e, &err), &err);
    ck_assert_ok(engine_verify(e, NULL, NULL, &err), &err);
    json_decref(meta);
    engine_close(e);
    plan_free(p);
}
END_TEST

/* -- Damage ------------------------------------------------------------------------------------------ */

/* Whether open or verify refuses the bytes. */
static int32_t open_and_verify(const void *bytes, size_t size, tn_err *err)
{
    struct engine *e = NULL;
    int32_t rc = engine_open_bytes(bytes, size, "damaged.engine", &e, err);

    if (rc == TN_OK)
        rc = engine_verify(e, NULL, NULL, err);
    engine_close(e);
    return rc;
}

/* Opening does not read the weights or what lies between them; verifying does. */
START_TEST(any_flipped_byte_of_the_weights_is_found)
{
    size_t size;
    char *bytes = good_bytes(SAMPLE_MIXED, &size);
    const struct engine_section *w;
    struct engine *e = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(engine_open_bytes(bytes, size, "good", &e, &err), &err);
    w = engine_header_find(&e->header, ENGINE_WEIGHTS);
    for (size_t i = (size_t)w->offset; i < w->offset + w->size; i++) {
        bytes[i] ^= 0x10;
        ck_assert_msg(engine_verify(e, NULL, NULL, &err) != TN_OK, "byte %d", (int)i);
        ck_assert_str_eq(err.file, "good");
        bytes[i] ^= 0x10;
    }
    ck_assert_ok(engine_verify(e, NULL, NULL, &err), &err);
    engine_close(e);
    mem_free(bytes);
}
END_TEST

/* Every float weight in turn gets a NaN as its last element; digests are not looked at here. */
START_TEST(weights_that_are_no_numbers_are_found)
{
    size_t size;
    char *bytes = good_bytes(SAMPLE_MIXED, &size);
    struct engine *e = NULL;
    tn_err err = TN_ERR_INIT;
    uint32_t found = 0;

    ck_assert_ok(engine_open_bytes(bytes, size, "good", &e, &err), &err);
    for (uint32_t i = 0; i < e->plan->n_weights; i++)
        if (engine_weight(e, i))
            memset((void *)(uintptr_t)engine_weight(e, i), 0,
                   (size_t)plan_weight_bytes(&e->plan->weights[i]));
    ck_assert_ok(engine_check_finite(e, NULL, NULL, &err), &err);
    for (uint32_t i = 0; i < e->plan->n_weights; i++) {
        const struct plan_weight *w = &e->plan->weights[i];
        uint64_t n = plan_weight_bytes(w), element = tn_dtype_bits(w->dtype) / 8;
        unsigned char *last = (unsigned char *)(uintptr_t)engine_weight(e, i);
        unsigned char old[8];
        if (!last || element == 0)
            continue;
        last += n - element;
        memcpy(old, last, (size_t)element);
        memset(last, 0xff, (size_t)element);
        if (engine_check_finite(e, NULL, NULL, &err) != TN_OK) {
            ck_assert_str_eq(err.field, w->name);
            ck_assert_int_eq(err.code, TN_E_FORMAT);
            found++;
        } else {
            ck_assert_msg(w->dtype == TN_DT_I8 || w->dtype == TN_DT_U8 || w->dtype == TN_DT_I32,
                          "%s of dtype %u", w->name, w->dtype);
        }
        memcpy(last, old, (size_t)element);
        err_reset(&err);
    }
    ck_assert_uint_gt(found, 0);
    engine_close(e);
    mem_free(bytes);
}
END_TEST

START_TEST(any_flipped_byte_elsewhere_is_found)
{
    size_t size;
    char *bytes = good_bytes(SAMPLE_DUMMY, &size);
    tn_err err = TN_ERR_INIT;

    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 0x10;
        ck_assert_msg(open_and_verify(bytes, size, &err) != TN_OK, "byte %d", (int)i);
        ck_assert_str_eq(err.file, "damaged.engine");
        bytes[i] ^= 0x10;
    }
    ck_assert_ok(open_and_verify(bytes, size, &err), &err);
    mem_free(bytes);
}
END_TEST

START_TEST(truncated_file_is_refused)
{
    size_t size;
    char *bytes = good_bytes(SAMPLE_MIXED, &size);
    tn_err err = TN_ERR_INIT;

    for (size_t n = 0; n < size; n += n < ENGINE_HEADER_BYTES || size - n < 5000 ? 1 : 97)
        ck_assert_int_ne(open_and_verify(bytes, n, &err), TN_OK);
    mem_free(bytes);
}
END_TEST

static int stop_at_once(void *arg, uint64_t done, uint64_t total)
{
    (*(int *)arg)++;
    ck_assert_uint_le(done, total);
    return 1;
}

START_TEST(verification_can_be_interrupted)
{
    size_t size;
    char *bytes = good_bytes(SAMPLE_STORED, &size);
    struct engine *e = NULL;
    tn_err err = TN_ERR_INIT;
    int calls = 0;

    ck_assert_ok(engine_open_bytes(bytes, size, "good", &e, &err), &err);
    ck_assert_int_eq(engine_verify(e, stop_at_once, &calls, &err), TN_E_CANCELED);
    ck_assert_int_eq(calls, 1);
    engine_close(e);
    mem_free(bytes);
}
END_TEST

/* -- Memory ------------------------------------------------------------------------------------------- */

/* Our own allocations only: jansson 2.14 reads out of bounds when its lexer's buffer cannot grow. */
START_TEST(opening_survives_memory_running_out)
{
    size_t size;
    char *bytes = good_bytes(SAMPLE_MIXED, &size);
    struct engine *e = NULL;
    tn_err err = TN_ERR_INIT;
    int32_t rc = TN_E_NOMEM;

    for (uint64_t n = 1; rc != TN_OK; n++) {
        err = (tn_err)TN_ERR_INIT;
        mem_fail_nth(n, false);
        rc = engine_open_bytes(bytes, size, "good", &e, &err);
        if (mem_injected())
            ck_assert_int_eq(rc, TN_E_NOMEM);
        else
            ck_assert_ok(rc, &err);
    }
    mem_fail_nth(0, false);
    engine_close(e);
    mem_free(bytes);
}
END_TEST

static int32_t write_dummies(const struct plan *p, const json_t *meta, tn_err *err)
{
    struct engine_writer *w = NULL;
    int32_t rc = engine_writer_open(engine_path(), p, &w, err);

    for (size_t i = 0; i < p->n_weights && rc == TN_OK; i++)
        rc = engine_writer_dummy(w, i, err);
    if (rc == TN_OK)
        rc = engine_writer_finish(w, meta, err);
    engine_writer_free(w);
    return rc;
}

/* Here jansson allocates through mem.h, so that a list cut short by want of memory cannot become a file. */
START_TEST(writing_survives_memory_running_out)
{
    struct sample_model m = SAMPLE_MODEL;
    tn_err err = TN_ERR_INIT;
    int32_t rc = TN_E_NOMEM;
    struct plan *p;
    json_t *meta;

    m.layers = 1;
    p = sample_model(&m);
    json_set_alloc_funcs(mem_alloc, mem_free);
    meta = sample_meta();
    for (uint64_t n = 1; rc != TN_OK; n++) {
        err = (tn_err)TN_ERR_INIT;
        unlink(engine_path());
        mem_fail_nth(n, false);
        rc = write_dummies(p, meta, &err);
        if (mem_injected())
            ck_assert_msg(rc == TN_E_NOMEM, "allocation %d failed, and it went on", (int)n);
    }
    mem_fail_nth(0, false);
    json_decref(meta);
    plan_free(p);
}
END_TEST

/* -- Size --------------------------------------------------------------------------------------------- */

static long resident_kib(void)
{
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");

    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "VmRSS:", 6) == 0)
            kib = strtol(line + 6, NULL, 10);
    fclose(f);
    return kib;
}

/* An index that places the weights of `p` one after another; *end is the size of their section. */
static json_t *index_of(const struct plan *p, uint64_t *end)
{
    json_t *list = json_array();

    *end = 0;
    for (size_t i = 0; i < p->n_weights; i++) {
        const struct plan_weight *w = &p->weights[i];
        json_t *dims = json_array();
        uint64_t at = (*end + ENGINE_ALIGN - 1) / ENGINE_ALIGN * ENGINE_ALIGN;
        for (uint32_t d = 0; d < w->n_dims; d++)
            json_array_append_new(dims, json_integer((json_int_t)w->dims[d]));
        *end = at + plan_weight_bytes(w);
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:o, s:I, s:I, s:s}", "name", w->name, "dtype",
                                        tn_dtype_name(w->dtype), "dims", dims, "offset",
                                        (json_int_t)at, "bytes", (json_int_t)plan_weight_bytes(w),
                                        "xxh128", "00000000000000000000000000000000"));
    }
    return list;
}

/* Writes a sparse file: header and JSON are there, the weights are a hole. */
static void write_sparse(const struct plan *p)
{
    struct section_bytes s[4] = {{.kind = ENGINE_WEIGHTS},
                                 {.kind = ENGINE_PLAN},
                                 {.kind = ENGINE_TENSORS},
                                 {.kind = ENGINE_META}};
    json_t *json[4] = {NULL, NULL, NULL, sample_meta()};
    uint8_t page[ENGINE_HEADER_BYTES];
    struct engine_header h;
    tn_err err = TN_ERR_INIT;
    int fd = open(engine_path(), O_WRONLY | O_CREAT, 0600);

    ck_assert_ok(plan_to_json(p, &json[1], &err), &err);
    json[2] = index_of(p, &s[0].hole);
    for (int i = 1; i < 4; i++) {
        s[i].data = json_dumps(json[i], JSON_COMPACT);
        s[i].size = strlen(s[i].data);
        json_decref(json[i]);
    }
    engine_lay_out(s, 4, &h);
    engine_header_encode(&h, page);
    ck_assert_int_eq(ftruncate(fd, (off_t)h.file_size), 0);
    ck_assert_ok(file_write_at(fd, "sparse", 0, page, sizeof page, &err), &err);
    for (int i = 1; i < 4; i++) {
        ck_assert_ok(file_write_at(fd, "sparse", h.sections[i].offset, s[i].data, s[i].size, &err),
                     &err);
        free((void *)(uintptr_t)s[i].data);
    }
    close(fd);
}

START_TEST(opening_13_gigabytes_reads_kilobytes)
{
    struct sample_model m = {.vocab = 65536,
                             .hidden = 8192,
                             .layers = 6,
                             .heads = 64,
                             .kv_heads = 64,
                             .head_dim = 128,
                             .ffn = 32768,
                             .dtype = TN_DT_BF16};
    struct plan *p = sample_model(&m);
    struct engine *e = NULL;
    tn_err err = TN_ERR_INIT;
    long before;

    write_sparse(p);
    before = resident_kib();
    ck_assert_ok(engine_open(dir, &e, &err), &err);
    ck_assert_uint_gt(e->map.size, UINT64_C(13) << 30);
    ck_assert_int_lt(resident_kib() - before, 32 * 1024);
    ck_assert_ptr_nonnull(engine_weight(e, (uint32_t)p->n_weights - 1));
    engine_close(e);
    plan_free(p);
}
END_TEST

/* -- Dummies ------------------------------------------------------------------------------------------ */

START_TEST(dummy_weights_do_not_depend_on_where_reading_begins)
{
    struct plan_weight w = {.role = TN_ROLE_MATRIX, .dtype = TN_DT_BF16, .n_dims = 1, .dims = {99}};
    uint16_t all[99], part[10];

    dummy_fill(&w, 7, 0, 99, all);
    for (uint64_t at = 0; at + 10 <= 99; at++) {
        dummy_fill(&w, 7, at, 10, part);
        ck_assert_mem_eq(all + at, part, sizeof part);
    }
    dummy_fill(&w, 8, 0, 10, part);
    ck_assert_mem_ne(all, part, sizeof part);
}
END_TEST

/* Long stretches are made in another way. */
START_TEST(dummy_weights_do_not_depend_on_how_much_is_read_at_once)
{
    static const uint32_t dtypes[] = {TN_DT_BF16, TN_DT_F16, TN_DT_F32, TN_DT_F8E4M3, TN_DT_I8};
    static const uint32_t n = 300001;
    struct plan_weight w = {.dtype = dtypes[_i], .role = TN_ROLE_MATRIX};
    uint64_t size = tn_dtype_bits(w.dtype) / 8;
    uint8_t *all = mem_alloc(n * size), part[100 * 4];

    dummy_fill(&w, 5, 8, n, all);
    for (uint64_t at = 0; at + 100 <= n; at += at < 1000 || at > n - 2000 ? 99 : 20011) {
        dummy_fill(&w, 5, 8 + at, 100, part);
        ck_assert_mem_eq(part, all + at * size, 100 * size);
    }
    mem_free(all);
}
END_TEST

START_TEST(dummy_weights_fill_exactly_their_bytes)
{
    for (uint32_t dtype = 1; dtype < TN_DT_COUNT; dtype++) {
        struct plan_weight w = {
            .role = TN_ROLE_MATRIX, .dtype = dtype, .n_dims = 2, .dims = {3, 32}};
        uint64_t bytes = plan_weight_bytes(&w);
        unsigned char *p = mem_alloc((size_t)bytes); /* ASan sees one byte more */
        int zeros = 0;
        memset(p, 0, (size_t)bytes);
        dummy_fill(&w, 3, 0, 96, p);
        for (uint64_t i = 0; i < bytes; i++)
            zeros += p[i] == 0;
        ck_assert_msg(zeros <= (int)bytes / 4 || dtype == TN_DT_F64 || dtype == TN_DT_I64,
                      "%s: %d of %d bytes are zero", tn_dtype_name(dtype), zeros, (int)bytes);
        mem_free(p);
    }
}
END_TEST

/* Else a benchmark of a quantized engine would compute with zeros or infinities after a few layers. */
START_TEST(dummy_weights_of_8_bits_and_their_scales_have_the_spread_of_a_matrix)
{
    enum { N = 1 << 16 };
    static const uint32_t dtypes[] = {TN_DT_F8E4M3, TN_DT_I8};
    struct plan_weight w = {.dtype = dtypes[_i], .role = TN_ROLE_MATRIX};
    struct plan_weight scale = {.dtype = TN_DT_F32, .role = TN_ROLE_SCALE};
    static uint8_t q[N];
    static float s[N];
    double squares = 0;

    dummy_fill(&w, 1, 0, N, q);
    dummy_fill(&scale, 2, 0, N, s);
    for (int i = 0; i < N; i++) {
        double x = w.dtype == TN_DT_I8 ? (int8_t)q[i] : (double)tn_f8e4m3_to_f32(q[i]);
        squares += x * x * (double)s[i] * (double)s[i];
    }
    ck_assert_double_eq_tol(sqrt(squares / N), 0.02, 5e-3);
}
END_TEST

START_TEST(dummy_weights_have_the_stated_spread)
{
    enum { N = 1 << 16 };
    struct plan_weight w = {.role = TN_ROLE_MATRIX, .dtype = TN_DT_F32, .n_dims = 1, .dims = {N}};
    static float f[N];
    double sum = 0, squares = 0;

    dummy_fill(&w, 1, 0, N, f);
    for (int i = 0; i < N; i++) {
        ck_assert(f[i] != 0.0f);
        sum += f[i];
        squares += (double)f[i] * f[i];
    }
    ck_assert_double_eq_tol(sum / N, 0.0, 5e-4);
    ck_assert_double_eq_tol(squares / N, 4e-4, 1e-5);
    w.role = TN_ROLE_NORM;
    dummy_fill(&w, 1, 0, N, f);
    ck_assert_float_eq(f[12345], 1.0f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("engine");
    TCase *t = tcase_create("file"), *d = tcase_create("dummy");

    tcase_add_checked_fixture(t, make_dir, remove_dir);
    tcase_add_loop_test(t, what_was_written_is_read_back, SAMPLE_STORED, SAMPLE_MIXED + 1);
    tcase_add_test(t, engine_opens_by_its_file_name_too);
    tcase_add_test(t, absent_and_empty_engines_are_refused);
    tcase_add_test(t, interrupted_file_is_not_an_engine);
    tcase_add_test(t, weights_may_come_in_pieces_of_any_size);
    tcase_add_test(t, any_flipped_byte_of_the_weights_is_found);
    tcase_add_test(t, weights_that_are_no_numbers_are_found);
    tcase_add_test(t, any_flipped_byte_elsewhere_is_found);
    tcase_add_test(t, truncated_file_is_refused);
    tcase_add_test(t, verification_can_be_interrupted);
    tcase_add_test(t, opening_survives_memory_running_out);
    tcase_add_test(t, writing_survives_memory_running_out);
    tcase_add_test(t, opening_13_gigabytes_reads_kilobytes);
    tcase_add_test(d, dummy_weights_do_not_depend_on_where_reading_begins);
    tcase_add_loop_test(d, dummy_weights_do_not_depend_on_how_much_is_read_at_once, 0, 5);
    tcase_add_test(d, dummy_weights_fill_exactly_their_bytes);
    tcase_add_loop_test(d, dummy_weights_of_8_bits_and_their_scales_have_the_spread_of_a_matrix, 0,
                        2);
    tcase_add_test(d, dummy_weights_have_the_stated_spread);
    suite_add_tcase(s, t);
    suite_add_tcase(s, d);
    return run_suite(s);
}
