/* SPDX-License-Identifier: Apache-2.0 */
/* What a sound plugin is promised: to be found, listed, looked up, ended, and to be the file that was judged. */
#include "base/ledger.h"
#include "fixture.h"

/* -- A sound plugin ------------------------------------------------------------------------------------ */

START_TEST(a_sound_plugin_is_found_and_ended)
{
    struct registry_options o = options();
    const struct registry_view *view;
    const tn_device_api *api;
    const tn_model_arch *arch;
    const tn_quant_scheme *scheme;
    const tn_comm_backend *backend;
    struct registry_sets sets;
    struct registry_info info;
    char digest[65];
    struct registry *reg;
    struct ledger *ledger;
    tn_err err = TN_ERR_INIT;
    void *instance = NULL;

    ck_assert_ok(ledger_new(&ledger, &err), &err);
    o.ledger = ledger;
    put("good", "good.so");
    put("alpha", "ignored.so.1");
    put("alpha", ".hidden.so");
    reg = open_with(&o);
    ck_assert_uint_eq(registry_count(reg), 1);
    check_loaded(reg, 0);
    registry_info(reg, 0, &info);
    ck_assert_str_eq(info.name, "good");
    ck_assert_str_eq(info.version, "1.0.0");
    ck_assert_str_eq(info.vendor, "test");
    ck_assert_uint_eq(info.kinds, 31);
    ck_assert_uint_eq(strlen(info.content), 32);
    registry_digest(reg, 0, digest);
    ck_assert_uint_eq(strlen(digest), 64);
    put("alpha", "good.so"); /* not what was loaded */
    registry_digest(reg, 0, digest);
    ck_assert_str_eq(digest, "");
    ck_assert_uint_eq(info.generation, 1);
    ck_assert_int_eq(info.err->code, TN_OK);
    ck_assert_uint_gt(ledger_total(ledger), 3000);

    view = registry_acquire(reg);
    ck_assert_ok(registry_device(view, "good-device", &api, &instance, &err), &err);
    ck_assert_ptr_nonnull(instance);
    ck_assert_str_eq(registry_plugin_of(view, api), "good");
    ck_assert_ok(registry_model(view, "good-model", &arch, &instance, &err), &err);
    ck_assert_ok(registry_quant(view, "good-quant", &scheme, &instance, &err), &err);
    ck_assert_ok(registry_comm(view, "good-comm", &backend, &instance, &err), &err);
    ck_assert_ok(registry_kernel_sets(view, "cpu", &sets, &err), &err);
    ck_assert_uint_eq(sets.count, 1);
    ck_assert_str_eq(sets.items[0].plugin_name, "good");
    ck_assert_uint_eq(sets.items[0].set->n_variants, 2);
    ck_assert_int_eq(registry_model(view, "nobody", &arch, &instance, &err), TN_E_NOTFOUND);
    ck_assert_err_has(&err, "there is: good-model, shared-model");
    ck_assert_int_eq(registry_kernel_sets(view, "good-device", &sets, &err), TN_E_NOTFOUND);
    registry_release(view);
    registry_close(reg);
    ck_assert_int_eq(counters.inits, 1);
    ck_assert_int_eq(counters.quiesces, 1);
    ck_assert_int_eq(counters.finis, 1);
    ck_assert_int_eq(counters.threads, 1);
    ck_assert_uint_eq(ledger_total(ledger), 0);
    ledger_free(ledger);
}
END_TEST

START_TEST(plugins_load_in_order_of_names_and_end_in_reverse)
{
    struct registry *reg;
    struct registry_info info;

    put("good", "2.so");
    put("beta", "1.so");
    put("alpha", "3.so");
    reg = open_dir();
    registry_info(reg, 0, &info);
    ck_assert_str_eq(info.name, "beta");
    registry_info(reg, 2, &info);
    ck_assert_str_eq(info.name, "alpha");
    ck_assert_uint_eq(info.generation, 3);
    registry_close(reg);
    ck_assert_uint_eq(counters.order, 61); /* alpha 0, good 6, beta 1 */
    ck_assert_ptr_nonnull(strstr(log_text, "plugins beta and good both provide model.arch"));
}
END_TEST

