/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the cpu plugin share: its instance, and the tables that plugin.c puts together.
 *
 * The plugin offers two interfaces: the device "cpu" (device.c, memory.c, pool.c) and a kernel set for
 * it (set.c and what set.c names). The kernel set reaches the device through tn_device_api only.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "tenon/device.h"
#include "tenon/float.h"
#include "tenon/host.h"
#include "tenon/kernels.h"

/* Most workers of one device; a cap on a number that comes from the configuration. */
#define CPU_MAX_THREADS 1024

/* Most devices that a kernel set is attached to at once. */
#define CPU_MAX_ATTACHED 64

/* The plugin's own group of the configuration. */
struct cpu_settings {
    uint32_t threads; /* workers of a device; default: tn_host::n_cpus */
    uint32_t spin_us; /* how long an idle worker spins before it sleeps; default 200 */
    uint32_t pin;     /* bind worker i to CPU i of the process's affinity mask; default off */
    uint32_t
        round_rows; /* products may round activations to the dtype of their weights where that is faster; default off */
};

/* An instance of the plugin. Written by init, attach and detach only. */
struct cpu_instance {
    const tn_host *host;
    struct cpu_settings settings;
    const tn_device_api *api; /* of the attached devices */
    tn_device *attached[CPU_MAX_ATTACHED];
};

extern const tn_device_api cpu_device_api;
extern const tn_kernel_set cpu_kernel_set;

#endif
