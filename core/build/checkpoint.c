/* SPDX-License-Identifier: Apache-2.0 */
#include "build/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/limits.h"
#include "base/mem.h"

#define INDEX "model.safetensors.index.json"
#define SINGLE "model.safetensors"

struct shard {
    struct file_reader file;
    struct st_header header;
};

struct checkpoint {
    struct shard *shards;
    size_t n_shards, cap_shards;
    struct map shard_of; /* tensor name -> shard */
    uint64_t bytes;
};

/* A shard's name comes from the index: one plain file name, no path out of the directory. */
static bool plain_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && !strchr(name, '/') && strlen(name) < 256;
}

static int32_t add_shard(struct checkpoint *c, const char *dir, const char *name, tn_err *err)
{
    struct shard s = {.file = {-1, 0, NULL}};
    char *path = path_join(dir, name);
    int32_t rc;

    if (!path || !mem_grow(&c->shards, &c->cap_shards, c->n_shards + 1, sizeof *c->shards)) {
        mem_free(path);
        return err_nomem(err, "a checkpoint");
    }
    rc = file_reader_open(path, &s.file, err);
    mem_free(path);
    if (rc != TN_OK)
        return rc;
    rc = safetensors_read(&s.file, &s.header, err);
    if (rc != TN_OK) {
        file_reader_release(&s.file);
        return rc;
    }
    c->bytes += s.file.size;
    c->shards[c->n_shards++] = s;
    return TN_OK;
}

/* Enters the tensors of the last shard into the name map. */
static int32_t index_shard(struct checkpoint *c, tn_err *err)
{
    const struct shard *s = &c->shards[c->n_shards - 1];

    for (size_t i = 0; i < s->header.n_tensors; i++) {
        const char *name = s->header.tensors[i].name;
        switch (map_put(&c->shard_of, name, strlen(name), c->n_shards - 1)) {
        case MAP_ADDED: break;
        case MAP_PRESENT:
            return err_at(err, TN_E_FORMAT, s->file.path, TN_NO_OFFSET, name,
                          "stands in two shards of the checkpoint");
        case MAP_NOMEM: return err_nomem(err, "a checkpoint");
        }
    }
    return TN_OK;
}

/* -- Sharded checkpoints ---------------------------------------------------------------------------- */

/* Opens each shard that the index names, once, in order of first mention. */
static int32_t open_shards(struct checkpoint *c, const char *dir, const char *index_path,
                           const json_t *weight_map, tn_err *err)
{
    struct map opened = MAP_INIT;
    int32_t rc = TN_OK;
    const char *tensor;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)weight_map, tensor, v)
    {
        const char *name = json_plain(v);
        enum map_put put;
        if (!name || !plain_name(name)) {
            rc = err_at(err, TN_E_FORMAT, index_path, TN_NO_OFFSET, tensor,
                        "its shard is not a plain file name");
            break;
        }
        put = map_put(&opened, name, strlen(name), 0);
        if (put == MAP_PRESENT)
            continue;
        if (put == MAP_NOMEM || c->n_shards >= LIMIT_SHARDS) {
            rc = put == MAP_NOMEM ? err_nomem(err, "a checkpoint")
                                  : err_at(err, TN_E_LIMIT, index_path, TN_NO_OFFSET, NULL,
                                           "names more than %d shards", LIMIT_SHARDS);
            break;
        }
        rc = add_shard(c, dir, name, err);
        if (rc == TN_OK)
            rc = index_shard(c, err);
        if (rc == TN_E_NOTFOUND)
            err_remedy(err, "the index names this shard; download it");
        if (rc != TN_OK)
            break;
    }
    map_release(&opened);
    return rc;
}

/* Every tensor of the index is in the shard that it names. */
static int32_t check_index(const struct checkpoint *c, const char *index_path,
                           const json_t *weight_map, tn_err *err)
{
    const char *tensor;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)weight_map, tensor, v)
    {
        uint64_t i;
        const char *name = json_plain(v);
        if (!map_get(&c->shard_of, tensor, strlen(tensor), &i) ||
            strcmp(path_base(c->shards[i].file.path), name) != 0)
            return err_at(err, TN_E_FORMAT, index_path, TN_NO_OFFSET, tensor,
                          "is not in the shard %s that the index names", name);
    }
    return TN_OK;
}

static int32_t open_indexed(struct checkpoint *c, const char *dir, const char *index_path,
                            tn_err *err)
{
    const json_t *weight_map;
    json_t *root = NULL;
    int32_t rc;

    rc = json_read(index_path, LIMIT_INDEX_JSON_BYTES, &root, err);
    if (rc != TN_OK)
        return rc;
    weight_map = json_object_get(root, "weight_map");
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        rc = err_at(err, TN_E_FORMAT, index_path, TN_NO_OFFSET, "weight_map",
                    "is missing or not an object with tensors");
    if (rc == TN_OK)
        rc = open_shards(c, dir, index_path, weight_map, err);
    if (rc == TN_OK)
        rc = check_index(c, index_path, weight_map, err);
    json_decref(root);
    return rc;
}

