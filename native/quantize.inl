// K formats by weighted least squares. Plain arithmetic on vectors, no fused multiply-add, sums in a fixed order: the same bits everywhere.
//
// A super-block of 256 values is 8 sub-blocks of 32 with x ~ (d s) q - (dmin m), s and m integers of 6 bits (Q4_K, Q5_K), or 16 of 16 with
// x ~ (d s) q, s of 8 bits (Q6_K). Three steps, each minimizing sum w (x - ~x)^2:
//   1. each sub-block alone: real scale and minimum, from several starts, levels and least squares in turn;
//   2. d and dmin from the largest of them; for each sub-block the best integers near its own;
//   3. d and dmin by least squares over the whole super-block, and 2. again: as often as it helps.

typedef float V8 __attribute__((vector_size(32)));
typedef float V16 __attribute__((vector_size(64)));

// Where the search of an affine sub-block begins: the share of the negative end that is kept, and that of the positive end.
constexpr float kStarts[][2] = {{1.0f, 1.0f}, {0.94f, 0.94f}, {0.88f, 0.88f}, {0.82f, 0.82f}, {1.0f, 0.9f}, {0.9f, 1.0f},
                                {1.0f, 0.8f}, {0.8f, 1.0f}, {1.0f, 1.0333f}, {1.0f, 1.0167f}, {1.0333f, 1.0f}, {1.07f, 1.0f}};
// Where that of a linear one begins: the level that the value of largest magnitude takes, times -1.
constexpr float kLevels[] = {32.0f, 31.0f, 30.0f, 29.0f, 33.0f, -31.0f, -30.0f, -29.0f, -32.0f};
constexpr int kPolish = 2;   // rounds of levels and least squares after the best start
constexpr int kRounds = 3;   // at most, of step 3

template <class V> constexpr int kLanes = int(sizeof(V) / sizeof(float));
template <class V> inline V all(float x) { return V{} + x; }
template <class V> inline V least(const V& a, const V& b) { return a < b ? a : b; }
template <class V> inline V most(const V& a, const V& b) { return a > b ? a : b; }
template <class V> inline V magnitude(const V& a) { return most(a, -a); }
// To the nearest integer, ties to even, for |a| < 2^22.
template <class V> inline V nearest(const V& a) { return (a + 12582912.0f) - 12582912.0f; }
template <class V> inline V ratio(const V& a, const V& b) { return b != 0.0f ? a / (b != 0.0f ? b : all<V>(1.0f)) : all<V>(0.0f); }

template <class V>
inline float sum_in_order(const V& a) {
  float sum = 0;
  for (int i = 0; i < kLanes<V>; ++i) sum += a[i];
  return sum;
}

template <class V>
inline float largest_lane(const V& a) {
  float largest = a[0];
  for (int i = 1; i < kLanes<V>; ++i) largest = a[i] > largest ? a[i] : largest;
  return largest;
}

// A super-block with its sub-blocks in lanes: x[i][lane] is value i of sub-block lane.
template <class V>
struct Block {
  static constexpr int n = 256 / kLanes<V>;
  V x[n], w[n];
};

template <class V>
inline void load_block(const float* x, const float* importance, Block<V>& block) {
  constexpr int n = Block<V>::n;
  for (int i = 0; i < n; ++i) {
    for (int lane = 0; lane < kLanes<V>; ++lane) {
      block.x[i][lane] = x[n * lane + i];
      block.w[i][lane] = importance ? importance[n * lane + i] : 1.0f;
    }
  }
}

inline bool is_finite(const float* x) {
  float sum = 0;
  for (int i = 0; i < 256; ++i) sum += x[i] - x[i];
  return sum == 0;
}

// ---- x ~ s q - m: Q4_K and Q5_K ------------------------------------------------------------------------------------

struct Affine {
  V8 s, m, gain;   // gain: sum w x^2 less the squared error
};

inline V8 affine_level(const V8& x, const V8& inverse, const V8& m, float top) {
  return nearest(least(most((x + m) * inverse, all<V8>(0.0f)), all<V8>(top)));
}

