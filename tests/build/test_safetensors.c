/* SPDX-License-Identifier: Apache-2.0 */
/* The safetensors header: good files, and each way in which a header can lie about its file. */
#include "build/safetensors.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "build/checkpoint_maker.h"
#include "check_util.h"
#include "tenon/dtype.h"

#define GOOD                                                                                       \
    "{\"__metadata__\":{\"format\":\"pt\"},"                                                       \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"                          \
    "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"                               \
    "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[16,16]}}"

/* Parses a file with this header and data; a refusal names the file. */
static int32_t parse(const char *header, size_t data_bytes, tn_err *err)
{
    struct st_header h = {0};
    size_t size;
    unsigned char *p = st_bytes(header, data_bytes, &size);
    int32_t rc;

    *err = (tn_err)TN_ERR_INIT;
    rc = safetensors_parse(p, size, size, "m.safetensors", &h, err);
    if (rc == TN_OK)
        st_header_release(&h);
    else
        ck_assert_str_eq(err->file, "m.safetensors");
    mem_free(p);
    return rc;
}

static void check_bad(const char *header, size_t data_bytes, int32_t code, const char *text)
{
    tn_err err;

    ck_assert_msg(parse(header, data_bytes, &err) == code, "%d (%s): %.200s", err.code, err.msg,
                  header);
    ck_assert_err_has(&err, text);
}

/* One tensor "t" whose members are `members`. */
static void check_bad_tensor(const char *members, size_t data_bytes, const char *text)
{
    char header[1024];

    snprintf(header, sizeof header, "{\"t\":{%s}}", members);
    check_bad(header, data_bytes, TN_E_FORMAT, text);
}

START_TEST(good_header_is_read)
{
    const struct st_tensor *t;
    struct st_header h = {0};
    tn_err err = TN_ERR_INIT;
    size_t size;
    unsigned char *p = st_bytes(GOOD, 16, &size);

    ck_assert_ok(safetensors_parse(p, size, size, "f", &h, &err), &err);
    ck_assert_uint_eq(h.n_tensors, 3);
    t = safetensors_find(&h, "b");
    ck_assert_ptr_nonnull(t);
    ck_assert_uint_eq(t->dtype, TN_DT_BF16);
    ck_assert_uint_eq(t->n_dims, 2);
    ck_assert_uint_eq(t->dims[1], 3);
    ck_assert_uint_eq(t->bytes, 12);
    ck_assert_uint_eq(t->offset, size - 12);
    ck_assert_uint_eq(safetensors_find(&h, "a")->n_dims, 0);
    ck_assert_uint_eq(safetensors_find(&h, "empty")->bytes, 0);
    ck_assert_ptr_null(safetensors_find(&h, "__metadata__"));
    st_header_release(&h);
    mem_free(p);
}
END_TEST

START_TEST(header_padded_with_blanks_is_read)
{
    tn_err err;

    ck_assert_ok(parse(GOOD "     ", 16, &err), &err);
    ck_assert_ok(parse("{}", 0, &err), &err);
}
END_TEST

START_TEST(file_without_a_header_is_refused)
{
    struct st_header h;
    tn_err err = TN_ERR_INIT;
    unsigned char *p = mem_zalloc(8);

    for (size_t n = 0; n < 8; n++)
        ck_assert_int_eq(safetensors_parse(p, n, n, "f", &h, &err), TN_E_FORMAT);
    ck_assert_int_eq(safetensors_parse(p, 8, 8, "f", &h, &err), TN_E_FORMAT); /* length 0 */
    mem_free(p);
    check_bad("", 0, TN_E_FORMAT, "header");
    check_bad("", 16, TN_E_FORMAT, "header");
    check_bad(" {}", 0, TN_E_FORMAT, "'{'");
    check_bad("[]", 0, TN_E_FORMAT, "'{'");
    check_bad("{", 0, TN_E_FORMAT, "JSON");
    check_bad("{}x", 0, TN_E_FORMAT, "JSON");
}
END_TEST

