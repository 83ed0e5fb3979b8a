/* SPDX-License-Identifier: Apache-2.0 */
/* Plugins that a disk or a copy has damaged: cut short, or with flipped bits. The process must survive them. */
#include "fixture.h"
#include "plugin/elf.h"
#include "plugin/note.h"

/* -- Damaged files ---------------------------------------------------------------------------------------- */

START_TEST(files_truncated_at_every_header_boundary_are_refused)
{
    size_t size, cuts[3 * ELF_MAX_SEGMENTS + 3], n = 0;
    char *data = plug_bytes("good", &size);
    Elf64_Ehdr h;

    memcpy(&h, data, sizeof h);
    cuts[n++] = sizeof h;
    cuts[n++] = sizeof h - 1;
    for (unsigned i = 0; i < h.e_phnum; i++) {
        Elf64_Phdr p;
        memcpy(&p, data + h.e_phoff + i * sizeof p, sizeof p);
        cuts[n++] = h.e_phoff + (i + 1) * sizeof p - 1;
        if (p.p_filesz > 0) {
            cuts[n++] = p.p_offset + p.p_filesz - 1;
            cuts[n++] = p.p_offset + p.p_filesz / 2;
        }
    }
    for (size_t i = 0; i < n; i++)
        bytes_refused(data, cuts[i], TN_E_FORMAT, "");
    mem_free(data);
}
END_TEST

/* Loads the plugin with one bit flipped; what matters is that the process survives. */
static bool survives(char *data, size_t size, size_t at, unsigned bit, unsigned serial)
{
    struct registry_info info;
    struct registry *reg;
    char name[32];
    bool loaded;

    snprintf(name, sizeof name, "f%u.so", serial);
    data[at] ^= (char)(1 << bit);
    put_bytes(name, data, size);
    data[at] ^= (char)(1 << bit);
    reg = open_dir();
    registry_info(reg, 0, &info);
    loaded = info.state == REGISTRY_LOADED;
    registry_close(reg);
    unlink(in_dir(name));
    return loaded;
}

/* Flips every bit of [begin, end); returns how many of the damaged files were loaded all the same. */
static unsigned flip(const char *plug, size_t begin, size_t end)
{
    size_t size;
    char *data = plug_bytes(plug, &size);
    unsigned serial = 0, loaded = 0;

    ck_assert_uint_le(end, size);
    for (size_t at = begin; at < end; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            log_text[0] = '\0';
            loaded += survives(data, size, at, bit, serial++);
        }
    mem_free(data);
    return loaded;
}

START_TEST(flipped_bits_in_the_elf_header_do_not_crash)
{
    /* What is ignored: entry, section headers, flags, padding. */
    ck_assert_uint_lt(flip("good", 0, sizeof(Elf64_Ehdr)), 8 * 32);
}
END_TEST

START_TEST(flipped_bits_in_the_program_headers_do_not_crash)
{
    size_t size;
    char *data = plug_bytes("good", &size);
    Elf64_Ehdr h;

    memcpy(&h, data, sizeof h);
    mem_free(data);
    /* Sanitizers' runtimes read these headers, too, once a library is mapped: ThreadSanitizer fails to make shadow for
     * some address ranges, LeakSanitizer for thread-local blocks of some sizes. */
    if (TN_BUILD_KIND != TN_BUILD_TSAN)
        flip("good", h.e_phoff, h.e_phoff + h.e_phnum * sizeof(Elf64_Phdr));
    if (TN_BUILD_KIND == TN_BUILD_PLAIN)
        flip("tls", h.e_phoff, h.e_phoff + h.e_phnum * sizeof(Elf64_Phdr));
}
END_TEST

START_TEST(flipped_bits_in_the_note_do_not_crash)
{
    size_t size;
    char *data = plug_bytes("good", &size);
    const uint8_t *desc;
    uint64_t n;
    struct elf elf;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(elf_open(data, size, "good", &elf, &err), &err);
    ck_assert_ok(elf_find_note(&elf, TN_NOTE_NAME, TN_NOTE_TYPE, &desc, &n, &err), &err);
    flip("good", (size_t)(desc - (const uint8_t *)data) - 20,
         (size_t)(desc - (const uint8_t *)data) + n);
    mem_free(data);
}
END_TEST

START_TEST(flipped_bits_anywhere_never_crash_the_reader)
{
    size_t size;
    char *data = plug_bytes("good", &size);

    for (size_t at = 0; at < size; at++) {
        tn_err err = TN_ERR_INIT;
        struct note_host host;
        struct elf elf;
        tn_note note;
        data[at] ^= (char)(1 << (at % 8));
        note_host_init(&host);
        if (elf_open(data, size, "x", &elf, &err) == TN_OK && note_read(&elf, &note, &err) == TN_OK)
            note_judge(&elf, &note, &host, &err);
        data[at] ^= (char)(1 << (at % 8));
    }
    mem_free(data);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("damage");
    TCase *t = tcase_create("damage");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, files_truncated_at_every_header_boundary_are_refused);
    tcase_add_test(t, flipped_bits_in_the_elf_header_do_not_crash);
    tcase_add_test(t, flipped_bits_in_the_program_headers_do_not_crash);
    tcase_add_test(t, flipped_bits_in_the_note_do_not_crash);
    tcase_add_test(t, flipped_bits_anywhere_never_crash_the_reader);
    suite_add_tcase(s, t);
    return run_suite(s);
}
