/* SPDX-License-Identifier: Apache-2.0 */
/* Spelling of the enumerations that an engine stores as text. */
#ifndef CORE_ENGINE_NAMES_H
#define CORE_ENGINE_NAMES_H

#include <stdbool.h>
#include <stdint.h>

const char *role_name(uint32_t role);
uint32_t role_number(const char *name); /* 0: unknown */
const char *shard_name(uint32_t shard);
bool shard_number(const char *name, uint32_t *shard);
const char *value_kind_name(uint32_t kind);
uint32_t value_kind_number(const char *name); /* 0: unknown */
uint32_t dtype_number(const char *name);      /* 0: unknown */

#endif