// The best real s and m >= 0 for the levels that s = 1 / inverse and m give.
inline Affine fit_affine(const Block<V8>& block, const V8& inverse, const V8& m, float top) {
  V8 sw{}, sx{}, sq{}, sqq{}, sqx{};
  for (int i = 0; i < 32; ++i) {
    const V8 q = affine_level(block.x[i], inverse, m, top), wq = block.w[i] * q;
    sw += block.w[i];
    sx += block.w[i] * block.x[i];
    sq += wq;
    sqq += wq * q;
    sqx += wq * block.x[i];
  }
  const V8 det = sw * sqq - sq * sq;
  const auto is_line = det > sw * sqq * 1e-5f;
  Affine fit;
  fit.s = is_line ? ratio(sw * sqx - sx * sq, det) : all<V8>(0.0f);
  fit.m = ratio(fit.s * sq - sx, sw);
  const auto is_through_zero = (fit.m < 0.0f) | (fit.s < 0.0f);
  fit.s = is_through_zero ? most(ratio(sqx, sqq), all<V8>(0.0f)) : fit.s;
  fit.m = is_through_zero ? all<V8>(0.0f) : fit.m;
  fit.gain = fit.s * sqx - fit.m * sx;
  return fit;
}

inline void keep_better(const Affine& other, Affine& best) {
  const auto is_better = other.gain > best.gain;
  best.s = is_better ? other.s : best.s;
  best.m = is_better ? other.m : best.m;
  best.gain = is_better ? other.gain : best.gain;
}

// Step 1. The starts cut off some of the range at one end, at the other, or at both.
inline Affine search_affine(const Block<V8>& block, float top) {
  V8 low{}, high{};
  for (int i = 0; i < 32; ++i) {
    low = least(low, block.x[i]);
    high = most(high, block.x[i]);
  }
  Affine best{V8{}, V8{}, V8{}};
  for (const auto& start : kStarts) {
    const V8 m = low * -start[0], span = high * start[1] + m;
    Affine fit = fit_affine(block, ratio(all<V8>(top), span), m, top);
    keep_better(fit, best);
    fit = fit_affine(block, ratio(all<V8>(1.0f), fit.s), fit.m, top);
    keep_better(fit, best);
  }
  for (int round = 0; round < kPolish; ++round) {
    keep_better(fit_affine(block, ratio(all<V8>(1.0f), best.s), best.m, top), best);
  }
  return best;
}

struct Scales {
  float d, dmin;
  V8 s, m;         // integers, 0 to 63
  float error;
};

inline V8 affine_error(const Block<V8>& block, const V8& s, const V8& m, float top) {
  const V8 inverse = ratio(all<V8>(1.0f), s);
  V8 error{};
  for (int i = 0; i < 32; ++i) {
    const V8 off = block.x[i] - (s * affine_level(block.x[i], inverse, m, top) - m);
    error += block.w[i] * off * off;
  }
  return error;
}

// Step 2. Integers around s and m (real, of the sub-blocks' own fits or of the round before).
inline void choose_integers(const Block<V8>& block, const V8& s, const V8& m, float top, Scales& scales) {
  const V8 near_s = nearest(least(s * (scales.d > 0 ? 1.0f / scales.d : 0.0f), all<V8>(63.0f)));
  const V8 near_m = nearest(least(m * (scales.dmin > 0 ? 1.0f / scales.dmin : 0.0f), all<V8>(63.0f)));
  V8 best = affine_error(block, V8{}, V8{}, top);
  scales.s = scales.m = V8{};
  for (int ds = -1; ds <= 1; ++ds) {
    for (int dm = -1; dm <= 1; ++dm) {
      const V8 is = least(most(near_s + float(ds), all<V8>(0.0f)), all<V8>(63.0f));
      const V8 im = least(most(near_m + float(dm), all<V8>(0.0f)), all<V8>(63.0f));
      const V8 error = affine_error(block, is * scales.d, im * scales.dmin, top);
      const auto is_better = error < best;
      scales.s = is_better ? is : scales.s;
      scales.m = is_better ? im : scales.m;
      best = is_better ? error : best;
    }
  }
  scales.error = sum_in_order(best);
}

inline float as_half(float x) { return f16_to_f32(f32_to_f16(x)); }

// Step 3. d and dmin of least squared error for the integers and levels at hand.
inline void refit_affine(const Block<V8>& block, float top, const Scales& scales, float* d, float* dmin) {
  const V8 s = scales.s * scales.d, m = scales.m * scales.dmin, inverse = ratio(all<V8>(1.0f), s);
  V8 aa{}, ab{}, bb{}, ax{}, bx{};
  for (int i = 0; i < 32; ++i) {
    const V8 a = scales.s * affine_level(block.x[i], inverse, m, top), wa = block.w[i] * a, wb = block.w[i] * scales.m;
    aa += wa * a;
    ab += wa * scales.m;
    bb += wb * scales.m;
    ax += wa * block.x[i];
    bx += wb * block.x[i];
  }
  const float saa = sum_in_order(aa), sab = sum_in_order(ab), sbb = sum_in_order(bb), sax = sum_in_order(ax), sbx = sum_in_order(bx);
  const float det = saa * sbb - sab * sab;
  *d = saa > 0 ? sax / saa : 0.0f;
  *dmin = 0.0f;
  if (det > 1e-5f * saa * sbb) {
    *d = (sax * sbb - sab * sbx) / det;
    *dmin = (sax * sab - saa * sbx) / det;
  }
  *d = as_half(*d);
  *dmin = as_half(*dmin);
}

