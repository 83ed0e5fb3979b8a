/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/note.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "plugin/cpu.h"

#define ALL_KINDS (TN_KIND_MODEL | TN_KIND_QUANT | TN_KIND_COMM | TN_KIND_KERNELS | TN_KIND_DEVICE)

void note_host_init(struct note_host *host)
{
    memset(host, 0, sizeof *host);
    cpu_features(host->cpu);
    host->build = TN_BUILD_KIND;
    host->minor = TN_ABI_MINOR;
}

/* -- Form --------------------------------------------------------------------------------------- */

TN_PRINTF(5, 6)
static int32_t bad_field(const struct elf *e, int32_t code, const char *field, tn_err *err,
                         const char *fmt, ...)
{
    char text[300];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_at(err, code, e->file, TN_NO_OFFSET, field, "%s", text);
}

static int32_t check_text(const struct elf *e, const char *text, size_t size, const char *field,
                          tn_err *err)
{
    size_t n = strnlen(text, size);

    if (n == size)
        return bad_field(e, TN_E_FORMAT, field, err, "does not end within its %zu bytes", size);
    if (n == 0)
        return bad_field(e, TN_E_FORMAT, field, err, "is empty");
    if (strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != n)
        return bad_field(e, TN_E_FORMAT, field, err,
                         "is \"%s\"; only a-z, 0-9, '_', '.' and '-' are allowed", text);
    return TN_OK;
}

static int32_t check_gpus(const struct elf *e, const tn_note *n, tn_err *err)
{
    bool ended = false;

    for (int i = 0; i < TN_NOTE_MAX_GPUS; i++) {
        const tn_gpu_target *g = &n->gpus[i];
        if (g->vendor == 0) {
            ended = true;
            continue;
        }
        if (ended)
            return bad_field(e, TN_E_FORMAT, "note.gpus", err, "goes on after its end at %d", i);
        if (g->mode < TN_GPU_SAME_MAJOR || g->mode > TN_GPU_PTX)
            return bad_field(e, TN_E_FORMAT, "note.gpus", err, "entry %d has unknown mode %" PRIu32,
                             i, g->mode);
    }
    return TN_OK;
}

/* Fields whose meaning a later minor may define must be zero in ours. */
static bool reserved_clear(const tn_note *n)
{
    static const uint64_t zero[sizeof n->reserved / sizeof n->reserved[0]];

    return n->reserved0 == 0 && memcmp(n->reserved, zero, sizeof zero) == 0;
}

static int32_t check_form(const struct elf *e, const tn_note *n, uint64_t desc_size, tn_err *err)
{
    int32_t rc;

    if (n->size != desc_size)
        return bad_field(e, TN_E_FORMAT, "note.size", err,
                         "is %" PRIu32 ", but the note has %" PRIu64 " bytes", n->size, desc_size);
    rc = check_text(e, n->name, sizeof n->name, "note.name", err);
    if (rc == TN_OK)
        rc = check_text(e, n->vendor, sizeof n->vendor, "note.vendor", err);
    if (rc == TN_OK)
        rc = check_text(e, n->version, sizeof n->version, "note.version", err);
    if (rc != TN_OK)
        return rc;
    if (n->abi_minor_min > n->abi_minor)
        return bad_field(e, TN_E_FORMAT, "note.abi_minor_min", err, "is %u, more than abi_minor %u",
                         n->abi_minor_min, n->abi_minor);
    if (n->kinds == 0 || (n->kinds & ~(uint32_t)ALL_KINDS) != 0)
        return bad_field(e, TN_E_FORMAT, "note.kinds", err,
                         "is %#" PRIx32 ", no mask of known kinds", n->kinds);
    if (n->swap_class > TN_CLASS_SWAP)
        return bad_field(e, TN_E_FORMAT, "note.swap_class", err, "is %u, an unknown class",
                         n->swap_class);
    if (n->abi_minor <= TN_ABI_MINOR && !reserved_clear(n))
        return bad_field(e, TN_E_FORMAT, "note.reserved", err, "is not zero");
    return check_gpus(e, n, err);
}

int32_t note_read(const struct elf *e, tn_note *out, tn_err *err)
{
    const uint8_t *desc;
    uint64_t size;
    tn_note n;
    int32_t rc;

    rc = elf_find_note(e, TN_NOTE_NAME, TN_NOTE_TYPE, &desc, &size, err);
    if (rc == TN_E_NOTFOUND)
        err_remedy(err, "it is no Tenon plugin; if it should be, add TN_PLUGIN_NOTE(...)");
    if (rc != TN_OK)
        return rc;
    if (size < sizeof n)
        return bad_field(e, TN_E_FORMAT, "note.size", err,
                         "is %" PRIu64 " bytes, at least %zu are needed", size, sizeof n);
    memcpy(&n, desc, sizeof n);
    /* Another major may lay out everything behind the version differently. */
    if (n.abi_major != TN_ABI_MAJOR) {
        bad_field(e, TN_E_ABI, "note.abi_major", err, "is %u; this host speaks plugin ABI %u",
                  n.abi_major, TN_ABI_MAJOR);
        err_remedy(err, "use a build of the plugin for ABI %u", TN_ABI_MAJOR);
        return TN_E_ABI;
    }
    rc = check_form(e, &n, size, err);
    if (rc == TN_OK)
        *out = n;
    return rc;
}

