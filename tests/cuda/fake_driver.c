/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A false libcuda.so.1 for tests on machines without a GPU. Device memory is host memory, work is done when it is enqueued,
 * kernels do nothing but are recorded. It keeps the rules that are easily broken: a context must be current, streams under
 * capture execute nothing, allocation breaks a capture, everything must be given back.
 */
#include "fake_driver.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#undef cuEventElapsedTime /* the older name is the one that every driver exports */
CUresult CUDAAPI cuEventElapsedTime(float *ms, CUevent from, CUevent to);

#define EXPORT __attribute__((visibility("default")))
#define MAX_NODES 64

enum node_kind { NODE_COPY, NODE_FILL, NODE_LAUNCH, NODE_ROWS };

struct node {
    enum node_kind kind;
    void *dst;
    const void *src;
    size_t bytes;
    unsigned char byte;
    size_t dst_stride, src_stride, rows; /* of NODE_ROWS, each of `bytes` */
};

struct CUgraph_st {
    struct node nodes[MAX_NODES];
    int n;
};

struct CUgraphExec_st {
    struct CUgraph_st graph;
};

struct CUstream_st {
    CUgraph capture; /* NULL: none */
    bool broken;
};

struct CUevent_st {
    bool recorded;
};

struct CUlib_st {
    int capability; /* that the image has code for; 0: any */
    int compiled;   /* by nvcc: it is taken to have every kernel */
};

static struct {
    const char *fail_name;
    int fail_in;
    atomic_int calls, n_names, live, executed; /* ranks are threads */
    CUresult fail_code;
    char names[4096][32];
    int devices, major, minor, version;
    size_t left;
    struct CUstream_st *capturing;
    struct fake_launch launch;
    int max_shared, clusters, peers;
} fake;

static _Thread_local CUcontext current;
static char contexts[8], kernels[8];

static CUcontext context_of(CUdevice d)
{
    return (CUcontext)(void *)&contexts[d];
}

/* Notes a call; true with *code set if it is to fail. */
static bool enter(const char *name, bool needs_context, CUresult *code)
{
    int at = fake.n_names < 4096 ? fake.n_names++ : 4096;

    fake.calls++;
    if (at < 4096)
        strncpy(fake.names[at], name, 31);
    if (fake.fail_in > 0 && (!fake.fail_name || strcmp(fake.fail_name, name) == 0) &&
        --fake.fail_in == 0) {
        *code = fake.fail_code;
        return true;
    }
    if (needs_context && !current) {
        *code = CUDA_ERROR_INVALID_CONTEXT;
        return true;
    }
    return false;
}

#define ENTER(needs_context)                                                                       \
    do {                                                                                           \
        CUresult code_;                                                                            \
        if (enter(__func__, needs_context, &code_))                                                \
            return code_;                                                                          \
    } while (0)

/* Executes, or records if the stream is under capture. */
static CUresult work(CUstream s, struct node n)
{
    if (s && s->capture) {
        if (s->capture->n < MAX_NODES)
            s->capture->nodes[s->capture->n++] = n;
        return CUDA_SUCCESS;
    }
    if (n.kind == NODE_COPY)
        memcpy(n.dst, n.src, n.bytes);
    else if (n.kind == NODE_FILL)
        memset(n.dst, n.byte, n.bytes);
    else if (n.kind == NODE_ROWS)
        for (size_t i = 0; i < n.rows; i++)
            memcpy((char *)n.dst + i * n.dst_stride, (const char *)n.src + i * n.src_stride,
                   n.bytes);
    else
        fake.executed++;
    return CUDA_SUCCESS;
}

/* What a capture does not bear. */
static bool breaks_capture(void)
{
    if (!fake.capturing)
        return false;
    fake.capturing->broken = true;
    return true;
}

static void *object(size_t size)
{
    fake.live++;
    return calloc(1, size);
}

static CUresult drop(void *p)
{
    fake.live--;
    free(p);
    return CUDA_SUCCESS;
}

/* -- The driver and its devices ------------------------------------------------------------------- */

