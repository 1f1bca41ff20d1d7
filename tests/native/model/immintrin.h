// A model in plain C++ of the AVX-512 instructions that native/kernels_avx512.cpp uses, after Intel's Intrinsics Guide, so that
// those kernels are tested on processors that lack them. Found before the compiler's own <immintrin.h> by -I (CMake option HERMES3_AVX512_MODEL).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct __m512 { float f[16]; };
struct __m512i { uint8_t b[64]; };
struct __m256i { uint16_t h[16]; };
struct __m128i { uint8_t b[16]; };
using __mmask16 = uint16_t;
using __mmask64 = uint64_t;

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_FROUND_NO_EXC 8
#define _CMP_UNORD_Q 3

namespace model {

template <class T>
T lane(const __m512i& v, int i) { T out; std::memcpy(&out, v.b + sizeof(T) * i, sizeof(T)); return out; }
template <class T>
void put(__m512i& v, int i, T x) { std::memcpy(v.b + sizeof(T) * i, &x, sizeof(T)); }
template <class T, class Op>
__m512i lanes(const Op& op) {
  __m512i out;
  for (int i = 0; i < int(64 / sizeof(T)); ++i) put<T>(out, i, T(op(i)));
  return out;
}
template <class Op>
__m512 floats(const Op& op) {
  __m512 out;
  for (int i = 0; i < 16; ++i) out.f[i] = op(i);
  return out;
}
inline float half_to_float(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                          : exponent ? std::ldexp(float(1024 + mantissa), exponent - 25) : std::ldexp(float(mantissa), -24);
  return h & 0x8000 ? -magnitude : magnitude;
}
// Nearest even by search among the two neighbours: slow, and nothing like the bit tricks it checks.
inline uint16_t float_to_half(float f) {
  const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
  const float a = std::fabs(f);
  if (std::isnan(f)) return uint16_t(sign | 0x7e00);
  if (a >= 65520.0f) return uint16_t(sign | 0x7c00);
  uint16_t low = 0, high = 0x7bff;
  while (high - low > 1) {
    const uint16_t middle = uint16_t((low + high) / 2);
    (half_to_float(middle) <= a ? low : high) = middle;
  }
  const double down = double(a) - half_to_float(low), up = double(half_to_float(high)) - a;
  return uint16_t(sign | (down < up || (down == up && low % 2 == 0) ? low : high));
}

}  // namespace model

