// FlashAttention-2 (Dao 2023), one kernel per pass: scores stay in registers.
//
// Forward: a block has 128 queries of one head, 16 per warp. It loops over tiles of 64 keys, from the first to the last key
// that any of its queries attends to. The gradient of the queries has the same structure. For the gradients of keys and
// values, a block has 128 keys of one key head and loops over the queries of all heads that share them. No sum uses atomics,
// so equal inputs give bit-identical outputs. Products run on tensor cores, bf16 with f32 accumulation. Maxima, exponentials
// and sums are f32. HEAD_DIM is 64, 96 or 128.

#define ROWS 128     // queries, or keys, that a block owns
#define KEYS 64      // keys per tile, forward
#define TILE_ROWS 32 // keys, or queries, per tile, backward
#define THREADS 256

// Byte offset of eight elements in a tile. Chunks are swizzled within a row, so that eight rows are in different banks.
__device__ __forceinline__ u32 place(u32 row, u32 chunk) {
  const u32 turn = HEAD_DIM % 64 == 0 ? row & 7 : (row >> 1) & 3;
  return (row * CHUNKS + (chunk ^ turn)) * 16;
}

// The address at which a lane reads 16 rows of a left factor, 16 columns from `step`.
__device__ __forceinline__ u32 left_place(u32 row, u32 step) {
  const u32 lane = threadIdx.x % 32;
  return place(row + (lane & 15), step * 2 + (lane >> 4));
}

// The same for 16 columns of a right factor that is stored transposed: the rows of the tile are its columns.
__device__ __forceinline__ u32 right_place(u32 row, u32 step) {
  const u32 lane = threadIdx.x % 32;
  return place(row + (lane & 7) + ((lane >> 4) << 3), step * 2 + ((lane >> 3) & 1));
}

// The same for 16 rows and columns of a right factor that is not transposed, for `load_transposed`.
__device__ __forceinline__ u32 plain_place(u32 row, u32 step) {
  const u32 lane = threadIdx.x % 32;
  return place(row + (lane & 15), step * 2 + (lane >> 4));
}

__device__ __forceinline__ void load_matrices(u32 (&m)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address));
}

__device__ __forceinline__ void load_transposed(u32 (&m)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address));
}

// sum += a · b, 16 x 16 by 16 x 8.
__device__ __forceinline__ void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Starts to copy rows first .. first + COUNT; those from `rows` on are zeros.
template <u32 COUNT>
__device__ __forceinline__ void fetch(u32 tile, const bf16 *matrix, u32 stride, u32 first, u32 rows) {
#pragma unroll
  for (u32 i = 0; i < (COUNT * CHUNKS + THREADS - 1) / THREADS; i++) {
    const u32 at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
    if (COUNT * CHUNKS % THREADS && row >= COUNT) break;
    const bool there = first + row < rows;
    const bf16 *from = matrix + (unsigned long long)(there ? first + row : 0) * stride + chunk * 8;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(tile + place(row, chunk)), "l"(from), "r"(there ? 16 : 0));
  }
}

// Loads sixteen rows of a matrix as the left factor of a warp. Rows that don't exist are zeros.
__device__ __forceinline__ void load_rows(u32 (&factor)[HEAD_DIM / 16][4], const bf16 *matrix, const u32 (&row)[2], u32 stride, u32 rows) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const bool there = row[half] < rows;
    const bf16 *from = matrix + (unsigned long long)(there ? row[half] : 0) * stride + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      factor[step][half] = there ? *(const u32 *)(from + step * 16) : 0;
      factor[step][half + 2] = there ? *(const u32 *)(from + step * 16 + 8) : 0;
    }
  }
}

