// AVX-512 F, BW, DQ, VL and VNNI: one register holds four columns of all 16 rows of a panel, vpdpbusd does the rest.
#include <immintrin.h>

#include "kernels.h"

namespace hermes3 {
namespace {

constexpr int kQueryTile = 8;    // 16 accumulators of scores: more than enough chains, and each key is converted for 8 rows
constexpr int kBurnChains = 12;   // of float_burn: latency times ports

struct V {
  __m512 all;
};

inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline __m512 half16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
inline V load_f16(const uint16_t* p) { return {half16(p)}; }
inline V load_bf16(const uint16_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
inline V load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline void store(float* p, const V& v) { _mm512_storeu_ps(p, v.all); }
inline void store_f16(uint16_t* p, const V& v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v.all, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline V set1(float x) { return {_mm512_set1_ps(x)}; }
inline V add(const V& a, const V& b) { return {_mm512_add_ps(a.all, b.all)}; }
inline V sub(const V& a, const V& b) { return {_mm512_sub_ps(a.all, b.all)}; }
inline V mul(const V& a, const V& b) { return {_mm512_mul_ps(a.all, b.all)}; }
inline V div(const V& a, const V& b) { return {_mm512_div_ps(a.all, b.all)}; }
inline V fma(const V& a, const V& b, const V& c) { return {_mm512_fmadd_ps(a.all, b.all, c.all)}; }
inline V max(const V& a, const V& b) { return {_mm512_max_ps(a.all, b.all)}; }
inline V round(const V& a) { return {_mm512_roundscale_ps(a.all, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline V exp2_int(const V& n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_min_ps(n.all, _mm512_set1_ps(128.0f))), _mm512_set1_epi32(127));
  const __m512 power = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_max_epi32(biased, _mm512_setzero_si512()), 23));
  return {_mm512_mask_mov_ps(power, _mm512_cmp_ps_mask(n.all, n.all, _CMP_UNORD_Q), n.all)};
}
inline V first_lanes(const V& a, int n, const V& other) {
  const __mmask16 mask = n >= 16 ? __mmask16(0xffff) : n <= 0 ? __mmask16(0) : __mmask16((1u << n) - 1);
  return {_mm512_mask_mov_ps(other.all, mask, a.all)};
}

inline float first(const V& v) { return _mm512_cvtss_f32(v.all); }
// Lane i of the result is lane i + 8, i + 4, i + 2, i + 1 (within 16, 8, 4, 2 lanes) of v.
inline __m512 by8(__m512 v) { return _mm512_shuffle_f32x4(v, v, 0x4e); }
inline __m512 by4(__m512 v) { return _mm512_shuffle_f32x4(v, v, 0xb1); }
inline __m512 by2(__m512 v) { return _mm512_permute_ps(v, 0x4e); }
inline __m512 by1(__m512 v) { return _mm512_permute_ps(v, 0xb1); }
inline float sum_lanes(const V& v) {
  __m512 a = _mm512_add_ps(v.all, by8(v.all));
  a = _mm512_add_ps(a, by4(a));
  a = _mm512_add_ps(a, by2(a));
  return _mm512_cvtss_f32(_mm512_add_ps(a, by1(a)));
}
inline float max_lanes(const V& v) {
  __m512 a = _mm512_max_ps(v.all, by8(v.all));
  a = _mm512_max_ps(a, by4(a));
  a = _mm512_max_ps(a, by2(a));
  return _mm512_cvtss_f32(_mm512_max_ps(a, by1(a)));
}
inline int put_codes(const V& rounded, int8_t* q) {
  const __m128i codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(rounded.all));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), codes);
  // Sums of 8 unsigned bytes each; 128 was added to all 16.
  const __m128i sums = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(char(0x80))), _mm_setzero_si128());
  return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
}

#include "ops.inl"

// ---- quantized panels -------------------------------------------------------------------------------------------

// One record: 8 groups of 4 columns of 16 rows, and w = scale * (code - offset) + bias (scale by half block for Q6_K).
// The offset of a format (8, 16, 32; 128 for Q8_0, as vpdpbusd wants unsigned codes) is in the tile's starts.
struct Codes {
  __m512i group[8];
  __m512 scale[2], bias;
};

