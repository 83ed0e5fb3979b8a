/* SPDX-License-Identifier: Apache-2.0 */
/* tn_config_api (tenon/model.h) over a JSON object: how plugins read a config.json. */
#ifndef CORE_BUILD_CONFIG_H
#define CORE_BUILD_CONFIG_H

#include <jansson.h>

#include "tenon/model.h"

struct tn_config {
    const json_t *root;
    const char *path; /* of the file, for messages */
};

extern const tn_config_api build_config_api;

#endif