/* -- Judgement ------------------------------------------------------------------------------------ */

static const char *build_name(uint32_t build)
{
    switch (build) {
    case TN_BUILD_PLAIN: return "no sanitizer";
    case TN_BUILD_ASAN: return "AddressSanitizer";
    case TN_BUILD_TSAN: return "ThreadSanitizer";
    default: return "unknown instrumentation";
    }
}

/* Libraries that are part of the C runtime and that the process has anyway, or that bring no state along. */
static const char *const runtime_libraries[] = {
    "libc.so",  "libm.so",     "libdl.so",           "libpthread.so",
    "librt.so", "libgcc_s.so", "ld-linux-x86-64.so", "ld-linux-aarch64.so"};

/* Those of an instrumented process too. */
static const char *const sanitizer_libraries[] = {"libasan.so", "libubsan.so", "libtsan.so"};

/* "libx.so" covers "libx.so" and "libx.so.2"; "libx.so.2" only itself. */
static bool covers(const char *allowed, const char *name)
{
    size_t n = strlen(allowed);

    if (strcmp(allowed, name) == 0)
        return true;
    return n > 3 && strcmp(allowed + n - 3, ".so") == 0 && strncmp(allowed, name, n) == 0 &&
           name[n] == '.';
}

static bool covered(const char *const *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (covers(list[i], name))
            return true;
    return false;
}

static bool library_ok(const struct note_host *host, const tn_note *note, const char *name)
{
    if (covered(runtime_libraries, sizeof runtime_libraries / sizeof *runtime_libraries, name))
        return true;
    if (host->build != TN_BUILD_PLAIN &&
        covered(sanitizer_libraries, sizeof sanitizer_libraries / sizeof *sanitizer_libraries,
                name))
        return true;
    /* libstdc++ keeps thread-local destructors: what uses it can never be unmapped. */
    if (covers("libstdc++.so", name))
        return note->swap_class == TN_CLASS_PIN;
    return covered(host->libraries, host->n_libraries, name);
}

static int32_t judge_libraries(const struct elf *e, const tn_note *note,
                               const struct note_host *host, tn_err *err)
{
    const char *name;

    for (uint32_t i = 0; (name = elf_needed(e, i)) != NULL; i++) {
        if (library_ok(host, note, name))
            continue;
        err_at(err, TN_E_REFUSED, e->file, TN_NO_OFFSET, NULL,
               "needs the library \"%.100s\", which plugins of its class may not", name);
        err_remedy(err, "add it to plugins.allowed_libraries if you trust it");
        return TN_E_REFUSED;
    }
    return TN_OK;
}

static int32_t judge_cpu(const struct elf *e, const tn_note *note, const struct note_host *host,
                         tn_err *err)
{
    uint64_t lacking[2] = {note->cpu[0] & ~host->cpu[0], note->cpu[1] & ~host->cpu[1]};
    char names[200];

    if (lacking[0] == 0 && lacking[1] == 0)
        return TN_OK;
    cpu_feature_names(lacking, names, sizeof names);
    err_at(err, TN_E_REFUSED, e->file, TN_NO_OFFSET, "note.cpu",
           "needs CPU features that this machine does not have: %s", names);
    err_remedy(err, "use a build of the plugin for this CPU");
    return TN_E_REFUSED;
}

int32_t note_judge(const struct elf *e, const tn_note *note, const struct note_host *host,
                   tn_err *err)
{
    int32_t rc;

    if (note->abi_minor_min > host->minor) {
        bad_field(e, TN_E_ABI, "note.abi_minor_min", err,
                  "is %u: it needs a host of ABI %u.%u at least; this is %u.%u",
                  note->abi_minor_min, TN_ABI_MAJOR, note->abi_minor_min, TN_ABI_MAJOR,
                  host->minor);
        err_remedy(err, "update Tenon, or use an older build of the plugin");
        return TN_E_ABI;
    }
    if (note->build != host->build) {
        bad_field(e, TN_E_ABI, "note.build", err, "was built with %s, this process with %s",
                  build_name(note->build), build_name(host->build));
        err_remedy(err, "build both with the same -fsanitize options");
        return TN_E_ABI;
    }
    rc = judge_cpu(e, note, host, err);
    if (rc == TN_OK)
        rc = judge_libraries(e, note, host, err);
    /* The C compiler's start files bring one entry each, sanitizers another. */
    if (rc == TN_OK && note->swap_class == TN_CLASS_SWAP && host->build == TN_BUILD_PLAIN &&
        elf_init_bytes(e) > sizeof(uint64_t))
        rc = bad_field(e, TN_E_REFUSED, "note.swap_class", err,
                       "has constructors or destructors, which its class SWAP rules out");
    return rc;
}