START_TEST(kernel_sets_follow_the_configuration)
{
    static const char *const order[] = {"good", "absent", "alpha"};
    struct registry_options o = options();
    const struct registry_view *view;
    const struct registry_iface *items;
    struct registry_sets sets;
    struct registry *reg;
    tn_err err = TN_ERR_INIT;

    put("good", "2.so");
    put("beta", "1.so");
    put("alpha", "3.so");
    o.kernel_sets = order;
    o.n_kernel_sets = 3;
    reg = open_with(&o);
    view = registry_acquire(reg);
    ck_assert_ok(registry_kernel_sets(view, "cpu", &sets, &err), &err);
    ck_assert_uint_eq(sets.count, 2);
    ck_assert_str_eq(sets.items[0].plugin_name, "good");
    ck_assert_str_eq(sets.items[1].plugin_name, "alpha");
    ck_assert_uint_eq(sets.items[1].generation, 3);
    ck_assert_uint_eq(registry_ifaces(view, TN_IFACE_DEVICE, &items), 3);
    ck_assert_str_eq(items[0].plugin_name, "beta");
    ck_assert_uint_eq(registry_ifaces(view, "acme.unknown", &items), 0);
    ck_assert_ptr_nonnull(strstr(log_text, "names \"absent\""));
    registry_release(view);
    registry_close(reg);
}
END_TEST

START_TEST(a_disabled_plugin_does_not_run)
{
    static const char *const off[] = {"alpha"};
    struct registry_options o = options();
    const struct registry_view *view;
    const tn_model_arch *arch;
    struct registry_info info;
    struct registry *reg;
    tn_err err = TN_ERR_INIT;
    void *instance;

    put("good", "good.so");
    put("alpha", "alpha.so");
    o.disable = off;
    o.n_disable = 1;
    reg = open_with(&o);
    registry_info(reg, 0, &info);
    ck_assert_int_eq(info.state, REGISTRY_DISABLED);
    ck_assert_str_eq(info.name, "alpha");
    check_loaded(reg, 1);
    ck_assert_int_eq(counters.inits, 1);
    view = registry_acquire(reg);
    ck_assert_int_eq(registry_model(view, "alpha-model", &arch, &instance, &err), TN_E_NOTFOUND);
    ck_assert_err_has(&err, "not loaded: alpha");
    registry_release(view);
    registry_close(reg);
}
END_TEST

START_TEST(a_held_view_keeps_its_plugins)
{
    const struct registry_view *view;
    struct registry *reg;

    put("good", "good.so");
    reg = open_dir();
    view = registry_acquire(reg);
    ck_assert_uint_eq(registry_generation(view), 1);
    registry_close(reg);
    ck_assert_int_eq(counters.finis, 0);
    registry_release(view);
    ck_assert_int_eq(counters.finis, 1);
}
END_TEST

START_TEST(a_second_registry_gets_its_own_instance)
{
    struct registry *a, *b;

    put("good", "good.so");
    a = open_dir();
    b = open_dir();
    ck_assert_int_eq(counters.inits, 2);
    registry_close(a);
    ck_assert_int_eq(counters.finis, 1);
    registry_close(b);
    ck_assert_int_eq(counters.finis, 2);
}
END_TEST

START_TEST(a_replaced_file_is_not_taken_for_the_old_one)
{
    struct registry_info info;
    struct registry *reg;
    const struct registry_view *view;
    const struct registry_iface *items;
    const void *before;

    put("good", "x.so");
    reg = open_dir();
    view = registry_acquire(reg);
    registry_ifaces(view, TN_IFACE_MODEL, &items);
    before = items[0].vtbl;
    registry_release(view);
    registry_close(reg);
    put("again", "new");
    ck_assert_int_eq(rename(in_dir("new"), in_dir("x.so")), 0);
    reg = open_dir();
    check_loaded(reg, 0);
    registry_info(reg, 0, &info);
    ck_assert_str_eq(info.version, "2.0.0");
    view = registry_acquire(reg);
    registry_ifaces(view, TN_IFACE_MODEL, &items);
    ck_assert_ptr_ne(items[0].vtbl, before); /* dlopen of the path would give the old mapping */
    registry_release(view);
    registry_close(reg);
}
END_TEST

/* -- The allow-list ------------------------------------------------------------------------------------------ */

static struct registry *open_listed(enum registry_allow allow, const char *digest)
{
    const char *digests[1] = {digest};
    struct registry_options o = options();

    o.allow = allow;
    o.digests = digests;
    o.n_digests = digest ? 1 : 0;
    return open_with(&o);
}

START_TEST(the_allow_list_decides)
{
    static const char other[] = "00000000000000000000000000000000000000000000000000000000000000ab";
    struct registry_info info;
    struct registry *reg;
    char digest[65], upper[65];

    put("good", "x.so");
    reg = open_dir();
    registry_info(reg, 0, &info);
    registry_digest(reg, 0, digest);
    ck_assert(!info.listed);
    registry_close(reg);

    counters.inits = 0;
    reg = open_listed(REGISTRY_ALLOW_ENFORCE, other);
    check_refused(reg, 0, TN_E_REFUSED, "not on the allow-list");
    check_refused(reg, 0, TN_E_REFUSED, digest);
    ck_assert_int_eq(counters.inits, 0);
    registry_close(reg);

    reg = open_listed(REGISTRY_ALLOW_WARN, other);
    check_loaded(reg, 0);
    ck_assert_ptr_nonnull(strstr(log_text, "is not on the allow-list"));
    registry_close(reg);

    for (int i = 0; i < 65; i++)
        upper[i] = (char)(digest[i] >= 'a' ? digest[i] - 32 : digest[i]);
    reg = open_listed(REGISTRY_ALLOW_ENFORCE, upper);
    check_loaded(reg, 0);
    registry_info(reg, 0, &info);
    ck_assert(info.listed);
    registry_close(reg);
}
END_TEST

