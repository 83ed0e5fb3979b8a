/* SPDX-License-Identifier: Apache-2.0 */
/* What every tool with plugins opens: configuration, ledger, registry. Used by one thread. */
#ifndef CORE_API_SESSION_H
#define CORE_API_SESSION_H

#include "api/tools.h"
#include "conf/conf.h"
#include "loop/instance.h"

struct ledger;

struct session {
    struct conf *conf;
    struct ledger *ledger;
    struct registry *registry;
};

int32_t session_open(const struct tool_conf *c, struct session *s, tn_err *err);
void session_close(struct session *s);

/* Opens an engine as far as kernels are chosen: nothing is loaded. Close the instance, then the session. */
int32_t session_dry(const struct tool_conf *c, const char *engine, struct session *s,
                    struct instance **in, tn_err *err);

#endif
