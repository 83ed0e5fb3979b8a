/* SPDX-License-Identifier: Apache-2.0 */
#include "api/session.h"

#include "api/runtime.h"
#include "base/ledger.h"

void session_close(struct session *s)
{
    registry_close(s->registry);
    ledger_free(s->ledger);
    conf_free(s->conf);
}

int32_t session_open(const struct tool_conf *c, struct session *s, tn_err *err)
{
    int32_t rc;

    *s = (struct session){0};
    rc = runtime_load_conf(c->path, c->settings, c->n_settings, &s->conf, err);
    if (rc == TN_OK)
        rc = ledger_new(&s->ledger, err);
    if (rc == TN_OK)
        rc = instance_registry(s->conf, s->ledger, &s->registry, err);
    if (rc != TN_OK)
        session_close(s);
    return rc;
}

int32_t session_dry(const struct tool_conf *c, const char *engine, struct session *s,
                    struct instance **in, tn_err *err)
{
    struct instance_options o = {.engine = engine, .dry = true};
    int32_t rc = session_open(c, s, err);

    if (rc != TN_OK)
        return rc;
    o.conf = s->conf;
    o.registry = s->registry;
    o.ledger = s->ledger;
    rc = instance_open(&o, in, err);
    if (rc != TN_OK)
        session_close(s);
    return rc;
}
