// The loops that need no instruction of their own, written once over V (16 floats, defined by the including file) and
// compiled for each instruction set. Every sum runs in an order that depends on the row alone.
//
// The including file provides, in its anonymous namespace: struct V; load, load_f16, load_bf16, store, store_f16, set1, add, sub, mul, fma
// (a * b + c, fused where the hardware is), max, round, exp2_int (2^n for integral n), first_lanes (value where lane < n, else other), first (lane 0),
// sum_lanes (pairwise, 8 lanes apart, then 4, 2, 1: the same tree everywhere), max_lanes, put_codes (16 rounded values as int8; returns their sum),
// kQueryTile, kBurnChains.

// e^x by 2^n * e^r, |r| <= ln 2 / 2, and the degree-6 polynomial of Cephes' expf (error below 2 ulp); exp(0) is exactly 1.
// Below -87 the result is 0 (e^-87 is the last normal number).
inline V exp_of(const V& x_in) {
  const V x = max(set1(-104.0f), x_in);   // in this order a NaN stays one
  const V n = round(mul(x, set1(1.44269504088896341f)));
  V r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  V p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, set1(1.0f)));
  return mul(p, exp2_int(n));
}

inline V silu(const V& x) {
  const V e = exp_of(sub(set1(0.0f), x));
  return div(x, add(set1(1.0f), e));
}

float rms_scale(const float* x, int k, float eps) {
  V squares = set1(0.0f);
  int i = 0;
  for (; i + 16 <= k; i += 16) {
    const V v = load(x + i);
    squares = fma(v, v, squares);
  }
  float sum = sum_lanes(squares);
  for (; i < k; ++i) sum += x[i] * x[i];
  return 1.0f / __builtin_sqrtf(sum / float(k) + eps);
}

float silu_one(float x) {
  return first(silu(set1(x)));
}

void activate(const RowJob& job) {
  const int k = job.k;
  float* out = job.x;
  int i = 0;
  if (job.is_swiglu) {
    for (; i + 16 <= k; i += 16) store(out + i, mul(silu(load(job.in + i)), load(job.in + k + i)));
    for (; i < k; ++i) out[i] = silu_one(job.in[i]) * job.in[k + i];
  } else if (job.norm) {
    const float scale = rms_scale(job.in, k, job.eps);
    for (; i + 16 <= k; i += 16) store(out + i, mul(mul(load(job.in + i), set1(scale)), load(job.norm + i)));
    for (; i < k; ++i) out[i] = job.in[i] * scale * job.norm[i];
  } else {
    for (; i < k; ++i) out[i] = job.in[i];
  }
}

