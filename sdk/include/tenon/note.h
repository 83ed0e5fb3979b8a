/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file note.h
 * The ELF note by which a plugin is judged before any of its code runs.
 *
 * dlopen runs constructors, so asking a plugin "can you run here?" by calling it is too late: on the
 * wrong CPU it dies of SIGILL first. A plugin therefore states its needs in data. The host reads the file, finds
 * the note in a PT_NOTE segment (name "Tenon", type 1), and refuses with a reason or goes on to dlopen.
 *
 *     TN_PLUGIN_NOTE(.kinds = TN_KIND_MODEL, .name = "llama", .vendor = "tenon", .version = "0.1.0")
 */
#ifndef TENON_NOTE_H
#define TENON_NOTE_H

#include "cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TN_NOTE_NAME "Tenon"
#define TN_NOTE_TYPE 1u
#define TN_NOTE_MAX_GPUS 8

/** What a plugin offers; a mask. The interfaces themselves are named in tn_plugin::ifaces. */
enum tn_kind {
    TN_KIND_MODEL = 1,
    TN_KIND_QUANT = 2,
    TN_KIND_COMM = 4,
    TN_KIND_KERNELS = 8,
    TN_KIND_DEVICE = 16
};

/** What may be done with the plugin on a live server. */
enum tn_swap_class {
    TN_CLASS_PIN = 0, /**< stays mapped for the life of the process (the safe default) */
    TN_CLASS_SWAP =
        1 /**< no constructors, no C++ runtime, device code as images that the core loads */
};

/** Instrumentation that must be the same in host and plugin; a mask. */
enum tn_build_kind { TN_BUILD_PLAIN = 0, TN_BUILD_ASAN = 1, TN_BUILD_TSAN = 2 };

/** How a GPU target matches a device of compute capability major.minor. */
enum tn_gpu_mode {
    TN_GPU_SAME_MAJOR = 1, /**< same major, minor at least the target's (an ordinary cubin) */
    TN_GPU_EXACT = 2,      /**< exactly this capability (sm_90a and the like) */
    TN_GPU_PTX = 3         /**< this capability or any later one, compiled by the driver */
};

/** One kind of GPU. vendor is a PCI vendor id (0x10de NVIDIA, 0x1002 AMD); 0 ends a list. */
typedef struct tn_gpu_target {
    uint16_t vendor;
    uint8_t major, minor;
    uint32_t mode; /**< ::tn_gpu_mode */
} tn_gpu_target;

/** The note's descriptor. Little-endian, no pointers; strings are NUL-terminated and padded. */
typedef struct tn_note {
    uint32_t size;          /**< sizeof(tn_note) as compiled */
    uint16_t abi_major;     /**< major of the entry symbol it exports */
    uint16_t abi_minor;     /**< minor it was compiled against */
    uint16_t abi_minor_min; /**< least minor of a host that it can work with */
    uint16_t swap_class;    /**< ::tn_swap_class */
    uint32_t kinds;         /**< mask of ::tn_kind */
    uint32_t build;         /**< mask of ::tn_build_kind */
    uint32_t reserved0;
    uint64_t cpu[2]; /**< CPU features without which no code of it may run, even to initialise */
    char name[32];   /**< [a-z0-9_.-], unique among loaded plugins */
    char vendor[32];
    char version[32];
    tn_gpu_target gpus[TN_NOTE_MAX_GPUS]; /**< GPUs it has code for; none: not a GPU plugin */
    uint64_t reserved[4];
} tn_note;

TN_STATIC_ASSERT(sizeof(tn_note) == 232, "tn_note is frozen within major 1");

#if defined(__has_feature)
#define TN_HAS_FEATURE(x) __has_feature(x)
#else
#define TN_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || TN_HAS_FEATURE(address_sanitizer)
#define TN_BUILD_KIND TN_BUILD_ASAN
#elif defined(__SANITIZE_THREAD__) || TN_HAS_FEATURE(thread_sanitizer)
#define TN_BUILD_KIND TN_BUILD_TSAN
#else
#define TN_BUILD_KIND TN_BUILD_PLAIN
#endif

/** The note as it lies in the file: packed, since `desc` follows the padded name at once. */
typedef struct __attribute__((packed)) tn_elf_note {
    uint32_t name_size, desc_size, type;
    char name[8];
    tn_note desc;
} tn_elf_note;

TN_STATIC_ASSERT(sizeof(tn_elf_note) == 20 + sizeof(tn_note), "no hole before desc");

/** Emits the note; once per plugin, at file scope. Arguments are designated initialisers of ::tn_note. */
#define TN_PLUGIN_NOTE(...)                                                                        \
    __attribute__((used, section(".note.tenon"),                                                   \
                   aligned(4))) static const tn_elf_note tn_plugin_note = {                        \
        6,                                                                                         \
        (uint32_t)sizeof(tn_note),                                                                 \
        TN_NOTE_TYPE,                                                                              \
        TN_NOTE_NAME,                                                                              \
        {.size = (uint32_t)sizeof(tn_note),                                                        \
         .abi_major = TN_ABI_MAJOR,                                                                \
         .abi_minor = TN_ABI_MINOR,                                                                \
         .build = TN_BUILD_KIND,                                                                   \
         __VA_ARGS__}}

#ifdef __cplusplus
}
#endif
#endif
