/* SPDX-License-Identifier: Apache-2.0 */
/* One line per event, to stderr or to a sink that the embedder sets. Control bytes are escaped. */
#ifndef CORE_BASE_LOG_H
#define CORE_BASE_LOG_H

#include <stdint.h>

#include "tenon/host.h"

/* `line` has no newline and is valid during the call only. Called from any thread, one at a time. */
typedef void (*log_sink)(void *arg, uint32_t level, const char *line);

/* Lines above `level` (::tn_log_level) are dropped. Default: TN_LOG_WARN. */
void log_set_level(uint32_t level);
uint32_t log_level(void);

/* NULL: back to stderr. */
void log_set_sink(log_sink sink, void *arg);

TN_PRINTF(2, 3)
void log_write(uint32_t level, const char *fmt, ...);

#define log_error(...) log_write(TN_LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(TN_LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(TN_LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(TN_LOG_DEBUG, __VA_ARGS__)

#endif
