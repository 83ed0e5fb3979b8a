/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of core/base: the small things that everything else trusts. */
#include <float.h>
#include <math.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/ledger.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/strbuf.h"
#include "base/utf8.h"
#include "check_util.h"
#include "tenon/batch.h"
#include "tenon/float.h"
#include "tenon/kv_feedback.h"

START_TEST(checked_arithmetic_reports_overflow)
{
    uint64_t v;

    ck_assert(checked_mul(1u << 31, 1u << 31, &v) && v == UINT64_C(1) << 62);
    ck_assert(!checked_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &v));
    ck_assert(!checked_add(UINT64_MAX, 1, &v));
    ck_assert(!checked_sub(1, 2, &v));
    ck_assert(checked_align(4097, 4096, &v) && v == 8192);
    ck_assert(!checked_align(UINT64_MAX - 1, 4096, &v));
    ck_assert_uint_eq(gcd(96, 128), 32);
    ck_assert_uint_eq(gcd(7, 128), 1);
    ck_assert_uint_eq(gcd(0, 5), 5);
}
END_TEST

/* Every entry below its run stands where a kernel looks for it, once; all else is zero. Heads of whole pairs of runs, and others. */
START_TEST(tables_of_feedback_are_packed_by_blocks)
{
    static const uint64_t dims[] = {128, 80, 72, 20};
    uint64_t dim = dims[_i], runs = (dim + 15) / 16 * 2, filled = 0;
    static float table[128 * 128];
    static uint16_t packed[TN_KV_FEEDBACK_BYTES(128) / sizeof(uint16_t)];

    for (uint64_t i = 0; i < dim * dim; i++)
        table[i] = (float)(i % 2039 + 1); /* float16 has them all */
    table[(dim - 1) * dim] = 1e30f;
    tn_kv_feedback_pack(table, dim, packed);
    for (uint64_t run = 1; run < runs; run++)
        for (uint64_t of = 0; of < run; of++)
            for (uint64_t e = 0; e < 64; e++) {
                uint64_t j = run * TN_KV_FEEDBACK_RUN + e % 8, i = of * TN_KV_FEEDBACK_RUN + e / 8;
                float x = tn_f16_to_f32(packed[TN_KV_FEEDBACK_BLOCK(run, of) * 64 + e]);
                float want = j < dim ? fminf(table[j * dim + i], 65504.0f) : 0.0f;
                ck_assert_msg(x >= want && x <= want, "element %u of %u: %g, not %g", (unsigned)i,
                              (unsigned)j, (double)x, (double)want);
                filled++;
            }
    ck_assert_uint_eq(filled * sizeof *packed, TN_KV_FEEDBACK_BYTES(dim));
}
END_TEST

START_TEST(narrow_floats_round_trip_every_value)
{
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        if (!isnan(tn_f16_to_f32(h)))
            ck_assert_uint_eq(tn_f32_to_f16(tn_f16_to_f32(h)), h);
        if (!isnan(tn_bf16_to_f32(h)))
            ck_assert_uint_eq(tn_f32_to_bf16(tn_bf16_to_f32(h)), h);
    }
    for (uint32_t i = 0; i < 256; i++) {
        uint8_t b = (uint8_t)i;
        if (!isnan(tn_f8e4m3_to_f32(b)))
            ck_assert_uint_eq(tn_f32_to_f8e4m3(tn_f8e4m3_to_f32(b)), b);
    }
}
END_TEST

START_TEST(narrowing_rounds_to_nearest_even)
{
    ck_assert_uint_eq(tn_f32_to_bf16(1.00390625f), 0x3f80); /* tie goes to even */
    ck_assert_uint_eq(tn_f32_to_bf16(1.01171875f), 0x3f82); /* tie goes to even, up */
    ck_assert_uint_eq(tn_f32_to_f16(65519.0f), 0x7bff);
    ck_assert_uint_eq(tn_f32_to_f16(65520.0f), 0x7c00);
    ck_assert_uint_eq(tn_f32_to_f16(0x1p-25f), 0);        /* tie below the least subnormal */
    ck_assert_uint_eq(tn_f32_to_f16(0x1.8p-24f), 2);      /* tie between 1 and 2 units */
    ck_assert_uint_eq(tn_f32_to_f8e4m3(1e9f), 0x7e);      /* saturates */
    ck_assert_uint_eq(tn_f32_to_f8e4m3(-0x1p-10f), 0x80); /* tie to zero, sign kept */
    ck_assert_uint_eq(tn_f32_to_f8e4m3(NAN) & 0x7f, 0x7f);
    ck_assert(isnan(tn_bf16_to_f32(tn_f32_to_bf16(NAN))));
}
END_TEST