// To 22 bits, downwards.
inline float short_float(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  bits &= ~uint32_t(3);
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// What the products need of a block's sums (of its halves). Each plane is a cache line more for a token to touch.
inline void put_sums(const RowJob& job, size_t place, float d, const int sums[2]) {
  const int sum = sums[0] + sums[1];
  if (job.md) job.md[place] = -kMagic * d;
  if (job.s32) job.s32[place] = d * float(sum);
  if (job.start8) job.start8[place] = kMagicBits - 8 * sum;
  if (job.start16) job.start16[place] = kMagicBits - 16 * sum;
  if (job.start128) job.start128[place] = kMagicBits - 128 * sum;
  for (size_t half = 0; half < 2; ++half) {
    if (job.s16) job.s16[2 * place + half] = d * float(sums[half]);
    if (job.start32) job.start32[2 * place + half] = kMagicBits - 32 * sums[half];
  }
}

// Symmetric int8 by blocks of 32, scale max|x| / 127, round to nearest even. A block with a value that is not
// finite gets the scale NaN, so that a broken row shows as NaN logits and not as plausible numbers.
void quantize(const float* x, const RowJob& job) {
  for (int b = 0; b < job.k / kBlock; ++b) {
    const V v[2] = {load(x + 32 * b), load(x + 32 * b + 16)};
    const V magnitude = max(max(v[0], sub(set1(0.0f), v[0])), max(v[1], sub(set1(0.0f), v[1])));
    const float largest = max_lanes(magnitude);
    const float finite = sum_lanes(add(sub(v[0], v[0]), sub(v[1], v[1])));  // 0, or NaN
    const float d = short_float(largest / 127.0f) + finite;
    const float inverse = largest > 0 && finite == 0 ? 127.0f / largest : 0.0f;
    const size_t place = size_t(b) * size_t(job.n_tokens);
    int8_t* q = job.q + place * kBlock;
    int sums[2];
    for (int half = 0; half < 2; ++half) {
      sums[half] = put_codes(round(mul(v[half], set1(inverse))), q + 16 * half);
    }
    job.d[place] = d;
    put_sums(job, place, d, sums);
  }
}

void prepare_row(const RowJob& job) {
  const float* x = job.in;
  if (job.x) {
    activate(job);
    x = job.x;
  }
  if (job.q) quantize(x, job);
}

// ---- reading weights --------------------------------------------------------------------------------------------

template <int kType>
constexpr int kRecordBytes = kType == kQ4_0 ? kRecordQ4_0 : kType == kQ4_1 ? kRecordQ4_1 : kType == kQ5_0 ? kRecordQ5_0
    : kType == kQ5_1 ? kRecordQ5_1 : kType == kQ8_0 ? kRecordQ8_0 : kType == kQ4_K ? kSuperQ4_K / 8 : kType == kQ5_K ? kSuperQ5_K / 8 : kSuperQ6_K / 8;

// Panels are read once and in order, and the next panel follows the last. Asking half a page ahead took one core of a Zen 3 from 13.7 to 20.7 GB/s
// (Q4_0, 3072 columns): the processor's own prefetch stops at each page's end. Running past the end of the weights is harmless.
inline void prefetch(const uint8_t* p, int bytes) {
  constexpr int kAhead = 2048;
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + kAhead + i);
}

// ---- float panels -----------------------------------------------------------------------------------------------

inline V panel_lane(const float* panel, int column) { return load(panel + 16 * column); }
struct F16 { uint16_t bits; };
struct BF16 { uint16_t bits; };
inline V panel_lane(const F16* panel, int column) { return load_f16(&panel[16 * column].bits); }
inline V panel_lane(const BF16* panel, int column) { return load_bf16(&panel[16 * column].bits); }

void put_rows(const V& v, float* out, int n_rows, bool accumulate) {
  alignas(64) float lanes[16];
  store(lanes, v);
  for (int r = 0; r < n_rows; ++r) out[r] = accumulate ? out[r] + lanes[r] : lanes[r];
}

template <class T, int kTokens>
inline void float_tokens(const T* panel, const Tile& tile, int t, float* out, size_t stride, int n_rows, bool accumulate) {
  V sums[kTokens];
  for (int i = 0; i < kTokens; ++i) sums[i] = set1(0.0f);
  for (int column = 0; column < tile.k; ++column) {
    prefetch(reinterpret_cast<const uint8_t*>(panel + 16 * column), 1);
    const V w = panel_lane(panel, column);
    for (int i = 0; i < kTokens; ++i) sums[i] = fma(w, set1(tile.x[size_t(t + i) * size_t(tile.k) + size_t(column)]), sums[i]);
  }
  for (int i = 0; i < kTokens; ++i) put_rows(sums[i], out + size_t(t + i) * stride, n_rows, accumulate);
}

template <class T>
void float_product(const uint8_t* panel, const Tile& tile, float* out, size_t stride, int n_rows, bool accumulate) {
  const T* weights = reinterpret_cast<const T*>(panel);
  int t = 0;
  for (; t + 4 <= tile.n; t += 4) float_tokens<T, 4>(weights, tile, t, out, stride, n_rows, accumulate);
  for (; t < tile.n; ++t) float_tokens<T, 1>(weights, tile, t, out, stride, n_rows, accumulate);
}

// ---- RoPE and the cache -----------------------------------------------------------------------------------------

