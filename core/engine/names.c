/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/names.h"

#include <stddef.h>
#include <string.h>

#include "tenon/model.h"

/* Position in the list is the number; the lists are part of the engine format. */
static const char *const roles[] = {NULL,   "matrix", "embedding", "norm",
                                    "bias", "table",  "head",      "scale"};
static const char *const shards[] = {"none", "axis0", "axis1", "first", "axis2"};
static const char *const kinds[] = {NULL, "rows", "logits", "kv"};

#define COUNT(list) (uint32_t)(sizeof(list) / sizeof *(list))

static const char *name_in(const char *const *list, uint32_t n, uint32_t i)
{
    return i < n && list[i] ? list[i] : "?";
}

static uint32_t find_in(const char *const *list, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (list[i] && strcmp(list[i], name) == 0)
            return i;
    return n;
}

const char *role_name(uint32_t role)
{
    return name_in(roles, COUNT(roles), role);
}

uint32_t role_number(const char *name)
{
    uint32_t i = find_in(roles, COUNT(roles), name);

    return i < COUNT(roles) ? i : 0;
}

const char *shard_name(uint32_t shard)
{
    return name_in(shards, COUNT(shards), shard);
}

bool shard_number(const char *name, uint32_t *shard)
{
    uint32_t i = find_in(shards, COUNT(shards), name);

    if (i == COUNT(shards))
        return false;
    *shard = i;
    return true;
}

const char *value_kind_name(uint32_t kind)
{
    return name_in(kinds, COUNT(kinds), kind);
}

uint32_t value_kind_number(const char *name)
{
    uint32_t i = find_in(kinds, COUNT(kinds), name);

    return i < COUNT(kinds) ? i : 0;
}

uint32_t dtype_number(const char *name)
{
    for (uint32_t d = 1; d < TN_DT_COUNT; d++)
        if (strcmp(tn_dtype_name(d), name) == 0)
            return d;
    return 0;
}
