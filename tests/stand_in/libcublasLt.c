/* A stub of cuBLASLt: every product has an algorithm, which does nothing. See libcuda.c.
   Signatures: https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default"))) int

static int make(void **object) { *object = calloc(1, 64); return *object ? 0 : 3; }
static int drop(void *object) { free(object); return 0; }

API cublasLtCreate(void **handle) { return make(handle); }
API cublasLtDestroy(void *handle) { return drop(handle); }
API cublasLtMatmulDescCreate(void **object, int compute, int scale) { (void)compute; (void)scale; return make(object); }
API cublasLtMatmulDescSetAttribute(void *object, int what, const void *value, size_t bytes) { (void)object; (void)what; (void)value; (void)bytes; return 0; }
API cublasLtMatmulDescDestroy(void *object) { return drop(object); }
API cublasLtMatrixLayoutCreate(void **object, int type, unsigned long long rows, unsigned long long columns, long long stride) {
    (void)type; (void)columns;
    /* Column-major: a column has all its rows. */
    return (long long)rows > stride ? 7 : make(object);
}
API cublasLtMatrixLayoutSetAttribute(void *object, int what, const void *value, size_t bytes) { (void)object; (void)what; (void)value; (void)bytes; return 0; }
API cublasLtMatrixLayoutDestroy(void *object) { return drop(object); }
API cublasLtMatmulPreferenceCreate(void **object) { return make(object); }
API cublasLtMatmulPreferenceSetAttribute(void *object, int what, const void *value, size_t bytes) { (void)object; (void)what; (void)value; (void)bytes; return 0; }
API cublasLtMatmulPreferenceDestroy(void *object) { return drop(object); }
API cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d, void *preference,
                                   int requested, void *results, int *found) {
    (void)handle; (void)description; (void)a; (void)b; (void)c; (void)d; (void)preference; (void)requested;
    memset(results, 0, 96); /* one cublasLtMatmulHeuristicResult_t */
    *found = 1;
    return 0;
}
API cublasLtMatmul(void *handle, void *description, const void *alpha, const void *a, void *a_layout, const void *b,
                   void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                   const void *algorithm, void *workspace, size_t bytes, void *stream) {
    (void)handle; (void)description; (void)alpha; (void)a_layout; (void)b_layout; (void)beta; (void)c_layout; (void)d_layout;
    (void)algorithm; (void)workspace; (void)bytes; (void)stream;
    return a && b && c && d ? 0 : 7;
}
