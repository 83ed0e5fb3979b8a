/* SPDX-License-Identifier: Apache-2.0 */
#include "build/config.h"

#include "base/json.h"

static int32_t config_int(const tn_config *c, const char *path, int64_t min, int64_t max,
                          int64_t *out, tn_err *err)
{
    return json_get_int(c->root, c->path, path, min, max, out, err);
}

static int32_t config_real(const tn_config *c, const char *path, double min, double max,
                           double *out, tn_err *err)
{
    return json_get_real(c->root, c->path, path, min, max, out, err);
}

static int32_t config_bool(const tn_config *c, const char *path, uint32_t *out, tn_err *err)
{
    bool b = false;
    int32_t rc = json_get_bool(c->root, c->path, path, &b, err);

    if (rc == TN_OK)
        *out = b;
    return rc;
}

static int32_t config_str(const tn_config *c, const char *path, const char **out, tn_err *err)
{
    return json_get_str(c->root, c->path, path, out, err);
}

static int32_t config_count(const tn_config *c, const char *path, uint64_t *out, tn_err *err)
{
    const json_t *v = json_at(c->root, path);

    if (!v)
        return TN_E_NOTFOUND;
    if (!json_is_array(v) && !json_is_object(v))
        return err_at(err, TN_E_TYPE, c->path, TN_NO_OFFSET, path, "is not a list or an object");
    *out = json_is_array(v) ? json_array_size(v) : json_object_size(v);
    return TN_OK;
}

static int32_t config_refuse(const tn_config *c, const char *path, const char *why, tn_err *err)
{
    const json_t *v = json_at(c->root, path);
    char text[96] = "absent";

    if (v)
        json_brief(v, text, sizeof text);
    return err_at(err, TN_E_FORMAT, c->path, TN_NO_OFFSET, path, "is %s: %s", text, why);
}

static int32_t config_key(const tn_config *c, const char *path, uint64_t index, const char **out,
                          tn_err *err)
{
    json_t *v = (json_t *)(uintptr_t)json_at(c->root, path);
    void *it;

    if (!v)
        return TN_E_NOTFOUND;
    if (!json_is_object(v))
        return err_at(err, TN_E_TYPE, c->path, TN_NO_OFFSET, path, "is not an object");
    it = json_object_iter(v);
    for (; it && index > 0; index--)
        it = json_object_iter_next(v, it);
    if (!it)
        return TN_E_NOTFOUND;
    *out = json_object_iter_key(it);
    return TN_OK;
}

const tn_config_api build_config_api = {.h = TN_HDR(tn_config_api),
                                        .get_int = config_int,
                                        .get_real = config_real,
                                        .get_bool = config_bool,
                                        .get_str = config_str,
                                        .get_count = config_count,
                                        .refuse = config_refuse,
                                        .get_key = config_key};
