/* Logs the GPU activities of a CUDA program, one per line: name, start and end in nanoseconds, tab-separated.
 *
 * The CUDA driver loads this library into any program, tonfall or Python, that runs with
 *   CUDA_INJECTION64_PATH=observer.so TONFALL_OBSERVED=out.tsv
 * Build: cc -O2 -shared -fPIC observer.c -o observer.so -I$CUPTI/include -lcupti. Reference: CUPTI's Activity API. */
#include <cupti.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK (8 << 20)

static FILE *out;

static void CUPTIAPI give(uint8_t **buffer, size_t *size, size_t *records) {
  *buffer = aligned_alloc(64, CHUNK);
  *size = *buffer ? CHUNK : 0;
  *records = 0;
}

static void line(const char *name, uint64_t start, uint64_t end) {
  fprintf(out, "%s\t%llu\t%llu\n", name, (unsigned long long)start, (unsigned long long)end);
}

static void CUPTIAPI take(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
  CUpti_Activity *record = NULL;
  (void)context, (void)stream, (void)size;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const CUpti_ActivityKernel10 *kernel = (const void *)record;
      line(kernel->name, kernel->start, kernel->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const CUpti_ActivityMemcpy6 *copy = (const void *)record;
      const char *way = copy->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? "to the device"
                        : copy->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "to the host"
                                                                            : "on the device";
      char name[64];
      snprintf(name, sizeof name, "copy of %llu bytes %s", (unsigned long long)copy->bytes, way);
      line(name, copy->start, copy->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const CUpti_ActivityMemset4 *set = (const void *)record;
      line("set", set->start, set->end);
    }
  }
  free(buffer);
}

static void finish(void) {
  cuptiActivityFlushAll(1);
  fclose(out);
}

int InitializeInjection(void) {
  const char *path = getenv("TONFALL_OBSERVED");
  out = path ? fopen(path, "w") : NULL;
  if (!out) return 0;
  cuptiActivityRegisterCallbacks(give, take);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
  atexit(finish);
  return 1;
}
