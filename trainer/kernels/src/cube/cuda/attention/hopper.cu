// The kernels for Hopper (compute capability 9.0), where warpgroups of 128 threads multiply matrices in shared memory (wgmma).
// A block has three warpgroups: a producer, which copies tiles into a ring buffer, and two consumers, which own 64 of the
// block's 128 rows each. HEAD_DIM is 64 or 128. Parameters, outputs and guarantees are those of the kernels in ampere.cu.
// Shared memory: the block's own tiles, then the ring.

#define CONSUMERS 2
#define ROWS (64 * CONSUMERS) // queries, or keys, that a block owns
#define THREADS (128 * (CONSUMERS + 1))
#define KEYS 128              // keys per tile, forward
#define TILE_ROWS 64          // keys, or queries, per tile, backward
#define FORWARD_STAGES 3      // tiles in the ring
#define BACKWARD_STAGES 4

typedef unsigned long long u64;

// ---- Tiles -------------------------------------------------------------------------------------------------------------
// A tile consists of panels of 64 columns; a row of a panel has 128 bytes. Its 16-byte chunks are XORed with the last three
// bits of the row, the 128-byte swizzle of wgmma's descriptors.

template <u32 COUNT>
__device__ __forceinline__ u32 place(u32 row, u32 chunk) {
  return chunk / 8 * (COUNT * 128) + row * 128 + ((chunk % 8) ^ (row & 7)) * 16;
}

// One warpgroup starts to copy rows first .. first + COUNT. Rows from `rows` on are zeros.
template <u32 COUNT>
__device__ __forceinline__ void fetch(u32 tile, const bf16 *matrix, u32 stride, u32 first, u32 rows) {
  const u32 together = 128 / CHUNKS, row = threadIdx.x % 128 / CHUNKS, chunk = threadIdx.x % CHUNKS;
  u32 to = tile + place<COUNT>(row, chunk);
#pragma unroll 2
  for (u32 at = first + row; at < first + COUNT; at += together, to += together * 128) {
    const bool there = at < rows;
    const bf16 *from = matrix + (u64)(there ? at : 0) * stride + chunk * 8;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0));
  }
}

__device__ __forceinline__ u64 descriptor(u32 address, u32 leading, u32 stride) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | (u64)1 << 62;
}

// Descriptor of 16 columns from `step` of the rows from `row` on, in a tile of COUNT rows: a factor with k along its rows.
template <u32 COUNT>
__device__ __forceinline__ u64 along(u32 tile, u32 row, u32 step) {
  return descriptor(tile + step / 4 * (COUNT * 128) + row * 128 + step % 4 * 32, 16, 1024);
}

// Descriptor of 16 rows from `step` with all columns, in a tile of COUNT rows: a right factor that is not transposed.
template <u32 COUNT>
__device__ __forceinline__ u64 across(u32 tile, u32 step) {
  return descriptor(tile + step * 2048, COUNT * 128, 1024);
}

// ---- Products ----------------------------------------------------------------------------------------------------------

#define FOUR(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define EIGHT_GROUPS FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7)
#define SIXTEEN_GROUPS EIGHT_GROUPS, FOUR(8), FOUR(9), FOUR(10), FOUR(11), FOUR(12), FOUR(13), FOUR(14), FOUR(15)
#define NAMES_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_64 NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

// sum = a · bᵀ (+ sum), both in shared memory.
__device__ __forceinline__ void multiply(float (&d)[8][4], u64 a, u64 b, int add) {
  asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NAMES_32 "}, %32, %33, p, 1, 1, 0, 0;}"
               : EIGHT_GROUPS : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void multiply(float (&d)[16][4], u64 a, u64 b, int add) {
  asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NAMES_64 "}, %64, %65, p, 1, 1, 0, 0;}"
               : SIXTEEN_GROUPS : "l"(a), "l"(b), "r"(add));
}
// sum += a · b, with the left factor in registers.
__device__ __forceinline__ void multiply(float (&d)[8][4], const u32 (&a)[4], u64 b) {
  asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NAMES_32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;}"
               : EIGHT_GROUPS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}