/* -- Opening ---------------------------------------------------------------------------------------- */

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n >= m && strcmp(s + n - m, suffix) == 0;
}

static int32_t no_weights(const char *dir, char **names, size_t n, tn_err *err)
{
    err_at(err, TN_E_NOTFOUND, dir, TN_NO_OFFSET, NULL, "holds no *.safetensors file");
    for (size_t i = 0; i < n; i++)
        if (has_suffix(names[i], ".bin") || has_suffix(names[i], ".pth"))
            err_remedy(err,
                       "convert %.60s to safetensors: pickled weights can run code and are "
                       "never read",
                       names[i]);
    return TN_E_NOTFOUND;
}

/* Without the usual names: the only *.safetensors file there is. */
static int32_t open_only(struct checkpoint *c, const char *dir, tn_err *err)
{
    const char *only = NULL;
    char **names = NULL;
    size_t n = 0, found = 0;
    int32_t rc;

    rc = dir_list(dir, &names, &n, err);
    if (rc != TN_OK)
        return rc;
    for (size_t i = 0; i < n; i++) {
        if (has_suffix(names[i], ".safetensors")) {
            only = names[i];
            found++;
        }
    }
    if (found == 1)
        rc = add_shard(c, dir, only, err);
    else if (found == 0)
        rc = no_weights(dir, names, n, err);
    else
        rc = err_at(err, TN_E_NOTFOUND, dir, TN_NO_OFFSET, INDEX,
                    "is missing, and there are %zu *.safetensors files", found);
    dir_list_free(names, n);
    return rc == TN_OK ? index_shard(c, err) : rc;
}

int32_t checkpoint_open(const char *dir, struct checkpoint **out, tn_err *err)
{
    struct checkpoint *c = mem_zalloc(sizeof *c);
    char *index = path_join(dir, INDEX), *single = path_join(dir, SINGLE);
    int32_t rc;

    if (!c || !index || !single) {
        rc = err_nomem(err, "a checkpoint");
    } else if (path_exists(index)) {
        rc = open_indexed(c, dir, index, err);
    } else if (path_exists(single)) {
        rc = add_shard(c, dir, SINGLE, err);
        if (rc == TN_OK)
            rc = index_shard(c, err);
    } else {
        rc = open_only(c, dir, err);
    }
    mem_free(index);
    mem_free(single);
    if (rc != TN_OK) {
        checkpoint_close(c);
        return rc;
    }
    *out = c;
    return TN_OK;
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_shards; i++) {
        st_header_release(&c->shards[i].header);
        file_reader_release(&c->shards[i].file);
    }
    mem_free(c->shards);
    map_release(&c->shard_of);
    mem_free(c);
}

/* -- Asking ----------------------------------------------------------------------------------------- */

static const struct shard *shard_of(const struct checkpoint *c, const char *name)
{
    uint64_t i;

    return map_get(&c->shard_of, name, strlen(name), &i) ? &c->shards[i] : NULL;
}

const struct st_tensor *checkpoint_find(const struct checkpoint *c, const char *name)
{
    const struct shard *s = shard_of(c, name);

    return s ? safetensors_find(&s->header, name) : NULL;
}

const char *checkpoint_file_of(const struct checkpoint *c, const char *name)
{
    const struct shard *s = shard_of(c, name);

    return s ? s->file.path : "";
}

int32_t checkpoint_read(const struct checkpoint *c, const char *name, uint64_t offset, void *buf,
                        size_t n, tn_err *err)
{
    const struct shard *s = shard_of(c, name);
    const struct st_tensor *t = checkpoint_find(c, name);
    int32_t rc;

    if (!t || offset > t->bytes || n > t->bytes - offset)
        return tn_err_set(err, TN_E_INTERNAL, "read beyond the tensor %s", name);
    rc = file_reader_at(&s->file, t->offset + offset, buf, n, err);
    if (rc != TN_OK)
        err_field(err, name);
    return rc;
}

size_t checkpoint_n_tensors(const struct checkpoint *c)
{
    return c->shard_of.count;
}

uint64_t checkpoint_bytes(const struct checkpoint *c)
{
    return c->bytes;
}

void checkpoint_each(const struct checkpoint *c, checkpoint_visit fn, void *arg)
{
    for (size_t i = 0; i < c->n_shards; i++)
        for (size_t j = 0; j < c->shards[i].header.n_tensors; j++)
            if (fn(arg, &c->shards[i].header.tensors[j]))
                return;
}
