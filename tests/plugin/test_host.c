/* SPDX-License-Identifier: Apache-2.0 */
/* CPU features and the host table. */
#include <signal.h>

#include "base/ledger.h"
#include "fixture.h"
#include "plugin/cpu.h"
#include "plugin/host.h"

START_TEST(cpu_features_agree_with_the_compiler)
{
    uint64_t f[2], all[2] = {UINT64_C(1) << 6 | 1, UINT64_C(1) << 3};
    char names[64];

    cpu_features(f);
#if defined(__x86_64__)
    ck_assert_int_eq((f[0] & TN_CPU(AVX2)) != 0, __builtin_cpu_supports("avx2") != 0);
    ck_assert_int_eq((f[0] & TN_CPU(AVX512F)) != 0, __builtin_cpu_supports("avx512f") != 0);
    ck_assert_int_eq((f[0] & TN_CPU(AVX512VNNI)) != 0, __builtin_cpu_supports("avx512vnni") != 0);
    ck_assert_int_eq((f[0] & TN_CPU(FMA)) != 0, __builtin_cpu_supports("fma") != 0);
    ck_assert_int_eq((f[0] & TN_CPU(SSE42)) != 0, __builtin_cpu_supports("sse4.2") != 0);
#endif
    cpu_feature_names(all, names, sizeof names);
    ck_assert_str_eq(names, "sse4.2, avx512f, bit 67");
    cpu_feature_names(all, names, 10);
    ck_assert_str_eq(names, "sse4.2, a");
}
END_TEST

static void note_cpu(void *arg)
{
    sigset_t mask;

    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    *(int *)arg = sigismember(&mask, SIGTERM);
}

START_TEST(the_host_table_keeps_its_promises)
{
    struct ledger *ledger;
    struct ledger_line lines[2];
    const tn_host *t;
    struct host *h;
    tn_thread *thread;
    tn_err err = TN_ERR_INIT;
    uint64_t cpu[2] = {1, 2};
    unsigned char *p;
    void *q;
    int blocked = 0;

    ck_assert_ok(ledger_new(&ledger, &err), &err);
    ck_assert_ok(host_new("x", cpu, ledger, &h, &err), &err);
    t = host_table(h);
    ck_assert_uint_eq(t->h.size, sizeof(tn_host));
    ck_assert_uint_eq(t->cpu[1], 2);
    ck_assert_uint_ge(t->n_cpus, 1);
    p = t->alloc(t->ctx, 1000, 4096);
    ck_assert_uint_eq((uintptr_t)p % 4096, 0);
    for (int i = 0; i < 1000; i++)
        ck_assert_uint_eq(p[i], 0);
    q = t->alloc(t->ctx, 0, 1);
    ck_assert_ptr_nonnull(q);
    ck_assert_ptr_null(t->alloc(t->ctx, 8, 3));
    ck_assert_ptr_null(t->alloc(t->ctx, 8, 8192));
    ck_assert_ptr_null(t->alloc(t->ctx, UINT64_MAX, 8));
    ck_assert_uint_eq(host_bytes(h), 1000);
    ck_assert_uint_eq(ledger_list(ledger, lines, 2), 1);
    ck_assert_str_eq(lines[0].owner, "plugin x");
    t->free(t->ctx, NULL);
    t->free(t->ctx, p + 256); /* not ours: logged, not freed */
    ck_assert_ptr_nonnull(strstr(log_text, "did not get here"));
    t->free(t->ctx, p);
    ck_assert_uint_eq(ledger_total(ledger), 0);
    t->log(t->ctx, TN_LOG_WARN, "hello\033[31m");
    ck_assert_ptr_nonnull(strstr(log_text, "plugin x: hello\\x1b[31m"));
    t->log(t->ctx, 99, NULL);
    ck_assert_int_eq(t->thread_spawn(t->ctx, "far", 100000, note_cpu, &blocked, &thread, &err),
                     TN_E_RANGE);
    ck_assert_ok(
        t->thread_spawn(t->ctx, "a name longer than fifteen", 0, note_cpu, &blocked, &thread, &err),
        &err);
    ck_assert_uint_eq(host_threads(h), 1);
    t->thread_join(t->ctx, thread);
    ck_assert_int_eq(blocked, 1);
    ck_assert_uint_le(t->now_ns(t->ctx), t->now_ns(t->ctx));
    ck_assert(host_free(h)); /* q is left: freed and logged */
    ledger_free(ledger);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("host");
    TCase *t = tcase_create("host");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, cpu_features_agree_with_the_compiler);
    tcase_add_test(t, the_host_table_keeps_its_promises);
    suite_add_tcase(s, t);
    return run_suite(s);
}
