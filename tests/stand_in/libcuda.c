/* A stub of the CUDA driver, for testing the host code without a GPU. It lists devices, allocates and counts memory, and loads
   kernels that the real NVRTC has compiled. A launch fails if its dimensions are invalid for the GPU; otherwise it does nothing.
   `.ci/run cuda` uses it as libcuda.so.1. It has only the functions that tonfall and its libraries call. STAND_IN_SM is the
   GPUs' architecture (80, 90 or 120; default 90), STAND_IN_MIB their memory in MiB (default 80 GiB).
   Signatures: https://docs.nvidia.com/cuda/cuda-driver-api/. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define API __attribute__((visibility("default"))) int

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, INVALID_PTX = 218, NOT_FOUND = 500 };
typedef unsigned long long address;

/* Numbers of device attributes in CUdevice_attribute. */
enum { MAX_THREADS = 1, BLOCK_X = 2, BLOCK_Y = 3, BLOCK_Z = 4, GRID_X = 5, GRID_Y = 6, GRID_Z = 7, WARP = 10,
       PROCESSORS = 16, MAJOR = 75, MINOR = 76, SHARED_OPTIN = 97 };
/* Numbers of function attributes in CUfunction_attribute. */
enum { DYNAMIC_SHARED = 8 };

/* The GPUs share one memory. */
enum { CARDS = 2 };

static int architecture(void) {
    const char *name = getenv("STAND_IN_SM");
    return name ? atoi(name) : 90;
}

/* Most bytes of shared memory per block. */
static int shared_limit(void) {
    switch (architecture()) {
    case 80: return 163 << 10;
    case 120: return 99 << 10;
    default: return 227 << 10;
    }
}

/* Bytes of GPU memory. */
static size_t capacity(void) {
    const char *mib = getenv("STAND_IN_MIB");
    return (size_t)(mib ? atoi(mib) : 80 << 10) << 20;
}

static int refuse(int status, const char *what) {
    fprintf(stderr, "stub of the CUDA driver: %s\n", what);
    return status;
}

API cuInit(unsigned flags) { (void)flags; return SUCCESS; }
/* NVRTC would use this table to cache compiled code. Without it, NVRTC compiles each time. */
API cuGetExportTable(const void **table, const void *id) { (void)id; *table = NULL; return NOT_FOUND; }
API cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
API cuDeviceGetCount(int *count) { *count = CARDS; return SUCCESS; }
API cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < CARDS ? SUCCESS : INVALID_VALUE; }
API cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = capacity(); return SUCCESS; }

API cuDeviceGetName(char *name, int len, int device) {
    (void)device;
    snprintf(name, len, "stand-in sm_%d", architecture());
    return SUCCESS;
}

API cuDeviceGetPCIBusId(char *name, int len, int device) {
    snprintf(name, len, "0000:0%d:00.0", device);
    return SUCCESS;
}

API cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 1 + device, 16); return SUCCESS; }

API cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case MAX_THREADS: case BLOCK_X: case BLOCK_Y: *value = 1024; break;
    case BLOCK_Z: *value = 64; break;
    case GRID_X: *value = 2147483647; break;
    case GRID_Y: case GRID_Z: *value = 65535; break;
    case WARP: *value = 32; break;
    case PROCESSORS: *value = 100; break;
    case MAJOR: *value = architecture() / 10; break;
    case MINOR: *value = architecture() % 10; break;
    case SHARED_OPTIN: *value = shared_limit(); break;
    default: *value = 0;
    }
    return SUCCESS;
}

/* A context is the number of its GPU, counted from 1. */
static __thread void *current;
API cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(size_t)(device + 1); return SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return SUCCESS; }
API cuCtxSetCurrent(void *context) { current = context; return SUCCESS; }
API cuCtxGetCurrent(void **context) { *context = current; return SUCCESS; }
API cuCtxGetDevice(int *device) { *device = (int)(size_t)current - 1; return current ? SUCCESS : NO_CONTEXT; }
API cuCtxSynchronize(void) { return SUCCESS; }
API cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = *greatest = 0; return SUCCESS; }

API cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = (void *)1; return SUCCESS; }
API cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) { (void)priority; return cuStreamCreate(stream, flags); }
API cuStreamSynchronize(void *stream) { (void)stream; return SUCCESS; }
API cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream; (void)event; (void)flags; return SUCCESS; }
API cuStreamDestroy_v2(void *stream) { (void)stream; return SUCCESS; }
API cuEventCreate(void **event, unsigned flags) { (void)flags; *event = (void *)1; return SUCCESS; }
API cuEventRecord(void *event, void *stream) { (void)event; (void)stream; return SUCCESS; }
API cuEventQuery(void *event) { (void)event; return SUCCESS; }
API cuEventSynchronize(void *event) { (void)event; return SUCCESS; }
API cuEventElapsedTime_v2(float *ms, void *start, void *end) { (void)start; (void)end; *ms = 1; return SUCCESS; }
API cuEventDestroy_v2(void *event) { (void)event; return SUCCESS; }

