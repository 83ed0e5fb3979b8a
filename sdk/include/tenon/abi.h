/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file abi.h
 * The ground rules of the Tenon plugin ABI.
 *
 * Everything that crosses between the host and a plugin is declared in the headers of this
 * directory, and nothing else is. The rules, in the order they protect you:
 *
 *  1. A plugin exports one symbol, tn_plugin_query_v1 (plugin.h). The major version is part of its
 *     name, so that a plugin may export several and a host finds only those it understands.
 *  2. Every struct that crosses begins with a ::tn_hdr. `size` is what the writer compiled; a reader
 *     touches a field only if TN_HAS says the writer knew it. The exceptions lie in arrays or in
 *     device memory and are frozen: tn_kv, tn_gpu_target, tn_range, tn_sample_row, tn_note.
 *  3. Within a major version structs grow at the end only; fields are neither moved nor given a new
 *     meaning, and zero in a new field means the old behaviour.
 *  4. Types are fixed width: no enum, bool, long, bit-field, va_list, FILE or C++ type crosses.
 *  5. Whoever allocates frees. Nothing that a plugin allocated is reachable after its `fini`.
 *  6. No function of a plugin calls exit or abort, raises a signal, throws, changes the locale, the
 *     environment or signal handlers, or starts a thread other than through tn_host::thread_spawn.
 *
 * sdk/layout.golden lists the size of every struct and the offset of every field; a test
 * compares it with the headers, so a change of layout cannot go unnoticed.
 */
#ifndef TENON_ABI_H
#define TENON_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Incompatible changes. Part of the name of the entry symbol. */
#define TN_ABI_MAJOR 1
/** Additions. Host and plugin both use the lesser of their two. */
#define TN_ABI_MINOR 0

/** First member of every struct that crosses the ABI. */
typedef struct tn_hdr {
    uint32_t size;  /**< sizeof the struct as its writer compiled it, in bytes */
    uint16_t major; /**< ::TN_ABI_MAJOR of the writer */
    uint16_t minor; /**< ::TN_ABI_MINOR of the writer */
} tn_hdr;

/** Initialiser for the header of a struct of type `type`. */
#define TN_HDR(type)                                                                               \
    {                                                                                              \
        (uint32_t)sizeof(type), TN_ABI_MAJOR, TN_ABI_MINOR                                         \
    }

/** Nonzero if the writer of `*ptr`, a struct of type `type`, knew the field `field`. */
#define TN_HAS(type, ptr, field)                                                                   \
    ((ptr)->h.size >= offsetof(type, field) + sizeof(((type *)0)->field))

/* Compiler extensions live here and nowhere else. */
#if defined(__GNUC__) || defined(__clang__)
#define TN_EXPORT __attribute__((visibility("default")))
#define TN_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define TN_UNUSED __attribute__((unused))
#else
#error "Tenon's SDK needs a compiler with GNU attributes (gcc or clang)"
#endif

#ifdef __cplusplus
#define TN_STATIC_ASSERT(cond, text) static_assert(cond, text)
#else
#define TN_STATIC_ASSERT(cond, text) _Static_assert(cond, text)
#endif

TN_STATIC_ASSERT(sizeof(tn_hdr) == 8, "tn_hdr is frozen");
TN_STATIC_ASSERT(sizeof(void *) == 8, "the ABI is defined for 64-bit machines");

#ifdef __cplusplus
}
#endif
#endif