// q[queries, heads · HEAD_DIM], k and v [keys, kv_heads · HEAD_DIM] -> out, shaped like q, and lse[queries, heads]. Query i
// attends to keys starts[i] .. ends[i]; without keys its output is zero. `scale` is positive. `inverse_cap`: see the prelude.
// Grid: heads x tiles of queries; shared memory: two tiles each of keys and values.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_forward(const bf16 *q, const bf16 *k, const bf16 *v, const u32 *starts, const u32 *ends, bf16 *out, float *lse,
                  u32 queries, u32 keys, u32 heads, u32 kv_heads, float scale, float inverse_cap) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ u32 bounds[2];
  const float none = -__int_as_float(0x7f800000);
  const u32 tile_bytes = KEYS * HEAD_DIM * 2;
  const u32 memory = (u32)__cvta_generic_to_shared(shared);
  // The last tiles have the most keys, so they start first.
  const u32 first = (gridDim.y - 1 - blockIdx.y) * ROWS, head = blockIdx.x;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  extent(bounds, starts, ends, first, ROWS, queries);
  const u32 lowest = bounds[0], highest = bounds[1];
  const u32 tiles = lowest < highest ? (highest - lowest + KEYS - 1) / KEYS : 0;

  const u32 row[2] = {first + warp * 16 + lane / 4, first + warp * 16 + lane / 4 + 8};
  const u32 q_stride = heads * HEAD_DIM, kv_stride = kv_heads * HEAD_DIM;
  u32 query[HEAD_DIM / 16][4], start[2], end[2];
  load_rows(query, q + head * HEAD_DIM, row, q_stride, queries);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    // Rows beyond the end attend to all keys, so they don't cause masking. They are not written.
    start[half] = row[half] < queries ? starts[row[half]] : 0;
    end[half] = row[half] < queries ? ends[row[half]] : 0xffffffffu;
  }
  const u32 last_start = __reduce_max_sync(0xffffffffu, max(start[0], start[1]));
  const u32 first_end = __reduce_min_sync(0xffffffffu, min(end[0], end[1]));

  const u32 kv_head = head / (heads / kv_heads);
  const bf16 *head_keys = k + kv_head * HEAD_DIM, *head_values = v + kv_head * HEAD_DIM;
  float sum[HEAD_DIM / 8][4] = {}, largest[2] = {none, none}, total[2] = {};
  const float factor = scale * LOG2E;

  if (tiles > 0) {
    fetch<KEYS>(memory, head_keys, kv_stride, lowest, keys);
    fetch<KEYS>(memory + tile_bytes, head_values, kv_stride, lowest, keys);
  }
  asm volatile("cp.async.commit_group;");
  for (u32 tile = 0; tile < tiles; tile++) {
    const u32 here = memory + (tile % 2) * 2 * tile_bytes, next = memory + ((tile + 1) % 2) * 2 * tile_bytes;
    const u32 key = lowest + tile * KEYS;
    if (tile + 1 < tiles) {
      fetch<KEYS>(next, head_keys, kv_stride, key + KEYS, keys);
      fetch<KEYS>(next + tile_bytes, head_values, kv_stride, key + KEYS, keys);
    }
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();

    float score[KEYS / 8][4] = {};
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
#pragma unroll
      for (int n = 0; n < KEYS / 16; n++) {
        u32 m[4];
        load_matrices(m, here + right_place(n * 16, step));
        multiply(score[2 * n], query[step], m[0], m[1]);
        multiply(score[2 * n + 1], query[step], m[2], m[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) score[n][i] = soft_capped(score[n][i], inverse_cap);
    }
    if (last_start > key || first_end < key + KEYS) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const u32 j = key + n * 8 + 2 * (lane % 4) + (i & 1);
          if (j < start[i / 2] || j >= end[i / 2]) score[n][i] = none;
        }
      }
    }
    float base[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float most = largest[half];
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
      most = over_quad(most, true);
      base[half] = most == none ? 0.0f : most * factor;
      const float shrink = exp2f(largest[half] * factor - base[half]);
      largest[half] = most;
      total[half] *= shrink;
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 8; n++) { sum[n][2 * half] *= shrink; sum[n][2 * half + 1] *= shrink; }
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        score[n][i] = exp2f(score[n][i] * factor - base[i / 2]);
        total[i / 2] += score[n][i];
      }
    }
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
      const float(&left)[4] = score[2 * step], (&right)[4] = score[2 * step + 1];
      const u32 probability[4] = {narrowed(left[0], left[1]), narrowed(left[2], left[3]), narrowed(right[0], right[1]),
                                  narrowed(right[2], right[3])};
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 16; n++) {
        u32 m[4];
        load_transposed(m, here + tile_bytes + plain_place(step * 16, n));
        multiply(sum[2 * n], probability, m[0], m[1]);
        multiply(sum[2 * n + 1], probability, m[2], m[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    total[half] = over_quad(total[half], false);
    const float inverse = total[half] > 0.0f ? 1.0f / total[half] : 0.0f;
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++) { sum[n][2 * half] *= inverse; sum[n][2 * half + 1] *= inverse; }
    if (row[half] < queries && lane % 4 == 0) {
      lse[(unsigned long long)row[half] * heads + head] = total[half] > 0.0f ? largest[half] * scale + logf(total[half]) : 0.0f;
    }
  }
  store_rows(out + head * HEAD_DIM, sum, row, q_stride, queries);
}

