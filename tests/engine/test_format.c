/* SPDX-License-Identifier: Apache-2.0 */
/* The header of model.engine: every way in which its 4096 bytes can lie. */
#include "engine/format.h"

#include "check_util.h"

#define TABLE_AT 48
#define ENTRY 40

/* A good header of three sections, as bytes, for a file that ends with the last. */
struct good {
    struct engine_header h;
    uint8_t bytes[ENGINE_HEADER_BYTES];
};

static void encode(struct good *g)
{
    engine_header_encode(&g->h, g->bytes);
}

static struct good good_header(void)
{
    struct good g = {.h = {.file_size = 20580, .n_sections = 3}};
    struct engine_header back;
    tn_err err = TN_ERR_INIT;

    g.h.sections[0] = (struct engine_section){ENGINE_WEIGHTS, 4096, 8192, {1}};
    g.h.sections[1] = (struct engine_section){ENGINE_PLAN, 12288, 5000, {2}};
    g.h.sections[2] = (struct engine_section){ENGINE_META, 20480, 100, {3}};
    memset(g.h.build_id, 0xab, sizeof g.h.build_id);
    encode(&g);
    ck_assert_ok(engine_header_decode(g.bytes, g.h.file_size, "f", &back, &err), &err);
    ck_assert_mem_eq(&back, &g.h, sizeof back);
    return g;
}

static void put(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* Writes the header's digest anew, so that what is tested is the check behind it. */
static void reseal(uint8_t *bytes, uint32_t n)
{
    xxh128_of(bytes, TABLE_AT + ENTRY * n, bytes + TABLE_AT + ENTRY * n);
}

static int32_t decode(const struct good *g, uint64_t size, tn_err *err)
{
    struct engine_header out;
    uint8_t *exact;
    int32_t rc;

    /* An allocation of the exact size lets ASan see an overread. */
    *err = (tn_err)TN_ERR_INIT;
    memset(&out, 0x5a, sizeof out);
    size_t n = size < ENGINE_HEADER_BYTES ? (size_t)size : ENGINE_HEADER_BYTES;
    exact = malloc(n ? n : 1);
    memcpy(exact, g->bytes, n);
    rc = engine_header_decode(exact, size, "some.engine", &out, err);
    free(exact);
    if (rc != TN_OK) {
        ck_assert_int_eq(err->code, rc);
        ck_assert_str_eq(err->file, "some.engine");
        ck_assert_int_eq(((unsigned char *)&out)[0], 0x5a); /* untouched on failure */
    }
    return rc;
}

START_TEST(wrong_magic_is_refused)
{
    struct good g = good_header();
    tn_err err;

    memcpy(g.bytes, "GGUF\3\0\0\0", 8);
    ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "magic");
    ck_assert_err_has(&err, "not those of a Tenon engine");
}
END_TEST

START_TEST(text_mode_damage_is_recognised)
{
    static const char *const damaged[] = {"\x89TENON\n\1", "\x89TENON\r\r", "TENON\r\n\1",
                                          "\x09TENON\r\n"};
    tn_err err;

    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        struct good g = good_header();
        memcpy(g.bytes, damaged[i], 8);
        ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
        ck_assert_err_has(&err, "text-mode");
    }
}
END_TEST

START_TEST(foreign_version_is_named)
{
    static const uint32_t versions[] = {0, 2, 1000, UINT32_MAX};
    tn_err err;

    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        struct good g = good_header();
        put(g.bytes + 8, versions[i], 4);
        reseal(g.bytes, 3);
        ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_VERSION);
        ck_assert_uint_eq(err.offset, 8);
        ck_assert_err_has(&err, "build the engine again");
    }
}
END_TEST

START_TEST(other_byte_order_is_named)
{
    struct good g = good_header();
    tn_err err;

    put(g.bytes + 8, 0x01000000, 4);
    put(g.bytes + 12, 0x04030201, 4);
    reseal(g.bytes, 3);
    ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "byte order");
}
END_TEST

START_TEST(truncated_at_any_byte_is_refused)
{
    struct good g = good_header();
    tn_err err;

    for (uint64_t size = 0; size < g.h.file_size; size++) {
        ck_assert_int_eq(decode(&g, size, &err), TN_E_FORMAT);
        ck_assert_msg(!strstr(err.msg, "text-mode"), "a file of %d bytes is short, not mangled",
                      (int)size);
    }
}
END_TEST

START_TEST(any_flipped_bit_is_refused)
{
    struct good g = good_header();
    tn_err err;

    for (size_t bit = 0; bit < 8 * sizeof g.bytes; bit++) {
        g.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_int_ne(decode(&g, g.h.file_size, &err), TN_OK);
        g.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_OK);
}
END_TEST

