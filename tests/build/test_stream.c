/* SPDX-License-Identifier: Apache-2.0 */
/* Weights from a checkpoint into an engine: whole, by rows, joined, transposed, as tables; and in bounded memory. */
#include "build/stream.h"

#include <fcntl.h>

#include "base/limits.h"
#include "base/mem.h"
#include "build/checkpoint_maker.h"
#include "build/convert.h"
#include "check_util.h"
#include "engine/engine.h"
#include "engine/sample_plan.h"

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

static const char *path_of(const char *name)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* -- A plan whose weights come from odd places --------------------------------------------------------- */

/* embed [32, 16] from wte; up [24, 16] from the transpose of up.t; down [16, 24] from rows of d1 and d2; table; head. */
static struct plan *odd_plan(void)
{
    struct plan *p = sample_empty();
    uint32_t x = sample_rows(p, "embed", 16);
    tn_attr rope[] = {TN_ATTR_INT("n_heads", 2), TN_ATTR_INT("head_dim", 8),
                      TN_ATTR_INT("rotary_dim", 8)};
    tn_err err = TN_ERR_INIT;

    x = sample_add(p, &(struct sample_op){.name = TN_OP_LINEAR,
                                          .layer = 0,
                                          .n_in = 1,
                                          .in = {x},
                                          .n_weights = 1,
                                          .weights = {sample_matrix(p, "up", 24, 16)},
                                          .out = {SAMPLE_ROWS(24)}});
    x = sample_add(p, &(struct sample_op){.name = TN_OP_LINEAR,
                                          .layer = 0,
                                          .n_in = 1,
                                          .in = {x},
                                          .n_weights = 1,
                                          .weights = {sample_matrix(p, "down", 16, 24)},
                                          .out = {SAMPLE_ROWS(16)}});
    x = sample_add(p, &(struct sample_op){.name = TN_OP_ROPE,
                                          .layer = 0,
                                          .n_in = 1,
                                          .in = {x},
                                          .n_weights = 1,
                                          .weights = {sample_vector(p, "table", 4)},
                                          .n_attrs = 3,
                                          .attrs = rope,
                                          .out = {SAMPLE_ROWS(16)}});
    sample_add(p, &(struct sample_op){
                      .name = TN_OP_LOGITS,
                      .layer = -1,
                      .n_in = 1,
                      .in = {x},
                      .n_weights = 1,
                      .weights = {sample_weight(p, "head", TN_ROLE_HEAD, TN_DT_F32, 32, 16, 0)},
                      .out = {SAMPLE_LOGITS(32)}});
    plan_set_int(p, TN_HP_VOCAB, 32, &err);
    plan_set_int(p, TN_HP_HIDDEN, 16, &err);
    plan_set_int(p, TN_HP_LAYERS, 1, &err);
    plan_set_int(p, TN_HP_MAX_POSITIONS, 64, &err);
    ck_assert_ok(plan_check(p, &err), &err);
    return p;
}

static const struct weight_source sources[] = {{"wte", false, 0, 32, NULL, 0},
                                               {"up.t", true, 0, 24, NULL, 0},
                                               {"d1", false, 2, 10, NULL, 0},
                                               {"d2", false, 0, 8, NULL, 0},
                                               {"lm", false, 0, 32, NULL, 0}};
static const float table[4] = {1.0f, 0.5f, 0.25f, 0.125f};

static void odd_checkpoint(void)
{
    st_file(dir, "model.safetensors",
            "{\"wte\":{\"dtype\":\"F32\",\"shape\":[32,16],\"data_offsets\":[0,2048]},"
            "\"up.t\":{\"dtype\":\"F16\",\"shape\":[16,24],\"data_offsets\":[2048,2816]},"
            "\"d1\":{\"dtype\":\"BF16\",\"shape\":[12,24],\"data_offsets\":[2816,3392]},"
            "\"d2\":{\"dtype\":\"F32\",\"shape\":[8,24],\"data_offsets\":[3392,4160]},"
            "\"lm\":{\"dtype\":\"F32\",\"shape\":[32,16],\"data_offsets\":[4160,6208]}}",
            6208);
}