__device__ __forceinline__ void multiply(float (&d)[16][4], const u32 (&a)[4], u64 b) {
  asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NAMES_64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;}"
               : SIXTEEN_GROUPS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

__device__ __forceinline__ void begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void finish() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// The compiler must not move reads or writes of these registers across this point.
template <u32 N> __device__ __forceinline__ void hold(float (&d)[N][4]) {
#pragma unroll
  for (u32 n = 0; n < N; n++) asm volatile("" : FOUR(n)::"memory");
}

// sum = left[row .. row + 64] · rightᵀ, where `right` has COUNT rows.
template <u32 LEFT, u32 COUNT>
__device__ __forceinline__ void inner(float (&sum)[COUNT / 8][4], u32 left, u32 row, u32 right) {
#pragma unroll
  for (u32 step = 0; step < HEAD_DIM / 16; step++) multiply(sum, along<LEFT>(left, row, step), along<COUNT>(right, 0, step), step > 0);
}

// sum += factor · tile of COUNT rows.
template <u32 COUNT>
__device__ __forceinline__ void outer(float (&sum)[HEAD_DIM / 8][4], const u32 (&factor)[COUNT / 16][4], u32 tile) {
#pragma unroll
  for (u32 step = 0; step < COUNT / 16; step++) multiply(sum, factor[step], across<COUNT>(tile, step));
}

// Converts accumulators to a left factor in bf16.
template <u32 N>
__device__ __forceinline__ void narrow(u32 (&factor)[N / 2][4], const float (&sum)[N][4]) {
#pragma unroll
  for (u32 i = 0; i < N / 2; i++) {
    const float(&left)[4] = sum[2 * i], (&right)[4] = sum[2 * i + 1];
    factor[i][0] = narrowed(left[0], left[1]);
    factor[i][1] = narrowed(left[2], left[3]);
    factor[i][2] = narrowed(right[0], right[1]);
    factor[i][3] = narrowed(right[2], right[3]);
  }
}