// sum += values · matrix. The left factor is an accumulator of TILE_ROWS columns, the right one TILE_ROWS rows of a tile.
__device__ __forceinline__ void add_product(float (&sum)[HEAD_DIM / 8][4], const float (&values)[TILE_ROWS / 8][4], u32 tile) {
#pragma unroll
  for (int step = 0; step < TILE_ROWS / 16; step++) {
    const float(&left)[4] = values[2 * step], (&right)[4] = values[2 * step + 1];
    const u32 factor[4] = {narrowed(left[0], left[1]), narrowed(left[2], left[3]), narrowed(right[0], right[1]), narrowed(right[2], right[3])};
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 16; n++) {
      u32 m[4];
      load_transposed(m, tile + plain_place(step * 16, n));
      multiply(sum[2 * n], factor, m[0], m[1]);
      multiply(sum[2 * n + 1], factor, m[2], m[3]);
    }
  }
}

// The gradient of the queries. `gradient` is that of the output; `delta[queries, heads]` is its inner product with the output.
// Grid and bounds are those of the forward pass. Shared memory: two tiles of TILE_ROWS keys and values.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_queries(const bf16 *gradient, const bf16 *q, const bf16 *k, const bf16 *v, const u32 *starts, const u32 *ends,
                           const float *lse, const float *delta, bf16 *dq, u32 queries, u32 keys, u32 heads, u32 kv_heads,
                           float scale, float inverse_cap) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ u32 bounds[2];
  const u32 tile_bytes = TILE_ROWS * HEAD_DIM * 2, memory = (u32)__cvta_generic_to_shared(shared);
  const u32 first = (gridDim.y - 1 - blockIdx.y) * ROWS, head = blockIdx.x;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  extent(bounds, starts, ends, first, ROWS, queries);
  const u32 lowest = bounds[0], highest = bounds[1];
  const u32 tiles = lowest < highest ? (highest - lowest + TILE_ROWS - 1) / TILE_ROWS : 0;

  const u32 q_stride = heads * HEAD_DIM, kv_stride = kv_heads * HEAD_DIM;
  const u32 row[2] = {first + warp * 16 + lane / 4, first + warp * 16 + lane / 4 + 8};
  u32 query[HEAD_DIM / 16][4], pulled[HEAD_DIM / 16][4];
  load_rows(query, q + head * HEAD_DIM, row, q_stride, queries);
  load_rows(pulled, gradient + head * HEAD_DIM, row, q_stride, queries);
  u32 start[2], end[2];
  float base[2], rest[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const bool there = row[half] < queries;
    const unsigned long long at = (unsigned long long)row[half] * heads + head;
    start[half] = there ? starts[row[half]] : 0;
    end[half] = there ? ends[row[half]] : 0;
    base[half] = there ? lse[at] * LOG2E : 0.0f;
    rest[half] = there ? delta[at] : 0.0f;
  }

  const u32 kv_head = head / (heads / kv_heads);
  const bf16 *head_keys = k + kv_head * HEAD_DIM, *head_values = v + kv_head * HEAD_DIM;
  const float factor = scale * LOG2E;
  float sum[HEAD_DIM / 8][4] = {};
  if (tiles > 0) {
    fetch<TILE_ROWS>(memory, head_keys, kv_stride, lowest, keys);
    fetch<TILE_ROWS>(memory + tile_bytes, head_values, kv_stride, lowest, keys);
  }
  asm volatile("cp.async.commit_group;");
  for (u32 tile = 0; tile < tiles; tile++) {
    const u32 here = memory + (tile % 2) * 2 * tile_bytes, next = memory + ((tile + 1) % 2) * 2 * tile_bytes;
    const u32 key = lowest + tile * TILE_ROWS;
    if (tile + 1 < tiles) {
      fetch<TILE_ROWS>(next, head_keys, kv_stride, key + TILE_ROWS, keys);
      fetch<TILE_ROWS>(next + tile_bytes, head_values, kv_stride, key + TILE_ROWS, keys);
    }
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();

    float score[TILE_ROWS / 8][4] = {}, pull[TILE_ROWS / 8][4] = {};
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
#pragma unroll
      for (int n = 0; n < TILE_ROWS / 16; n++) {
        u32 m[4];
        load_matrices(m, here + right_place(n * 16, step));
        multiply(score[2 * n], query[step], m[0], m[1]);
        multiply(score[2 * n + 1], query[step], m[2], m[3]);
        load_matrices(m, here + tile_bytes + right_place(n * 16, step));
        multiply(pull[2 * n], pulled[step], m[0], m[1]);
        multiply(pull[2 * n + 1], pulled[step], m[2], m[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < TILE_ROWS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const u32 j = key + n * 8 + 2 * (lane % 4) + (i & 1);
        const bool seen = j >= start[i / 2] && j < end[i / 2];
        const float capped = soft_capped(score[n][i], inverse_cap);
        const float p = seen ? exp2f(capped * factor - base[i / 2]) : 0.0f;
        score[n][i] = p * (pull[n][i] - rest[i / 2]) * scale * slope(capped, inverse_cap);
      }
    }
    add_product(sum, score, here);
    __syncthreads();
  }
  store_rows(dq + head * HEAD_DIM, sum, row, q_stride, queries);
}