static struct emission odd_emission(struct plan *p)
{
    static struct weight_origin origins[5] = {{.n_sources = 1, .sources = &sources[0]},
                                              {.n_sources = 1, .sources = &sources[1]},
                                              {.n_sources = 2, .sources = &sources[2]},
                                              {.table = table},
                                              {.n_sources = 1, .sources = &sources[4]}};

    return (struct emission){.plan = p, .origins = origins};
}

static int32_t stream(const struct emission *e, int (*progress)(void *, uint64_t), void *arg,
                      tn_err *err)
{
    struct stream_options o = {.progress = progress, .arg = arg};
    struct checkpoint *c = NULL;
    json_t *meta = sample_meta();
    int32_t rc = checkpoint_open(dir, &c, err);

    unlink(path_of(ENGINE_FILE));
    if (rc == TN_OK)
        rc = engine_writer_open(path_of(ENGINE_FILE), e->plan, &o.writer, err);
    o.checkpoint = c;
    if (rc == TN_OK)
        rc = stream_weights(e, &o, err);
    if (rc == TN_OK)
        rc = engine_writer_finish(o.writer, meta, err);
    engine_writer_free(o.writer);
    checkpoint_close(c);
    json_decref(meta);
    return rc;
}

static const void *weight_of(const struct engine *e, const char *name)
{
    uint64_t i = 0;

    ck_assert(map_get(&e->plan->weight_names, name, strlen(name), &i));
    return engine_weight(e, (uint32_t)i);
}

/* Element `i` of a checkpoint tensor that begins at byte `at` of the data, converted to `to`. */
static uint32_t element(uint64_t at, uint32_t from, uint32_t to, uint64_t i)
{
    size_t size = tn_dtype_bits(from) / 8;
    unsigned char raw[8];
    uint32_t out = 0;

    for (size_t k = 0; k < size; k++)
        raw[k] = st_byte(at + i * size + k);
    convert_elements(raw, from, &out, to, 1);
    return out;
}

static void check_odd_weights(const struct engine *e)
{
    const uint16_t *embed = weight_of(e, "embed"), *up = weight_of(e, "up");
    const uint16_t *down = weight_of(e, "down");
    const uint32_t *head = weight_of(e, "head");

    for (uint64_t i = 0; i < 512; i++)
        ck_assert_uint_eq(embed[i], element(0, TN_DT_F32, TN_DT_BF16, i));
    for (uint64_t r = 0; r < 24; r++)
        for (uint64_t c = 0; c < 16; c++)
            ck_assert_uint_eq(up[r * 16 + c], element(2048, TN_DT_F16, TN_DT_BF16, c * 24 + r));
    for (uint64_t i = 0; i < 8 * 24; i++) {
        ck_assert_uint_eq(down[i], element(2816, TN_DT_BF16, TN_DT_BF16, 2 * 24 + i));
        ck_assert_uint_eq(down[8 * 24 + i], element(3392, TN_DT_F32, TN_DT_BF16, i));
    }
    for (uint64_t i = 0; i < 512; i++)
        ck_assert_uint_eq(head[i], element(4160, TN_DT_F32, TN_DT_F32, i));
    ck_assert_mem_eq(weight_of(e, "table"), table, sizeof table);
}

static int count(void *arg, uint64_t done)
{
    *(uint64_t *)arg = done;
    return 0;
}

START_TEST(every_element_lands_where_it_belongs)
{
    struct emission e = odd_emission(odd_plan());
    struct engine *engine = NULL;
    tn_err err = TN_ERR_INIT;
    uint64_t done = 0;

    odd_checkpoint();
    ck_assert_ok(stream(&e, count, &done, &err), &err);
    ck_assert_uint_eq(done, 1024 + 768 + 768 + 16 + 2048);
    ck_assert_ok(engine_open(dir, &engine, &err), &err);
    ck_assert_ok(engine_verify(engine, NULL, NULL, &err), &err);
    check_odd_weights(engine);
    engine_close(engine);
    plan_free(e.plan);
}
END_TEST

static int stop(void *arg, uint64_t done)
{
    (void)arg;
    return done > 1024;
}

