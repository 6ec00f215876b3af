/* A stub of NCCL: processes or threads of one machine sum float32 numbers through files in /dev/shm. GPU memory is host memory
   (see libcuda.c), and no work is pending on a stream, since the stub driver runs no kernels.
   Signatures: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default"))) int

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, FLOAT32 = 7, SUM = 0 };
typedef struct { char text[128]; } name;
struct communicator { name id; int size, rank; unsigned long calls; };

API ncclGetUniqueId(name *id) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(id->text, sizeof id->text, "%s/tonfall-stand-in-%d-%ld", getenv("STAND_IN_DIR") ? getenv("STAND_IN_DIR") : "/dev/shm", getpid(), now.tv_nsec);
    return SUCCESS;
}

API ncclCommInitRank(struct communicator **communicator, int size, name id, int rank) {
    if (rank < 0 || rank >= size) return INVALID_ARGUMENT;
    *communicator = calloc(1, sizeof **communicator);
    **communicator = (struct communicator){.id = id, .size = size, .rank = rank};
    return SUCCESS;
}

static void path(char *text, size_t len, const struct communicator *c, unsigned long call, int rank) {
    snprintf(text, len, "%s-%lu-%d", c->id.text, call, rank);
}

/* Each rank writes its numbers to its own file and reads the files of all ranks. It deletes a file two calls later: by then all
   ranks have written the next file, so they have read this one. */
API ncclAllReduce(const float *from, float *to, size_t count, int type, int operation, struct communicator *c, void *stream) {
    (void)stream;
    char mine[256], other[256];
    if (type != FLOAT32 || operation != SUM) return INVALID_ARGUMENT;
    path(other, sizeof other, c, 0, c->rank);
    strcat(other, ".new");
    path(mine, sizeof mine, c, c->calls, c->rank);
    FILE *file = fopen(other, "wb");
    if (!file || fwrite(from, sizeof *from, count, file) != count || fclose(file) || rename(other, mine)) return SYSTEM_ERROR;

    float *sum = calloc(count, sizeof *sum), *numbers = malloc(count * sizeof *numbers);
    for (int rank = 0; rank < c->size; rank++) {
        path(other, sizeof other, c, c->calls, rank);
        while (!(file = fopen(other, "rb"))) usleep(200);
        if (fread(numbers, sizeof *numbers, count, file) != count) return SYSTEM_ERROR;
        fclose(file);
        for (size_t i = 0; i < count; i++) sum[i] += numbers[i];
    }
    memcpy(to, sum, count * sizeof *sum);
    free(sum);
    free(numbers);
    if (c->calls >= 2) {
        path(other, sizeof other, c, c->calls - 2, c->rank);
        unlink(other);
    }
    c->calls++;
    return SUCCESS;
}

API ncclGroupStart(void) { return SUCCESS; }
API ncclGroupEnd(void) { return SUCCESS; }
__attribute__((visibility("default"))) const char *ncclGetErrorString(int status) { (void)status; return "refused by the stub of NCCL"; }
