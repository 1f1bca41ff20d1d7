// The loops that need no instruction of their own, written once over V (16 floats, defined by the including file) and
// compiled for each instruction set. Every sum runs in an order that depends on the row alone.
//
// The including file provides, in its anonymous namespace: struct V; load, load_f16, load_bf16, load_i8, store, store_f16, set1, add, sub, mul, fma
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

// Symmetric int8 of 32 values, scale max|x| / 127, round to nearest even; returns the scale. A block with a value that is not
// finite gets the scale NaN, so that a broken row shows as NaN logits and not as plausible numbers.
inline float quantize_block(const float* x, int8_t* q, int sums[2]) {
  const V v[2] = {load(x), load(x + 16)};
  const V magnitude = max(max(v[0], sub(set1(0.0f), v[0])), max(v[1], sub(set1(0.0f), v[1])));
  const float largest = max_lanes(magnitude);
  const float finite = sum_lanes(add(sub(v[0], v[0]), sub(v[1], v[1])));  // 0, or NaN
  const float inverse = largest > 0 && finite == 0 ? 127.0f / largest : 0.0f;
  for (int half = 0; half < 2; ++half) sums[half] = put_codes(round(mul(v[half], set1(inverse))), q + 16 * half);
  return largest / 127.0f + finite;
}