template <int kType>
constexpr bool kHasMin = kType == kQ4_1 || kType == kQ5_1 || kType == kQ4_K || kType == kQ5_K;

inline __m512i bytes64(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline __m512 u8x16(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
inline __m512 i8x16(const uint8_t* p) { return load_i8(reinterpret_cast<const int8_t*>(p)).all; }

inline void load_nibbles(const uint8_t* nibbles, Codes* codes) {
  const __m512i mask = _mm512_set1_epi8(15);
  for (int i = 0; i < 4; ++i) {
    const __m512i both = bytes64(nibbles + 64 * i);
    codes->group[i] = _mm512_and_si512(both, mask);
    codes->group[i + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
  }
}

inline void add_fifth(const uint8_t* fifth, Codes* codes) {
  const __m512i bits = bytes64(fifth);
  for (int g = 0; g < 8; ++g) {
    const __mmask64 is_set = _mm512_test_epi8_mask(bits, _mm512_set1_epi8(char(1 << g)));
    codes->group[g] = _mm512_mask_add_epi8(codes->group[g], is_set, codes->group[g], _mm512_set1_epi8(16));
  }
}

inline void add_upper(const uint8_t* upper, Codes* codes) {
  const __m512i mask = _mm512_set1_epi8(0x30);
  for (int plane = 0; plane < 2; ++plane) {
    const __m512i bits = bytes64(upper + 64 * plane);
    __m512i* group = codes->group + 4 * plane;
    group[0] = _mm512_or_si512(group[0], _mm512_and_si512(_mm512_slli_epi16(bits, 4), mask));
    group[1] = _mm512_or_si512(group[1], _mm512_and_si512(_mm512_slli_epi16(bits, 2), mask));
    group[2] = _mm512_or_si512(group[2], _mm512_and_si512(bits, mask));
    group[3] = _mm512_or_si512(group[3], _mm512_and_si512(_mm512_srli_epi16(bits, 2), mask));
  }
}

template <int kType>
inline void load_record(const uint8_t* panel, int block, Codes* out);

template <>
inline void load_record<kQ4_0>(const uint8_t* panel, int block, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ4_0;
  out->scale[0] = half16(p);
  load_nibbles(p + 32, out);
}

template <>
inline void load_record<kQ4_1>(const uint8_t* panel, int block, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ4_1;
  out->scale[0] = half16(p);
  out->bias = half16(p + 32);
  load_nibbles(p + 64, out);
}

template <>
inline void load_record<kQ5_0>(const uint8_t* panel, int block, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ5_0;
  out->scale[0] = half16(p);
  load_nibbles(p + 32 + kFifth, out);
  add_fifth(p + 32, out);
}

template <>
inline void load_record<kQ5_1>(const uint8_t* panel, int block, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ5_1;
  out->scale[0] = half16(p);
  out->bias = half16(p + 32);
  load_nibbles(p + 64 + kFifth, out);
  add_fifth(p + 64, out);
}

// vpdpbusd wants unsigned codes: int8 + 128, which start128 takes back.
template <>
inline void load_record<kQ8_0>(const uint8_t* panel, int block, Codes* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ8_0;
  out->scale[0] = half16(p);
  for (int g = 0; g < 8; ++g) out->group[g] = _mm512_xor_si512(bytes64(p + 32 + 64 * g), _mm512_set1_epi8(char(0x80)));
}

inline void scale_and_min(const uint8_t* head, const uint8_t* record, Codes* out) {
  out->scale[0] = _mm512_mul_ps(half16(head), u8x16(record));
  out->bias = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(half16(head + 32), u8x16(record + 16)));
}

template <>
inline void load_record<kQ4_K>(const uint8_t* panel, int block, Codes* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ4_K;
  const uint8_t* p = head + 64 + (block % 8) * kRecordQ4_K;
  scale_and_min(head, p, out);
  load_nibbles(p + 32, out);
}

template <>
inline void load_record<kQ5_K>(const uint8_t* panel, int block, Codes* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ5_K;
  const uint8_t* p = head + 64 + (block % 8) * kRecordQ5_K;
  scale_and_min(head, p, out);
  load_nibbles(p + 32 + kFifth, out);
  add_fifth(p + 32, out);
}

template <>
inline void load_record<kQ6_K>(const uint8_t* panel, int block, Codes* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ6_K;
  const uint8_t* p = head + 32 + (block % 8) * kRecordQ6_K;
  const __m512 d = half16(head);
  for (int part = 0; part < 2; ++part) out->scale[part] = _mm512_mul_ps(d, i8x16(p + 16 * part));
  load_nibbles(p + 32 + kUpper, out);
  add_upper(p + 32, out);
}

inline __m512i four_columns(const int8_t* q) {
  int bits;
  __builtin_memcpy(&bits, q, 4);
  return _mm512_set1_epi32(bits);
}

// sum + scale * d * (dot - kMagic); see kMagic.
inline __m512 add_scaled(__m512 sum, __m512 scale, __m512i dot, __m512 d, __m512 md) {
  return _mm512_fmadd_ps(scale, _mm512_fmadd_ps(_mm512_castsi512_ps(dot), d, md), sum);
}

// Groups [first, first + kGroups) of kTokens tokens onto the dots. Tokens are the inner loop: a chain of vpdpbusd takes 5 cycles a step, the two
// ports take two a cycle, and the scheduler's 97 places hold too few chains of 8 to fill them one after the other.
template <int kTokens, int kGroups>
inline void add_groups(const Codes& codes, const int8_t* q, int first, __m512i* dots) {
  for (int g = first; g < first + kGroups; ++g) {
    for (int t = 0; t < kTokens; ++t) dots[t] = _mm512_dpbusd_epi32(dots[t], codes.group[g], four_columns(q + t * kBlock + 4 * g));
  }
}

template <int kType>
inline __m512i start_of(const Tile& tile, size_t place) {
  if (kType == kQ4_0) return _mm512_set1_epi32(tile.start8[place]);
  if (kType == kQ5_0) return _mm512_set1_epi32(tile.start16[place]);
  if (kType == kQ8_0) return _mm512_set1_epi32(tile.start128[place]);
  return _mm512_set1_epi32(kMagicBits);
}

// sums + the record's share of (16 rows) x (kTokens tokens), in one fixed order of operations for each token. What bounds it are the two ports that
// vpdpbusd and every other vector operation share: 8 of them do the work, and 2 (Q4_0, Q5_0, Q8_0), 3 (those with a minimum) or 4 (Q6_K) the rest.
template <int kType, int kTokens>
inline void add_record(const Codes& codes, const Tile& tile, size_t place, __m512* sums) {
  constexpr int kParts = kType == kQ6_K ? 2 : 1;
  const int8_t* q = tile.q + place * kBlock;
  for (int part = 0; part < kParts; ++part) {
    __m512i dots[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      const size_t at = place + size_t(t);
      dots[t] = kType == kQ6_K ? _mm512_set1_epi32(tile.start32[2 * at + size_t(part)]) : start_of<kType>(tile, at);
    }
    if (kTokens > 2 || kParts == 2) {
      add_groups<kTokens, 8 / kParts>(codes, q, 4 * part, dots);
    } else {                              // too few chains: two halves of 4 each
      __m512i more[kTokens];
      for (int t = 0; t < kTokens; ++t) more[t] = _mm512_setzero_si512();
      add_groups<kTokens, 4>(codes, q, 0, dots);
      add_groups<kTokens, 4>(codes, q, 4, more);
      for (int t = 0; t < kTokens; ++t) dots[t] = _mm512_add_epi32(dots[t], more[t]);
    }
    for (int t = 0; t < kTokens; ++t) {
      const __m512 d = _mm512_set1_ps(tile.d[place + size_t(t)]), md = _mm512_set1_ps(tile.md[place + size_t(t)]);
      sums[t] = add_scaled(sums[t], codes.scale[part], dots[t], d, md);
      if (kHasMin<kType>) sums[t] = _mm512_fmadd_ps(codes.bias, _mm512_set1_ps(tile.s32[place + size_t(t)]), sums[t]);
    }
  }
}

void put16(__m512 v, float* out, int n_rows, bool accumulate) {
  const __mmask16 mask = n_rows >= 16 ? __mmask16(0xffff) : __mmask16((1u << n_rows) - 1);
  if (accumulate) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), v);
  _mm512_mask_storeu_ps(out, mask, v);
}

