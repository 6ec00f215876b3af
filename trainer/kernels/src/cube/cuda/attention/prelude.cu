// Shared by the kernels of all GPU generations. HEAD_DIM and SOFT_CAP (0 or 1) are defined at compilation.
//
// mma.m16n8k16 and wgmma have the same layout of accumulators (see the PTX manual): of 16 rows, a lane holds rows lane / 4 and
// lane / 4 + 8; of 8 columns, 2 · (lane % 4) and the next.

#define LOG2E 1.44269504088896341f
#define CHUNKS (HEAD_DIM / 8) // of 16 bytes, in a row

typedef unsigned int u32;
typedef unsigned short bf16;

__device__ __forceinline__ u32 narrowed(float low, float high) {
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// A score after the soft cap: tanh(x · inverse_cap) / inverse_cap, where inverse_cap is scale / cap. Unchanged without a cap.
__device__ __forceinline__ float soft_capped(float x, float inverse_cap) {
  return SOFT_CAP ? (1.0f - __fdividef(2.0f, 1.0f + exp2f(2.0f * LOG2E * inverse_cap * x))) * (1.0f / inverse_cap) : x;
}

// The derivative of the soft cap, given its result `score`. 0 for a score that is masked by -infinity.
__device__ __forceinline__ float slope(float score, float inverse_cap) {
  const float t = fminf(fmaxf(score * inverse_cap, -1.0f), 1.0f);
  return SOFT_CAP ? (1.0f - t) * (1.0f + t) : 1.0f;
}

// Starts to copy one 32-bit number, or a zero if it doesn't exist.
__device__ __forceinline__ void fetch_word(u32 to, const void *from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(there ? 4 : 0));
}

__device__ __forceinline__ float over_quad(float value, bool largest) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, value, step);
    value = largest ? fmaxf(value, other) : value + other;
  }
  return value;
}

__device__ __forceinline__ void store_rows(bf16 *matrix, const float (&sum)[HEAD_DIM / 8][4], const u32 (&row)[2], u32 stride, u32 rows) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (row[half] >= rows) continue;
    bf16 *to = matrix + (unsigned long long)row[half] * stride + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++) *(u32 *)(to + n * 8) = narrowed(sum[n][2 * half], sum[n][2 * half + 1]);
  }
}

// Writes the first key, and one past the last key, that any of `count` queries attends to, to `bounds`, for all threads.
__device__ __forceinline__ void extent(u32 (&bounds)[2], const u32 *starts, const u32 *ends, u32 first, u32 count, u32 queries) {
  if (threadIdx.x == 0) { bounds[0] = 0xffffffffu; bounds[1] = 0; }
  __syncthreads();
  if (threadIdx.x < count && first + threadIdx.x < queries) {
    const u32 start = starts[first + threadIdx.x], end = ends[first + threadIdx.x];
    if (start < end) { atomicMin(&bounds[0], start); atomicMax(&bounds[1], end); }
  }
  __syncthreads();
}

// The same for the queries that attend to any of `count` keys.
__device__ __forceinline__ void seen_by(u32 (&bounds)[2], const u32 *starts, const u32 *ends, u32 first, u32 count, u32 queries) {
  if (threadIdx.x == 0) { bounds[0] = 0xffffffffu; bounds[1] = 0; }
  __syncthreads();
  u32 lowest = 0xffffffffu, highest = 0;
  for (u32 i = threadIdx.x; i < queries; i += blockDim.x) {
    const u32 start = starts[i], end = ends[i];
    if (start < end && start < first + count && end > first) { lowest = min(lowest, i); highest = max(highest, i + 1); }
  }
  if (lowest < highest) { atomicMin(&bounds[0], lowest); atomicMax(&bounds[1], highest); }
  __syncthreads();
}