void quantize(const float* x, const RowJob& job) {
  for (int b = 0; b < job.k / kBlock; ++b) {
    const size_t place = size_t(b) * size_t(job.n_tokens);
    int sums[2];
    const float d = short_float(quantize_block(x + 32 * b, job.q + place * kBlock, sums));
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

// A head's values in a page of k or of v.
template <class T>
inline T* head_values(const LayerCache& cache, uint8_t* side, int page, int head) {
  return reinterpret_cast<T*>(side + size_t(page) * cache.page_stride) + size_t(head) * size_t(cache.head_dim) * kPage;
}

// The same of a cache of Q8_0: codes, and scales (head_dim / 32, kPage).
struct HeadCodes {
  int8_t* codes;
  uint16_t* scales;
};

inline HeadCodes head_codes(const LayerCache& cache, uint8_t* side, int page, int head) {
  const size_t values = size_t(cache.head_dim) * kPage, behind = size_t(cache.n_kv_heads) * values;
  uint16_t* scales = reinterpret_cast<uint16_t*>(side + size_t(page) * cache.page_stride + behind);
  return {head_values<int8_t>(cache, side, page, head), scales + size_t(head) * values / kBlock};
}

// x (head_dim) as the token at this offset of its page: down a column of this stride, or along a row where that is 0.
inline void store_codes(const LayerCache& cache, const HeadCodes& to, const float* x, size_t offset, size_t column_stride) {
  alignas(64) int8_t codes[kMaxHeadDim];
  alignas(64) float scales[16];
  uint16_t halves[16];
  const int n_blocks = cache.head_dim / kBlock;   // at most 8
  for (int b = 0; b < 16; ++b) scales[b] = 0.0f;
  int sums[2];
  for (int b = 0; b < n_blocks; ++b) scales[b] = quantize_block(x + b * kBlock, codes + b * kBlock, sums);
  store_f16(halves, load(scales));
  for (int b = 0; b < n_blocks; ++b) to.scales[size_t(b) * kPage + offset] = halves[b];
  for (int i = 0; i < cache.head_dim; ++i) {
    to.codes[column_stride ? size_t(i) * column_stride + offset : offset * size_t(cache.head_dim) + size_t(i)] = codes[i];
  }
}

void rope_store(const LayerCache& cache, float* qkv, const float* cos, const float* sin, int slot, int n_heads) {
  const int dim = cache.head_dim, kv = cache.n_kv_heads;
  for (int h = 0; h < n_heads + kv; ++h) rotate(qkv + h * dim, cos, sin, dim / 2);
  const int page = slot / kPage, offset = slot % kPage;
  for (int h = 0; h < kv; ++h) {
    const float* k = qkv + (n_heads + h) * dim;
    const float* v = qkv + (n_heads + kv + h) * dim;
    if (cache.type == kQ8_0) {
      store_codes(cache, head_codes(cache, cache.k, page, h), k, size_t(offset), kPage);
      store_codes(cache, head_codes(cache, cache.v, page, h), v, size_t(offset), 0);
    } else if (cache.type == kF16) {
      alignas(64) uint16_t halves[kMaxHeadDim];
      for (int i = 0; i < dim; i += 16) store_f16(halves + i, load(k + i));
      uint16_t* column = head_values<uint16_t>(cache, cache.k, page, h) + offset;
      for (int i = 0; i < dim; ++i) column[size_t(i) * kPage] = halves[i];
      uint16_t* row = head_values<uint16_t>(cache, cache.v, page, h) + size_t(offset) * size_t(dim);
      for (int i = 0; i < dim; i += 16) store_f16(row + i, load(v + i));
    } else {
      float* column = head_values<float>(cache, cache.k, page, h) + offset;
      for (int i = 0; i < dim; ++i) column[size_t(i) * kPage] = k[i];
      float* row = head_values<float>(cache, cache.v, page, h) + size_t(offset) * size_t(dim);
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
};

inline V cache_lane(const float* p) { return load(p); }
inline V cache_lane(const uint16_t* p) { return load_f16(p); }
inline V cache_lane(const int8_t* p) { return load_i8(p); }

// Products of dimensions [from, to) with the page's keys.
template <class T, int kRows>
inline void dot_keys(const AttentionRow* rows, const T* k, int from, int to, V scores[][2]) {
  for (int r = 0; r < kRows; ++r) scores[r][0] = scores[r][1] = set1(0.0f);
  for (int i = from; i < to; ++i) {
    const V k0 = cache_lane(k + i * kPage), k1 = cache_lane(k + i * kPage + 16);
    for (int r = 0; r < kRows; ++r) {
      const V q = set1(rows[r].q[i]);
      scores[r][0] = fma(q, k0, scores[r][0]);
      scores[r][1] = fma(q, k1, scores[r][1]);
    }
  }
}

template <class T, int kRows>
inline void page_scores(const AttentionJob& job, const AttentionRow* rows, int page, float scale, V scores[][2]) {
  const LayerCache& cache = job.cache;
  if constexpr (sizeof(T) > 1) {
    dot_keys<T, kRows>(rows, head_values<T>(cache, cache.k, page, job.kv_head), 0, cache.head_dim, scores);
  } else {
    const HeadCodes keys = head_codes(cache, cache.k, page, job.kv_head);
    V part[kRows][2];
    for (int r = 0; r < kRows; ++r) scores[r][0] = scores[r][1] = set1(0.0f);
    for (int b = 0; b < cache.head_dim / kBlock; ++b) {
      dot_keys<T, kRows>(rows, keys.codes, b * kBlock, (b + 1) * kBlock, part);
      const V scales[2] = {load_f16(keys.scales + b * kPage), load_f16(keys.scales + b * kPage + 16)};
      for (int r = 0; r < kRows; ++r) {
        for (int half = 0; half < 2; ++half) scores[r][half] = fma(part[r][half], scales[half], scores[r][half]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int half = 0; half < 2; ++half) scores[r][half] = mul(scores[r][half], set1(scale));
  }
}

// Turns a row's scores into weights against the running peak, returns the factor for what was summed before.
inline float page_softmax(AttentionRow& row, float* weights, V scores[2], int n_visible) {
  const V low = set1(-__builtin_inff());
  scores[0] = first_lanes(scores[0], n_visible, low);
  scores[1] = first_lanes(scores[1], n_visible - 16, low);
  const float page_peak = max_lanes(max(scores[0], scores[1]));
  const float peak = page_peak > row.peak ? page_peak : row.peak;
  if (peak == -__builtin_inff()) {
    for (int i = 0; i < kPage; ++i) weights[i] = 0.0f;
    return 1.0f;
  }
  const V e0 = exp_of(sub(scores[0], set1(peak))), e1 = exp_of(sub(scores[1], set1(peak)));
  store(weights, e0);
  store(weights + 16, e1);
  const float correction = row.peak == peak ? 1.0f : first(exp_of(set1(row.peak - peak)));
  row.total = row.total * correction + sum_lanes(add(e0, e1));
  row.peak = peak;
  return correction;
}

// Dimensions [from, to) of the weighted values, onto what was summed before.
template <class T, int kRows>
inline void add_values(AttentionRow* rows, const float (*weights)[kPage], const T* v, int dim, int from, int to, int n_tokens, const float* corrections) {
  for (int i = from; i < to; i += 16) {
    V sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = mul(load(rows[r].sum + i), set1(corrections[r]));
    for (int j = 0; j < n_tokens; ++j) {
      const V value = cache_lane(v + size_t(j) * size_t(dim) + i);
      for (int r = 0; r < kRows; ++r) sums[r] = fma(set1(weights[r][j]), value, sums[r]);
    }
    for (int r = 0; r < kRows; ++r) store(rows[r].sum + i, sums[r]);
  }
}

template <class T, int kRows>
inline void page_values(const AttentionJob& job, AttentionRow* rows, const float (*weights)[kPage], int page, int n_tokens, const float* corrections) {
  const LayerCache& cache = job.cache;
  const int dim = cache.head_dim;
  if constexpr (sizeof(T) > 1) {
    add_values<T, kRows>(rows, weights, head_values<T>(cache, cache.v, page, job.kv_head), dim, 0, dim, n_tokens, corrections);
  } else {
    const HeadCodes values = head_codes(cache, cache.v, page, job.kv_head);
    alignas(64) float scaled[kRows][kPage];
    for (int b = 0; b < dim / kBlock; ++b) {
      for (int half = 0; half < kPage; half += 16) {
        // Places behind the last token may hold anything, NaN as well: they are not summed.
        const V scales = load_f16(values.scales + b * kPage + half);
        for (int r = 0; r < kRows; ++r) store(scaled[r] + half, mul(load(weights[r] + half), scales));
      }
      add_values<T, kRows>(rows, scaled, values.codes, dim, b * kBlock, (b + 1) * kBlock, n_tokens, corrections);
    }
  }
}

template <class T, int kRows>
void attend_tile(const AttentionJob& job, AttentionRow* rows) {
  const int dim = job.cache.head_dim;
  const float scale = 1.0f / __builtin_sqrtf(float(dim));
  int longest = 0;
  for (int r = 0; r < kRows; ++r) {
    rows[r].peak = -__builtin_inff();
    rows[r].total = 0;
    for (int i = 0; i < dim; ++i) rows[r].sum[i] = 0;
    if (rows[r].n_visible > longest) longest = rows[r].n_visible;
  }
  for (int start = 0; start < longest; start += kPage) {
    const int page = job.table[start / kPage];
    V scores[kRows][2];
    alignas(64) float weights[kRows][kPage];
    float corrections[kRows];
    page_scores<T, kRows>(job, rows, page, scale, scores);
    for (int r = 0; r < kRows; ++r) corrections[r] = page_softmax(rows[r], weights[r], scores[r], rows[r].n_visible - start);
    const int n_tokens = longest - start < kPage ? longest - start : kPage;
    page_values<T, kRows>(job, rows, weights, page, n_tokens, corrections);
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
  switch (job.cache.type) {
    case kQ8_0: return attend_all<int8_t>(job);
    case kF16: return attend_all<uint16_t>(job);
    default: return attend_all<float>(job);
  }
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