template <int kType>
void many_tokens(const uint8_t* panel, const Tile& tile, float* out, size_t stride, int n_rows, bool accumulate) {
  __m512 sums[kTile];
  for (int t = 0; t < tile.n; ++t) sums[t] = _mm512_setzero_ps();
  for (int block = 0; block < tile.k / kBlock; ++block) {
    prefetch(panel + size_t(block) * size_t(kRecordBytes<kType>), kRecordBytes<kType>);
    Codes codes;
    load_record<kType>(panel, block, &codes);
    const size_t place = size_t(block) * size_t(tile.n);
    int t = 0;
    for (; t + 8 <= tile.n; t += 8) add_record<kType, 8>(codes, tile, place + size_t(t), sums + t);
    if (t + 4 <= tile.n) add_record<kType, 4>(codes, tile, place + size_t(t), sums + t), t += 4;
    for (; t < tile.n; ++t) add_record<kType, 1>(codes, tile, place + size_t(t), sums + t);
  }
  for (int t = 0; t < tile.n; ++t) put16(sums[t], out + size_t(t) * stride, n_rows, accumulate);
}

// A fixed small number of tokens, their sums in registers.
template <int kType, int kTokens>
void few_tokens(const uint8_t* panel, const Tile& tile, float* out, size_t stride, int n_rows, bool accumulate) {
  __m512 sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = _mm512_setzero_ps();
  for (int block = 0; block < tile.k / kBlock; ++block) {
    prefetch(panel + size_t(block) * size_t(kRecordBytes<kType>), kRecordBytes<kType>);
    Codes codes;
    load_record<kType>(panel, block, &codes);
    add_record<kType, kTokens>(codes, tile, size_t(block) * kTokens, sums);
  }
  for (int t = 0; t < kTokens; ++t) put16(sums[t], out + size_t(t) * stride, n_rows, accumulate);
}

