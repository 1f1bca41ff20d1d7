// AVX2 + FMA + F16C. What bounds the products here is the two multiply pipes: vpmaddubsw makes 32 byte products, and
// codes of at most 4 (5, 6) bits leave room to add 8 (4, 2) of its 16-bit pair sums before widening:
// 15 * 127 * 2 * 8 = 30480 < 32768. A 4-bit block of 32 columns x 8 rows costs 8 vpmaddubsw and one vpmaddwd where
// the usual widening at each step costs 8 and 8.
#include <immintrin.h>

#include "kernels.h"

namespace hermes3 {
namespace {

constexpr int kQueryTile = 3;
constexpr int kBurnChains = 6;   // of float_burn: latency times ports

struct V {
  __m256 low, high;
};

inline V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m256 half8(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline V load_f16(const uint16_t* p) { return {half8(p), half8(p + 8)}; }
inline __m256 bfloat8(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
inline V load_bf16(const uint16_t* p) { return {bfloat8(p), bfloat8(p + 8)}; }
inline __m256 byte8(const int8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))); }
inline V load_i8(const int8_t* p) { return {byte8(p), byte8(p + 8)}; }
inline void store(float* p, const V& v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
inline void store_f16(uint16_t* p, const V& v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(v.high, _MM_FROUND_TO_NEAREST_INT));
}
inline V set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V add(const V& a, const V& b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline V sub(const V& a, const V& b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline V mul(const V& a, const V& b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline V div(const V& a, const V& b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline V fma(const V& a, const V& b, const V& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline V max(const V& a, const V& b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline __m256 round8(__m256 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline V round(const V& a) { return {round8(a.low), round8(a.high)}; }
inline __m256 exp2_int8(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_min_ps(n, _mm256_set1_ps(128.0f))), _mm256_set1_epi32(127));
  const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_max_epi32(biased, _mm256_setzero_si256()), 23));
  return _mm256_or_ps(power, _mm256_cmp_ps(n, n, _CMP_UNORD_Q));
}
inline V exp2_int(const V& n) { return {exp2_int8(n.low), exp2_int8(n.high)}; }
inline __m256 first8(__m256 a, int n, __m256 other) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_blendv_ps(other, a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes)));
}
inline V first_lanes(const V& a, int n, const V& other) { return {first8(a.low, n, other.low), first8(a.high, n - 8, other.high)}; }

inline float first(const V& v) { return _mm256_cvtss_f32(v.low); }
inline float sum_lanes(const V& v) {
  const __m256 by8 = _mm256_add_ps(v.low, v.high);
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
}
inline float max_lanes(const V& v) {
  const __m256 by8 = _mm256_max_ps(v.low, v.high);
  const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}
inline int put_codes(const V& rounded, int8_t* q) {
  const __m256i low = _mm256_cvtps_epi32(rounded.low), high = _mm256_cvtps_epi32(rounded.high);
  const __m128i words[2] = {_mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)),
                            _mm_packs_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1))};
  const __m128i codes = _mm_packs_epi16(words[0], words[1]);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), codes);
  // Sums of 8 unsigned bytes each; 128 was added to all 16.
  const __m128i sums = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(char(0x80))), _mm_setzero_si128());
  return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
}

#include "ops.inl"

// ---- quantized panels -------------------------------------------------------------------------------------------

// Half a panel (8 rows) of one record: 8 groups of 4 columns, and w = scale * code + bias (by half block for Q6_K).
struct Codes {
  __m256i group[8];
  __m256 scale[2], bias[2];
};

inline __m256i bytes32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256 f16x8(const uint8_t* p) { return half8(reinterpret_cast<const uint16_t*>(p)); }
inline __m256 u8x8(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline __m256 i8x8(const uint8_t* p) {
  return byte8(reinterpret_cast<const int8_t*>(p));
}

inline void load_nibbles(const uint8_t* nibbles, int half, Codes* codes) {
  const __m256i mask = _mm256_set1_epi8(15);
  for (int i = 0; i < 4; ++i) {
    const __m256i both = bytes32(nibbles + 64 * i + 32 * half);
    codes->group[i] = _mm256_and_si256(both, mask);
    codes->group[i + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
  }
}

inline void add_fifth(const uint8_t* fifth, int half, Codes* codes) {
  const __m256i bits = bytes32(fifth + 32 * half), sixteen = _mm256_set1_epi8(16);
  for (int g = 0; g < 8; ++g) {
    const __m256i bit = _mm256_set1_epi8(char(1 << g));
    const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, bit), bit);
    codes->group[g] = _mm256_or_si256(codes->group[g], _mm256_and_si256(is_set, sixteen));
  }
}

inline void add_upper(const uint8_t* upper, int half, Codes* codes) {
  const __m256i mask = _mm256_set1_epi8(0x30);
  for (int plane = 0; plane < 2; ++plane) {
    const __m256i bits = bytes32(upper + 64 * plane + 32 * half);
    __m256i* group = codes->group + 4 * plane;
    group[0] = _mm256_or_si256(group[0], _mm256_and_si256(_mm256_slli_epi16(bits, 4), mask));
    group[1] = _mm256_or_si256(group[1], _mm256_and_si256(_mm256_slli_epi16(bits, 2), mask));
    group[2] = _mm256_or_si256(group[2], _mm256_and_si256(bits, mask));
    group[3] = _mm256_or_si256(group[3], _mm256_and_si256(_mm256_srli_epi16(bits, 2), mask));
  }
}