EXPORT CUresult CUDAAPI cuInit(unsigned int flags)
{
    (void)flags;
    ENTER(false);
    return fake.devices > 0 ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

EXPORT CUresult CUDAAPI cuDriverGetVersion(int *version)
{
    ENTER(false);
    *version = fake.version;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuGetErrorName(CUresult r, const char **name)
{
    *name = r == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_SOME";
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuGetErrorString(CUresult r, const char **text)
{
    *text = r == CUDA_ERROR_NO_DEVICE ? "no CUDA-capable device is detected" : "it failed";
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceGetCount(int *n)
{
    ENTER(false);
    *n = fake.devices;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceGet(CUdevice *d, int index)
{
    ENTER(false);
    *d = index;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceGetName(char *name, int size, CUdevice d)
{
    (void)d;
    ENTER(false);
    strncpy(name, "False GPU", (size_t)size);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice d)
{
    ENTER(false);
    for (int i = 0; i < 16; i++)
        uuid->bytes[i] = (char)(0xf0 + i + d);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice d)
{
    (void)d;
    ENTER(false);
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = fake.major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = fake.minor; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; break;
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID: *value = -1; break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceGetPCIBusId(char *bus, int size, CUdevice d)
{
    static const char text[] = "0000:3b:00.0";

    ENTER(false);
    if (size < (int)sizeof text)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(bus, text, sizeof text);
    bus[5] = (char)('0' + d);
    return CUDA_SUCCESS;
}

/* Devices 0 and 1 are joined by NVLink, 2 by PCIe, and 3 reaches nobody. */
EXPORT CUresult CUDAAPI cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute which, CUdevice a,
                                                CUdevice b)
{
    ENTER(false);
    if (a == b)
        return CUDA_ERROR_INVALID_DEVICE;
    *value =
        which == CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED ? a < 2 && b < 2 : a < 3 && b < 3;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice d)
{
    (void)d;
    ENTER(false);
    *bytes = (size_t)1 << 30;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceCanAccessPeer(int *can, CUdevice d, CUdevice peer)
{
    ENTER(false);
    *can = d != peer && d < 3 && peer < 3;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d)
{
    ENTER(false);
    fake.live++;
    *c = context_of(d);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice d)
{
    (void)d;
    fake.live--;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuCtxSetCurrent(CUcontext c)
{
    ENTER(false);
    current = c;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuCtxSynchronize(void)
{
    ENTER(true);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags)
{
    (void)peer;
    (void)flags;
    ENTER(true);
    return fake.peers++ ? CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED : CUDA_SUCCESS;
}

/* -- Memory --------------------------------------------------------------------------------------- */

EXPORT CUresult CUDAAPI cuMemGetInfo(size_t *left, size_t *total)
{
    ENTER(true);
    *left = fake.left;
    *total = (size_t)1 << 30;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuMemAlloc(CUdeviceptr *ptr, size_t bytes)
{
    void *p = NULL;

    ENTER(true);
    if (breaks_capture())
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (bytes > fake.left || posix_memalign(&p, 256, bytes) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(p, 0xa5, bytes);
    fake.live++;
    *ptr = (CUdeviceptr)(uintptr_t)p;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuMemFree(CUdeviceptr ptr)
{
    return current ? drop((void *)(uintptr_t)ptr) : CUDA_ERROR_INVALID_CONTEXT;
}

EXPORT CUresult CUDAAPI cuMemHostAlloc(void **ptr, size_t bytes, unsigned int flags)
{
    (void)flags;
    ENTER(true);
    *ptr = object(bytes);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuMemFreeHost(void *ptr)
{
    return current ? drop(ptr) : CUDA_ERROR_INVALID_CONTEXT;
}

static CUresult copy(void *dst, const void *src, size_t bytes, CUstream s)
{
    return work(s, (struct node){.kind = NODE_COPY, .dst = dst, .src = src, .bytes = bytes});
}

EXPORT CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t n, CUstream s)
{
    ENTER(true);
    return copy((void *)(uintptr_t)dst, src, n, s);
}

EXPORT CUresult CUDAAPI cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t n, CUstream s)
{
    ENTER(true);
    return copy(dst, (void *)(uintptr_t)src, n, s);
}

EXPORT CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s)
{
    ENTER(true);
    return copy((void *)(uintptr_t)dst, (void *)(uintptr_t)src, n, s);
}

EXPORT CUresult CUDAAPI cuMemcpy2DAsync(const CUDA_MEMCPY2D *c, CUstream s)
{
    ENTER(true);
    return work(s, (struct node){.kind = NODE_ROWS,
                                 .dst = (void *)(uintptr_t)c->dstDevice,
                                 .src = (void *)(uintptr_t)c->srcDevice,
                                 .bytes = c->WidthInBytes,
                                 .dst_stride = c->dstPitch,
                                 .src_stride = c->srcPitch,
                                 .rows = c->Height});
}

EXPORT CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr dst, unsigned char byte, size_t n, CUstream s)
{
    ENTER(true);
    return work(s, (struct node){
                       .kind = NODE_FILL, .dst = (void *)(uintptr_t)dst, .bytes = n, .byte = byte});
}

/* -- Streams and events --------------------------------------------------------------------------- */

EXPORT CUresult CUDAAPI cuStreamCreate(CUstream *s, unsigned int flags)
{
    (void)flags;
    ENTER(true);
    *s = object(sizeof **s);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuStreamDestroy(CUstream s)
{
    if (s->capture) { /* ends with its stream */
        drop(s->capture);
        fake.capturing = NULL;
    }
    return drop(s);
}

EXPORT CUresult CUDAAPI cuStreamSynchronize(CUstream s)
{
    (void)s;
    ENTER(true);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuStreamWaitEvent(CUstream s, CUevent e, unsigned int flags)
{
    (void)s;
    (void)e;
    (void)flags;
    ENTER(true);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuEventCreate(CUevent *e, unsigned int flags)
{
    (void)flags;
    ENTER(true);
    *e = object(sizeof **e);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuEventDestroy(CUevent e)
{
    return drop(e);
}

EXPORT CUresult CUDAAPI cuEventRecord(CUevent e, CUstream s)
{
    (void)s;
    ENTER(true);
    e->recorded = true;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuEventQuery(CUevent e)
{
    (void)e;
    ENTER(true);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuEventSynchronize(CUevent e)
{
    (void)e;
    ENTER(true);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuEventElapsedTime(float *ms, CUevent from, CUevent to)
{
    ENTER(true);
    if (!from->recorded || !to->recorded)
        return CUDA_ERROR_INVALID_HANDLE;
    *ms = 1.5f;
    return CUDA_SUCCESS;
}

/* -- Graphs --------------------------------------------------------------------------------------- */

EXPORT CUresult CUDAAPI cuStreamBeginCapture(CUstream s, CUstreamCaptureMode mode)
{
    ENTER(true);
    if (mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL || s->capture)
        return CUDA_ERROR_ILLEGAL_STATE;
    s->capture = object(sizeof *s->capture);
    s->broken = false;
    fake.capturing = s;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuStreamEndCapture(CUstream s, CUgraph *graph)
{
    CUgraph g = s->capture;

    s->capture = NULL; /* even if it fails */
    fake.capturing = NULL;
    if (s->broken) {
        drop(g);
        *graph = NULL;
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    *graph = g;
    return g ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_STATE;
}

EXPORT CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph g,
                                                    unsigned long long flags)
{
    (void)flags;
    ENTER(true);
    *exec = object(sizeof **exec);
    (*exec)->graph = *g;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuGraphUpload(CUgraphExec exec, CUstream s)
{
    (void)exec;
    (void)s;
    ENTER(true);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuGraphLaunch(CUgraphExec exec, CUstream s)
{
    ENTER(true);
    for (int i = 0; i < exec->graph.n; i++)
        work(s, exec->graph.nodes[i]);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec exec)
{
    return drop(exec);
}

EXPORT CUresult CUDAAPI cuGraphDestroy(CUgraph g)
{
    return drop(g);
}

/* -- Images: "ANY", or "SM90" for capability 9.0 only --------------------------------------------- */

static int is_fatbin(const void *code)
{
    static const unsigned char magic[] = {0x50, 0xed, 0x55, 0xba};

    return memcmp(code, magic, sizeof magic) == 0;
}

EXPORT CUresult CUDAAPI cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jit,
                                          void **jit_values, unsigned int n_jit,
                                          CUlibraryOption *options, void **values, unsigned int n)
{
    (void)jit;
    (void)jit_values;
    (void)n_jit;
    (void)options;
    (void)values;
    (void)n;
    ENTER(true);
    if (memcmp(code, "SM90", 4) == 0 && fake.major != 9)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (memcmp(code, "SM90", 4) != 0 && memcmp(code, "ANY", 3) != 0 && !is_fatbin(code))
        return CUDA_ERROR_INVALID_IMAGE;
    *library = object(sizeof **library);
    (*library)->compiled = is_fatbin(code);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuLibraryUnload(CUlibrary library)
{
    if (breaks_capture())
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return drop(library);
}

EXPORT CUresult CUDAAPI cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name)
{
    ENTER(true);
    if (!library->compiled && strcmp(name, "add") != 0)
        return CUDA_ERROR_NOT_FOUND;
    *kernel = (CUkernel)(void *)&kernels[0];
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuKernelGetFunction(CUfunction *f, CUkernel kernel)
{
    ENTER(true);
    *f = (CUfunction)(void *)((char *)(void *)kernel + 1);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction f)
{
    (void)f;
    ENTER(true);
    *value = which == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES ? 1024 : 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuFuncSetAttribute(CUfunction f, CUfunction_attribute which, int value)
{
    (void)f;
    ENTER(true);
    if (which == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        fake.max_shared = value;
    if (which == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED && fake.major < 9)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **params,
                                         void **extra)
{
    (void)extra;
    ENTER(true);
    if ((char *)(void *)f != &kernels[1] || (int)config->sharedMemBytes > fake.max_shared)
        return CUDA_ERROR_INVALID_VALUE;
    fake.launch = (struct fake_launch){.config = *config, .first_param = params[0]};
    for (unsigned i = 0; i < config->numAttrs && i < 8; i++)
        fake.launch.attrs[i] = config->attrs[i];
    return work(config->hStream, (struct node){.kind = NODE_LAUNCH});
}

/* -- For the test --------------------------------------------------------------------------------- */

static void reset(void)
{
    memset(&fake, 0, sizeof fake);
    fake.devices = 1;
    fake.major = 9;
    fake.version = 13000;
    fake.left = (size_t)1 << 29;
}

static void arrange(const char *name, int nth, CUresult code)
{
    fake.fail_name = name;
    fake.fail_in = nth;
    fake.fail_code = code;
}

static int calls(const char *name)
{
    int n = 0;

    if (!name)
        return fake.calls;
    for (int i = 0; i < fake.n_names; i++)
        n += strcmp(fake.names[i], name) == 0;
    return n;
}

static int live(void)
{
    return fake.live;
}

static void set_devices(int n)
{
    fake.devices = n;
}

static void set_capability(int major, int minor)
{
    fake.major = major;
    fake.minor = minor;
}

static void set_version(int version)
{
    fake.version = version;
}

static void set_free(size_t bytes)
{
    fake.left = bytes;
}

static const struct fake_launch *last_launch(void)
{
    return &fake.launch;
}

static int executed(void)
{
    return fake.executed;
}

EXPORT extern const struct fake_api fake_api;
const struct fake_api fake_api = {.reset = reset,
                                  .arrange = arrange,
                                  .calls = calls,
                                  .live = live,
                                  .set_devices = set_devices,
                                  .set_capability = set_capability,
                                  .set_version = set_version,
                                  .set_free = set_free,
                                  .last_launch = last_launch,
                                  .executed = executed};

__attribute__((constructor)) static void begin(void)
{
    reset();
}
