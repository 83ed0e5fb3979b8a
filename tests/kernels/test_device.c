/* SPDX-License-Identifier: Apache-2.0 */
/* The device "cpu": workers, memory, settings, and what happens when the host says no. */
#include <pthread.h>
#include <stdatomic.h>

#include "harness.h"

static struct plug cpu;

static void setup(void)
{
    plug_load(&cpu, "cpu", "4");
}

static void teardown(void)
{
    plug_unload(&cpu);
}

/* -- Workers ------------------------------------------------------------------------------------------- */

struct seen {
    atomic_uint calls[64], count;
};

static void mark(void *arg, uint32_t index, uint32_t count)
{
    struct seen *s = arg;

    atomic_fetch_add(&s->calls[index], 1);
    atomic_store(&s->count, count);
}

START_TEST(every_worker_runs_every_job_once)
{
    struct seen s;

    ck_assert_uint_eq(cpu.devices->n_workers(cpu.device), 4);
    memset(&s, 0, sizeof s);
    for (int i = 0; i < 500; i++)
        cpu.devices->parallel(cpu.device, mark, &s);
    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(atomic_load(&s.calls[i]), 500);
    ck_assert_uint_eq(atomic_load(&s.calls[4]), 0);
    ck_assert_uint_eq(atomic_load(&s.count), 4);
}
END_TEST

static void nest(void *arg, uint32_t index, uint32_t count)
{
    (void)index;
    (void)count;
    cpu.devices->parallel(cpu.device, mark, arg);
}

START_TEST(a_job_inside_a_job_runs_alone)
{
    struct seen s;

    memset(&s, 0, sizeof s);
    cpu.devices->parallel(cpu.device, nest, &s);
    ck_assert_uint_eq(atomic_load(&s.calls[0]), 4); /* once per outer worker, as worker 0 of 1 */
    ck_assert_uint_eq(atomic_load(&s.count), 1);
}
END_TEST

static void *many_jobs(void *arg)
{
    for (int i = 0; i < 300; i++)
        cpu.devices->parallel(cpu.device, mark, arg);
    return NULL;
}

START_TEST(two_callers_at_once_both_finish)
{
    struct seen a, b;
    pthread_t other;

    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    ck_assert_int_eq(pthread_create(&other, NULL, many_jobs, &b), 0);
    many_jobs(&a);
    pthread_join(other, NULL);
    ck_assert_uint_eq(atomic_load(&a.calls[0]), 300);
    ck_assert_uint_eq(atomic_load(&b.calls[0]), 300);
}
END_TEST

/* With spin_us = 0 every wait goes to sleep, so each job takes the path of a wake-up. */
START_TEST(sleeping_workers_wake_up)
{
    static const tn_kv config[] = {{"threads", "3"}, {"spin_us", "0"}, {"pin", "true"}};
    tn_err err = TN_ERR_INIT;
    tn_device *d = NULL;
    void *instance = NULL;
    struct seen s;

    memset(&s, 0, sizeof s);
    ck_assert_ok(cpu.plugin->init(&cpu.host, config, 3, &instance, &err), &err);
    ck_assert_ok(cpu.devices->open(instance, 0, 0, 1, &d, &err), &err);
    for (int i = 0; i < 500; i++)
        cpu.devices->parallel(d, mark, &s);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(atomic_load(&s.calls[i]), 500);
    cpu.devices->close(d);
    cpu.plugin->fini(instance);
}
END_TEST

START_TEST(devices_open_and_close_many_times)
{
    tn_err err = TN_ERR_INIT;

    for (int i = 0; i < 100; i++) {
        tn_device *d = NULL;
        struct seen s;
        memset(&s, 0, sizeof s);
        ck_assert_ok(cpu.devices->open(cpu.instance, 0, 0, 1, &d, &err), &err);
        if (i % 2)
            cpu.devices->parallel(d, mark, &s);
        cpu.devices->close(d);
    }
    ck_assert_int_eq(cpu.threads, 3); /* those of the fixture */
}
END_TEST