START_TEST(header_length_beyond_cap_or_file_is_refused_unread)
{
    static const uint64_t lengths[] = {LIMIT_SAFETENSORS_HEADER + 1, UINT64_MAX, UINT64_MAX - 7,
                                       INT64_MAX, (uint64_t)INT64_MAX + 1};
    unsigned char p[8];
    struct st_header h;
    tn_err err = TN_ERR_INIT;

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (int k = 0; k < 8; k++)
            p[k] = (unsigned char)(lengths[i] >> (8 * k));
        ck_assert_int_eq(safetensors_parse(p, 8, UINT64_MAX, "f", &h, &err), TN_E_FORMAT);
        ck_assert_str_eq(err.field, "header length");
    }
    memset(p, 0, sizeof p);
    p[0] = 93;
    ck_assert_int_eq(safetensors_parse(p, 8, 100, "f", &h, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "truncated");
}
END_TEST

START_TEST(truncated_at_any_byte_is_refused)
{
    struct st_header h;
    tn_err err = TN_ERR_INIT;
    size_t size;
    unsigned char *p = st_bytes(GOOD, 16, &size);

    for (size_t n = 0; n < size; n++) {
        unsigned char *exact = mem_alloc(n ? n : 1);
        memcpy(exact, p, n);
        ck_assert_int_ne(safetensors_parse(exact, n, n, "f", &h, &err), TN_OK);
        mem_free(exact);
    }
    mem_free(p);
}
END_TEST

START_TEST(flipped_bits_are_refused_or_harmless)
{
    struct st_header h;
    tn_err err = TN_ERR_INIT;
    size_t size;
    unsigned char *p = st_bytes(GOOD, 16, &size);

    for (size_t bit = 0; bit < 8 * (size - 16); bit++) {
        p[bit / 8] ^= (unsigned char)(1u << bit % 8);
        if (safetensors_parse(p, size, size, "f", &h, &err) == TN_OK) {
            /* What still parses still tiles the file, so that every read stays inside. */
            uint64_t end = size - 16;
            for (size_t i = 0; i < h.n_tensors; i++) {
                ck_assert_uint_eq(h.tensors[i].offset, end);
                end += h.tensors[i].bytes;
            }
            ck_assert_uint_eq(end, size);
            st_header_release(&h);
        }
        p[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    mem_free(p);
}
END_TEST

START_TEST(trailing_bytes_are_refused)
{
    check_bad(GOOD, 17, TN_E_FORMAT, "foreign bytes");
    check_bad(GOOD, 15, TN_E_FORMAT, "truncated");
    check_bad("{}", 1, TN_E_FORMAT, "foreign bytes");
}
END_TEST

START_TEST(tensors_that_overlap_or_leave_holes_are_refused)
{
    check_bad("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
              "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
              7, TN_E_FORMAT, "tensor before it");
    check_bad("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
              "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}",
              9, TN_E_FORMAT, "tensor before it");
    check_bad("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
              "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
              8, TN_E_FORMAT, "tensor before it");
    check_bad("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", 5, TN_E_FORMAT,
              "tensor before it");
}
END_TEST

START_TEST(offsets_that_lie_are_refused)
{
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]", 4, "ascending");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[-4,0]", 4, "ascending");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4.0]", 4, "ascending");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]", 4, "data_offsets");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,4]", 4, "data_offsets");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[4]", 4, "data_offsets");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[9223372036854775807],"
                     "\"data_offsets\":[0,9223372036854775807]",
                     4, "fits 64 bits");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[0],"
                     "\"data_offsets\":[9223372036854775807,9223372036854775807]",
                     0, "tensor before it");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,18446744073709551616]", 4,
                     "JSON");
}
END_TEST

START_TEST(shape_whose_product_overflows_is_refused)
{
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]",
                     0, "fits 64 bits");
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[2305843009213693952,2],\"data_offsets\":[0,0]",
                     0, "fits 64 bits");
    /* 2^61 elements of 64 bits wrap to 0 bits */
    check_bad_tensor("\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]", 0,
                     "fits 64 bits");
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]", 4, "shape");
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]", 4, "shape");
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]", 4, "shape");
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]", 4, "shape");
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]", 4, "shape");
    check_bad_tensor("\"dtype\":\"F32\",\"data_offsets\":[0,4]", 4, "shape");
    check_bad_tensor("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]", 1,
                     "8 dimensions");
}
END_TEST

