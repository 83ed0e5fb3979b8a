/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shared object in memory, judged as data: nothing of it is mapped or run. What passes is consistent enough
 * for the dynamic linker to be let loose on it: the C library checks little, and a file with one flipped
 * bit in its headers can end the process inside dlopen.
 */
#ifndef CORE_PLUGIN_ELF_H
#define CORE_PLUGIN_ELF_H

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define ELF_MAX_SEGMENTS 64
#define ELF_MAX_NEEDED 128

struct elf {
    const uint8_t *data; /* the caller's; must outlive this */
    uint64_t size;
    const char *file; /* for messages */
    uint32_t n_segments;
    Elf64_Phdr segments[ELF_MAX_SEGMENTS];
    uint64_t dynamic;   /* offset of the dynamic table in the file */
    uint64_t n_dynamic; /* entries before DT_NULL */
    uint64_t strings;   /* offset of the dynamic string table ... */
    uint64_t n_strings; /* ... and its bytes, the last of which is NUL */
};

/*
 * Reads headers, segments and the dynamic table of data[0..size). TN_E_FORMAT for what is no intact shared object
 * of this machine, TN_E_REFUSED for what is one but asks for something no plugin may have: an executable
 * stack, text relocations, static TLS, a search path of its own, filters or audit libraries.
 */
int32_t elf_open(const void *data, uint64_t size, const char *file, struct elf *out, tn_err *err);

/* The name of the needed library number `index`, inside the data; NULL past the last. */
const char *elf_needed(const struct elf *e, uint32_t index);

/* Bytes of the init and fini arrays: constructors and destructors that the loader would run. */
uint64_t elf_init_bytes(const struct elf *e);

/* Finds the note (name, type) among the PT_NOTE segments. TN_E_NOTFOUND if there is none, TN_E_FORMAT if
 * the notes are malformed or it is there twice. `*desc` lies inside the data, without alignment. */
int32_t elf_find_note(const struct elf *e, const char *name, uint32_t type, const uint8_t **desc,
                      uint64_t *desc_size, tn_err *err);

#endif
