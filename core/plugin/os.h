/* SPDX-License-Identifier: Apache-2.0 */
/* What the loader needs of Linux beyond POSIX, in one place. */
#ifndef CORE_PLUGIN_OS_H
#define CORE_PLUGIN_OS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* CPUs that this process may run on; at least 1. */
uint32_t os_cpu_count(void);

/* Number, as the system counts, of the `index`th CPU this process may run on; -1 past the last. */
int32_t os_cpu_at(uint32_t index);

/* Whether this process may use AMX tiles, of which the kernel must be asked. */
bool os_amx_granted(void);

/* A thread with a name (cut to 15 bytes), bound to the system's CPU `cpu` (-1: not bound), in which all
 * signals are blocked so that they keep reaching the program's own threads. 0 or an errno. */
int os_thread_start(const char *name, int32_t cpu, void *(*fn)(void *), void *arg, pthread_t *out);

/* A file in memory that holds data[0..n) and can never be changed again. `name` is for /proc. */
int32_t os_sealed_copy(const char *name, const void *data, size_t n, int *fd, tn_err *err);

/* Directory of the program or shared library that contains this function. Free with mem_free. */
int32_t os_own_dir(char **out, tn_err *err);

#endif
