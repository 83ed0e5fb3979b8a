/* SPDX-License-Identifier: Apache-2.0 */
/* What every Check program shares: a main that runs cases, a directory that vanishes, and the fault ramp. */
#ifndef TESTS_CHECK_UTIL_H
#define TESTS_CHECK_UTIL_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tenon/error.h"

/* Runs the suite and returns the exit status for main. CK_FORK=no helps in a debugger. */
static inline int run_suite(Suite *s)
{
    SRunner *r = srunner_create(s);
    int failed;

    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Makes a fresh directory and writes its path to buf. */
static inline const char *temp_dir(char *buf, size_t size)
{
    snprintf(buf, size, "/tmp/tenon-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(buf));
    return buf;
}

static inline void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");

    ck_assert_msg(f != NULL, "cannot create %s", path);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

/* TENON_TEST_SHARE=I/N lets N processes share what a test does: true if the next case is this one's. */
static inline int test_turn(void)
{
    static unsigned count, share, shares;
    const char *text = getenv("TENON_TEST_SHARE");

    if (text && shares == 0) {
        if (sscanf(text, "%u/%u", &share, &shares) != 2 || share >= shares) {
            fprintf(stderr, "TENON_TEST_SHARE=%s: I/N is meant\n", text);
            exit(EXIT_FAILURE); /* nothing shall go untested because of a slip */
        }
    }
    return shares == 0 || count++ % shares == share;
}

#define ck_assert_ok(rc, err)                                                                      \
    do {                                                                                           \
        int32_t rc_ = (rc);                                                                        \
        ck_assert_msg(rc_ == TN_OK, "status %d: %s: %s: %s", (int)rc_, (err)->file, (err)->field,  \
                      (err)->msg);                                                                 \
    } while (0)

/* The message, file or field of `err` contains `text`. */
#define ck_assert_err_has(err, text)                                                               \
    ck_assert_msg(strstr((err)->msg, text) || strstr((err)->file, text) ||                         \
                      strstr((err)->field, text) || strstr((err)->remedy, text),                   \
                  "'%s' not in: %s | %s | %s | %s", text, (err)->file, (err)->field, (err)->msg,   \
                  (err)->remedy)

#endif