/* Rows of e4m3 are divided by a power of two, and no smaller one would do. */
START_TEST(step_of_e4m3_is_the_smallest_power_of_two)
{
    static const float near[] = {448.0f, 1.0f, 1.75f, 3.5f, 0x1p-100f, 0x1p-118f, FLT_MAX};

    ck_assert(tn_f8e4m3_step(0.0f) == 0.0f);
    ck_assert(tn_f8e4m3_step(448.0f) == 1.0f);
    ck_assert(tn_f8e4m3_step(nextafterf(448.0f, 1e3f)) == 2.0f);
    ck_assert(tn_f8e4m3_step(0x1p-149f) == 0x1p-126f);
    ck_assert(tn_f8e4m3_step(0x1.cp-118f) == 0x1p-126f);
    for (size_t i = 0; i < sizeof near / sizeof *near; i++)
        for (int k = -1; k <= (near[i] < FLT_MAX); k++) {
            float most = nextafterf(near[i], k < 0 ? 0.0f : k ? INFINITY : near[i]);
            float step = tn_f8e4m3_step(most);
            int exponent;
            ck_assert(frexpf(step, &exponent) == 0.5f);
            ck_assert(most <= 448.0f * (double)step);
            ck_assert(most > 224.0f * (double)step || step == 0x1p-126f);
        }
}
END_TEST

START_TEST(philox_matches_random123_known_answer)
{
    /* kat_vectors of Random123 1.09: philox4x32 10 rounds, counter 0, key 0 */
    ck_assert_uint_eq(tn_philox_word0(0, 0), 0x6627e8d5u);
}
END_TEST

START_TEST(arena_objects_are_zeroed_and_aligned)
{
    struct arena a = ARENA_INIT;

    for (size_t i = 1; i < 3000; i += 7) {
        unsigned char *p = arena_alloc(&a, i);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % 16, 0);
        for (size_t j = 0; j < i; j++)
            ck_assert_uint_eq(p[j], 0);
        memset(p, 0xff, i);
    }
    ck_assert_ptr_null(arena_array(&a, SIZE_MAX, 2));
    ck_assert_str_eq(arena_strndup(&a, "tenon", 3), "ten");
    arena_release(&a);
    ck_assert_uint_eq(a.bytes, 0);
}
END_TEST

START_TEST(strbuf_survives_memory_running_out)
{
    struct strbuf b = STRBUF_INIT;

    strbuf_puts(&b, "kept");
    mem_fail_nth(1, true);
    for (int i = 0; i < 100; i++)
        strbuf_puts(&b, "lost");
    mem_fail_nth(0, false);
    ck_assert(b.failed);
    ck_assert_int_eq(strncmp(strbuf_str(&b), "kept", 4), 0);
    ck_assert_ptr_null(strbuf_detach(&b));
}
END_TEST

START_TEST(log_text_cannot_drive_the_terminal)
{
    struct strbuf b = STRBUF_INIT;

    strbuf_puts_escaped(&b, "a\033[31mb\n\xff\xc3\xa9\xe2\x80\xae");
    ck_assert_str_eq(strbuf_str(&b), "a\\x1b[31mb\\x0a\\xff\xc3\xa9\\xe2\\x80\\xae");
    strbuf_release(&b);
}
END_TEST