START_TEST(a_malformed_digest_is_refused)
{
    const char *digests[1] = {"abc"};
    struct registry_options o = options();
    struct registry *reg;
    tn_err err = TN_ERR_INIT;

    o.digests = digests;
    o.n_digests = 1;
    ck_assert_int_eq(registry_open(&o, &reg, &err), TN_E_INVALID);
    ck_assert_str_eq(err.field, "plugins.digests");
}
END_TEST

static bool is_mapped(const char *name)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[1024];
    bool found = false;

    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f))
        found |= strstr(line, name) != NULL;
    fclose(f);
    return found;
}

/* What was hashed is what runs: the file is destroyed as soon as it is loaded, and calls still work. */
START_TEST(listed_plugins_run_from_a_sealed_copy)
{
    const struct registry_view *view;
    const tn_device_api *api;
    struct registry *reg;
    tn_err err = TN_ERR_INIT;
    void *instance;
    uint32_t n = 7;

    put("good", "x.so");
    reg = open_listed(REGISTRY_ALLOW_WARN, NULL);
    check_loaded(reg, 0);
    ck_assert_int_eq(truncate(in_dir("x.so"), 0), 0);
    view = registry_acquire(reg);
    ck_assert_ok(registry_device(view, "good-device", &api, &instance, &err), &err);
    ck_assert_ok(api->count(instance, &n, &err), &err);
    ck_assert_uint_eq(n, 0);
    ck_assert(is_mapped("/memfd:x.so"));
    ck_assert(!is_mapped(in_dir("x.so")));
    registry_release(view);
    registry_close(reg);
}
END_TEST

START_TEST(sealed_copies_do_not_share_a_name)
{
    struct registry_info info;
    struct registry *reg;

    put("alpha", "1.so");
    put("beta", "2.so");
    put("good", "3.so");
    reg = open_listed(REGISTRY_ALLOW_WARN, NULL);
    for (uint32_t i = 0; i < 3; i++)
        check_loaded(reg, i);
    registry_info(reg, 1, &info);
    ck_assert_str_eq(info.name, "beta");
    registry_close(reg);
    reg = open_listed(REGISTRY_ALLOW_WARN, NULL);
    for (uint32_t i = 0; i < 3; i++)
        check_loaded(reg, i);
    registry_close(reg);
}
END_TEST

/* -- Memory, CPU, host ------------------------------------------------------------------------------------- */

START_TEST(memory_running_out_while_opening_leaks_nothing)
{
    struct registry_options o = options();
    struct ledger *ledger;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(ledger_new(&ledger, &err), &err);
    o.ledger = ledger;
    put("good", "good.so");
    put("no_note", "no_note.so");
    for (uint64_t n = 1;; n++) {
        struct registry *reg = NULL;
        bool struck;
        mem_fail_nth(n, n % 2 == 0);
        registry_open(&o, &reg, &err);
        struck = mem_injected();
        mem_fail_nth(0, false);
        registry_close(reg);
        ck_assert_uint_eq(ledger_total(ledger), 0);
        ck_assert_int_eq(counters.finis <= counters.inits, 1);
        if (!struck)
            break;
        ck_assert_uint_lt(n, 1000);
    }
    ledger_free(ledger);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("registry");
    TCase *t = tcase_create("registry");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, a_sound_plugin_is_found_and_ended);
    tcase_add_test(t, plugins_load_in_order_of_names_and_end_in_reverse);
    tcase_add_test(t, kernel_sets_follow_the_configuration);
    tcase_add_test(t, a_disabled_plugin_does_not_run);
    tcase_add_test(t, a_held_view_keeps_its_plugins);
    tcase_add_test(t, a_second_registry_gets_its_own_instance);
    tcase_add_test(t, a_replaced_file_is_not_taken_for_the_old_one);
    tcase_add_test(t, the_allow_list_decides);
    tcase_add_test(t, a_malformed_digest_is_refused);
    tcase_add_test(t, listed_plugins_run_from_a_sealed_copy);
    tcase_add_test(t, sealed_copies_do_not_share_a_name);
    tcase_add_test(t, memory_running_out_while_opening_leaks_nothing);
    suite_add_tcase(s, t);
    return run_suite(s);
}
