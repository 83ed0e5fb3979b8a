/* SPDX-License-Identifier: Apache-2.0 */
/* Every reason for which a file is refused, from its first byte to its init. */
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <signal.h>

#include "base/ledger.h"
#include "fixture.h"

/* -- Refused by the file ---------------------------------------------------------------------------------- */

START_TEST(files_that_are_no_plugins_are_refused)
{
    char text[200] = "#!/bin/sh\nexit 1\n";

    bytes_refused("", 0, TN_E_FORMAT, "ends within the ELF header");
    bytes_refused(text, sizeof text, TN_E_FORMAT, "is not an ELF file");
    ck_assert_int_eq(unlink(in_dir("x.so")), 0);
    refused("program", TN_E_FORMAT, "is a program");
    refused("no_note", TN_E_NOTFOUND, "has no Tenon note");
    refused("second_note", TN_E_FORMAT, "two Tenon notes");
}
END_TEST

static void patch(const char *plug, size_t at, const void *bytes, size_t n, int32_t code,
                  const char *why)
{
    size_t size;
    char *data = plug_bytes(plug, &size);

    memcpy(data + at, bytes, n);
    bytes_refused(data, size, code, why);
    mem_free(data);
}

START_TEST(files_for_other_machines_are_refused)
{
    patch("good", EI_CLASS, "\1", 1, TN_E_FORMAT, "not a 64-bit ELF file");
    patch("good", EI_DATA, "\2", 1, TN_E_FORMAT, "wrong byte order");
    patch("good", EI_VERSION, "\3", 1, TN_E_FORMAT, "unknown ELF version");
    patch("good", EI_OSABI, "\x09", 1, TN_E_FORMAT, "another operating system");
    patch("good", offsetof(Elf64_Ehdr, e_type), "\1", 1, TN_E_FORMAT, "is no shared object");
    patch("good", offsetof(Elf64_Ehdr, e_machine), "\xf3", 1, TN_E_FORMAT, "is made for riscv");
    patch("good", offsetof(Elf64_Ehdr, e_phnum), "\xff\xff", 2, TN_E_FORMAT, "program headers");
    patch("good", offsetof(Elf64_Ehdr, e_phoff), "\xff\xff\xff\xff\xff\xff\xff\xff", 8, TN_E_FORMAT,
          "ends before its program headers");
}
END_TEST

START_TEST(what_the_linker_was_asked_for_is_refused)
{
    refused("execstack", TN_E_REFUSED, "executable stack");
    refused("rpath", TN_E_REFUSED, "search path");
    refused("static_tls", TN_E_REFUSED, "static thread-local storage");
    refused("needs", TN_E_REFUSED, "needs the library \"libjansson.so.4\"");
}
END_TEST

START_TEST(allowed_libraries_are_allowed)
{
    static const char *const exact[] = {"libjansson.so.4"}, *const any[] = {"libjansson.so"},
                             *const other[] = {"libjansson.so.5", "libjansson", "libjanssonx.so"};
    struct registry_options o = options();
    struct registry *reg;

    put("needs", "x.so");
    o.libraries = exact;
    o.n_libraries = 1;
    reg = open_with(&o);
    check_loaded(reg, 0);
    registry_close(reg);
    o.libraries = any;
    reg = open_with(&o);
    check_loaded(reg, 0);
    registry_close(reg);
    o.libraries = other;
    o.n_libraries = 3;
    reg = open_with(&o);
    check_refused(reg, 0, TN_E_REFUSED, "libjansson.so.4");
    registry_close(reg);
}
END_TEST

START_TEST(thread_local_storage_is_fine_if_dynamic)
{
    struct registry *reg;

    put("tls", "x.so");
    reg = open_dir();
    check_loaded(reg, 0);
    registry_close(reg);
}
END_TEST

START_TEST(notes_that_do_not_fit_are_refused)
{
    refused("major", TN_E_ABI, "is 2; this host speaks plugin ABI 1");
    refused("minor", TN_E_ABI, "needs a host of ABI 1.9");
    refused("build", TN_E_ABI, "was built with");
    refused("bad_name", TN_E_FORMAT, "only a-z, 0-9");
    refused("long_name", TN_E_FORMAT, "does not end within its 32 bytes");
    refused("bad_kinds", TN_E_FORMAT, "no mask of known kinds");
    refused("note_size", TN_E_FORMAT, "is 999, but the note has 232 bytes");
    refused("reserved", TN_E_FORMAT, "is not zero");
}
END_TEST

