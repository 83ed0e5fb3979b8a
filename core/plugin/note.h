/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and judging a plugin's note (tenon/note.h) from a file in memory. This is all that a plugin can say
 * before any of its code runs, and the only door to dlopen.
 */
#ifndef CORE_PLUGIN_NOTE_H
#define CORE_PLUGIN_NOTE_H

#include <stdint.h>

#include "plugin/elf.h"
#include "tenon/note.h"

/* What a plugin is judged against. */
struct note_host {
    uint64_t cpu[2];              /* usable CPU features */
    uint32_t build;               /* ::tn_build_kind of this process */
    uint16_t minor;               /* ::TN_ABI_MINOR */
    const char *const *libraries; /* allowed beyond the C runtime; "libx.so" allows every version */
    uint32_t n_libraries;
};

/* The facts of this process, no extra libraries. */
void note_host_init(struct note_host *host);

/*
 * Finds the note in the file and checks its form: sizes, texts, masks, lists. TN_E_NOTFOUND if the file is
 * no plugin, TN_E_ABI if its layout is unknown, TN_E_FORMAT if it is malformed. Afterwards all texts in
 * `out` end with NUL and hold [a-z0-9_.-] only.
 */
int32_t note_read(const struct elf *e, tn_note *out, tn_err *err);

/* Whether this process may map the plugin: ABI, instrumentation, CPU features, needed libraries, what its class
 * promises. TN_E_ABI or TN_E_REFUSED with one reason. */
int32_t note_judge(const struct elf *e, const tn_note *note, const struct note_host *host,
                   tn_err *err);

#endif