START_TEST(size_that_is_not_shape_times_dtype_is_refused)
{
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]", 4, "need 8");
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9]", 9, "need 8");
    check_bad_tensor("\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]", 4, "need 0");
    check_bad_tensor("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]", 2, "");
}
END_TEST

START_TEST(unknown_dtypes_are_refused)
{
    check_bad_tensor("\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]", 4, "unknown dtype");
    check_bad_tensor("\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]", 4, "unknown dtype");
    check_bad_tensor("\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,4]", 4, "unknown dtype");
    check_bad_tensor("\"dtype\":\"F32\\u0000\",\"shape\":[1],\"data_offsets\":[0,4]", 4, "dtype");
    check_bad_tensor("\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]", 4, "dtype");
    check_bad_tensor("\"shape\":[1],\"data_offsets\":[0,4]", 4, "dtype");
}
END_TEST

START_TEST(duplicate_keys_are_refused)
{
    check_bad("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
              "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
              2, TN_E_FORMAT, "duplicate");
    check_bad_tensor("\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]", 1,
                     "duplicate");
}
END_TEST

START_TEST(names_out_of_bounds_are_refused)
{
    char name[LIMIT_TENSOR_NAME + 2], header[LIMIT_TENSOR_NAME + 100];
    tn_err err;

    for (size_t n = LIMIT_TENSOR_NAME; n <= LIMIT_TENSOR_NAME + 1; n++) {
        memset(name, 'n', n);
        name[n] = '\0';
        snprintf(header, sizeof header,
                 "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
        ck_assert_int_eq(parse(header, 1, &err), n <= LIMIT_TENSOR_NAME ? TN_OK : TN_E_FORMAT);
    }
    check_bad("{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, TN_E_FORMAT,
              "empty");
    check_bad("{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
              TN_E_FORMAT, "JSON");
    check_bad("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, TN_E_FORMAT,
              "JSON");
}
END_TEST

START_TEST(entries_of_the_wrong_type_are_refused)
{
    check_bad("{\"t\":[]}", 0, TN_E_FORMAT, "dtype");
    check_bad("{\"t\":null}", 0, TN_E_FORMAT, "dtype");
    check_bad("{\"__metadata__\":7}", 0, TN_E_FORMAT, "__metadata__");
    check_bad("{\"__metadata__\":{\"format\":7}}", 0, TN_E_FORMAT, "__metadata__");
    check_bad("{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, TN_E_FORMAT, "__metadata__");
}
END_TEST

START_TEST(deep_nesting_is_refused_without_recursion)
{
    size_t n = 1000000;
    char *header = mem_alloc(n + 16);

    memcpy(header, "{\"t\":", 5);
    memset(header + 5, '[', n);
    header[5 + n] = '\0';
    check_bad(header, 0, TN_E_LIMIT, "deep");
    mem_free(header);
}
END_TEST

/* 1e5 tensors, ten times what the largest models have; names that share a long prefix. */
static char *many_tensors(int n)
{
    struct strbuf b = STRBUF_INIT;

    strbuf_putc(&b, '{');
    for (int i = 0; i < n; i++)
        strbuf_printf(&b,
                      "%s\"model.layers.mlp.experts.%d.weight\":{\"dtype\":\"U8\",\"shape\":[1],"
                      "\"data_offsets\":[%d,%d]}",
                      i ? "," : "", i, n - 1 - i, n - i);
    strbuf_putc(&b, '}');
    return strbuf_detach(&b);
}

START_TEST(a_hundred_thousand_tensors_are_indexed)
{
    enum { N = 100000 };
    struct st_header h;
    tn_err err = TN_ERR_INIT;
    char *header = many_tensors(N);
    size_t size;
    unsigned char *p = st_bytes(header, N, &size);

    ck_assert_ok(safetensors_parse(p, size, size, "f", &h, &err), &err);
    ck_assert_uint_eq(h.n_tensors, N);
    ck_assert_uint_eq(safetensors_find(&h, "model.layers.mlp.experts.7.weight")->offset, size - 8);
    st_header_release(&h);
    mem_free(p);
    mem_free(header);
}
END_TEST

START_TEST(parsing_survives_memory_running_out)
{
    struct st_header h;
    size_t size;
    unsigned char *p = st_bytes(GOOD, 16, &size);
    int32_t rc = TN_E_NOMEM;
    tn_err err = TN_ERR_INIT;

    for (uint64_t n = 1; rc != TN_OK; n++) {
        mem_fail_nth(n, false);
        rc = safetensors_parse(p, size, size, "f", &h, &err);
        ck_assert_int_eq(rc, mem_injected() ? TN_E_NOMEM : TN_OK);
    }
    mem_fail_nth(0, false);
    st_header_release(&h);
    mem_free(p);
}
END_TEST

START_TEST(written_file_is_read_back)
{
    static const float a[6] = {1, 2, 3, 4, 5, 6};
    static const int32_t b[2] = {-1, 7};
    const struct st_tensor tensors[] = {
        {.name = "a", .dtype = TN_DT_F32, .n_dims = 2, .dims = {2, 3}, .bytes = sizeof a},
        {.name = "b\"\\", .dtype = TN_DT_I32, .n_dims = 1, .dims = {2}, .bytes = sizeof b}};
    const void *const data[] = {a, b};
    struct file_reader f;
    struct st_header h;
    tn_err err = TN_ERR_INIT;
    char dir[64], path[128];
    float back[6];

    temp_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/x.safetensors", dir);
    ck_assert_ok(safetensors_write(path, tensors, data, 2, &err), &err);
    ck_assert_ok(file_reader_open(path, &f, &err), &err);
    ck_assert_ok(safetensors_read(&f, &h, &err), &err);
    ck_assert_uint_eq(safetensors_find(&h, "a")->offset % 8, 0);
    ck_assert_ok(file_reader_at(&f, safetensors_find(&h, "a")->offset, back, sizeof back, &err),
                 &err);
    ck_assert_mem_eq(back, a, sizeof a);
    ck_assert_uint_eq(safetensors_find(&h, "b\"\\")->bytes, sizeof b);
    st_header_release(&h);
    file_reader_release(&f);
    ck_assert_ok(dir_remove(dir, &err), &err);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_safetensors");
    TCase *t = tcase_create("header");

    tcase_add_test(t, good_header_is_read);
    tcase_add_test(t, header_padded_with_blanks_is_read);
    tcase_add_test(t, file_without_a_header_is_refused);
    tcase_add_test(t, header_length_beyond_cap_or_file_is_refused_unread);
    tcase_add_test(t, truncated_at_any_byte_is_refused);
    tcase_add_test(t, flipped_bits_are_refused_or_harmless);
    tcase_add_test(t, trailing_bytes_are_refused);
    tcase_add_test(t, tensors_that_overlap_or_leave_holes_are_refused);
    tcase_add_test(t, offsets_that_lie_are_refused);
    tcase_add_test(t, shape_whose_product_overflows_is_refused);
    tcase_add_test(t, size_that_is_not_shape_times_dtype_is_refused);
    tcase_add_test(t, unknown_dtypes_are_refused);
    tcase_add_test(t, duplicate_keys_are_refused);
    tcase_add_test(t, names_out_of_bounds_are_refused);
    tcase_add_test(t, entries_of_the_wrong_type_are_refused);
    tcase_add_test(t, deep_nesting_is_refused_without_recursion);
    tcase_add_test(t, a_hundred_thousand_tensors_are_indexed);
    tcase_add_test(t, parsing_survives_memory_running_out);
    tcase_add_test(t, written_file_is_read_back);
    suite_add_tcase(s, t);
    return run_suite(s);
}
