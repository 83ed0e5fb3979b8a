/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of faults, and whether one is due. Written at init, read by any rank's thread. */
#include "fault.h"

#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {"none", "delay", "stall", "drop", "flip", "dead"};

static int32_t refuse(const tn_kv *kv, const char *known, tn_err *err)
{
    return tn_err_set(err, TN_E_CONFIG, "%s = \"%s\": must be %s", kv->key, kv->value, known);
}

static int32_t number(const tn_kv *kv, uint64_t max, uint64_t *out, tn_err *err)
{
    char *end;
    unsigned long long v = strtoull(kv->value, &end, 10);

    if (end == kv->value || *end || kv->value[0] == '-' || v > max)
        return refuse(kv, "a whole number in its range", err);
    *out = v;
    return TN_OK;
}

static int32_t set_kind(struct fault *f, const tn_kv *kv, tn_err *err)
{
    for (uint32_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kv->value, kinds[i]) == 0) {
            f->kind = i;
            return TN_OK;
        }
    return refuse(kv, "none, delay, stall, drop, flip or dead", err);
}

int32_t fault_setting(struct fault *f, const tn_kv *kv, tn_err *err)
{
    uint64_t rank = 0;
    int32_t rc;

    if (strcmp(kv->key, "fault") == 0)
        return set_kind(f, kv, err);
    if (strcmp(kv->key, "fault_at") == 0)
        return number(kv, UINT64_MAX, &f->at, err);
    if (strcmp(kv->key, "fault_count") == 0)
        return number(kv, UINT64_MAX, &f->count, err);
    if (strcmp(kv->key, "fault_ms") == 0)
        return number(kv, 3600000, &f->ms, err);
    if (strcmp(kv->key, "fault_rank") == 0) {
        rc = number(kv, UINT32_MAX, &rank, err);
        f->rank = (uint32_t)rank;
        return rc;
    }
    if (strcmp(kv->key, "fault_call") == 0) {
        snprintf(f->call, sizeof f->call, "%s", kv->value);
        return TN_OK;
    }
    return TN_E_NOTFOUND;
}

uint32_t fault_of(const struct fault *f, uint32_t rank, const char *call, uint64_t *calls)
{
    uint64_t n;

    if (f->kind == FAULT_NONE || rank != f->rank)
        return FAULT_NONE;
    if (f->call[0] && strcmp(f->call, call) != 0)
        return f->kind == FAULT_DEAD && *calls > f->at ? FAULT_DEAD : FAULT_NONE;
    n = (*calls)++;
    if (n < f->at)
        return FAULT_NONE;
    if (f->kind != FAULT_DEAD && f->count && n - f->at >= f->count)
        return FAULT_NONE;
    return f->kind;
}