// The gradients of keys and values. Grid: key heads x tiles of keys. Shared memory: one tile of ROWS keys and one of values;
// two tiles of TILE_ROWS queries and two of output gradients; twice four numbers per query of these tiles.
extern "C" __global__ void __launch_bounds__(THREADS)
attention_backward_keys(const bf16 *gradient, const bf16 *q, const bf16 *k, const bf16 *v, const u32 *starts, const u32 *ends,
                        const float *lse, const float *delta, bf16 *dk, bf16 *dv, u32 queries, u32 keys, u32 heads,
                        u32 kv_heads, float scale, float inverse_cap) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ u32 bounds[2];
  __shared__ u32 about[2][4][TILE_ROWS]; // start, end, lse, delta
  const u32 own_bytes = ROWS * HEAD_DIM * 2, tile_bytes = TILE_ROWS * HEAD_DIM * 2;
  const u32 own_keys = (u32)__cvta_generic_to_shared(shared), own_values = own_keys + own_bytes;
  const u32 memory = own_values + own_bytes, numbers = (u32)__cvta_generic_to_shared(about);
  const u32 first = blockIdx.y * ROWS, kv_head = blockIdx.x, group = heads / kv_heads;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 q_stride = heads * HEAD_DIM, kv_stride = kv_heads * HEAD_DIM;

  fetch<ROWS>(own_keys, k + kv_head * HEAD_DIM, kv_stride, first, keys);
  fetch<ROWS>(own_values, v + kv_head * HEAD_DIM, kv_stride, first, keys);
  asm volatile("cp.async.commit_group;");
  seen_by(bounds, starts, ends, first, ROWS, queries);
  const u32 lowest = bounds[0], highest = bounds[1];
  const u32 tiles = lowest < highest ? (highest - lowest + TILE_ROWS - 1) / TILE_ROWS : 0, rounds = tiles * group;

  // Round r is tile r % tiles of the queries of head r / tiles of the group.
  const auto fetch_round = [&](u32 round) {
    const u32 head = kv_head * group + round / tiles, query = lowest + round % tiles * TILE_ROWS;
    const u32 to = memory + round % 2 * 2 * tile_bytes;
    fetch<TILE_ROWS>(to, q + head * HEAD_DIM, q_stride, query, queries);
    fetch<TILE_ROWS>(to + tile_bytes, gradient + head * HEAD_DIM, q_stride, query, queries);
    if (threadIdx.x < 4 * TILE_ROWS) {
      const u32 what = threadIdx.x / TILE_ROWS, i = query + threadIdx.x % TILE_ROWS;
      const bool there = i < queries;
      const unsigned long long row = there ? i : 0, cell = row * heads + head;
      const void *from = what == 0 ? (const void *)(starts + row) : what == 1 ? (const void *)(ends + row)
                         : what == 2 ? (const void *)(lse + cell) : (const void *)(delta + cell);
      fetch_word(numbers + (round % 2 * 4 * TILE_ROWS + threadIdx.x) * 4, from, there);
    }
  };
  const u32 row[2] = {first + warp * 16 + lane / 4, first + warp * 16 + lane / 4 + 8};
  const float factor = scale * LOG2E;
  float key_sum[HEAD_DIM / 8][4] = {}, value_sum[HEAD_DIM / 8][4] = {};
  if (rounds > 0) fetch_round(0);
  asm volatile("cp.async.commit_group;");
  for (u32 round = 0; round < rounds; round++) {
    if (round + 1 < rounds) fetch_round(round + 1);
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();

    const u32 here = memory + round % 2 * 2 * tile_bytes;
    // Transposed scores: keys are rows, queries are columns.
    float score[TILE_ROWS / 8][4] = {}, pull[TILE_ROWS / 8][4] = {};
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      u32 own[4], m[4];
      load_matrices(own, own_keys + left_place(warp * 16, step));
#pragma unroll
      for (int n = 0; n < TILE_ROWS / 16; n++) {
        load_matrices(m, here + right_place(n * 16, step));
        multiply(score[2 * n], own, m[0], m[1]);
        multiply(score[2 * n + 1], own, m[2], m[3]);
      }
      load_matrices(own, own_values + left_place(warp * 16, step));
#pragma unroll
      for (int n = 0; n < TILE_ROWS / 16; n++) {
        load_matrices(m, here + tile_bytes + right_place(n * 16, step));
        multiply(pull[2 * n], own, m[0], m[1]);
        multiply(pull[2 * n + 1], own, m[2], m[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < TILE_ROWS / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const u32 column = n * 8 + 2 * (lane % 4) + (i & 1), key = row[i / 2];
        const u32(&of)[4][TILE_ROWS] = about[round % 2];
        const bool seen = key >= of[0][column] && key < of[1][column];
        const float capped = soft_capped(score[n][i], inverse_cap);
        const float p = seen ? exp2f(capped * factor - __uint_as_float(of[2][column]) * LOG2E) : 0.0f;
        score[n][i] = p;
        pull[n][i] = p * (pull[n][i] - __uint_as_float(of[3][column])) * scale * slope(capped, inverse_cap);
      }
    }
    add_product(value_sum, score, here + tile_bytes);
    add_product(key_sum, pull, here);
    __syncthreads();
  }
  store_rows(dk + kv_head * HEAD_DIM, key_sum, row, kv_stride, keys);
  store_rows(dv + kv_head * HEAD_DIM, value_sum, row, kv_stride, keys);
}