START_TEST(utf8_follows_the_unicode_table)
{
    static const char *const bad[] = {
        "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80",
        "\x80",     "\xc3"};
    char out[4];
    uint32_t cp;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert(!utf8_valid(bad[i], strlen(bad[i])));
    for (uint32_t c = 0; c < 0x110000; c++) {
        size_t n;
        if (c >= 0xd800 && c < 0xe000)
            continue;
        n = utf8_encode(c, out);
        ck_assert_uint_eq(utf8_decode(out, n, &cp), n);
        ck_assert_uint_eq(cp, c);
        ck_assert_uint_eq(n > 1 ? utf8_decode(out, n - 1, &cp) : 0, 0);
    }
}
END_TEST

START_TEST(utf8_maximal_subparts_match_the_standard)
{
    /* The Unicode Standard, table 3-8: E1 80 E2 F0 91 92 F1 BF 41 */
    const char *text = "\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41";
    static const size_t want[] = {2, 1, 3, 2, 1};
    size_t at = 0;
    bool valid, partial;

    for (size_t i = 0; i < 5; i++) {
        size_t n = utf8_subpart(text + at, 9 - at, &valid, &partial);
        ck_assert_uint_eq(n, want[i]);
        ck_assert(valid == (i == 4));
        ck_assert(!partial);
        at += n;
    }
    ck_assert_uint_eq(utf8_subpart("\xf0\x9f\x98", 3, &valid, &partial), 3);
    ck_assert(partial);
}
END_TEST

START_TEST(map_keeps_every_key)
{
    struct map m = MAP_INIT;
    char keys[2000][8];
    uint64_t v;

    for (unsigned i = 0; i < 2000; i++) {
        snprintf(keys[i], sizeof keys[i], "k%u", i);
        ck_assert_int_eq(map_put(&m, keys[i], strlen(keys[i]), i), MAP_ADDED);
    }
    ck_assert_int_eq(map_put(&m, "k7", 2, 99), MAP_PRESENT);
    for (unsigned i = 0; i < 2000; i++) {
        ck_assert(map_get(&m, keys[i], strlen(keys[i]), &v));
        ck_assert_uint_eq(v, i);
    }
    ck_assert(map_set(&m, "k7", 2, 99) && map_get(&m, "k7", 2, &v) && v == 99);
    ck_assert(!map_get(&m, "absent", 6, &v));
    map_release(&m);
}
END_TEST