START_TEST(huge_section_count_is_refused_before_use)
{
    static const uint32_t counts[] = {0, 17, 0x10000, UINT32_MAX / 40 + 1, UINT32_MAX};
    tn_err err;

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct good g = good_header();
        put(g.bytes + 24, counts[i], 4);
        ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
        ck_assert_str_eq(err.field, "section count");
    }
}
END_TEST

START_TEST(odd_alignment_is_refused)
{
    static const uint32_t aligns[] = {0, 1, 13, 2048, 8192, 1u << 31};
    tn_err err;

    for (size_t i = 0; i < sizeof aligns / sizeof *aligns; i++) {
        struct good g = good_header();
        put(g.bytes + 28, aligns[i], 4);
        reseal(g.bytes, 3);
        ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
        ck_assert_str_eq(err.field, "alignment");
    }
}
END_TEST

START_TEST(sections_that_overlap_or_stray_are_refused)
{
    static const uint64_t offsets[] = {
        0, 1, 4096, 8192, 12289, 12288 - 4096, 16384, 13000, 4095, UINT64_MAX, UINT64_MAX - 4095};
    tn_err err;

    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        struct good g = good_header();
        put(g.bytes + TABLE_AT + ENTRY + 8, offsets[i], 8);
        reseal(g.bytes, 3);
        ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
        ck_assert_str_eq(err.field, "section offset");
    }
}
END_TEST

START_TEST(section_sizes_that_overflow_are_refused)
{
    static const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX - 12288, UINT64_MAX - 12288 - 4094,
                                     INT64_MAX, (uint64_t)INT64_MAX + 1};
    tn_err err;

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct good g = good_header();
        put(g.bytes + TABLE_AT + ENTRY + 16, sizes[i], 8);
        reseal(g.bytes, 3);
        ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
    }
}
END_TEST

START_TEST(last_section_reaching_beyond_the_file_is_refused)
{
    struct good g = good_header();
    tn_err err;

    put(g.bytes + TABLE_AT + 2 * ENTRY + 16, 101, 8);
    reseal(g.bytes, 3);
    ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "file size");
}
END_TEST

START_TEST(trailing_bytes_are_refused)
{
    struct good g = good_header();
    tn_err err;

    ck_assert_int_eq(decode(&g, g.h.file_size + 1, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "foreign bytes");
    ck_assert_uint_eq(err.offset, g.h.file_size);
}
END_TEST

START_TEST(section_kind_that_stands_twice_is_refused)
{
    struct good g = good_header();
    tn_err err;

    g.h.sections[2].kind = ENGINE_PLAN;
    encode(&g);
    ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "twice");
}
END_TEST

START_TEST(section_flags_of_a_later_version_are_refused)
{
    struct good g = good_header();
    tn_err err;

    put(g.bytes + TABLE_AT + 4, 1, 4);
    reseal(g.bytes, 3);
    ck_assert_int_eq(decode(&g, g.h.file_size, &err), TN_E_VERSION);
}
END_TEST

START_TEST(unknown_section_kinds_are_kept)
{
    struct good g = good_header();
    struct engine_header back;
    tn_err err = TN_ERR_INIT;

    g.h.sections[1].kind = 4000;
    encode(&g);
    ck_assert_ok(engine_header_decode(g.bytes, g.h.file_size, "f", &back, &err), &err);
    ck_assert_ptr_nonnull(engine_header_find(&back, 4000));
    ck_assert_ptr_null(engine_header_find(&back, ENGINE_PLAN));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("engine_format");
    TCase *t = tcase_create("header");

    tcase_add_test(t, wrong_magic_is_refused);
    tcase_add_test(t, text_mode_damage_is_recognised);
    tcase_add_test(t, foreign_version_is_named);
    tcase_add_test(t, other_byte_order_is_named);
    tcase_add_test(t, truncated_at_any_byte_is_refused);
    tcase_add_test(t, any_flipped_bit_is_refused);
    tcase_add_test(t, huge_section_count_is_refused_before_use);
    tcase_add_test(t, odd_alignment_is_refused);
    tcase_add_test(t, sections_that_overlap_or_stray_are_refused);
    tcase_add_test(t, section_sizes_that_overflow_are_refused);
    tcase_add_test(t, last_section_reaching_beyond_the_file_is_refused);
    tcase_add_test(t, trailing_bytes_are_refused);
    tcase_add_test(t, section_kind_that_stands_twice_is_refused);
    tcase_add_test(t, section_flags_of_a_later_version_are_refused);
    tcase_add_test(t, unknown_section_kinds_are_kept);
    suite_add_tcase(s, t);
    return run_suite(s);
}