inline Scales search_scales(const Block<V8>& block, float top) {
  const Affine own = search_affine(block, top);
  Scales best{as_half(largest_lane(own.s) / 63.0f), as_half(largest_lane(own.m) / 63.0f), V8{}, V8{}, 0.0f};
  choose_integers(block, own.s, own.m, top, best);
  for (int round = 0; round < kRounds; ++round) {
    Scales next = best;
    refit_affine(block, top, best, &next.d, &next.dmin);
    if (!(next.d > 0) || !(next.dmin >= 0)) break;
    choose_integers(block, own.s, own.m, top, next);
    if (!(next.error < best.error)) break;
    best = next;
  }
  return best;
}

inline void put_half(float x, uint8_t* out) {
  const uint16_t half = f32_to_f16(x);
  out[0] = uint8_t(half);
  out[1] = uint8_t(half >> 8);
}

// d, dmin, twelve bytes of 6-bit scales and minima (scale_min in pack.cpp reads them), fifth bits, nibbles.
template <bool kIsQ5>
void store_affine(const Block<V8>& block, const Scales& scales, uint8_t* out) {
  put_half(scales.d, out);
  put_half(scales.dmin, out + 2);
  uint8_t* packed = out + 4;
  for (int j = 0; j < 4; ++j) {
    const int s = int(scales.s[j]), m = int(scales.m[j]), s4 = int(scales.s[j + 4]), m4 = int(scales.m[j + 4]);
    packed[j] = uint8_t(s | (s4 >> 4) << 6);
    packed[j + 4] = uint8_t(m | (m4 >> 4) << 6);
    packed[j + 8] = uint8_t((s4 & 15) | (m4 & 15) << 4);
  }
  uint8_t* fifth = out + 16;
  uint8_t* nibbles = out + (kIsQ5 ? 48 : 16);
  const V8 s = scales.s * scales.d, m = scales.m * scales.dmin, inverse = ratio(all<V8>(1.0f), s);
  for (int i = 0; i < 32; ++i) {
    const V8 level = affine_level(block.x[i], inverse, m, kIsQ5 ? 31.0f : 15.0f);
    if (kIsQ5) fifth[i] = 0;
    for (int j = 0; j < 8; ++j) {
      const int q = int(level[j]);
      uint8_t& pair = nibbles[32 * (j / 2) + i];
      pair = j % 2 ? uint8_t(pair | (q & 15) << 4) : uint8_t(q & 15);
      if (kIsQ5) fifth[i] = uint8_t(fifth[i] | (q >> 4) << j);
    }
  }
}

// ---- x ~ s q, q from -32 to 31: Q6_K -----------------------------------------------------------------------------------

struct Linear {
  V16 s, gain;
};

inline V16 linear_level(const V16& x, const V16& inverse) {
  return nearest(least(most(x * inverse, all<V16>(-32.0f)), all<V16>(31.0f)));
}

inline Linear fit_linear(const Block<V16>& block, const V16& inverse) {
  V16 sqq{}, sqx{};
  for (int i = 0; i < 16; ++i) {
    const V16 q = linear_level(block.x[i], inverse), wq = block.w[i] * q;
    sqq += wq * q;
    sqx += wq * block.x[i];
  }
  const V16 s = ratio(sqx, sqq);
  return {s, s * sqx};
}

// Step 1. Both signs of s: there is one level more below zero than above.
inline V16 search_linear(const Block<V16>& block) {
  V16 largest{};
  for (int i = 0; i < 16; ++i) largest = magnitude(block.x[i]) > magnitude(largest) ? block.x[i] : largest;
  Linear best{V16{}, V16{}};
  const V16 unit = ratio(all<V16>(-1.0f), largest);
  for (const float levels : kLevels) {
    const Linear fit = fit_linear(block, unit * levels);
    const auto is_better = fit.gain > best.gain;
    best.s = is_better ? fit.s : best.s;
    best.gain = is_better ? fit.gain : best.gain;
  }
  return best.s;
}

struct LinearScales {
  float d;
  V16 s;          // integers, -128 to 127
  float error;
};

inline V16 linear_error(const Block<V16>& block, const V16& s) {
  const V16 inverse = ratio(all<V16>(1.0f), s);
  V16 error{};
  for (int i = 0; i < 16; ++i) {
    const V16 off = block.x[i] - s * linear_level(block.x[i], inverse);
    error += block.w[i] * off * off;
  }
  return error;
}

