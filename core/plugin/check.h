/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks of what a plugin's entry function returns: sizes, texts, required functions, counts. They tell honest mistakes
 * and version skew apart from a sound plugin before anything is called; they cannot tell a wild pointer,
 * for the plugin runs in our process.
 */
#ifndef CORE_PLUGIN_CHECK_H
#define CORE_PLUGIN_CHECK_H

#include "base/err.h"
#include "tenon/plugin.h"

/* TN_OK, or TN_E_ABI for sizes and versions, TN_E_REFUSED for contents. err->field names the field, as in
 * "kernel.set.variants[3].launch". */
int32_t check_plugin(const tn_plugin *p, const tn_note *note, tn_err *err);

/* The iface number `index` of a plugin that has passed. */
const tn_iface *check_iface(const tn_plugin *p, uint32_t index);

#endif