/* GPU memory: host pages, which occupy no memory until they are written. A page before each block holds its size. */
enum { HEADER = 4096 };
static pthread_mutex_t memory = PTHREAD_MUTEX_INITIALIZER;
static size_t held;

API cuMemAlloc_v2(address *block, size_t bytes) {
    pthread_mutex_lock(&memory);
    int fits = held + bytes <= capacity();
    if (fits) held += bytes;
    pthread_mutex_unlock(&memory);
    if (!fits) return OUT_OF_MEMORY;
    char *pages = mmap(NULL, HEADER + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return OUT_OF_MEMORY;
    *(size_t *)pages = bytes;
    *block = (address)(pages + HEADER);
    return SUCCESS;
}
API cuMemFree_v2(address block) {
    char *pages = (char *)block - HEADER;
    size_t bytes = *(size_t *)pages;
    pthread_mutex_lock(&memory);
    held -= bytes;
    pthread_mutex_unlock(&memory);
    munmap(pages, HEADER + bytes);
    return SUCCESS;
}
API cuMemAllocAsync(address *block, size_t bytes, void *stream) { (void)stream; return cuMemAlloc_v2(block, bytes); }
API cuMemFreeAsync(address block, void *stream) { (void)stream; return cuMemFree_v2(block); }
API cuMemGetInfo_v2(size_t *left, size_t *total) { *total = capacity(); *left = *total - held; return SUCCESS; }
API cuMemAllocHost_v2(void **block, size_t bytes) { return posix_memalign(block, 4096, bytes ? bytes : 1) ? OUT_OF_MEMORY : SUCCESS; }
API cuMemHostAlloc(void **block, size_t bytes, unsigned flags) { (void)flags; return cuMemAllocHost_v2(block, bytes); }
API cuMemFreeHost(void *block) { free(block); return SUCCESS; }
API cuMemcpyHtoDAsync_v2(address to, const void *from, size_t bytes, void *stream) { (void)stream; memcpy((void *)to, from, bytes); return SUCCESS; }
API cuMemcpyDtoHAsync_v2(void *to, address from, size_t bytes, void *stream) { (void)stream; memcpy(to, (void *)from, bytes); return SUCCESS; }
API cuMemcpyDtoDAsync_v2(address to, address from, size_t bytes, void *stream) { (void)stream; memmove((void *)to, (void *)from, bytes); return SUCCESS; }

/* CUDA_MEMCPY2D_v2. */
struct side { size_t x, y; unsigned kind; const void *host; address device; void *array; size_t pitch; };
struct copy { struct side from, to; size_t width, height; };
API cuMemcpy2DAsync_v2(const struct copy *copy, void *stream) {
    (void)stream;
    const char *from = copy->from.kind == 1 ? copy->from.host : (char *)copy->from.device;
    char *to = copy->to.kind == 1 ? (char *)copy->to.host : (char *)copy->to.device;
    for (size_t row = 0; row < copy->height; row++)
        memcpy(to + (copy->to.y + row) * copy->to.pitch + copy->to.x,
               from + (copy->from.y + row) * copy->from.pitch + copy->from.x, copy->width);
    return SUCCESS;
}

API cuModuleLoadData(void **module, const char *text) {
    char target[32];
    snprintf(target, sizeof target, ".target sm_%d", architecture());
    if (!strstr(text, target)) return refuse(INVALID_PTX, "code for another architecture");
    *module = strdup(text);
    return SUCCESS;
}
API cuModuleUnload(void *module) { (void)module; return SUCCESS; }
API cuModuleGetFunction(void **function, void *module, const char *name) {
    char entry[512];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (!strstr(module, entry)) return refuse(NOT_FOUND, "no such kernel in the module");
    *function = calloc(1, sizeof(int));
    return SUCCESS;
}

API cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute == DYNAMIC_SHARED) {
        if (value > shared_limit()) return refuse(INVALID_VALUE, "a kernel needs more shared memory than a block can have");
        *(int *)function = value;
    }
    return SUCCESS;
}

API cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    (void)stream; (void)arguments; (void)extra;
    if (!gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535) return refuse(INVALID_VALUE, "a grid of invalid size");
    if (!bx || !by || !bz || (size_t)bx * by * bz > 1024 || bz > 64) return refuse(INVALID_VALUE, "a block of invalid size");
    int allowed = *(int *)function > 48 << 10 ? *(int *)function : 48 << 10;
    if ((int)shared > allowed) return refuse(INVALID_VALUE, "more shared memory than the kernel's attribute allows");
    return SUCCESS;
}

API cuGetErrorName(int status, const char **name) { (void)status; *name = "STAND_IN"; return SUCCESS; }
API cuGetErrorString(int status, const char **text) { (void)status; *text = "refused by the stub of the CUDA driver"; return SUCCESS; }
