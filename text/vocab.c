/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabularies (vocab.h). Built by one thread, then read by any number. */
#include "vocab.h"

#include <stdio.h>

#include "base/mem.h"
#include "bytelevel.h"
#include "textlimits.h"

void vocab_release(struct vocab *v)
{
    mem_free(v->text);
    mem_free(v->entries);
    mem_free(v->raw);
    mem_free(v->raws);
    map_release(&v->keys);
    map_release(&v->texts);
    memset(v, 0, sizeof *v);
}

/* Text for a message: the first bytes of a token, which may be long and hold anything. */
static int shown(size_t len)
{
    return len < 40 ? (int)len : 40;
}

int32_t vocab_add(struct vocab *v, uint32_t id, const char *text, size_t len, tn_err *err)
{
    if (id >= LIMIT_VOCAB)
        return tn_err_set(err, TN_E_FORMAT, "token id %u is above the limit of %u", (unsigned)id,
                          (unsigned)LIMIT_VOCAB);
    if (len > LIMIT_TOKEN_BYTES)
        return tn_err_set(err, TN_E_FORMAT, "token %u has %zu bytes, more than the limit of %u",
                          (unsigned)id, len, (unsigned)LIMIT_TOKEN_BYTES);
    if (id < v->size && v->entries[id].len != VOCAB_NONE)
        return tn_err_set(err, TN_E_FORMAT,
                          "token id %u stands twice, the second time for \"%.*s\"", (unsigned)id,
                          shown(len), text);
    if (!mem_grow(&v->entries, &v->cap, (size_t)id + 1, sizeof *v->entries) ||
        !mem_grow(&v->text, &v->text_cap, v->text_len + len + 1, 1))
        return err_nomem(err, "a vocabulary");
    for (; v->size <= id; v->size++)
        v->entries[v->size] = (struct vocab_entry){0, VOCAB_NONE};
    v->entries[id] = (struct vocab_entry){(uint32_t)v->text_len, (uint32_t)len};
    memcpy(v->text + v->text_len, text, len);
    v->text[v->text_len + len] = '\0';
    v->text_len += len + 1;
    v->count++;
    return TN_OK;
}

static bool decode_raw(struct vocab *v)
{
    size_t used = 0;

    v->raw = mem_alloc(v->text_len);
    v->raws = mem_array(v->size, sizeof *v->raws);
    if (!v->raw || !v->raws)
        return false;
    for (size_t id = 0; id < v->size; id++) {
        const struct vocab_entry *e = &v->entries[id];
        size_t n;
        v->raws[id] = (struct vocab_entry){(uint32_t)used, VOCAB_NONE};
        if (e->len != VOCAB_NONE && bytelevel_decode(v->text + e->off, e->len, v->raw + used, &n)) {
            v->raws[id].len = (uint32_t)n;
            used += n;
        }
    }
    return true;
}

#define AHEAD 12 /* entries between fetching a place and using it */

/* The entry's key in `keys` is fetched; a few entries later it is added. */
static void fetch_one(const struct vocab *v, size_t id)
{
    const struct vocab_entry *e = v->bytes ? &v->raws[id] : &v->entries[id];

    if (e->len != VOCAB_NONE)
        map_prefetch(&v->keys, (v->bytes ? v->raw : v->text) + e->off, e->len);
}

static int32_t index_one(struct vocab *v, uint32_t id, bool last_wins, tn_err *err)
{
    const struct vocab_entry *e = &v->entries[id];
    bool raw = v->bytes && v->raws[id].len != VOCAB_NONE;
    const char *key = raw ? v->raw + v->raws[id].off : v->text + e->off;
    size_t len = raw ? v->raws[id].len : e->len;
    struct map *map = v->bytes && !raw ? &v->texts : &v->keys;

    if (last_wins)
        return map_set(map, key, len, id) ? TN_OK : err_nomem(err, "a vocabulary");
    switch (map_put(map, key, len, id)) {
    case MAP_ADDED: return TN_OK;
    case MAP_PRESENT:
        return tn_err_set(err, TN_E_FORMAT, "the token \"%.*s\" stands twice", shown(e->len),
                          v->text + e->off);
    default: return err_nomem(err, "a vocabulary");
    }
}

int32_t vocab_index(struct vocab *v, bool bytes, bool last_wins, tn_err *err)
{
    int32_t rc = TN_OK;

    if (v->count == 0)
        return tn_err_set(err, TN_E_FORMAT, "the vocabulary is empty");
    /* A few unused ids are common, but one far id must not make us hold millions. */
    if (v->size > 64 * KIB && v->size / 16 > v->count)
        return tn_err_set(err, TN_E_FORMAT, "the vocabulary has %zu tokens but ids up to %zu",
                          v->count, v->size - 1);
    v->bytes = bytes;
    if ((bytes && !decode_raw(v)) || !map_reserve(&v->keys, v->count))
        return err_nomem(err, "a vocabulary");
    for (uint32_t id = 0; rc == TN_OK && id < v->size; id++) {
        if (id + AHEAD < v->size)
            fetch_one(v, id + AHEAD);
        if (v->entries[id].len != VOCAB_NONE)
            rc = index_one(v, id, last_wins, err);
    }
    return rc;
}

int32_t vocab_load_object(struct vocab *v, const struct tape *t, uint32_t model, bool bytes,
                          tn_err *err)
{
    uint32_t object = tape_get(t, model, "vocab"), at = object + 1, id;
    int32_t rc = TN_OK;

    if (!tape_is(t, object, TAPE_OBJECT))
        return tape_err(t, object == TAPE_NONE ? model : object, "model.vocab", err,
                        "must be an object of tokens and their ids");
    for (uint32_t i = 0; rc == TN_OK && i < t->nodes[object].len; i++) {
        size_t len;
        const char *text = tape_str(t, at, &len);
        if (!tape_uint(t, at + 1, &id))
            return tape_err(t, at, "model.vocab", err, "the id of \"%.*s\" must be a whole number",
                            shown(len), text);
        rc = vocab_add(v, id, text, len, err);
        if (rc != TN_OK)
            err_file(err, t->file);
        at = t->nodes[at + 1].next;
    }
    if (rc == TN_OK) {
        rc = vocab_index(v, bytes, false, err);
        if (rc != TN_OK)
            err_file(err, t->file);
    }
    return rc;
}

bool vocab_text(const struct vocab *v, uint32_t id, const char **text, size_t *len)
{
    if (id >= v->size || v->entries[id].len == VOCAB_NONE)
        return false;
    *text = v->text + v->entries[id].off;
    *len = v->entries[id].len;
    return true;
}

uint32_t vocab_find(const struct vocab *v, const char *text, size_t len)
{
    char raw[LIMIT_TOKEN_BYTES];
    uint64_t id;
    size_t n;

    if (len > sizeof raw)
        return VOCAB_NONE;
    if (!v->bytes)
        return vocab_key(v, text, len);
    if (bytelevel_decode(text, len, raw, &n))
        return vocab_key(v, raw, n);
    return map_get(&v->texts, text, len, &id) ? (uint32_t)id : VOCAB_NONE;
}

uint32_t vocab_byte(const struct vocab *v, unsigned char byte)
{
    char name[8];

    snprintf(name, sizeof name, "<0x%02X>", byte);
    return vocab_find(v, name, 6);
}
