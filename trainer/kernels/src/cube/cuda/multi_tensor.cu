// An optimizer step over many tensors at once. A row of blocks (blockIdx.y) belongs to one tensor, whose elements its blocks
// share. MOST and THREADS are given when this is compiled.

typedef unsigned int u32;
typedef unsigned short bf16;
typedef unsigned long long u64;

struct Entry {
  const float *gradients;
  float *parameters, *first, *second;
  bf16 *copies; // of the parameters, or null
  float *parts; // of the sum of the squares of the gradients
  u64 elements;
  double decay;
};
struct Table { Entry entries[MOST]; };

#define EACH(i, elements) for (u64 i = blockIdx.x * (u64)THREADS + threadIdx.x; i < elements; i += gridDim.x * (u64)THREADS)

// The sum over a block, known to its first thread.
template <typename T> __device__ __forceinline__ T over_block(T sum) {
  __shared__ T warps[THREADS / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (int warp = 0; warp < THREADS / 32; warp++) sum += warps[warp];
  return sum;
}

extern "C" __global__ void square_sums(const __grid_constant__ Table table) {
  const Entry &entry = table.entries[blockIdx.y];
  float sum = 0;
  EACH(i, entry.elements) sum += entry.gradients[i] * entry.gradients[i];
  sum = over_block(sum);
  if (threadIdx.x == 0) entry.parts[blockIdx.x] = sum;
}

// What gradients are multiplied by; not a number where their norm is not finite. No limit where `most` is 0. One block.
extern "C" __global__ void clip(const float *parts, float *scale, u32 count, float most) {
  double sum = 0;
  for (u32 i = threadIdx.x; i < count; i += THREADS) sum += parts[i];
  const double norm = sqrt(over_block(sum));
  // Only a finite norm times 0 is 0.
  if (threadIdx.x == 0) *scale = (most > 0 ? (float)fmin(most / (norm + 1e-6), 1.0) : 1.0f) + (float)(norm * 0);
}

extern "C" __global__ void adamw(const __grid_constant__ Table table, const float *scale, float beta1_rest, float beta2,
                                 float beta2_rest, float step_size, float inverse_correction2, float epsilon) {
  const Entry &entry = table.entries[blockIdx.y];
  const float grad_scale = *scale, decay = (float)entry.decay;
  if (isnan(grad_scale)) return;
  EACH(i, entry.elements) {
    const float gradient = entry.gradients[i] * grad_scale;
    const float m = entry.first[i] + (gradient - entry.first[i]) * beta1_rest;
    const float v = entry.second[i] * beta2 + beta2_rest * gradient * gradient;
    entry.first[i] = m;
    entry.second[i] = v;
    const float parameter = entry.parameters[i] * decay - step_size * m / (sqrtf(v) * inverse_correction2 + epsilon);
    entry.parameters[i] = parameter;
    if (entry.copies) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(entry.copies[i]) : "f"(parameter));
  }
}