__device__ __forceinline__ float power(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float logarithm(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- The ring of tiles ---------------------------------------------------------------------------------------------------

__device__ __forceinline__ void expect(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives at the barrier when all copies that this thread has started are complete.
__device__ __forceinline__ void arrive_copied(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
  u32 done;
  do {
    asm volatile("{.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;}"
                 : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  } while (!done);
}
// Makes copied data visible to wgmma.
__device__ __forceinline__ void see() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <u32 STAGES> struct Ring {
  u32 barriers; // STAGES for filled tiles, STAGES for consumed tiles, one for the block's own tiles
  __device__ __forceinline__ u32 there(u32 turn) const { return barriers + turn % STAGES * 8; }
  __device__ __forceinline__ u32 used(u32 turn) const { return barriers + (STAGES + turn % STAGES) * 8; }
  __device__ __forceinline__ u32 own() const { return barriers + 2 * STAGES * 8; }
  __device__ __forceinline__ void prepare() const {
    if (threadIdx.x == 0) {
      for (u32 i = 0; i < STAGES; i++) { expect(barriers + i * 8, 128); expect(barriers + (STAGES + i) * 8, 4 * CONSUMERS); }
      expect(own(), 128);
    }
  }
  __device__ __forceinline__ void await(u32 turn) const { wait(there(turn), turn / STAGES & 1); see(); }
  __device__ __forceinline__ void release(u32 turn) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(used(turn));
  }
};

// A block has 168 registers per thread. The producer releases most of its registers to the consumers.
__device__ __forceinline__ void few_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 24;"); }
__device__ __forceinline__ void many_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 240;"); }

// The consumers take turns, so that one multiplies while the other computes exponentials.
__device__ __forceinline__ void my_turn(u32 group) { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); }
__device__ __forceinline__ void your_turn(u32 group) { asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory"); }

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_forward(const bf16 *q, const bf16 *k, const bf16 *v, const u32 *starts, const u32 *ends, bf16 *out, float *lse,
                  u32 queries, u32 keys, u32 heads, u32 kv_heads, float scale, float inverse_cap) {
  extern __shared__ unsigned char shared[];
  __shared__ u32 bounds[2];
  __shared__ u64 barriers[2 * FORWARD_STAGES + 1];
  const u32 own = ((u32)__cvta_generic_to_shared(shared) + 1023) / 1024 * 1024, tiles_at = own + ROWS * HEAD_DIM * 2;
  const u32 tile_bytes = KEYS * HEAD_DIM * 2;
  const Ring<FORWARD_STAGES> ring = {(u32)__cvta_generic_to_shared(barriers)};
  // The last tiles have the most keys, so they start first.
  const u32 first = (gridDim.y - 1 - blockIdx.y) * ROWS, head = blockIdx.x, kv_head = head / (heads / kv_heads);
  const u32 q_stride = heads * HEAD_DIM, kv_stride = kv_heads * HEAD_DIM;

  ring.prepare();
  extent(bounds, starts, ends, first, ROWS, queries);
  const u32 lowest = bounds[0], highest = bounds[1];
  const u32 tiles = lowest < highest ? (highest - lowest + KEYS - 1) / KEYS : 0;
  const auto keys_of = [&](u32 tile) { return tiles_at + tile % FORWARD_STAGES * 2 * tile_bytes; };

  if (threadIdx.x < 128) {
    few_registers();
    fetch<ROWS>(own, q + head * HEAD_DIM, q_stride, first, queries);
    arrive_copied(ring.own());
    for (u32 tile = 0; tile < tiles; tile++) {
      wait(ring.used(tile), tile / FORWARD_STAGES & 1 ^ 1);
      fetch<KEYS>(keys_of(tile), k + kv_head * HEAD_DIM, kv_stride, lowest + tile * KEYS, keys);
      fetch<KEYS>(keys_of(tile) + tile_bytes, v + kv_head * HEAD_DIM, kv_stride, lowest + tile * KEYS, keys);
      arrive_copied(ring.there(tile));
    }
    asm volatile("cp.async.wait_all;");
    return;
  }
  many_registers();
  const float none = -__int_as_float(0x7f800000), factor = scale * LOG2E;
  const u32 lane = threadIdx.x % 32, group = threadIdx.x / 128 - 1, base_row = group * 64, warp = threadIdx.x / 32 % 4;
  const u32 row[2] = {first + base_row + warp * 16 + lane / 4, first + base_row + warp * 16 + lane / 4 + 8};
  u32 start[2], end[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    // Rows beyond the end attend to all keys, so they don't cause masking. They are not written.
    start[half] = row[half] < queries ? starts[row[half]] : 0;
    end[half] = row[half] < queries ? ends[row[half]] : 0xffffffffu;
  }
  const u32 last_start = __reduce_max_sync(0xffffffffu, max(start[0], start[1]));
  const u32 first_end = __reduce_min_sync(0xffffffffu, min(end[0], end[1]));

  float sum[HEAD_DIM / 8][4] = {}, score[KEYS / 8][4], largest[2] = {none, none}, total[2] = {}, shrink[2];
  u32 probability[KEYS / 16][4];
  // Scores to exponentials, and the factor that rescales earlier sums.
  const auto soften = [&](u32 key) {
#pragma unroll
    for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) score[n][i] = soft_capped(score[n][i], inverse_cap);
    }
    if (last_start > key || first_end < key + KEYS) {
#pragma unroll
      for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const u32 j = key + n * 8 + 2 * (lane % 4) + (i & 1);
          if (j < start[i / 2] || j >= end[i / 2]) score[n][i] = none;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float most = largest[half];
#pragma unroll
      for (u32 n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
      most = over_quad(most, true);
      const float base = most == none ? 0.0f : most * factor;
      shrink[half] = power(largest[half] * factor - base);
      largest[half] = most;
      total[half] *= shrink[half];
#pragma unroll
      for (u32 n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          score[n][i] = power(score[n][i] * factor - base);
          total[half] += score[n][i];
        }
      }
    }
  };

  wait(ring.own(), 0);
  see();
  if (group == 1) your_turn(group);
  if (tiles > 0) {
    ring.await(0);
    my_turn(group);
    begin();
    inner<ROWS, KEYS>(score, own, base_row, keys_of(0));
    commit();
    your_turn(group);
    finish<0>();
    hold(score);
    soften(lowest);
    narrow(probability, score);
    for (u32 tile = 1; tile < tiles; tile++) {
      ring.await(tile);
      my_turn(group);
      begin();
      inner<ROWS, KEYS>(score, own, base_row, keys_of(tile));
      commit();
      outer<KEYS>(sum, probability, keys_of(tile - 1) + tile_bytes);
      commit();
      your_turn(group);
      finish<1>();
      hold(score);
      soften(lowest + tile * KEYS);
      finish<0>();
      hold(sum);
      ring.release(tile - 1);
#pragma unroll
      for (u32 n = 0; n < HEAD_DIM / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sum[n][i] *= shrink[i / 2];
      }
      narrow(probability, score);
    }
    begin();
    outer<KEYS>(sum, probability, keys_of(tiles - 1) + tile_bytes);
    commit();
    finish<0>();
    hold(sum);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    total[half] = over_quad(total[half], false);
    const float inverse = total[half] > 0.0f ? 1.0f / total[half] : 0.0f;
#pragma unroll
    for (u32 n = 0; n < HEAD_DIM / 8; n++) { sum[n][2 * half] *= inverse; sum[n][2 * half + 1] *= inverse; }
    if (row[half] < queries && lane % 4 == 0) {
      lse[(u64)row[half] * heads + head] = total[half] > 0.0f ? largest[half] * scale + logf(total[half]) : 0.0f;
    }
  }
  store_rows(out + head * HEAD_DIM, sum, row, q_stride, queries);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_queries(const bf16 *gradient, const bf16 *q, const bf16 *k, const bf16 *v, const u32 *starts, const u32 *ends,
                           const float *lse, const float *delta, bf16 *dq, u32 queries, u32 keys, u32 heads, u32 kv_heads,
                           float scale, float inverse_cap) {
  extern __shared__ unsigned char shared[];
  __shared__ u32 bounds[2];
  __shared__ u64 barriers[2 * BACKWARD_STAGES + 1];
  const u32 own_bytes = ROWS * HEAD_DIM * 2, tile_bytes = TILE_ROWS * HEAD_DIM * 2;
  const u32 own = ((u32)__cvta_generic_to_shared(shared) + 1023) / 1024 * 1024, tiles_at = own + 2 * own_bytes;
  const Ring<BACKWARD_STAGES> ring = {(u32)__cvta_generic_to_shared(barriers)};
  const u32 first = (gridDim.y - 1 - blockIdx.y) * ROWS, head = blockIdx.x, kv_head = head / (heads / kv_heads);
  const u32 q_stride = heads * HEAD_DIM, kv_stride = kv_heads * HEAD_DIM;

  ring.prepare();
  extent(bounds, starts, ends, first, ROWS, queries);
  const u32 lowest = bounds[0], highest = bounds[1];
  const u32 tiles = lowest < highest ? (highest - lowest + TILE_ROWS - 1) / TILE_ROWS : 0;
  const auto keys_of = [&](u32 tile) { return tiles_at + tile % BACKWARD_STAGES * 2 * tile_bytes; };

  if (threadIdx.x < 128) {
    few_registers();
    fetch<ROWS>(own, q + head * HEAD_DIM, q_stride, first, queries);
    fetch<ROWS>(own + own_bytes, gradient + head * HEAD_DIM, q_stride, first, queries);
    arrive_copied(ring.own());
    for (u32 tile = 0; tile < tiles; tile++) {
      wait(ring.used(tile), tile / BACKWARD_STAGES & 1 ^ 1);
      fetch<TILE_ROWS>(keys_of(tile), k + kv_head * HEAD_DIM, kv_stride, lowest + tile * TILE_ROWS, keys);
      fetch<TILE_ROWS>(keys_of(tile) + tile_bytes, v + kv_head * HEAD_DIM, kv_stride, lowest + tile * TILE_ROWS, keys);
      arrive_copied(ring.there(tile));
    }
    asm volatile("cp.async.wait_all;");
    return;
  }
  many_registers();
  const float factor = scale * LOG2E;
  const u32 lane = threadIdx.x % 32, group = threadIdx.x / 128 - 1, base_row = group * 64, warp = threadIdx.x / 32 % 4;
  const u32 row[2] = {first + base_row + warp * 16 + lane / 4, first + base_row + warp * 16 + lane / 4 + 8};
  u32 start[2], end[2];
  float base[2], rest[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const bool there = row[half] < queries;
    const u64 at = (u64)row[half] * heads + head;
    start[half] = there ? starts[row[half]] : 0;
    end[half] = there ? ends[row[half]] : 0;
    base[half] = there ? lse[at] * LOG2E : 0.0f;
    rest[half] = there ? delta[at] : 0.0f;
  }
  const u32 last_start = __reduce_max_sync(0xffffffffu, max(start[0], start[1]));
  const u32 first_end = __reduce_min_sync(0xffffffffu, min(end[0], end[1]));

  float sum[HEAD_DIM / 8][4] = {}, score[TILE_ROWS / 8][4], pull[TILE_ROWS / 8][4];
  u32 pulled[TILE_ROWS / 16][4];
  wait(ring.own(), 0);
  see();
  if (group == 1) your_turn(group);
  const auto soften = [&](u32 key) {
#pragma unroll
    for (u32 n = 0; n < TILE_ROWS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) score[n][i] = soft_capped(score[n][i], inverse_cap);
    }
    if (last_start > key || first_end < key + TILE_ROWS) {
#pragma unroll
      for (u32 n = 0; n < TILE_ROWS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const u32 j = key + n * 8 + 2 * (lane % 4) + (i & 1);
          if (j < start[i / 2] || j >= end[i / 2]) score[n][i] = -__int_as_float(0x7f800000);
        }
      }
    }
#pragma unroll
    for (u32 n = 0; n < TILE_ROWS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float p = power(score[n][i] * factor - base[i / 2]);
        score[n][i] = p * (pull[n][i] - rest[i / 2]) * slope(score[n][i], inverse_cap);
      }
    }
  };
  const auto start_products = [&](u32 tile) {
    my_turn(group);
    begin();
    inner<ROWS, TILE_ROWS>(score, own, base_row, keys_of(tile));
    inner<ROWS, TILE_ROWS>(pull, own + own_bytes, base_row, keys_of(tile) + tile_bytes);
    commit();
  };
  if (tiles > 0) {
    ring.await(0);
    start_products(0);
    your_turn(group);
    finish<0>();
    hold(score);
    hold(pull);
    soften(lowest);
    narrow(pulled, score);
    if (tiles > 1) ring.await(1);
    for (u32 tile = 1; tile < tiles; tile++) {
      start_products(tile);
      outer<TILE_ROWS>(sum, pulled, keys_of(tile - 1));
      commit();
      your_turn(group);
      finish<1>();
      hold(score);
      hold(pull);
      soften(lowest + tile * TILE_ROWS);
      // The wait is here because the compiler doesn't move it across a loop. Elsewhere it would move before the exponentials.
      if (tile + 1 < tiles) ring.await(tile + 1);
      finish<0>();
      hold(sum);
      ring.release(tile - 1);
      narrow(pulled, score);
    }
    begin();
    outer<TILE_ROWS>(sum, pulled, keys_of(tiles - 1));
    commit();
    finish<0>();
    hold(sum);
  }