START_TEST(json_errors_name_file_and_field)
{
    tn_err err = TN_ERR_INIT;
    json_t *v;
    int64_t i = 0;
    double d;

    ck_assert_int_eq(json_parse("{\"a\":1,\"a\":2}", 13, "f.json", &v, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.file, "f.json");
    ck_assert_ok(json_parse("{\"a\":{\"b\":[1,2.0,\"x\"]}}", 23, "f.json", &v, &err), &err);
    ck_assert_ok(json_get_int(v, "f.json", "a.b[1]", 0, 5, &i, &err), &err);
    ck_assert_int_eq(i, 2);
    ck_assert_int_eq(json_get_int(v, "f.json", "a.b[0]", 5, 9, &i, &err), TN_E_RANGE);
    ck_assert_str_eq(err.field, "a.b[0]");
    ck_assert_int_eq(json_get_real(v, "f.json", "a.b[2]", 0, 1, &d, &err), TN_E_TYPE);
    ck_assert_int_eq(json_get_int(v, "f.json", "a.c", 0, 5, &i, &err), TN_E_NOTFOUND);
    json_decref(v);
}
END_TEST

START_TEST(json_depth_is_capped_before_parsing)
{
    static char deep[200000];
    tn_err err = TN_ERR_INIT;
    json_t *v;

    memset(deep, '[', sizeof deep);
    ck_assert_int_eq(json_parse(deep, sizeof deep, "deep.json", &v, &err), TN_E_LIMIT);
}
END_TEST

START_TEST(files_that_are_not_regular_are_refused)
{
    tn_err err = TN_ERR_INIT;
    char dir[64], path[128], *text;
    size_t len;

    temp_dir(dir, sizeof dir);
    ck_assert_int_eq(file_read(dir, 100, &text, &len, &err), TN_E_IO);
    snprintf(path, sizeof path, "%s/file", dir);
    ck_assert_int_eq(file_read(path, 100, &text, &len, &err), TN_E_NOTFOUND);
    ck_assert_ok(file_write_atomic(path, "hello", 5, &err), &err);
    ck_assert_int_eq(file_read(path, 4, &text, &len, &err), TN_E_LIMIT);
    ck_assert_ok(file_read(path, 5, &text, &len, &err), &err);
    ck_assert_str_eq(text, "hello");
    mem_free(text);
    ck_assert_ok(dir_remove(dir, &err), &err);
    ck_assert(!path_exists(dir));
}
END_TEST

START_TEST(sha256_matches_fips_180)
{
    uint8_t d[SHA256_BYTES], back[SHA256_BYTES];
    char hex[SHA256_HEX];

    sha256_of("abc", 3, d);
    hex_encode(d, sizeof d, hex);
    ck_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    ck_assert_int_eq(hex_decode(hex, back, sizeof back), 0);
    ck_assert_mem_eq(d, back, sizeof d);
    hex[5] = 'g';
    ck_assert_int_eq(hex_decode(hex, back, sizeof back), -1);
}
END_TEST

START_TEST(ledger_returns_to_zero)
{
    struct ledger *l;
    struct ledger_owner *a, *b, *again;
    struct ledger_line lines[4];
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(ledger_new(&l, &err), &err);
    ck_assert_ok(ledger_owner(l, "weights", "cpu:0", &a, &err), &err);
    ck_assert_ok(ledger_owner(l, "kv", "cpu:0", &b, &err), &err);
    ck_assert_ok(ledger_owner(l, "kv", "cpu:0", &again, &err), &err);
    ck_assert_ptr_eq(b, again);
    ledger_take(a, 100);
    ledger_take(b, 30);
    ck_assert_uint_eq(ledger_total(l), 130);
    ledger_give(a, 100);
    ledger_give(b, 30);
    ck_assert_uint_eq(ledger_total(l), 0);
    ck_assert_uint_eq(ledger_list(l, lines, 4), 2);
    ck_assert_uint_eq(lines[0].peak, 100);
    ledger_free(l);
}
END_TEST

START_TEST(error_text_is_one_line_with_everything)
{
    tn_err err = TN_ERR_INIT;
    struct strbuf b = STRBUF_INIT;

    err_at(&err, TN_E_RANGE, "m.engine", 16, "n_tensors", "is %d", -1);
    err_remedy(&err, "rebuild it");
    err_plugin(&err, "cpu");
    err_print(&err, &b);
    ck_assert_str_eq(strbuf_str(&b), "plugin cpu: m.engine (offset 16, field n_tensors): is -1 "
                                     "[out-of-range]; try: rebuild it");
    strbuf_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base");
    TCase *t = tcase_create("base");

    tcase_add_test(t, checked_arithmetic_reports_overflow);
    tcase_add_test(t, narrow_floats_round_trip_every_value);
    tcase_add_loop_test(t, tables_of_feedback_are_packed_by_blocks, 0, 4);
    tcase_add_test(t, narrowing_rounds_to_nearest_even);
    tcase_add_test(t, step_of_e4m3_is_the_smallest_power_of_two);
    tcase_add_test(t, philox_matches_random123_known_answer);
    tcase_add_test(t, arena_objects_are_zeroed_and_aligned);
    tcase_add_test(t, strbuf_survives_memory_running_out);
    tcase_add_test(t, log_text_cannot_drive_the_terminal);
    tcase_add_test(t, utf8_follows_the_unicode_table);
    tcase_add_test(t, utf8_maximal_subparts_match_the_standard);
    tcase_add_test(t, map_keeps_every_key);
    tcase_add_test(t, json_errors_name_file_and_field);
    tcase_add_test(t, json_depth_is_capped_before_parsing);
    tcase_add_test(t, files_that_are_not_regular_are_refused);
    tcase_add_test(t, sha256_matches_fips_180);
    tcase_add_test(t, ledger_returns_to_zero);
    tcase_add_test(t, error_text_is_one_line_with_everything);
    suite_add_tcase(s, t);
    return run_suite(s);
}
