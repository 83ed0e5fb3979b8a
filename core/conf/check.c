/* SPDX-License-Identifier: Apache-2.0 */
/* Contradictions between settings that are fine one by one. Those that need the model or the device are
 * found where these are known. */
#include <inttypes.h>
#include <string.h>

#include "conf/internal.h"

/* Reports at the line of `key`, naming it. */
TN_PRINTF(4, 5)
static void clash(const struct conf *conf, enum conf_key key, struct conf_errors *errors,
                  const char *fmt, ...)
{
    char text[400];
    uint32_t line;
    bool in_file = conf_origin(conf, key, &line) == CONF_FROM_FILE;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    errors_add(errors, in_file ? conf->file : "", line, conf_row(key)->path, "%s", text);
}

static bool list_has(const struct conf *conf, enum conf_key key, const char *name)
{
    const char *const *items;
    uint32_t n = conf_list(conf, key, &items);

    for (uint32_t i = 0; i < n; i++)
        if (strcmp(items[i], name) == 0)
            return true;
    return false;
}

/* `low` must not exceed `high`, where 0 in either means that there is no such limit. */
static void check_order(const struct conf *conf, enum conf_key low, enum conf_key high,
                        struct conf_errors *errors)
{
    int64_t a = conf_int(conf, low), b = conf_int(conf, high);

    if (a > 0 && b > 0 && a > b)
        clash(conf, low, errors, "is %" PRId64 ", more than %s, which is %" PRId64, a,
              conf_row(high)->path, b);
}

static void check_scheduler(const struct conf *conf, struct conf_errors *errors)
{
    int64_t tokens = conf_int(conf, CONF_SCHED_MAX_TOKENS);
    int64_t length = conf_int(conf, CONF_SCHED_MAX_SEQ_LEN);

    check_order(conf, CONF_SCHED_MAX_BATCH, CONF_SCHED_MAX_TOKENS, errors);
    if (!conf_bool(conf, CONF_SCHED_CHUNKED) && length > tokens)
        clash(conf, CONF_SCHED_MAX_SEQ_LEN, errors,
              "is %" PRId64
              ", but without scheduler.chunked_prefill a prompt must fit into one step "
              "of scheduler.max_num_tokens = %" PRId64,
              length, tokens);
}

static void check_limits(const struct conf *conf, struct conf_errors *errors)
{
    int64_t length = conf_int(conf, CONF_SCHED_MAX_SEQ_LEN);
    int64_t input = conf_int(conf, CONF_LIMITS_INPUT);

    if (length > 0 && input >= length)
        clash(conf, CONF_LIMITS_INPUT, errors,
              "is %" PRId64 ", which leaves no room for output in scheduler.max_seq_len = %" PRId64,
              input, length);
    check_order(conf, CONF_LIMITS_OUTPUT, CONF_SCHED_MAX_SEQ_LEN, errors);
    check_order(conf, CONF_LIMITS_DEFAULT_OUTPUT, CONF_LIMITS_OUTPUT, errors);
    check_order(conf, CONF_LIMITS_DEFAULT_OUTPUT, CONF_SCHED_MAX_SEQ_LEN, errors);
    check_order(conf, CONF_LIMITS_QUEUE_MS, CONF_LIMITS_REQUEST_MS, errors);
}

static void check_plugins(const struct conf *conf, struct conf_errors *errors)
{
    const char *const *items;
    uint32_t n = conf_list(conf, CONF_PLUGINS_DIGESTS, &items);

    if (n == 0 && strcmp(conf_text(conf, CONF_PLUGINS_ALLOW), "enforce") == 0)
        clash(conf, CONF_PLUGINS_ALLOW, errors,
              "is \"enforce\" but plugins.digests is empty: every plugin would be refused");
    n = conf_list(conf, CONF_KERNELS_SETS, &items);
    for (uint32_t i = 0; i < n; i++)
        if (list_has(conf, CONF_PLUGINS_DISABLE, items[i]))
            clash(conf, CONF_KERNELS_SETS, errors, "names \"%s\", which plugins.disable leaves out",
                  items[i]);
}

static void check_pins(const struct conf *conf, struct conf_errors *errors)
{
    const struct conf_pin *pins;
    const char *const *sets;
    uint32_t n_sets = conf_list(conf, CONF_KERNELS_SETS, &sets);
    uint32_t n = conf_pins(conf, &pins);

    for (uint32_t i = 0; i < n; i++) {
        char set[CONF_MAX_NAME];
        snprintf(set, sizeof set, "%.*s", (int)strcspn(pins[i].variant, "/"), pins[i].variant);
        if (list_has(conf, CONF_PLUGINS_DISABLE, set))
            clash(conf, CONF_KERNELS_PINS, errors, "pins \"%s\", which plugins.disable leaves out",
                  pins[i].variant);
        else if (n_sets > 0 && !list_has(conf, CONF_KERNELS_SETS, set))
            clash(conf, CONF_KERNELS_PINS, errors, "pins \"%s\", which kernels.sets leaves out",
                  pins[i].variant);
    }
}

int32_t conf_check(const struct conf *conf, struct conf_errors *errors)
{
    uint32_t before = errors_total(errors);

    check_scheduler(conf, errors);
    check_limits(conf, errors);
    check_plugins(conf, errors);
    check_pins(conf, errors);
    return errors_total(errors) == before ? TN_OK : TN_E_CONFIG;
}