inline __m256 times(__m256 a, float b) { return _mm256_mul_ps(a, _mm256_set1_ps(b)); }

template <int kType>
inline void load_record(const uint8_t* panel, int block, int half, Codes* out);

template <>
inline void load_record<kQ4_0>(const uint8_t* panel, int block, int half, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ4_0;
  out->scale[0] = f16x8(p + 16 * half);
  out->bias[0] = times(out->scale[0], -8.0f);
  load_nibbles(p + 32, half, out);
}

template <>
inline void load_record<kQ4_1>(const uint8_t* panel, int block, int half, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ4_1;
  out->scale[0] = f16x8(p + 16 * half);
  out->bias[0] = f16x8(p + 32 + 16 * half);
  load_nibbles(p + 64, half, out);
}

template <>
inline void load_record<kQ5_0>(const uint8_t* panel, int block, int half, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ5_0;
  out->scale[0] = f16x8(p + 16 * half);
  out->bias[0] = times(out->scale[0], -16.0f);
  load_nibbles(p + 32 + kFifth, half, out);
  add_fifth(p + 32, half, out);
}

template <>
inline void load_record<kQ5_1>(const uint8_t* panel, int block, int half, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ5_1;
  out->scale[0] = f16x8(p + 16 * half);
  out->bias[0] = f16x8(p + 32 + 16 * half);
  load_nibbles(p + 64 + kFifth, half, out);
  add_fifth(p + 64, half, out);
}

template <>
inline void load_record<kQ8_0>(const uint8_t* panel, int block, int half, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ8_0;
  out->scale[0] = f16x8(p + 16 * half);
  for (int g = 0; g < 8; ++g) out->group[g] = bytes32(p + 32 + 64 * g + 32 * half);
}

inline void scale_and_min(const uint8_t* head, const uint8_t* record, int half, Codes* out) {
  out->scale[0] = _mm256_mul_ps(f16x8(head + 16 * half), u8x8(record + 8 * half));
  out->bias[0] = times(_mm256_mul_ps(f16x8(head + 32 + 16 * half), u8x8(record + 16 + 8 * half)), -1.0f);
}

template <>
inline void load_record<kQ4_K>(const uint8_t* panel, int block, int half, Codes* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ4_K;
  const uint8_t* p = head + 64 + (block % 8) * kRecordQ4_K;
  scale_and_min(head, p, half, out);
  load_nibbles(p + 32, half, out);
}

template <>
inline void load_record<kQ5_K>(const uint8_t* panel, int block, int half, Codes* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ5_K;
  const uint8_t* p = head + 64 + (block % 8) * kRecordQ5_K;
  scale_and_min(head, p, half, out);
  load_nibbles(p + 32 + kFifth, half, out);
  add_fifth(p + 32, half, out);
}

template <>
inline void load_record<kQ6_K>(const uint8_t* panel, int block, int half, Codes* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ6_K;
  const uint8_t* p = head + 32 + (block % 8) * kRecordQ6_K;
  const __m256 d = f16x8(head + 16 * half);
  for (int part = 0; part < 2; ++part) {
    out->scale[part] = _mm256_mul_ps(d, i8x8(p + 16 * part + 8 * half));
    out->bias[part] = times(out->scale[part], -32.0f);
  }
  load_nibbles(p + 32 + kUpper, half, out);
  add_upper(p + 32, half, out);
}

inline __m256i four_columns(const int8_t* q) {
  int bits;
  __builtin_memcpy(&bits, q, 4);
  return _mm256_set1_epi32(bits);
}

inline __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// Pair sums of groups [first, first + n), which must not overflow 16 bits.
inline __m256i pair_sums(const Codes& codes, const int8_t* q, int first, int n) {
  __m256i sum = _mm256_maddubs_epi16(codes.group[first], four_columns(q + 4 * first));
  for (int g = first + 1; g < first + n; ++g) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes.group[g], four_columns(q + 4 * g)));
  }
  return sum;
}

template <int kType>
inline __m256i whole_dot(const Codes& codes, const int8_t* q) {
  if (kType == kQ8_0) {
    __m256i sum = _mm256_setzero_si256();
    for (int g = 0; g < 8; ++g) {
      const __m256i w = codes.group[g];
      sum = _mm256_add_epi32(sum, widen(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four_columns(q + 4 * g), w))));
    }
    return sum;
  }
  if (kType == kQ5_0 || kType == kQ5_1 || kType == kQ5_K) {
    return _mm256_add_epi32(widen(pair_sums(codes, q, 0, 4)), widen(pair_sums(codes, q, 4, 4)));
  }
  return widen(pair_sums(codes, q, 0, 8));
}