#pragma unroll
  for (u32 n = 0; n < HEAD_DIM / 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) sum[n][i] *= scale;
  }
  store_rows(dq + head * HEAD_DIM, sum, row, q_stride, queries);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_keys(const bf16 *gradient, const bf16 *q, const bf16 *k, const bf16 *v, const u32 *starts, const u32 *ends,
                        const float *lse, const float *delta, bf16 *dk, bf16 *dv, u32 queries, u32 keys, u32 heads,
                        u32 kv_heads, float scale, float inverse_cap) {
  extern __shared__ unsigned char shared[];
  __shared__ u32 bounds[2];
  __shared__ u64 barriers[2 * BACKWARD_STAGES + 1];
  __shared__ __align__(16) u32 about[BACKWARD_STAGES][4][TILE_ROWS]; // start, end, lse, delta
  const u32 own_bytes = ROWS * HEAD_DIM * 2, tile_bytes = TILE_ROWS * HEAD_DIM * 2;
  const u32 own = ((u32)__cvta_generic_to_shared(shared) + 1023) / 1024 * 1024, tiles_at = own + 2 * own_bytes;
  const Ring<BACKWARD_STAGES> ring = {(u32)__cvta_generic_to_shared(barriers)};
  const u32 first = blockIdx.y * ROWS, kv_head = blockIdx.x, shared_by = heads / kv_heads;
  const u32 q_stride = heads * HEAD_DIM, kv_stride = kv_heads * HEAD_DIM;

  ring.prepare();
  seen_by(bounds, starts, ends, first, ROWS, queries);
  const u32 lowest = bounds[0], highest = bounds[1];
  const u32 tiles = lowest < highest ? (highest - lowest + TILE_ROWS - 1) / TILE_ROWS : 0, rounds = tiles * shared_by;
  const auto queries_of = [&](u32 round) { return tiles_at + round % BACKWARD_STAGES * 2 * tile_bytes; };

  if (threadIdx.x < 128) {
    few_registers();
    fetch<ROWS>(own, k + kv_head * HEAD_DIM, kv_stride, first, keys);
    fetch<ROWS>(own + own_bytes, v + kv_head * HEAD_DIM, kv_stride, first, keys);
    arrive_copied(ring.own());
    // Round r is tile r % tiles of the queries of head r / tiles of those that share these keys.
    for (u32 round = 0; round < rounds; round++) {
      const u32 head = kv_head * shared_by + round / tiles, query = lowest + round % tiles * TILE_ROWS;
      wait(ring.used(round), round / BACKWARD_STAGES & 1 ^ 1);
      fetch<TILE_ROWS>(queries_of(round), q + head * HEAD_DIM, q_stride, query, queries);
      fetch<TILE_ROWS>(queries_of(round) + tile_bytes, gradient + head * HEAD_DIM, q_stride, query, queries);
#pragma unroll
      for (u32 at = threadIdx.x; at < 4 * TILE_ROWS; at += 128) {
        const u32 what = at / TILE_ROWS, i = query + at % TILE_ROWS;
        const bool there = i < queries;
        const u64 line = there ? i : 0, cell = line * heads + head;
        const void *from = what == 0 ? (const void *)(starts + line) : what == 1 ? (const void *)(ends + line)
                           : what == 2 ? (const void *)(lse + cell) : (const void *)(delta + cell);
        fetch_word((u32)__cvta_generic_to_shared(&about[round % BACKWARD_STAGES][0][at]), from, there);
      }
      arrive_copied(ring.there(round));
    }
    asm volatile("cp.async.wait_all;");
    return;
  }
  many_registers();
  const float factor = scale * LOG2E;
  const u32 lane = threadIdx.x % 32, group = threadIdx.x / 128 - 1, base_row = group * 64, warp = threadIdx.x / 32 % 4;
  const u32 row[2] = {first + base_row + warp * 16 + lane / 4, first + base_row + warp * 16 + lane / 4 + 8};
  float key_sum[HEAD_DIM / 8][4] = {}, value_sum[HEAD_DIM / 8][4] = {};
  u32 probability[TILE_ROWS / 16][4], pulled[TILE_ROWS / 16][4];
  wait(ring.own(), 0);
  see();
  if (group == 1) your_turn(group);
  for (u32 round = 0; round < rounds; round++) {
    float score[TILE_ROWS / 8][4], pull[TILE_ROWS / 8][4];
    const u32(&of)[4][TILE_ROWS] = about[round % BACKWARD_STAGES];
    ring.await(round);
    my_turn(group);
    begin();
    // Transposed scores: keys are rows, queries are columns.
    inner<ROWS, TILE_ROWS>(score, own, base_row, queries_of(round));
    commit();
    inner<ROWS, TILE_ROWS>(pull, own + own_bytes, base_row, queries_of(round) + tile_bytes);
    commit();
    your_turn(group);
    const u32 last_start = __reduce_max_sync(0xffffffffu, max(of[0][lane], of[0][lane + 32]));
    const u32 first_end = __reduce_min_sync(0xffffffffu, min(of[1][lane], of[1][lane + 32]));
    finish<1>();
    hold(score);
#pragma unroll
    for (u32 n = 0; n < TILE_ROWS / 8; n++) {
      const float2 base = *(const float2 *)&of[2][n * 8 + 2 * (lane % 4)];
#pragma unroll
      for (int i = 0; i < 4; i++) score[n][i] = power(soft_capped(score[n][i], inverse_cap) * factor - (i & 1 ? base.y : base.x) * LOG2E);
    }
    if (last_start > first || first_end < first + ROWS) {
#pragma unroll
      for (u32 n = 0; n < TILE_ROWS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const u32 column = n * 8 + 2 * (lane % 4) + (i & 1);
          if (row[i / 2] < of[0][column] || row[i / 2] >= of[1][column]) score[n][i] = 0.0f;
        }
      }
    }
    narrow(probability, score);
    begin();
    outer<TILE_ROWS>(value_sum, probability, queries_of(round) + tile_bytes);
    commit();
    finish<1>();
    hold(pull);
#pragma unroll
    for (u32 n = 0; n < TILE_ROWS / 8; n++) {
      const float2 base = *(const float2 *)&of[2][n * 8 + 2 * (lane % 4)], rest = *(const float2 *)&of[3][n * 8 + 2 * (lane % 4)];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        // Registers are scarce, so the score is recomputed from its probability.
        const float again = (logarithm(score[n][i]) + (i & 1 ? base.y : base.x) * LOG2E) * (1.0f / factor);
        pull[n][i] = score[n][i] * (pull[n][i] - (i & 1 ? rest.y : rest.x)) * slope(again, inverse_cap);
      }
    }
    narrow(pulled, pull);
    begin();
    outer<TILE_ROWS>(key_sum, pulled, queries_of(round));
    commit();
    finish<0>();
    hold(value_sum);
    hold(key_sum);
    ring.release(round);
  }
#pragma unroll
  for (u32 n = 0; n < HEAD_DIM / 8; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) key_sum[n][i] *= scale;
  }
  store_rows(dk + kv_head * HEAD_DIM, key_sum, row, kv_stride, keys);
  store_rows(dv + kv_head * HEAD_DIM, value_sum, row, kv_stride, keys);
}