/* Ranks side by side get all workers between them, and each at least one. */
START_TEST(shares_of_a_device_divide_its_workers)
{
    static const tn_kv config[] = {{"threads", "7"}};
    static const uint32_t workers[] = {2, 2, 3};
    tn_err err = TN_ERR_INIT;
    void *instance = NULL;
    tn_device *d[3] = {NULL, NULL, NULL}, *one = NULL;

    ck_assert_ok(cpu.plugin->init(&cpu.host, config, 1, &instance, &err), &err);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_ok(cpu.devices->open(instance, 0, i, 3, &d[i], &err), &err);
        ck_assert_uint_eq(cpu.devices->n_workers(d[i]), workers[i]);
    }
    ck_assert_ok(cpu.devices->open(instance, 0, 19, 20, &one, &err), &err);
    ck_assert_uint_eq(cpu.devices->n_workers(one), 1);
    cpu.devices->close(one);
    for (int i = 0; i < 3; i++)
        cpu.devices->close(d[i]);
    cpu.plugin->fini(instance);
}
END_TEST

/* -- Memory -------------------------------------------------------------------------------------------- */

START_TEST(memory_is_aligned_and_whole)
{
    static const uint64_t sizes[] = {0, 1, 255, 4096, 1 << 20, (1 << 20) + 1, 5 << 20, 33 << 20};
    tn_err err = TN_ERR_INIT;
    unsigned char *p[8] = {0};

    for (int i = 0; i < 8; i++) {
        ck_assert_ok(cpu.devices->mem_alloc(cpu.device, sizes[i], (void **)&p[i], &err), &err);
        ck_assert_uint_eq((uintptr_t)p[i] % 256, 0);
        if (sizes[i] >= 1 << 20)
            ck_assert_uint_eq((uintptr_t)p[i] % (2u << 20), 0);
        ck_assert_ok(cpu.devices->fill(cpu.device, NULL, p[i], (uint8_t)i, sizes[i], &err), &err);
    }
    for (int i = 0; i < 8; i++)
        for (uint64_t j = 0; j < sizes[i]; j += 1 + sizes[i] / 1000)
            expect(p[i][j] == i, "block %d does not keep its bytes", i);
    ck_assert_ok(
        cpu.devices->copy(cpu.device, NULL, p[6], p[7], sizes[6], TN_COPY_DEVICE_TO_DEVICE, &err),
        &err);
    ck_assert_uint_eq(p[6][sizes[6] - 1], 7);
    for (int i = 0; i < 8; i++)
        cpu.devices->mem_free(cpu.device, p[i]);
    cpu.devices->mem_free(cpu.device, NULL);
}
END_TEST

START_TEST(too_much_memory_is_an_error_with_sizes)
{
    tn_err err = TN_ERR_INIT;
    void *p = (void *)1;

    ck_assert_int_eq(cpu.devices->mem_alloc(cpu.device, UINT64_C(1) << 60, &p, &err), TN_E_NOSPACE);
    ck_assert_err_has(&err, "1152921504606846976 bytes asked for");
    ck_assert_ptr_eq(p, (void *)1);
    ck_assert_int_eq(cpu.devices->mem_alloc(cpu.device, UINT64_MAX, &p, &err), TN_E_NOSPACE);
}
END_TEST

START_TEST(the_machine_is_described)
{
    tn_device_info info = {.h = TN_HDR(tn_device_info)};
    tn_err err = TN_ERR_INIT;
    uint64_t free_bytes = 0, total = 0;
    uint32_t n = 0;

    ck_assert_ok(cpu.devices->count(cpu.instance, &n, &err), &err);
    ck_assert_uint_eq(n, 1);
    ck_assert_ok(cpu.devices->info(cpu.instance, 0, &info, &err), &err);
    ck_assert_ok(cpu.devices->mem_info(cpu.device, &free_bytes, &total, &err), &err);
    ck_assert(info.flags & TN_DEVICE_HOST_MEMORY);
    ck_assert_uint_eq(info.n_units, 2);
    ck_assert(info.name[0] != '\0' && info.gpu.vendor == 0);
    ck_assert(free_bytes > 1 << 20 && free_bytes <= total && info.total_bytes == total);
    ck_assert_uint_eq(cpu.devices->act_dtype(cpu.device, TN_DT_BF16), TN_DT_F32);
    ck_assert_int_eq(cpu.devices->info(cpu.instance, 1, &info, &err), TN_E_RANGE);
}
END_TEST

