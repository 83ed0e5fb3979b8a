/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks for NaN and infinity among stored weights. A model file may hold them and still match its digests; the first
 * request to reach one ends with TN_E_NAN, so whoever doubts a checkpoint asks here. Integers and dummies are finite.
 * Any thread.
 */
#include <inttypes.h>
#include <string.h>

#include "engine/engine.h"

#define CHUNK (UINT64_C(1) << 20) /* elements between two reports of progress */

/* The bits that are all set in what is no number: the exponent (IEEE 754), or for OCP FP8 E4M3 all but the sign. 0: an
 * integer. */
static uint64_t no_number(uint32_t dtype)
{
    switch (dtype) {
    case TN_DT_F64: return UINT64_C(0x7ff0000000000000);
    case TN_DT_F32: return 0x7f800000;
    case TN_DT_BF16: return 0x7f80;
    case TN_DT_F16: return 0x7c00;
    case TN_DT_F8E5M2: return 0x7c;
    case TN_DT_F8E4M3: return 0x7f;
    default: return 0;
    }
}

/* The first of elements [begin, end) whose masked bits are all set; `end` if there is none. */
static uint64_t first_bad(const uint8_t *data, uint64_t size, uint64_t mask, uint64_t begin,
                          uint64_t end)
{
    for (uint64_t i = begin; i < end; i++) {
        uint64_t bits = 0;
        memcpy(&bits, data + i * size, (size_t)size); /* engines are little-endian, and so are we */
        if ((bits & mask) == mask)
            return i;
    }
    return end;
}

int32_t engine_check_finite(const struct engine *e, engine_progress progress, void *arg,
                            tn_err *err)
{
    uint64_t done = 0;

    for (uint32_t i = 0; i < e->plan->n_weights; i++) {
        const struct plan_weight *w = &e->plan->weights[i];
        uint64_t size = tn_dtype_bits(w->dtype) / 8, mask = no_number(w->dtype);
        uint64_t n = mask ? plan_weight_bytes(w) / size : 0;
        const uint8_t *data = engine_weight(e, i);
        for (uint64_t at = 0; data && at < n; at += CHUNK) {
            uint64_t end = at + CHUNK < n ? at + CHUNK : n;
            uint64_t bad = first_bad(data, size, mask, at, end);
            if (bad < end)
                return err_at(err, TN_E_FORMAT, e->path,
                              (uint64_t)(data - e->map.data) + bad * size, w->name,
                              "element %" PRIu64 " is NaN or infinite", bad);
            done += (end - at) * size;
            if (progress && progress(arg, done, e->map.size))
                return tn_err_set(err, TN_E_CANCELED, "verification was interrupted");
        }
    }
    return TN_OK;
}
