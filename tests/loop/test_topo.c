/* SPDX-License-Identifier: Apache-2.0 */
/* What `tenon topo` tells of devices and who would join ranks on them: of the plugin shadow (shadow.h), and of the plugin cuda
 * over a false driver, whose devices 0 and 1 are joined by NVLink, 2 by PCIe, and 3 reaches nobody. */
#include <dlfcn.h>
#include <math.h>

#include "api/tools.h"
#include "check_util.h"
#include "loop/measure.h"

#ifdef FAKE_DRIVER
#include "cuda/fake_driver.h"
#endif

static json_t *topo;

static void look(const tn_kv *settings, uint32_t n, bool measure)
{
    struct tool_conf conf = {NULL, settings, n};
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(tool_topo(&conf, measure, &topo, &err), &err);
}

static void look_at_shadow(const char *devices, const char *how, bool measure)
{
    const tn_kv s[] = {
        {"plugins.path", SHADOW_PATHS}, {"plugin.shadow.devices", devices}, {how, "true"}};

    look(s, how ? 3 : 2, measure);
}

static void forget(void)
{
    json_decref(topo);
    topo = NULL;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    ck_assert_ptr_nonnull(s);
    return s;
}

static json_t *kind_of(const char *name)
{
    json_t *kind;
    size_t i;

    json_array_foreach(json_object_get(topo, "kinds"), i,
                       kind) if (strcmp(text_of(kind, "kind"), name) == 0) return kind;
    ck_abort_msg("no devices of kind %s", name);
}

static const json_t *link_of(const json_t *kind, size_t a, size_t b)
{
    return json_array_get(json_array_get(json_object_get(kind, "links"), a), b);
}

static void check_link(const json_t *kind, size_t a, size_t b, const char *name, bool access)
{
    const json_t *l = link_of(kind, a, b);

    ck_assert_str_eq(text_of(l, "kind"), name);
    ck_assert_int_eq(json_is_true(json_object_get(l, "access")), access);
}

static const json_t *path_of(const json_t *kind, int ranks)
{
    json_t *path;
    size_t i;

    json_array_foreach(json_object_get(kind, "paths"), i,
                       path) if (json_integer_value(json_object_get(path, "ranks")) ==
                                 ranks) return path;
    ck_abort_msg("nothing is said of %d ranks", ranks);
}

static void check_path(const json_t *kind, int ranks, const char *plugin, const char *why)
{
    const json_t *p = path_of(kind, ranks);

    ck_assert_str_eq(text_of(p, "plugin"), plugin);
    ck_assert_msg(strstr(text_of(p, "why"), why) != NULL, "%s", text_of(p, "why"));
}

/* -- Told ----------------------------------------------------------------------------------------------------- */

START_TEST(devices_that_reach_each_other_are_joined_directly)
{
    json_t *kind;

    look_at_shadow("2", NULL, false);
    kind = kind_of("shadow");
    ck_assert_uint_eq(json_array_size(json_object_get(kind, "devices")), 2);
    check_link(kind, 0, 0, "self", true);
    check_link(kind, 0, 1, "nvlink", true);
    check_path(kind, 2, "local", "a device each, joined by NVLink");
    check_path(kind, 4, "local", "ranks share a device");
    ck_assert_ptr_null(json_object_get(kind, "pairs"));
    check_path(kind_of("cpu"), 2, "local", "threads of one process, in host memory");
}
END_TEST

START_TEST(devices_out_of_reach_are_joined_through_the_host)
{
    json_t *kind;

    look_at_shadow("2", "plugin.shadow.islands", false);
    kind = kind_of("shadow");
    check_link(kind, 1, 0, "pcie", false);
    check_path(kind, 2, "pcie", "devices do not reach each other");
    check_path(kind, 4, "pcie", "ranks share devices that do not reach each other");
}
END_TEST

#ifdef FAKE_DRIVER
START_TEST(gpus_are_told_apart_by_what_joins_them)
{
    const tn_kv s[] = {{"plugins.path", CUDA_PATHS}, {"plugin.cuda.driver", FAKE_DRIVER}};
    const tn_kv far[] = {s[0], s[1], {"device.index", "2"}};
    void *driver = dlopen(FAKE_DRIVER, RTLD_NOW | RTLD_LOCAL);
    struct fake_api *api = driver ? dlsym(driver, "fake_api") : NULL;
    json_t *kind;

    ck_assert_ptr_nonnull(api);
    api->reset();
    api->set_devices(4);
    look(s, 2, _i == 1);
    kind = kind_of("cuda");
    check_link(kind, 0, 1, "nvlink", true);
    check_link(kind, 1, 2, "pcie", true);
    check_link(kind, 2, 3, "pcie", false);
    check_path(kind, 4, "pcie", "devices do not reach each other");
    if (_i == 1)
        ck_assert_uint_eq(json_array_size(json_object_get(kind, "pairs")), 12);
    else
        check_path(kind, 2, "local", "a device each, joined by NVLink");
    forget();
    look(far, 3, _i == 1);
    check_path(kind_of("cuda"), 2, "pcie", "devices do not reach each other");
    ck_assert_int_eq(api->live(), 0);
    dlclose(driver);
}
END_TEST
#endif