template <int kType>
void product(const uint8_t* panel, const Tile& tile, float* out, size_t stride, int n_rows, bool accumulate) {
  switch (tile.n) {
    case 1: return few_tokens<kType, 1>(panel, tile, out, stride, n_rows, accumulate);
    case 2: return few_tokens<kType, 2>(panel, tile, out, stride, n_rows, accumulate);
    case 3: return few_tokens<kType, 3>(panel, tile, out, stride, n_rows, accumulate);
    case 4: return few_tokens<kType, 4>(panel, tile, out, stride, n_rows, accumulate);
    case 5: return few_tokens<kType, 5>(panel, tile, out, stride, n_rows, accumulate);
    case 6: return few_tokens<kType, 6>(panel, tile, out, stride, n_rows, accumulate);
    case 7: return few_tokens<kType, 7>(panel, tile, out, stride, n_rows, accumulate);
    case 8: return few_tokens<kType, 8>(panel, tile, out, stride, n_rows, accumulate);
    default: many_tokens<kType>(panel, tile, out, stride, n_rows, accumulate);
  }
}

// vpdpbusd on registers alone, in as many chains as its latency times its ports asks for.
double int8_burn(long iterations) {
  constexpr int kChains = 12;
  __m512i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  for (long i = 0; i < iterations; ++i) {
    for (int j = 0; j < kChains; ++j) sums[j] = _mm512_dpbusd_epi32(sums[j], a, b);
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  alignas(64) int lanes[16];
  _mm512_store_si512(lanes, sums[0]);
  volatile int sink = lanes[0];
  (void)sink;
  return 2.0 * 64.0 * kChains * double(iterations);
}

unsigned planes(int type) {
  switch (type) {
    case kQ4_0: return kMd | kStart8;
    case kQ5_0: return kMd | kStart16;
    case kQ8_0: return kMd | kStart128;
    case kQ6_K: return kMd | kStart32;
    default: return kMd | kS32;
  }
}

}  // namespace

const Kernels kernels_avx512 = {
    "avx512", planes, prepare_row, rope_store, attention, float_product<float>, float_product<F16>, float_product<BF16>, product<kQ4_0>,
    product<kQ4_1>, product<kQ5_0>, product<kQ5_1>, product<kQ8_0>, product<kQ4_K>, product<kQ5_K>, product<kQ6_K>, int8_burn, float_burn,
};

}  // namespace hermes3
