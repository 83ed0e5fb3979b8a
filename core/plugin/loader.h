/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One plugin file, from bytes to a running instance, in steps that each can refuse it:
 *
 *     read and hash the file -> ELF and note -> switched off? double? -> allow-list -> judgement -> dlopen ->
 *     entry symbol -> descriptor -> init
 *
 * Nothing of the plugin runs before dlopen. A refusal undoes the steps in reverse. What has been mapped stays
 * mapped, unless its class is SWAP: constructors have run, and a C++ runtime or thread-specific data with
 * destructors make unmapping a gamble.
 */
#ifndef CORE_PLUGIN_LOADER_H
#define CORE_PLUGIN_LOADER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "plugin/note.h"
#include "tenon/plugin.h"

struct host;
struct ledger;

enum plugin_state { PLUGIN_NEW, PLUGIN_LOADED, PLUGIN_DISABLED, PLUGIN_REFUSED };

struct plugin {
    char *path;
    tn_note note; /* zero until read */
    uint64_t dev, ino;
    /* Of what was read: its SHA-256 if the list asks for it, else its XXH128 and zeros. */
    uint8_t identity[SHA256_BYTES];
    char content[2 * XXH128_BYTES + 1]; /* XXH128; "" until read */
    bool listed;                        /* on the allow-list */
    enum plugin_state state;
    tn_err err;   /* why it is not loaded */
    void *handle; /* of dlopen */
    const tn_plugin *desc;
    struct host *host;
    void *instance;
    uint64_t generation;   /* 0 until loaded */
    _Atomic uint32_t refs; /* views that show it */
};

/* What loading goes by; lives as long as a registry. */
struct loader {
    struct note_host host;
    const uint8_t (*digests)[SHA256_BYTES]; /* the allow-list */
    uint32_t n_digests;
    bool check_digests; /* hold against the list, and map sealed copies */
    bool enforce;       /* refuse what is not on it; else warn */
    struct ledger *ledger;
    uint32_t (*config)(const void *arg, const char *plugin, const tn_kv **items);
    const void *config_arg;
    /* Whether the plugin, whose note has been read, must not be loaded for reasons of the others: switched off,
     * name or file already there. Fills `err`; TN_E_CANCELED means switched off. */
    int32_t (*veto)(const void *arg, const struct plugin *p, tn_err *err);
    const void *veto_arg;
};

/* Loads p->path. On failure p->state and p->err tell; everything but the facts about the file is undone. TN_E_NOMEM means
 * that the host ran out of memory, not the plugin's init. */
int32_t plugin_load(struct plugin *p, const struct loader *l);

/* SHA-256 of the file that was loaded, in hex; "" if it was not read, or is not what it was any more. Takes time: device code
 * comes in tens of megabytes, which is why it is not made for everybody. */
void plugin_digest(const struct plugin *p, char out[SHA256_HEX]);

/* Marks a plugin as refused or disabled with this reason. */
void plugin_refuse(struct plugin *p, const tn_err *err);

/* Ends a loaded instance: quiesce, fini, its memory. The code stays mapped. */
void plugin_end(struct plugin *p);

#endif