// sum + the record's share of (8 rows) x (one token), in one fixed order of operations for every caller.
template <int kType>
inline __m256 add_record(const Codes& codes, const Tile& tile, size_t place, __m256 sum) {
  const int8_t* q = tile.q + place * kBlock;
  const __m256 d = _mm256_set1_ps(tile.d[place]);
  if (kType == kQ6_K) {
    for (int part = 0; part < 2; ++part) {
      const __m256i dot = _mm256_add_epi32(widen(pair_sums(codes, q, 4 * part, 2)), widen(pair_sums(codes, q, 4 * part + 2, 2)));
      sum = _mm256_fmadd_ps(codes.scale[part], _mm256_mul_ps(_mm256_cvtepi32_ps(dot), d), sum);
      sum = _mm256_fmadd_ps(codes.bias[part], _mm256_set1_ps(tile.s16[2 * place + size_t(part)]), sum);
    }
    return sum;
  }
  sum = _mm256_fmadd_ps(codes.scale[0], _mm256_mul_ps(_mm256_cvtepi32_ps(whole_dot<kType>(codes, q)), d), sum);
  if (kType != kQ8_0) sum = _mm256_fmadd_ps(codes.bias[0], _mm256_set1_ps(tile.s32[place]), sum);
  return sum;
}

void put8(__m256 v, float* out, int n_rows, bool accumulate) {
  if (n_rows >= 8) {
    _mm256_storeu_ps(out, accumulate ? _mm256_add_ps(_mm256_loadu_ps(out), v) : v);
    return;
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, v);
  for (int r = 0; r < n_rows; ++r) out[r] = accumulate ? out[r] + lanes[r] : lanes[r];
}

// One token: both halves of a record while it is in the first-level cache; bound by the weights' bytes.
template <int kType>
void one_token(const uint8_t* panel, const Tile& tile, float* out, int n_rows, bool accumulate) {
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int block = 0; block < tile.k / kBlock; ++block) {
    prefetch(panel + size_t(block) * size_t(kRecordBytes<kType>), kRecordBytes<kType>);
    for (int half = 0; half < 2; ++half) {
      Codes codes;
      load_record<kType>(panel, block, half, &codes);
      sums[half] = add_record<kType>(codes, tile, size_t(block), sums[half]);
    }
  }
  put8(sums[0], out, n_rows, accumulate);
  if (n_rows > 8) put8(sums[1], out + 8, n_rows - 8, accumulate);
}

// Many tokens: a record's codes stay in 8 registers while the tile's tokens pass; bound by loads (8 broadcasts a block) and vpmaddubsw.
template <int kType>
void half_panel(const uint8_t* panel, const Tile& tile, int half, float* out, size_t stride, int n_rows, bool accumulate) {
  __m256 sums[kTile];
  for (int t = 0; t < tile.n; ++t) sums[t] = _mm256_setzero_ps();
  for (int block = 0; block < tile.k / kBlock; ++block) {
    if (half == 0) prefetch(panel + size_t(block) * size_t(kRecordBytes<kType>), kRecordBytes<kType>);
    Codes codes;
    load_record<kType>(panel, block, half, &codes);
    const size_t place = size_t(block) * size_t(tile.n);
    for (int t = 0; t < tile.n; ++t) sums[t] = add_record<kType>(codes, tile, place + size_t(t), sums[t]);
  }
  for (int t = 0; t < tile.n; ++t) put8(sums[t], out + size_t(t) * stride, n_rows, accumulate);
}

template <int kType>
void product(const uint8_t* panel, const Tile& tile, float* out, size_t stride, int n_rows, bool accumulate) {
  if (tile.n == 1) {
    one_token<kType>(panel, tile, out, n_rows, accumulate);
    return;
  }
  half_panel<kType>(panel, tile, 0, out, stride, n_rows, accumulate);
  if (n_rows > 8) half_panel<kType>(panel, tile, 1, out + 8, stride, n_rows - 8, accumulate);
}

// The inner loop of a 4-bit product on registers alone.
double int8_burn(long iterations) {
  Codes codes;
  for (int g = 0; g < 8; ++g) codes.group[g] = _mm256_set1_epi8(char(g));
  alignas(32) int8_t q[64];
  for (int i = 0; i < 64; ++i) q[i] = int8_t(i);
  __m256i sum = _mm256_setzero_si256();
  for (long i = 0; i < iterations; ++i) {
    asm volatile("" ::: "memory");
    sum = _mm256_add_epi32(sum, widen(pair_sums(codes, q + 4 * (i & 7), 0, 8)));
  }
  volatile int sink = _mm256_extract_epi32(sum, 0);
  (void)sink;
  return 2.0 * 256.0 * double(iterations);
}

unsigned planes(int type) { return type == kQ8_0 ? 0u : type == kQ6_K ? unsigned(kS16) : unsigned(kS32); }

}  // namespace

const Kernels kernels_avx2 = {
    "avx2", planes, prepare_row, rope_store, attention, float_product<float>, float_product<F16>, float_product<BF16>, product<kQ4_0>,
    product<kQ4_1>, product<kQ5_0>, product<kQ5_1>, product<kQ8_0>, product<kQ4_K>, product<kQ5_K>, product<kQ6_K>, int8_burn, float_burn,
};

}  // namespace hermes3