/* -- Settings and faults --------------------------------------------------------------------------------- */

START_TEST(bad_settings_are_refused_by_name)
{
    static const struct {
        tn_kv kv;
        const char *why;
    } cases[] = {
        {{"thread", "2"}, "unknown key"},
        {{"threads", "0"}, "out of range"},
        {{"threads", "two"}, "not a whole"},
        {{"threads", "2x"}, "not a whole"},
        {{"threads", "-1"}, "not a whole"},
        {{"spin_us", "10000001"}, "out of range"},
        {{"pin", "yes"}, "not a whole"},
        {{"threads", "99999999999999999999"}, "out of range"},
        {{"threads", "4294967298"}, "out of range"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_err err = TN_ERR_INIT;
        void *instance = NULL;
        ck_assert_int_eq(cpu.plugin->init(&cpu.host, &cases[i].kv, 1, &instance, &err),
                         TN_E_CONFIG);
        ck_assert_str_eq(err.field, cases[i].kv.key);
        ck_assert_err_has(&err, cases[i].why);
        ck_assert_ptr_null(instance);
    }
}
END_TEST

static int calls_left; /* until the host says no */

static void *failing_alloc(tn_host_ctx *ctx, uint64_t bytes, uint64_t align)
{
    return calls_left-- > 0 ? cpu.host.alloc(ctx, bytes, align) : NULL;
}

static int32_t failing_spawn(tn_host_ctx *ctx, const char *name, int32_t c, void (*fn)(void *),
                             void *arg, tn_thread **out, tn_err *err)
{
    if (calls_left-- > 0)
        return cpu.host.thread_spawn(ctx, name, c, fn, arg, out, err);
    return tn_err_set(err, TN_E_LIMIT, "no more threads");
}

/* Every host call fails in turn; nothing may be left behind (the fixture counts). */
START_TEST(a_host_that_says_no_leaves_nothing_behind)
{
    const tn_kv config = {"threads", "4"};
    int blocks = cpu.allocations, threads = cpu.threads;

    for (int nth = 0; nth < 8; nth++) {
        tn_host host = cpu.host;
        tn_err err = TN_ERR_INIT;
        void *instance = NULL;
        tn_device *d = NULL;
        host.alloc = failing_alloc;
        host.thread_spawn = failing_spawn;
        calls_left = nth;
        int32_t rc = cpu.plugin->init(&host, &config, 1, &instance, &err);
        if (!rc)
            rc = cpu.devices->open(instance, 0, 0, 1, &d, &err);
        ck_assert_msg((rc == TN_OK) == (nth >= 6), "with %d calls: %d", nth, rc);
        ck_assert(rc == TN_OK || err.msg[0]);
        if (!rc)
            cpu.devices->close(d);
        if (instance)
            cpu.plugin->fini(instance);
        ck_assert_int_eq(cpu.allocations, blocks);
        ck_assert_int_eq(cpu.threads, threads);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels_device");
    TCase *c = tcase_create("device");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, every_worker_runs_every_job_once);
    tcase_add_test(c, a_job_inside_a_job_runs_alone);
    tcase_add_test(c, two_callers_at_once_both_finish);
    tcase_add_test(c, sleeping_workers_wake_up);
    tcase_add_test(c, devices_open_and_close_many_times);
    tcase_add_test(c, shares_of_a_device_divide_its_workers);
    tcase_add_test(c, memory_is_aligned_and_whole);
    tcase_add_test(c, too_much_memory_is_an_error_with_sizes);
    tcase_add_test(c, the_machine_is_described);
    tcase_add_test(c, bad_settings_are_refused_by_name);
    tcase_add_test(c, a_host_that_says_no_leaves_nothing_behind);
    suite_add_tcase(s, c);
    return run_suite(s);
}
