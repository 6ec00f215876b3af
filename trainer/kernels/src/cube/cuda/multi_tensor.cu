// An optimizer step over many tensors. The blocks with one blockIdx.y share the elements of one tensor. MOST and THREADS are
// defined at compilation.

typedef unsigned int u32;
typedef unsigned short bf16;
typedef unsigned long long u64;

struct Entry {
  const float *gradients;
  float *parameters, *first, *second;
  bf16 *copies; // bf16 copies of the parameters, or null
  float *parts; // partial sums of the gradients' squares
  u64 elements;
  double decay;
};
struct Table { Entry entries[MOST]; };

#define EACH(i, elements) for (u64 i = blockIdx.x * (u64)THREADS + threadIdx.x; i < elements; i += gridDim.x * (u64)THREADS)

// The sum over a block, valid in all its threads.
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

// Writes the factor that clips gradients to the global norm `most`; NaN if their norm is not finite. 0 means no clipping. One
// block.
extern "C" __global__ void clip(const float *parts, float *scale, u32 count, float most) {
  double sum = 0;
  for (u32 i = threadIdx.x; i < count; i += THREADS) sum += parts[i];
  const double norm = sqrt(over_block(sum));
  // norm * 0 is 0 if the norm is finite, and NaN otherwise.
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