START_TEST(interrupted_build_says_so)
{
    struct emission e = odd_emission(odd_plan());
    tn_err err = TN_ERR_INIT;

    odd_checkpoint();
    ck_assert_int_eq(stream(&e, stop, NULL, &err), TN_E_CANCELED);
    plan_free(e.plan);
}
END_TEST

START_TEST(value_too_large_for_float16_is_named)
{
    struct emission e = odd_emission(odd_plan());
    tn_err err = TN_ERR_INIT;

    odd_checkpoint();
    for (size_t i = 0; i < e.plan->n_weights; i++)
        if (e.plan->weights[i].dtype == TN_DT_BF16)
            e.plan->weights[i].dtype = TN_DT_F16;
    ck_assert_int_eq(stream(&e, NULL, NULL, &err), TN_E_RANGE);
    ck_assert_str_eq(err.field, "wte");
    ck_assert_err_has(&err, "does not fit float16");
    ck_assert_err_has(&err, "--dtype bfloat16");
    plan_free(e.plan);
}
END_TEST

START_TEST(dtype_that_cannot_be_converted_is_named)
{
    struct emission e = odd_emission(odd_plan());
    tn_err err = TN_ERR_INIT;

    st_file(dir, "model.safetensors",
            "{\"wte\":{\"dtype\":\"I32\",\"shape\":[32,16],\"data_offsets\":[0,2048]}}", 2048);
    ck_assert_int_eq(stream(&e, NULL, NULL, &err), TN_E_UNSUPPORTED);
    ck_assert_str_eq(err.field, "wte");
    ck_assert_err_has(&err, "int32");
    plan_free(e.plan);
}
END_TEST

START_TEST(streaming_survives_memory_running_out)
{
    struct emission e = odd_emission(odd_plan());
    tn_err err = TN_ERR_INIT;
    int32_t rc = TN_E_NOMEM;

    odd_checkpoint();
    for (uint64_t n = 1; rc != TN_OK; n++) {
        mem_fail_nth(n, false);
        rc = stream(&e, NULL, NULL, &err);
        ck_assert_int_eq(rc, mem_injected() ? TN_E_NOMEM : TN_OK);
    }
    mem_fail_nth(0, false);
    plan_free(e.plan);
}
END_TEST

/* -- Large tensors -------------------------------------------------------------------------------------- */

/* A plan with one matrix [rows, cols], tied as embedding and head. */
static struct plan *tied_plan(uint64_t rows, uint64_t cols)
{
    struct plan *p = sample_empty();
    uint32_t w = sample_weight(p, "w", TN_ROLE_EMBEDDING, TN_DT_BF16, rows, cols, 0), x;
    tn_err err = TN_ERR_INIT;

    x = sample_add(p, &(struct sample_op){.name = TN_OP_EMBEDDING,
                                          .layer = -1,
                                          .n_weights = 1,
                                          .weights = {w},
                                          .out = {SAMPLE_ROWS(cols)}});
    sample_add(p, &(struct sample_op){.name = TN_OP_LOGITS,
                                      .layer = -1,
                                      .n_in = 1,
                                      .in = {x},
                                      .n_weights = 1,
                                      .weights = {w},
                                      .out = {SAMPLE_LOGITS(rows)}});
    plan_set_int(p, TN_HP_VOCAB, (int64_t)rows, &err);
    plan_set_int(p, TN_HP_HIDDEN, (int64_t)cols, &err);
    plan_set_int(p, TN_HP_LAYERS, 1, &err);
    plan_set_int(p, TN_HP_MAX_POSITIONS, 64, &err);
    ck_assert_ok(plan_check(p, &err), &err);
    return p;
}