inline void rotate(float* head, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

void rope_store(const LayerCache& cache, float* qkv, const float* cos, const float* sin, int slot, int n_heads) {
  const int dim = cache.head_dim, kv = cache.n_kv_heads;
  for (int h = 0; h < n_heads + kv; ++h) rotate(qkv + h * dim, cos, sin, dim / 2);
  const int page = slot / kPage, offset = slot % kPage;
  for (int h = 0; h < kv; ++h) {
    const float* k = qkv + (n_heads + h) * dim;
    const float* v = qkv + (n_heads + kv + h) * dim;
    const size_t base = size_t(page) * cache.page_stride + size_t(h) * size_t(dim) * kPage;
    if (cache.is_f16) {
      alignas(64) uint16_t halves[kMaxHeadDim];
      for (int i = 0; i < dim; i += 16) store_f16(halves + i, load(k + i));
      uint16_t* column = static_cast<uint16_t*>(cache.k) + base + size_t(offset);
      for (int i = 0; i < dim; ++i) column[size_t(i) * kPage] = halves[i];
      uint16_t* row = static_cast<uint16_t*>(cache.v) + base + size_t(offset) * size_t(dim);
      for (int i = 0; i < dim; i += 16) store_f16(row + i, load(v + i));
    } else {
      float* column = static_cast<float*>(cache.k) + base + size_t(offset);
      for (int i = 0; i < dim; ++i) column[size_t(i) * kPage] = k[i];
      float* row = static_cast<float*>(cache.v) + base + size_t(offset) * size_t(dim);
      for (int i = 0; i < dim; i += 16) store(row + i, load(v + i));
    }
  }
}

// ---- attention --------------------------------------------------------------------------------------------------

// Online softmax (Milakov and Gimelshein, arXiv 1805.02867) page by page. A page beyond a row's position leaves the
// row as it is to the bit (its weights are exactly 0, its correction exactly 1), so rows of different positions can share a tile.
struct AttentionRow {
  const float* q;
  float* out;
  int n_visible;      // positions [0, n_visible)
  float peak, total;
  alignas(64) float sum[kMaxHeadDim];
  alignas(64) float weights[kPage];
};

inline V cache_lane(const float* p) { return load(p); }
inline V cache_lane(const uint16_t* p) { return load_f16(p); }

template <class T, int kRows>
inline void page_scores(AttentionRow* rows, const T* k, int dim, float scale, V scores[][2]) {
  for (int r = 0; r < kRows; ++r) scores[r][0] = scores[r][1] = set1(0.0f);
  for (int i = 0; i < dim; ++i) {
    const V k0 = cache_lane(k + i * kPage), k1 = cache_lane(k + i * kPage + 16);
    for (int r = 0; r < kRows; ++r) {
      const V q = set1(rows[r].q[i]);
      scores[r][0] = fma(q, k0, scores[r][0]);
      scores[r][1] = fma(q, k1, scores[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int half = 0; half < 2; ++half) scores[r][half] = mul(scores[r][half], set1(scale));
  }
}

// Turns a row's scores into weights against the running peak, returns the factor for what was summed before.
inline float page_softmax(AttentionRow& row, V scores[2], int n_visible) {
  const V low = set1(-__builtin_inff());
  scores[0] = first_lanes(scores[0], n_visible, low);
  scores[1] = first_lanes(scores[1], n_visible - 16, low);
  const float page_peak = max_lanes(max(scores[0], scores[1]));
  const float peak = page_peak > row.peak ? page_peak : row.peak;
  if (peak == -__builtin_inff()) {
    for (int i = 0; i < kPage; ++i) row.weights[i] = 0.0f;
    return 1.0f;
  }
  const V e0 = exp_of(sub(scores[0], set1(peak))), e1 = exp_of(sub(scores[1], set1(peak)));
  store(row.weights, e0);
  store(row.weights + 16, e1);
  const float correction = row.peak == peak ? 1.0f : first(exp_of(set1(row.peak - peak)));
  row.total = row.total * correction + sum_lanes(add(e0, e1));
  row.peak = peak;
  return correction;
}

template <class T, int kRows>
inline void page_values(AttentionRow* rows, const T* v, int dim, int n_tokens, const float* corrections) {
  for (int i = 0; i < dim; i += 16) {
    V sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = mul(load(rows[r].sum + i), set1(corrections[r]));
    for (int j = 0; j < n_tokens; ++j) {
      const V value = cache_lane(v + size_t(j) * size_t(dim) + i);
      for (int r = 0; r < kRows; ++r) sums[r] = fma(set1(rows[r].weights[j]), value, sums[r]);
    }
    for (int r = 0; r < kRows; ++r) store(rows[r].sum + i, sums[r]);
  }
}

template <class T, int kRows>
void attend_tile(const AttentionJob& job, AttentionRow* rows) {
  const LayerCache& cache = job.cache;
  const int dim = cache.head_dim;
  const float scale = 1.0f / __builtin_sqrtf(float(dim));
  int longest = 0;
  for (int r = 0; r < kRows; ++r) {
    rows[r].peak = -__builtin_inff();
    rows[r].total = 0;
    for (int i = 0; i < dim; ++i) rows[r].sum[i] = 0;
    if (rows[r].n_visible > longest) longest = rows[r].n_visible;
  }
  for (int start = 0; start < longest; start += kPage) {
    const size_t page = size_t(job.table[start / kPage]);
    const size_t base = page * cache.page_stride + size_t(job.kv_head) * size_t(dim) * kPage;
    V scores[kRows][2];
    float corrections[kRows];
    page_scores<T, kRows>(rows, static_cast<const T*>(cache.k) + base, dim, scale, scores);
    for (int r = 0; r < kRows; ++r) corrections[r] = page_softmax(rows[r], scores[r], rows[r].n_visible - start);
    const int n_tokens = longest - start < kPage ? longest - start : kPage;
    page_values<T, kRows>(rows, static_cast<const T*>(cache.v) + base, dim, n_tokens, corrections);
  }
  for (int r = 0; r < kRows; ++r) {
    const float inverse = 1.0f / rows[r].total;
    for (int i = 0; i < dim; i += 16) store(rows[r].out + i, mul(load(rows[r].sum + i), set1(inverse)));
  }
}

// The tile of n rows, 1 <= n <= kRows.
template <class T, int kRows>
inline void attend_rows(const AttentionJob& job, AttentionRow* rows, int n) {
  if (n == kRows) attend_tile<T, kRows>(job, rows);
  else if constexpr (kRows > 1) attend_rows<T, kRows - 1>(job, rows, n);
}

template <class T>
void attend_all(const AttentionJob& job) {
  AttentionRow rows[kQueryTile];
  const int n_rows = job.n_queries * job.group, dim = job.cache.head_dim;
  for (int first = 0; first < n_rows; first += kQueryTile) {
    const int n = n_rows - first < kQueryTile ? n_rows - first : kQueryTile;
    for (int r = 0; r < n; ++r) {
      const int query = (first + r) / job.group, head = job.kv_head * job.group + (first + r) % job.group;
      rows[r].q = job.q + size_t(query) * job.stride + size_t(head * dim);
      rows[r].out = job.out + size_t(query) * job.out_stride + size_t(head * dim);
      rows[r].n_visible = job.first_position + query + 1;
    }
    attend_rows<T, kQueryTile>(job, rows, n);
  }
}

void attention(const AttentionJob& job) {
  if (job.cache.is_f16) attend_all<uint16_t>(job);
  else attend_all<float>(job);
}

double float_burn(long iterations) {
  V sums[kBurnChains];
  for (V& sum : sums) sum = set1(0.0f);
  V a = set1(0.5f), b = set1(0.25f);
  for (long i = 0; i < iterations; ++i) {
    for (V& sum : sums) sum = fma(a, b, sum);
  }
  V total = sums[0];
  for (int i = 1; i < kBurnChains; ++i) total = add(total, sums[i]);
  volatile float sink = first(total);
  (void)sink;
  return 2.0 * 16.0 * kBurnChains * double(iterations);
}