START_TEST(a_plugin_for_another_cpu_never_runs)
{
    refused("trap", TN_E_REFUSED, "needs CPU features that this machine does not have: bit 60");
}
END_TEST

/* -- Refused by the dynamic linker, the entry symbol, the descriptor -------------------------------------- */

START_TEST(what_does_not_link_is_refused_with_the_linkers_words)
{
    refused("unresolved", TN_E_REFUSED, "no_such_function_anywhere");
    refused("no_query", TN_E_REFUSED, "is not exported");
    refused("declines", TN_E_ABI, "declined");
}
END_TEST

START_TEST(descriptors_are_checked_field_by_field)
{
    static const struct {
        const char *plug, *field;
        int32_t code;
    } cases[] = {
        {"lying_size", "plugin.h.size", TN_E_ABI},
        {"other_name", "plugin.name", TN_E_REFUSED},
        {"many_ifaces", "plugin.n_ifaces", TN_E_REFUSED},
        {"null_fini", "plugin.fini", TN_E_REFUSED},
        {"no_kernels", "plugin.ifaces", TN_E_REFUSED},
        {"null_build", "model.arch.build", TN_E_REFUSED},
        {"quant_flags", "quant.scheme.flags", TN_E_ABI},
        {"null_describe", "quant.format.describe", TN_E_REFUSED},
        {"no_methods", "quant.format.methods", TN_E_REFUSED},
        {"null_abort", "comm.backend.abort", TN_E_REFUSED},
        {"null_copy", "device.copy", TN_E_REFUSED},
        {"half_pinned", "device.pinned_free", TN_E_REFUSED},
        {"many_variants", "kernel.set.n_variants", TN_E_REFUSED},
        {"null_launch", "kernel.set.variants[1].launch", TN_E_REFUSED},
        {"half_kv", "kernel.set.variants[1].kv_dtypes", TN_E_REFUSED},
        {"half_pack", "kernel.set.variants[1].pack_size", TN_E_REFUSED},
        {"much_state", "kernel.set.variants[1].state_bytes", TN_E_REFUSED},
        {"empty_equals", "kernel.set.variants[1].equals", TN_E_REFUSED},
        {"same_variant", "kernel.set.variants[1].name", TN_E_REFUSED},
        {"variant_flags", "kernel.set.variants[1].flags", TN_E_ABI},
        {"bad_range", "kernel.set.variants[0].ranges", TN_E_REFUSED},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].plug, cases[i].code, cases[i].field);
    ck_assert_int_eq(counters.inits, 0);
}
END_TEST

START_TEST(a_refused_swap_class_plugin_is_unmapped)
{
    struct registry *reg;
    void *h;

    snprintf(fail_text, sizeof fail_text, "1");
    put("swap", "swap.so");
    put("good", "good.so");
    reg = open_dir();
    check_refused(reg, 0, TN_E_NOMEM, "step 1 failed");
    check_refused(reg, 1, TN_E_NOMEM, "step 1 failed");
    h = dlopen(in_dir("swap.so"), RTLD_NOLOAD | RTLD_NOW);
    ck_assert_ptr_null(h);
    h = dlopen(in_dir("good.so"), RTLD_NOLOAD | RTLD_NOW);
    ck_assert_ptr_nonnull(h);
    dlclose(h);
    registry_close(reg);
}
END_TEST

/* -- init -------------------------------------------------------------------------------------------------- */

START_TEST(a_failing_init_leaves_nothing_behind)
{
    struct registry_options o = options();
    struct ledger *ledger;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(ledger_new(&ledger, &err), &err);
    o.ledger = ledger;
    put("good", "good.so");
    for (int step = 1; step <= 4; step++) {
        struct registry *reg;
        char why[32];
        memset(&counters, 0, sizeof counters);
        snprintf(fail_text, sizeof fail_text, "%d", step);
        snprintf(why, sizeof why, "init: step %d failed", step);
        reg = open_with(&o);
        check_refused(reg, 0, step == 4 ? TN_E_DEVICE : TN_E_NOMEM, why);
        ck_assert_int_eq(counters.inits, 1);
        ck_assert_int_eq(counters.finis, 0);
        ck_assert_int_eq(counters.steps, step - 1);
        ck_assert_uint_eq(ledger_total(ledger), 0);
        registry_close(reg);
    }
    ck_assert_ptr_null(strstr(log_text, "left"));
    ledger_free(ledger);
}
END_TEST