/* More than two chunks, with a row length that divides none. */
START_TEST(tensors_larger_than_a_chunk_have_no_seams)
{
    enum { ROWS = 5003, COLS = 1777 };
    struct weight_source source = {"t", _i, 0, ROWS, NULL, 0};
    struct weight_origin origin = {.n_sources = 1, .sources = &source};
    struct emission e = {.plan = tied_plan(ROWS, COLS), .origins = &origin};
    uint64_t bytes = UINT64_C(4) * ROWS * COLS;
    struct engine *engine = NULL;
    const uint16_t *w;
    tn_err err = TN_ERR_INIT;
    char header[256];

    ck_assert_uint_gt(bytes, 2 * BUILD_CHUNK_BYTES);
    snprintf(header, sizeof header,
             "{\"t\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[0,%llu]}}",
             _i ? COLS : ROWS, _i ? ROWS : COLS, (unsigned long long)bytes);
    st_file(dir, "model.safetensors", header, bytes);
    ck_assert_ok(stream(&e, NULL, NULL, &err), &err);
    ck_assert_ok(engine_open(dir, &engine, &err), &err);
    w = weight_of(engine, "w");
    for (uint64_t i = 0; i < (uint64_t)ROWS * COLS; i++) {
        uint64_t at = _i ? i % COLS * ROWS + i / COLS : i;
        if (w[i] != element(0, TN_DT_F32, TN_DT_BF16, at))
            ck_abort_msg("element %llu", (unsigned long long)i);
    }
    engine_close(engine);
    plan_free(e.plan);
}
END_TEST

/* -- Memory --------------------------------------------------------------------------------------------- */

static uint64_t peak_bytes(void)
{
    unsigned long long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");

    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu", &kib) == 1)
            break;
    fclose(f);
    return kib * 1024;
}

/* Six matrices of 100 MiB, every other one to be transposed; the checkpoint is a hole. */
START_TEST(memory_does_not_grow_with_the_checkpoint)
{
    enum { N = 6 };
    const uint64_t rows = 10240, cols = 5120, bytes = 2 * rows * cols;
    struct plan *p = sample_empty();
    struct weight_source s[N];
    struct weight_origin origins[N];
    struct emission e = {.plan = p, .origins = origins};
    char header[2048] = "{", names[N][8];
    unsigned char length[8] = {0};
    tn_err err = TN_ERR_INIT;
    size_t n = 1;
    int fd;

    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        sample_matrix(p, names[i], rows, cols);
        s[i] = (struct weight_source){names[i], i % 2, 0, rows, NULL, 0};
        origins[i] = (struct weight_origin){.n_sources = 1, .sources = &s[i]};
        n += (size_t)snprintf(header + n, sizeof header - n,
                              "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%llu,%llu],"
                              "\"data_offsets\":[%llu,%llu]}",
                              i ? "," : "", names[i], (unsigned long long)(i % 2 ? cols : rows),
                              (unsigned long long)(i % 2 ? rows : cols),
                              (unsigned long long)(i * bytes),
                              (unsigned long long)((i + 1) * bytes));
    }
    header[n++] = '}';
    length[0] = (unsigned char)n;
    length[1] = (unsigned char)(n >> 8);
    fd = open(path_of("model.safetensors"), O_WRONLY | O_CREAT, 0600);
    ck_assert_ok(file_write_all(fd, "t", length, 8, &err), &err);
    ck_assert_ok(file_write_all(fd, "t", header, n, &err), &err);
    ck_assert_int_eq(ftruncate(fd, (off_t)(8 + n + N * bytes)), 0);
    close(fd);
    ck_assert_ok(stream(&e, NULL, NULL, &err), &err);
    ck_assert_uint_le(peak_bytes(), 256 * MIB + 2 * bytes);
    plan_free(p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_stream");
    TCase *t = tcase_create("stream");

    tcase_add_checked_fixture(t, make_dir, remove_dir);
    tcase_add_test(t, every_element_lands_where_it_belongs);
    tcase_add_test(t, interrupted_build_says_so);
    tcase_add_test(t, value_too_large_for_float16_is_named);
    tcase_add_test(t, dtype_that_cannot_be_converted_is_named);
    tcase_add_test(t, streaming_survives_memory_running_out);
    tcase_add_loop_test(t, tensors_larger_than_a_chunk_have_no_seams, 0, 2);
    tcase_add_test(t, memory_does_not_grow_with_the_checkpoint);
    suite_add_tcase(s, t);
    return run_suite(s);
}
