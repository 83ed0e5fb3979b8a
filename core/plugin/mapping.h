/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mapping a plugin into the process: dlopen, without its traps. The C library goes by names: dlopen of a path whose
 * file was replaced returns the old library while that is mapped, and "/proc/self/fd/3" returns whatever was
 * first opened under that name. Therefore this file remembers, for the life of the process, what it
 * has mapped under which name, and falls back to a fresh sealed copy when a path has new content.
 */
#ifndef CORE_PLUGIN_MAPPING_H
#define CORE_PLUGIN_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"

/* What is to be mapped. */
struct mapping_source {
    const char *path; /* absolute, links resolved */
    const void *data; /* the content that was judged ... */
    size_t size;
    const uint8_t *identity; /* [SHA256_BYTES] ... and what tells it from any other content */
    /* Map exactly `data`, from a sealed copy in memory, whatever happens to the file meanwhile. Otherwise the file
     * is mapped by its path; debuggers and profilers then find it. */
    bool sealed;
};

/* Runs the constructors. TN_E_REFUSED with the dynamic linker's text. Any thread. */
int32_t mapping_open(const struct mapping_source *src, void **handle, tn_err *err);

/* The address of a symbol; NULL with TN_E_REFUSED if it is not there. */
int32_t mapping_symbol(void *handle, const char *path, const char *symbol, void **out, tn_err *err);

/* Unmaps, if this was the last use. Only for plugins whose class allows it. */
void mapping_close(void *handle);

#endif
