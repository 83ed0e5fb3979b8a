/* SPDX-License-Identifier: Apache-2.0 */
/* The frame of a model plugin with one architecture: MODEL_PLUGIN("name", types, build) after TN_PLUGIN_NOTE, where `types` is a
 * list of model_type that ends with NULL and `build` a tn_model_arch::build. */
#ifndef PLUGIN_MODELS_PLUGIN_H
#define PLUGIN_MODELS_PLUGIN_H

#include "tenon/plugin.h"

#define MODEL_VERSION "0.1.0"

#define MODEL_NOTE(plugin_name)                                                                    \
    TN_PLUGIN_NOTE(.kinds = TN_KIND_MODEL, .name = plugin_name, .vendor = "tenon",                 \
                   .version = MODEL_VERSION)

#define MODEL_PLUGIN(plugin_name, types, build_function)                                           \
    static const tn_model_arch arch = {                                                            \
        .h = TN_HDR(tn_model_arch), .model_types = types, .build = build_function};                \
    static const tn_iface ifaces[] = {{TN_HDR(tn_iface), TN_IFACE_MODEL, &arch}};                  \
    static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),                                       \
                                     .name = plugin_name,                                          \
                                     .vendor = "tenon",                                            \
                                     .version = MODEL_VERSION,                                     \
                                     .n_ifaces = 1,                                                \
                                     .ifaces = ifaces};                                            \
    const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)                  \
    {                                                                                              \
        (void)host;                                                                                \
        (void)host_minor;                                                                          \
        return &plugin;                                                                            \
    }

/* What every build begins with. */
#define MODEL_BEGIN(capi_, config_, papi_, builder_, err_)                                         \
    {                                                                                              \
        .capi = (capi_), .config = (config_), .papi = (papi_), .builder = (builder_),              \
        .err = (err_), .layer = -1                                                                 \
    }

#endif
