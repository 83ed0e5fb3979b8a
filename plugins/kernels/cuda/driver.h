/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA's driver library, found at run time: the functions that this plugin uses, and what their errors mean. */
#ifndef PLUGINS_KERNELS_CUDA_DRIVER_H
#define PLUGINS_KERNELS_CUDA_DRIVER_H

#include <cuda.h>

#include "tenon/host.h"

/* X(field, prototype, exported name). cuda.h renames some functions to versions of them; where it names one that older
 * drivers lack, the older one with the same prototype is asked for. */
#define DRIVER_FUNCTIONS(X)                                                                        \
    X(init, cuInit, "cuInit")                                                                      \
    X(driver_version, cuDriverGetVersion, "cuDriverGetVersion")                                    \
    X(error_name, cuGetErrorName, "cuGetErrorName")                                                \
    X(error_string, cuGetErrorString, "cuGetErrorString")                                          \
    X(device_count, cuDeviceGetCount, "cuDeviceGetCount")                                          \
    X(device_get, cuDeviceGet, "cuDeviceGet")                                                      \
    X(device_name, cuDeviceGetName, "cuDeviceGetName")                                             \
    X(device_uuid, cuDeviceGetUuid, "cuDeviceGetUuid_v2")                                          \
    X(device_attribute, cuDeviceGetAttribute, "cuDeviceGetAttribute")                              \
    X(device_bus, cuDeviceGetPCIBusId, "cuDeviceGetPCIBusId")                                      \
    X(device_pair, cuDeviceGetP2PAttribute, "cuDeviceGetP2PAttribute")                             \
    X(device_memory, cuDeviceTotalMem, "cuDeviceTotalMem_v2")                                      \
    X(can_access_peer, cuDeviceCanAccessPeer, "cuDeviceCanAccessPeer")                             \
    X(ctx_retain, cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain")                            \
    X(ctx_release, cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2")                      \
    X(ctx_set, cuCtxSetCurrent, "cuCtxSetCurrent")                                                 \
    X(ctx_sync, cuCtxSynchronize, "cuCtxSynchronize")                                              \
    X(ctx_enable_peer, cuCtxEnablePeerAccess, "cuCtxEnablePeerAccess")                             \
    X(mem_info, cuMemGetInfo, "cuMemGetInfo_v2")                                                   \
    X(mem_alloc, cuMemAlloc, "cuMemAlloc_v2")                                                      \
    X(mem_free, cuMemFree, "cuMemFree_v2")                                                         \
    X(host_alloc, cuMemHostAlloc, "cuMemHostAlloc")                                                \
    X(host_free, cuMemFreeHost, "cuMemFreeHost")                                                   \
    X(copy_in, cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2")                                          \
    X(copy_out, cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2")                                         \
    X(copy_over, cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2")                                        \
    X(copy_rows, cuMemcpy2DAsync, "cuMemcpy2DAsync_v2")                                            \
    X(fill, cuMemsetD8Async, "cuMemsetD8Async")                                                    \
    X(stream_create, cuStreamCreate, "cuStreamCreate")                                             \
    X(stream_destroy, cuStreamDestroy, "cuStreamDestroy_v2")                                       \
    X(stream_sync, cuStreamSynchronize, "cuStreamSynchronize")                                     \
    X(stream_wait, cuStreamWaitEvent, "cuStreamWaitEvent")                                         \
    X(event_create, cuEventCreate, "cuEventCreate")                                                \
    X(event_destroy, cuEventDestroy, "cuEventDestroy_v2")                                          \
    X(event_record, cuEventRecord, "cuEventRecord")                                                \
    X(event_query, cuEventQuery, "cuEventQuery")                                                   \
    X(event_sync, cuEventSynchronize, "cuEventSynchronize")                                        \
    X(event_elapsed, cuEventElapsedTime, "cuEventElapsedTime")                                     \
    X(capture_begin, cuStreamBeginCapture, "cuStreamBeginCapture_v2")                              \
    X(capture_end, cuStreamEndCapture, "cuStreamEndCapture")                                       \
    X(graph_instantiate, cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags")               \
    X(graph_upload, cuGraphUpload, "cuGraphUpload")                                                \
    X(graph_launch, cuGraphLaunch, "cuGraphLaunch")                                                \
    X(graph_exec_destroy, cuGraphExecDestroy, "cuGraphExecDestroy")                                \
    X(graph_destroy, cuGraphDestroy, "cuGraphDestroy")                                             \
    X(library_load, cuLibraryLoadData, "cuLibraryLoadData")                                        \
    X(library_unload, cuLibraryUnload, "cuLibraryUnload")                                          \
    X(library_kernel, cuLibraryGetKernel, "cuLibraryGetKernel")                                    \
    X(kernel_function, cuKernelGetFunction, "cuKernelGetFunction")                                 \
    X(function_get, cuFuncGetAttribute, "cuFuncGetAttribute")                                      \
    X(function_set, cuFuncSetAttribute, "cuFuncSetAttribute")                                      \
    X(launch, cuLaunchKernelEx, "cuLaunchKernelEx")

struct driver {
    void *library;
#define DRIVER_FIELD(field, type, name) __typeof__(type) *field;
    DRIVER_FUNCTIONS(DRIVER_FIELD)
#undef DRIVER_FIELD
    int version;     /* 13000: CUDA 13.0 */
    char number[32]; /* of the driver itself, "580.159.04"; "" if unknown */
};

/* Loads the library `path` ("libcuda.so.1", or an absolute path) and starts the driver. TN_E_UNSUPPORTED, with the reason,
 * if this machine has no usable driver. On failure nothing is kept. */
int32_t driver_open(struct driver *d, const char *path, tn_err *err);
void driver_close(struct driver *d); /* zeroed is allowed */

/* Fills `err` for a failed call: "cuda: WHAT: cause (CUDA_ERROR_NAME)". Returns a status: TN_OK only for CUDA_SUCCESS. */
TN_PRINTF(4, 5)
int32_t driver_status(const struct driver *d, CUresult r, tn_err *err, const char *what, ...);

#endif
