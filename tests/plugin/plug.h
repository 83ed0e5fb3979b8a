/* SPDX-License-Identifier: Apache-2.0 */
/* What the test plugin counts in the test's memory. */
#ifndef TESTS_PLUGIN_PLUG_H
#define TESTS_PLUGIN_PLUG_H

struct plug_counters {
    int inits, finis, quiesces, steps, threads;
    unsigned order; /* of fini: a digit per plugin, from the first letter of its name */
};

#endif