inline void choose_integers(const Block<V16>& block, const V16& s, LinearScales& scales) {
  const V16 near = s * (scales.d != 0 ? 1.0f / scales.d : 0.0f);
  const V16 centre = nearest(least(most(near, all<V16>(-128.0f)), all<V16>(127.0f)));
  V16 best = linear_error(block, V16{});
  scales.s = V16{};
  for (int step = -1; step <= 1; ++step) {
    const V16 is = least(most(centre + float(step), all<V16>(-128.0f)), all<V16>(127.0f));
    const V16 error = linear_error(block, is * scales.d);
    const auto is_better = error < best;
    scales.s = is_better ? is : scales.s;
    best = is_better ? error : best;
  }
  scales.error = sum_in_order(best);
}

inline float refit_linear(const Block<V16>& block, const LinearScales& scales) {
  const V16 inverse = ratio(all<V16>(1.0f), scales.s * scales.d);
  V16 aa{}, ax{};
  for (int i = 0; i < 16; ++i) {
    const V16 a = scales.s * linear_level(block.x[i], inverse);
    aa += block.w[i] * a * a;
    ax += block.w[i] * a * block.x[i];
  }
  const float saa = sum_in_order(aa);
  return saa > 0 ? as_half(sum_in_order(ax) / saa) : 0.0f;
}

inline LinearScales search_scales(const Block<V16>& block) {
  const V16 own = search_linear(block);
  const float positive = largest_lane(own), negative = largest_lane(-own);
  // The largest scale takes -128, the end with one more.
  LinearScales best{as_half(positive > negative ? positive / -128.0f : negative / 128.0f), V16{}, 0.0f};
  choose_integers(block, own, best);
  for (int round = 0; round < kRounds; ++round) {
    LinearScales next = best;
    next.d = refit_linear(block, best);
    if (next.d == 0) break;
    choose_integers(block, own, next);
    if (!(next.error < best.error)) break;
    best = next;
  }
  return best;
}

void store_linear(const Block<V16>& block, const LinearScales& scales, uint8_t* out) {
  const V16 inverse = ratio(all<V16>(1.0f), scales.s * scales.d);
  uint8_t codes[256];
  for (int i = 0; i < 16; ++i) {
    const V16 level = linear_level(block.x[i], inverse);
    for (int j = 0; j < 16; ++j) codes[16 * j + i] = uint8_t(int(level[j]) + 32);
  }
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = codes + 128 * half;
    for (int i = 0; i < 32; ++i) {
      out[64 * half + i] = uint8_t((q[i] & 15) | (q[i + 64] & 15) << 4);
      out[64 * half + i + 32] = uint8_t((q[i + 32] & 15) | (q[i + 96] & 15) << 4);
      out[128 + 32 * half + i] = uint8_t(q[i] >> 4 | (q[i + 32] >> 4) << 2 | (q[i + 64] >> 4) << 4 | (q[i + 96] >> 4) << 6);
    }
  }
  for (int j = 0; j < 16; ++j) out[192 + j] = uint8_t(int8_t(int(scales.s[j])));
  put_half(scales.d, out + 208);
}

// ---- rows ------------------------------------------------------------------------------------------------------------

inline const float* importance_of(const QuantizeJob& job, size_t block) {
  return job.importance ? job.importance + block * 256 % size_t(job.cols) : nullptr;
}

template <bool kIsQ5>
bool quantize_affine(const QuantizeJob& job) {
  constexpr float top = kIsQ5 ? 31.0f : 15.0f, too_large = __builtin_inff();
  for (size_t b = 0; b < job.n_blocks; ++b) {
    Block<V8> block;
    load_block(job.x + 256 * b, importance_of(job, b), block);
    const Scales scales = search_scales(block, top);
    if (!is_finite(job.x + 256 * b) || !(scales.error < too_large) || !(scales.d < too_large) || !(scales.dmin < too_large)) return false;
    store_affine<kIsQ5>(block, scales, job.out + b * (kIsQ5 ? 176 : 144));
  }
  return true;
}

bool quantize_linear(const QuantizeJob& job) {
  for (size_t b = 0; b < job.n_blocks; ++b) {
    Block<V16> block;
    load_block(job.x + 256 * b, importance_of(job, b), block);
    const LinearScales scales = search_scales(block);
    if (!is_finite(job.x + 256 * b) || !(scales.error - scales.error == 0) || !(scales.d - scales.d == 0)) return false;
    store_linear(block, scales, job.out + 210 * b);
  }
  return true;
}