START_TEST(what_init_spoils_is_seen)
{
    struct registry_options o = options();
    struct ledger *ledger;
    struct registry *reg;
    tn_err err = TN_ERR_INIT;
    sigset_t before, after;

    refused("overrun", TN_E_REFUSED, "wrote beyond the error record");
    ck_assert_int_eq(counters.inits, counters.finis);
    refused("weird_status", TN_E_REFUSED, "returned 17, which is no status");
    ck_assert_ok(ledger_new(&ledger, &err), &err);
    o.ledger = ledger;
    put("leak", "leak.so");
    reg = open_with(&o);
    check_loaded(reg, 0);
    registry_close(reg);
    ck_assert_ptr_nonnull(strstr(log_text, "plugin good: left 12345 bytes behind"));
    ck_assert_uint_eq(ledger_total(ledger), 0);
    ledger_free(ledger);
    ck_assert_int_eq(unlink(in_dir("leak.so")), 0);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    put("sigmask", "x.so");
    reg = open_dir();
    registry_close(reg);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    ck_assert_int_eq(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
    ck_assert_ptr_nonnull(strstr(log_text, "changed the signal mask"));
}
END_TEST

/* -- Who could have put it there --------------------------------------------------------------------------- */

START_TEST(what_others_may_write_is_refused)
{
    struct registry *reg;

    put("good", "x.so");
    ck_assert_int_eq(chmod(in_dir("x.so"), 0664), 0);
    reg = open_dir();
    check_refused(reg, 0, TN_E_REFUSED, "the file may be written to by others (mode 0664)");
    registry_close(reg);
    ck_assert_int_eq(chmod(in_dir("x.so"), 0646), 0);
    reg = open_dir();
    check_refused(reg, 0, TN_E_REFUSED, "mode 0646");
    registry_close(reg);
    ck_assert_int_eq(chmod(in_dir("x.so"), 0644), 0);
    ck_assert_int_eq(chmod(dir, 0775), 0);
    reg = open_dir();
    check_refused(reg, 0, TN_E_REFUSED, "the directory may be written to by others");
    registry_close(reg);
    ck_assert_int_eq(chmod(dir, 0755), 0);
    reg = open_dir();
    check_loaded(reg, 0);
    registry_close(reg);
}
END_TEST

START_TEST(what_belongs_to_others_is_refused)
{
    struct registry *reg;

    if (geteuid() != 0)
        return; /* only root can give files away */
    put("good", "x.so");
    ck_assert_int_eq(chown(in_dir("x.so"), 12345, 0), 0);
    reg = open_dir();
    check_refused(reg, 0, TN_E_REFUSED, "belongs to user 12345");
    registry_close(reg);
    ck_assert_int_eq(chown(in_dir("x.so"), 0, 0), 0);
    ck_assert_int_eq(chown(dir, 12345, 0), 0);
    reg = open_dir();
    check_refused(reg, 0, TN_E_REFUSED, "belongs to user 12345");
    registry_close(reg);
    ck_assert_int_eq(chown(dir, 0, 0), 0);
}
END_TEST

START_TEST(a_link_into_an_open_directory_is_refused)
{
    struct registry *reg;

    ck_assert_int_eq(mkdir(in_dir("open"), 0700), 0);
    put("good", "open/x.so");
    ck_assert_int_eq(chmod(in_dir("open"), 0777), 0);
    ck_assert_int_eq(symlink("open/x.so", in_dir("link.so")), 0);
    reg = open_dir();
    check_refused(reg, 0, TN_E_REFUSED, "the directory may be written to by others");
    registry_close(reg);
    ck_assert_int_eq(unlink(in_dir("link.so")), 0);
}
END_TEST

START_TEST(an_ancestor_open_to_all_is_refused)
{
    const char *paths[1];
    struct registry_options o = options();
    struct registry *reg;

    ck_assert_int_eq(mkdir(in_dir("open"), 0700), 0);
    ck_assert_int_eq(mkdir(in_dir("open/in"), 0755), 0);
    put("good", "open/in/x.so");
    ck_assert_int_eq(chmod(in_dir("open"), 0777), 0);
    paths[0] = in_dir("open/in");
    o.paths = paths;
    reg = open_with(&o);
    check_refused(reg, 0, TN_E_REFUSED, "above it may be written to by anybody");
    registry_close(reg);
}
END_TEST

START_TEST(what_is_no_regular_file_is_refused)
{
    struct registry *reg;

    ck_assert_int_eq(mkdir(in_dir("a.so"), 0755), 0);
    ck_assert_int_eq(mkfifo(in_dir("b.so"), 0600), 0);
    ck_assert_int_eq(symlink("nowhere", in_dir("c.so")), 0);
    reg = open_dir();
    ck_assert_uint_eq(registry_count(reg), 3);
    check_refused(reg, 0, TN_E_REFUSED, "is not a regular file");
    check_refused(reg, 1, TN_E_REFUSED, "is not a regular file");
    check_refused(reg, 2, TN_E_REFUSED, "cannot resolve");
    registry_close(reg);
}
END_TEST

START_TEST(a_huge_file_is_refused_before_it_is_read)
{
    struct registry *reg;
    int fd = open(in_dir("x.so"), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)3 << 30), 0);
    close(fd);
    reg = open_dir();
    check_refused(reg, 0, TN_E_LIMIT, "more than the limit");
    registry_close(reg);
}
END_TEST