inline __m128i _mm_loadu_si128(const __m128i* p) { __m128i v; std::memcpy(&v, p, 16); return v; }
inline __m256i _mm256_loadu_si256(const __m256i* p) { __m256i v; std::memcpy(&v, p, 32); return v; }
inline void _mm256_storeu_si256(__m256i* p, const __m256i& v) { std::memcpy(p, &v, 32); }
inline __m512 _mm512_loadu_ps(const void* p) { __m512 v; std::memcpy(&v, p, 64); return v; }
inline void _mm512_storeu_ps(void* p, const __m512& v) { std::memcpy(p, &v, 64); }
inline __m512i _mm512_loadu_si512(const void* p) { __m512i v; std::memcpy(&v, p, 64); return v; }
inline void _mm512_store_si512(void* p, const __m512i& v) { std::memcpy(p, &v, 64); }
inline __m512 _mm512_set1_ps(float x) { return model::floats([&](int) { return x; }); }
inline __m512 _mm512_setzero_ps() { return _mm512_set1_ps(0); }
inline __m512i _mm512_set1_epi32(int x) { return model::lanes<int32_t>([&](int) { return x; }); }
inline __m512i _mm512_set1_epi8(char x) { return model::lanes<int8_t>([&](int) { return x; }); }
inline __m512i _mm512_setzero_si512() { return _mm512_set1_epi32(0); }
inline __m512 _mm512_add_ps(const __m512& a, const __m512& b) { return model::floats([&](int i) { return a.f[i] + b.f[i]; }); }
inline __m512 _mm512_sub_ps(const __m512& a, const __m512& b) { return model::floats([&](int i) { return a.f[i] - b.f[i]; }); }
inline __m512 _mm512_mul_ps(const __m512& a, const __m512& b) { return model::floats([&](int i) { return a.f[i] * b.f[i]; }); }
inline __m512 _mm512_div_ps(const __m512& a, const __m512& b) { return model::floats([&](int i) { return a.f[i] / b.f[i]; }); }
inline __m512 _mm512_max_ps(const __m512& a, const __m512& b) { return model::floats([&](int i) { return a.f[i] > b.f[i] ? a.f[i] : b.f[i]; }); }
inline __m512 _mm512_min_ps(const __m512& a, const __m512& b) { return model::floats([&](int i) { return a.f[i] < b.f[i] ? a.f[i] : b.f[i]; }); }
inline __m512 _mm512_fmadd_ps(const __m512& a, const __m512& b, const __m512& c) {
  return model::floats([&](int i) { return std::fma(a.f[i], b.f[i], c.f[i]); });
}
inline __m512 _mm512_roundscale_ps(const __m512& a, int) { return model::floats([&](int i) { return std::nearbyint(a.f[i]); }); }
inline __mmask16 _mm512_cmp_ps_mask(const __m512& a, const __m512& b, int) {
  __mmask16 mask = 0;
  for (int i = 0; i < 16; ++i) mask |= __mmask16((std::isnan(a.f[i]) || std::isnan(b.f[i])) << i);
  return mask;
}
inline __m512 _mm512_mask_mov_ps(const __m512& source, __mmask16 mask, const __m512& a) {
  return model::floats([&](int i) { return mask >> i & 1 ? a.f[i] : source.f[i]; });
}
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
  return model::floats([&](int i) { return mask >> i & 1 ? static_cast<const float*>(p)[i] : 0.0f; });
}
inline void _mm512_mask_storeu_ps(void* p, __mmask16 mask, const __m512& v) {
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) static_cast<float*>(p)[i] = v.f[i];
  }
}
inline __m512i _mm512_and_si512(const __m512i& a, const __m512i& b) { return model::lanes<uint8_t>([&](int i) { return a.b[i] & b.b[i]; }); }
inline __m512i _mm512_or_si512(const __m512i& a, const __m512i& b) { return model::lanes<uint8_t>([&](int i) { return a.b[i] | b.b[i]; }); }
inline __m512i _mm512_xor_si512(const __m512i& a, const __m512i& b) { return model::lanes<uint8_t>([&](int i) { return a.b[i] ^ b.b[i]; }); }
inline __m512i _mm512_add_epi32(const __m512i& a, const __m512i& b) {
  return model::lanes<uint32_t>([&](int i) { return model::lane<uint32_t>(a, i) + model::lane<uint32_t>(b, i); });
}
inline __m512i _mm512_max_epi32(const __m512i& a, const __m512i& b) {
  return model::lanes<int32_t>([&](int i) {
    const int32_t x = model::lane<int32_t>(a, i), y = model::lane<int32_t>(b, i);
    return x > y ? x : y;
  });
}
inline __m512i _mm512_slli_epi32(const __m512i& a, int n) { return model::lanes<uint32_t>([&](int i) { return model::lane<uint32_t>(a, i) << n; }); }
inline __m512i _mm512_slli_epi16(const __m512i& a, int n) { return model::lanes<uint16_t>([&](int i) { return model::lane<uint16_t>(a, i) << n; }); }
inline __m512i _mm512_srli_epi16(const __m512i& a, int n) { return model::lanes<uint16_t>([&](int i) { return model::lane<uint16_t>(a, i) >> n; }); }
inline __mmask64 _mm512_test_epi8_mask(const __m512i& a, const __m512i& b) {
  __mmask64 mask = 0;
  for (int i = 0; i < 64; ++i) mask |= __mmask64((a.b[i] & b.b[i]) != 0) << i;
  return mask;
}
inline __m512i _mm512_mask_add_epi8(const __m512i& source, __mmask64 mask, const __m512i& a, const __m512i& b) {
  return model::lanes<uint8_t>([&](int i) { return mask >> i & 1 ? a.b[i] + b.b[i] : source.b[i]; });
}
inline __m512i _mm512_dpbusd_epi32(const __m512i& sum, const __m512i& a, const __m512i& b) {
  return model::lanes<int32_t>([&](int i) {
    int32_t total = model::lane<int32_t>(sum, i);
    for (int j = 0; j < 4; ++j) total += int(a.b[4 * i + j]) * int(int8_t(b.b[4 * i + j]));
    return total;
  });
}
inline __m512 _mm512_cvtepi32_ps(const __m512i& a) { return model::floats([&](int i) { return float(model::lane<int32_t>(a, i)); }); }
inline __m512i _mm512_cvtps_epi32(const __m512& a) {
  return model::lanes<int32_t>([&](int i) { return std::fabs(a.f[i]) < 2147483648.0f ? int32_t(std::nearbyint(a.f[i])) : INT32_MIN; });
}
inline __m512i _mm512_cvtepi8_epi32(const __m128i& a) { return model::lanes<int32_t>([&](int i) { return int8_t(a.b[i]); }); }
inline __m512i _mm512_cvtepu8_epi32(const __m128i& a) { return model::lanes<int32_t>([&](int i) { return a.b[i]; }); }
inline __m512i _mm512_cvtepu16_epi32(const __m256i& a) { return model::lanes<int32_t>([&](int i) { return a.h[i]; }); }
inline __m512 _mm512_castsi512_ps(const __m512i& a) { __m512 v; std::memcpy(&v, &a, 64); return v; }
inline __m512 _mm512_cvtph_ps(const __m256i& a) { return model::floats([&](int i) { return model::half_to_float(a.h[i]); }); }
inline __m256i _mm512_cvtps_ph(const __m512& a, int) {
  __m256i out;
  for (int i = 0; i < 16; ++i) out.h[i] = model::float_to_half(a.f[i]);
  return out;
}
inline float _mm512_cvtss_f32(const __m512& a) { return a.f[0]; }
inline __m512 _mm512_shuffle_f32x4(const __m512& a, const __m512& b, int control) {   // quarters of 4 lanes; two from a, two from b
  return model::floats([&](int i) { return (i < 8 ? a : b).f[4 * (control >> (2 * (i / 4)) & 3) + i % 4]; });
}
inline __m512 _mm512_permute_ps(const __m512& a, int control) {                       // within each quarter
  return model::floats([&](int i) { return a.f[i / 4 * 4 + (control >> (2 * (i % 4)) & 3)]; });
}
inline __m128i _mm512_cvtepi32_epi8(const __m512i& a) {
  __m128i out;
  for (int i = 0; i < 16; ++i) out.b[i] = uint8_t(model::lane<int32_t>(a, i));
  return out;
}
inline void _mm_storeu_si128(__m128i* p, const __m128i& v) { std::memcpy(p, &v, 16); }
inline __m128i _mm_set1_epi8(char x) { __m128i v; std::memset(&v, x, 16); return v; }
inline __m128i _mm_setzero_si128() { return _mm_set1_epi8(0); }
inline __m128i _mm_xor_si128(const __m128i& a, const __m128i& b) {
  __m128i out;
  for (int i = 0; i < 16; ++i) out.b[i] = a.b[i] ^ b.b[i];
  return out;
}
inline __m128i _mm_sad_epu8(const __m128i& a, const __m128i& b) {
  __m128i out = _mm_setzero_si128();
  for (int half = 0; half < 2; ++half) {
    uint16_t sum = 0;
    for (int i = 8 * half; i < 8 * half + 8; ++i) sum = uint16_t(sum + (a.b[i] > b.b[i] ? a.b[i] - b.b[i] : b.b[i] - a.b[i]));
    std::memcpy(out.b + 8 * half, &sum, 2);
  }
  return out;
}
inline int _mm_cvtsi128_si32(const __m128i& a) { int v; std::memcpy(&v, a.b, 4); return v; }
inline int _mm_extract_epi16(const __m128i& a, int i) { uint16_t v; std::memcpy(&v, a.b + 2 * i, 2); return v; }