/* -- Measured ------------------------------------------------------------------------------------------------- */

static const json_t *way_of(const json_t *kind, size_t pair, const char *name)
{
    return json_object_get(json_array_get(json_object_get(kind, "pairs"), pair), name);
}

static void check_way(const json_t *way, bool intact)
{
    ck_assert(json_is_object(way));
    ck_assert_int_eq(json_is_true(json_object_get(way, "intact")), intact);
    ck_assert_double_gt(json_number_value(json_object_get(way, "latency_us")), 0);
    ck_assert_double_gt(json_number_value(json_object_get(way, "gb_per_s")), 0);
}

static void check_sums(const json_t *kind, size_t n)
{
    const json_t *sums = json_object_get(kind, "sums");
    json_t *sum, *time;
    size_t i, k;

    ck_assert_uint_eq(json_array_size(sums), n);
    json_array_foreach(sums, i, sum)
    {
        ck_assert_str_eq(text_of(sum, "error"), "");
        ck_assert_uint_eq(json_array_size(json_object_get(sum, "times")), MEASURED_SUMS);
        json_array_foreach(json_object_get(sum, "times"), k, time)
            ck_assert_double_gt(json_number_value(json_object_get(time, "us")), 0);
    }
}

/* Which way is the faster one here is chance; that figures are given, and all that could join ranks is tried, is not. */
START_TEST(ways_and_sums_are_timed)
{
    json_t *kind;
    const json_t *path;

    look_at_shadow("3", NULL, true);
    kind = kind_of("shadow");
    ck_assert_uint_eq(json_array_size(json_object_get(kind, "pairs")), 6);
    for (size_t i = 0; i < 6; i++) {
        check_way(way_of(kind, i, "direct"), true);
        check_way(way_of(kind, i, "staged"), true);
    }
    check_sums(kind, 4); /* local and pcie, for 2 and for 3 ranks */
    path = path_of(kind, 2);
    ck_assert_msg(strstr(text_of(path, "why"), "GB/s, through the host") != NULL, "%s",
                  text_of(path, "why"));
    check_sums(kind_of("cpu"), 1);
}
END_TEST

START_TEST(a_way_that_does_not_exist_is_not_timed)
{
    json_t *kind;

    look_at_shadow("2", "plugin.shadow.islands", true);
    kind = kind_of("shadow");
    ck_assert(json_is_null(way_of(kind, 0, "direct")));
    check_way(way_of(kind, 0, "staged"), true);
}
END_TEST

START_TEST(a_way_that_loses_what_is_sent_is_not_taken)
{
    json_t *kind;

    look_at_shadow("2", "plugin.shadow.crooked", false);
    check_path(kind_of("shadow"), 2, "local", "a device each, joined by NVLink");
    forget();
    look_at_shadow("2", "plugin.shadow.crooked", true);
    kind = kind_of("shadow");
    check_way(way_of(kind, 0, "direct"), false);
    check_way(way_of(kind, 0, "staged"), true);
    check_path(kind, 2, "pcie", "what is sent does not arrive");
}
END_TEST

START_TEST(the_faster_way_is_taken)
{
    struct measured_pair p = {.direct = {true, true, 8000, 50e9},
                              .staged = {true, true, 20000, 20e9}};

    ck_assert_double_lt(measured_loss_ns(&p, 65536), 0);
    p.direct.bandwidth = 1e9; /* as between sockets whose bridge is slow */
    ck_assert_double_gt(measured_loss_ns(&p, 65536), 0);
    ck_assert_double_lt(measured_loss_ns(&p, 4096), 0);
    p.direct.intact = false;
    ck_assert(isinf(measured_loss_ns(&p, 4096)));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop_topo");
    TCase *t = tcase_create("topo");

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, NULL, forget);
    tcase_add_test(t, devices_that_reach_each_other_are_joined_directly);
    tcase_add_test(t, devices_out_of_reach_are_joined_through_the_host);
#ifdef FAKE_DRIVER
    tcase_add_loop_test(t, gpus_are_told_apart_by_what_joins_them, 0, 2);
#endif
    tcase_add_test(t, ways_and_sums_are_timed);
    tcase_add_test(t, a_way_that_does_not_exist_is_not_timed);
    tcase_add_test(t, a_way_that_loses_what_is_sent_is_not_taken);
    tcase_add_test(t, the_faster_way_is_taken);
    suite_add_tcase(s, t);
    return run_suite(s);
}