START_TEST(one_file_or_name_twice_is_refused)
{
    struct registry *reg;

    put("good", "a.so");
    ck_assert_int_eq(symlink("a.so", in_dir("b.so")), 0);
    ck_assert_int_eq(link(in_dir("a.so"), in_dir("c.so")), 0);
    put("again", "d.so");
    reg = open_dir();
    ck_assert_uint_eq(registry_count(reg), 4);
    check_loaded(reg, 0);
    check_refused(reg, 1, TN_E_REFUSED, "is the same file as");
    check_refused(reg, 2, TN_E_REFUSED, "is the same file as");
    check_refused(reg, 3, TN_E_REFUSED, "a plugin named \"good\" is already loaded");
    ck_assert_int_eq(counters.inits, 1);
    registry_close(reg);
}
END_TEST

START_TEST(only_absolute_directories_that_exist_are_searched)
{
    const char *paths[1] = {"plugins"};
    struct registry_options o = options();
    struct registry *reg;
    tn_err err = TN_ERR_INIT;

    o.paths = paths;
    ck_assert_int_eq(registry_open(&o, &reg, &err), TN_E_INVALID);
    ck_assert_err_has(&err, "is not an absolute path");
    paths[0] = in_dir("nowhere");
    ck_assert_int_eq(registry_open(&o, &reg, &err), TN_E_NOTFOUND);
    ck_assert_str_eq(err.field, "plugins.path");
}
END_TEST

START_TEST(the_default_directory_lies_beside_the_program)
{
    char *path = NULL;
    tn_err err = TN_ERR_INIT;
    int32_t rc;

    /* The test program lies in bin/ of the build tree, as `tenon` does below a prefix. */
    dir_make(BUILD_DIR "/lib/tenon/plugins", &err);
    rc = registry_default_dir(&path, &err);
    ck_assert_ok(rc, &err);
    ck_assert_int_eq(strncmp(path, BUILD_DIR "/bin/../lib", strlen(BUILD_DIR "/bin/../lib")), 0);
    mem_free(path);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("refusal");
    TCase *t = tcase_create("refusal");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, files_that_are_no_plugins_are_refused);
    tcase_add_test(t, files_for_other_machines_are_refused);
    tcase_add_test(t, what_the_linker_was_asked_for_is_refused);
    tcase_add_test(t, allowed_libraries_are_allowed);
    tcase_add_test(t, thread_local_storage_is_fine_if_dynamic);
    tcase_add_test(t, notes_that_do_not_fit_are_refused);
    tcase_add_test(t, a_plugin_for_another_cpu_never_runs);
    tcase_add_test(t, what_does_not_link_is_refused_with_the_linkers_words);
    tcase_add_test(t, descriptors_are_checked_field_by_field);
    tcase_add_test(t, a_refused_swap_class_plugin_is_unmapped);
    tcase_add_test(t, a_failing_init_leaves_nothing_behind);
    tcase_add_test(t, what_init_spoils_is_seen);
    tcase_add_test(t, what_others_may_write_is_refused);
    tcase_add_test(t, what_belongs_to_others_is_refused);
    tcase_add_test(t, a_link_into_an_open_directory_is_refused);
    tcase_add_test(t, an_ancestor_open_to_all_is_refused);
    tcase_add_test(t, what_is_no_regular_file_is_refused);
    tcase_add_test(t, a_huge_file_is_refused_before_it_is_read);
    tcase_add_test(t, one_file_or_name_twice_is_refused);
    tcase_add_test(t, only_absolute_directories_that_exist_are_searched);
    tcase_add_test(t, the_default_directory_lies_beside_the_program);
    suite_add_tcase(s, t);
    return run_suite(s);
}
