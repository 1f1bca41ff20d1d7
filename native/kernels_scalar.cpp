// The oracle: plain loops over the same panels. Also what runs where no other file's instruction set is present.
#include <cstring>

#include "kernels.h"

namespace hermes3 {
namespace {

constexpr int kQueryTile = 3;
constexpr int kBurnChains = 2;   // of float_burn: latency times ports

struct V {
  float lane[16];
};

template <class Op>
inline V each(const Op& op) {
  V out;
  for (int i = 0; i < 16; ++i) out.lane[i] = op(i);
  return out;
}

inline float bf16_to_f32(uint16_t h) {
  const uint32_t bits = uint32_t(h) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline V load(const float* p) { V v; std::memcpy(v.lane, p, 64); return v; }
inline V load_f16(const uint16_t* p) { return each([&](int i) { return f16_to_f32(p[i]); }); }
inline V load_bf16(const uint16_t* p) { return each([&](int i) { return bf16_to_f32(p[i]); }); }
inline V load_i8(const int8_t* p) { return each([&](int i) { return float(p[i]); }); }
inline void store(float* p, const V& v) { std::memcpy(p, v.lane, 64); }
inline void store_f16(uint16_t* p, const V& v) { for (int i = 0; i < 16; ++i) p[i] = f32_to_f16(v.lane[i]); }
inline V set1(float x) { return each([&](int) { return x; }); }
inline V add(const V& a, const V& b) { return each([&](int i) { return a.lane[i] + b.lane[i]; }); }
inline V sub(const V& a, const V& b) { return each([&](int i) { return a.lane[i] - b.lane[i]; }); }
inline V mul(const V& a, const V& b) { return each([&](int i) { return a.lane[i] * b.lane[i]; }); }
inline V div(const V& a, const V& b) { return each([&](int i) { return a.lane[i] / b.lane[i]; }); }
inline V fma(const V& a, const V& b, const V& c) { return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; }); }
inline V max(const V& a, const V& b) { return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; }); }
inline V round(const V& a) { return each([&](int i) { return __builtin_rintf(a.lane[i]); }); }
inline V exp2_int(const V& n) {
  return each([&](int i) {
    if (!(n.lane[i] >= -126.0f)) return n.lane[i] != n.lane[i] ? n.lane[i] : 0.0f;
    if (n.lane[i] > 127.0f) return __builtin_inff();
    const uint32_t bits = uint32_t(int(n.lane[i]) + 127) << 23;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
  });
}
inline V first_lanes(const V& a, int n, const V& other) { return each([&](int i) { return i < n ? a.lane[i] : other.lane[i]; }); }

inline float first(const V& v) { return v.lane[0]; }
inline float sum_lanes(const V& v) {
  V a = v;
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.lane[i] += a.lane[i + width];
  }
  return a.lane[0];
}
inline float max_lanes(const V& v) {
  float largest = v.lane[0];
  for (int i = 1; i < 16; ++i) largest = largest > v.lane[i] ? largest : v.lane[i];
  return largest;
}
inline int put_codes(const V& rounded, int8_t* q) {
  int sum = 0;
  for (int i = 0; i < 16; ++i) {
    q[i] = int8_t(int(rounded.lane[i]));
    sum += q[i];
  }
  return sum;
}

#include "ops.inl"

// One row's codes and scales of one record, as the formula of kernels.h has them: w = scale[half] * code + bias[half].
struct Record {
  int codes[32];
  float scale[2], bias[2];
};

inline float f16_at(const uint8_t* p, int row) {
  uint16_t h;
  std::memcpy(&h, p + 2 * row, 2);
  return f16_to_f32(h);
}

void read_codes(const uint8_t* nibbles, const uint8_t* fifth, const uint8_t* upper, int row, int* codes) {
  for (int c = 0; c < 32; ++c) {
    const int g = c / 4, j = 4 * row + c % 4;
    codes[c] = (nibbles[64 * (g % 4) + j] >> (g < 4 ? 0 : 4)) & 15;
    if (fifth) codes[c] |= ((fifth[j] >> g) & 1) << 4;
    if (upper) codes[c] |= ((upper[64 * (g / 4) + j] >> (2 * (g % 4))) & 3) << 4;
  }
}

void set_scales(Record* record, float scale, float bias) {
  record->scale[0] = record->scale[1] = scale;
  record->bias[0] = record->bias[1] = bias;
}

template <int kType>
void read_record(const uint8_t* panel, int block, int row, Record* out);

template <>
void read_record<kQ4_0>(const uint8_t* panel, int block, int row, Record* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ4_0;
  const float d = f16_at(p, row);
  read_codes(p + 32, nullptr, nullptr, row, out->codes);
  set_scales(out, d, -8 * d);
}

template <>
void read_record<kQ4_1>(const uint8_t* panel, int block, int row, Record* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ4_1;
  read_codes(p + 64, nullptr, nullptr, row, out->codes);
  set_scales(out, f16_at(p, row), f16_at(p + 32, row));
}

template <>
void read_record<kQ5_0>(const uint8_t* panel, int block, int row, Record* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ5_0;
  const float d = f16_at(p, row);
  read_codes(p + 32 + kFifth, p + 32, nullptr, row, out->codes);
  set_scales(out, d, -16 * d);
}

template <>
void read_record<kQ5_1>(const uint8_t* panel, int block, int row, Record* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ5_1;
  read_codes(p + 64 + kFifth, p + 64, nullptr, row, out->codes);
  set_scales(out, f16_at(p, row), f16_at(p + 32, row));
}

template <>
void read_record<kQ8_0>(const uint8_t* panel, int block, int row, Record* out) {
  const uint8_t* p = panel + size_t(block) * kRecordQ8_0;
  for (int c = 0; c < 32; ++c) out->codes[c] = int8_t(p[32 + 64 * (c / 4) + 4 * row + c % 4]);
  set_scales(out, f16_at(p, row), 0.0f);
}

template <>
void read_record<kQ4_K>(const uint8_t* panel, int block, int row, Record* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ4_K;
  const uint8_t* p = head + 64 + (block % 8) * kRecordQ4_K;
  read_codes(p + 32, nullptr, nullptr, row, out->codes);
  set_scales(out, f16_at(head, row) * float(p[row]), -(f16_at(head + 32, row) * float(p[16 + row])));
}

template <>
void read_record<kQ5_K>(const uint8_t* panel, int block, int row, Record* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ5_K;
  const uint8_t* p = head + 64 + (block % 8) * kRecordQ5_K;
  read_codes(p + 32 + kFifth, p + 32, nullptr, row, out->codes);
  set_scales(out, f16_at(head, row) * float(p[row]), -(f16_at(head + 32, row) * float(p[16 + row])));
}

template <>
void read_record<kQ6_K>(const uint8_t* panel, int block, int row, Record* out) {
  const uint8_t* head = panel + size_t(block / 8) * kSuperQ6_K;
  const uint8_t* p = head + 32 + (block % 8) * kRecordQ6_K;
  read_codes(p + 32 + kUpper, nullptr, p + 32, row, out->codes);
  for (int half = 0; half < 2; ++half) {
    out->scale[half] = f16_at(head, row) * float(int8_t(p[16 * half + row]));
    out->bias[half] = -32 * out->scale[half];
  }
}

template <int kType>
float record_dot(const Record& record, const Tile& tile, int t, int block) {
  const size_t place = size_t(block) * size_t(tile.n) + size_t(t);
  const int8_t* q = tile.q + place * kBlock;
  int dots[2] = {0, 0};
  for (int c = 0; c < 32; ++c) dots[c / 16] += record.codes[c] * q[c];
  if (kType != kQ6_K) {
    const float scaled = record.scale[0] * (float(dots[0] + dots[1]) * tile.d[place]);
    return kType == kQ8_0 ? scaled : scaled + record.bias[0] * tile.s32[place];
  }
  float sum = 0;
  for (int half = 0; half < 2; ++half) {
    sum += record.scale[half] * (float(dots[half]) * tile.d[place]) + record.bias[half] * tile.s16[2 * place + size_t(half)];
  }
  return sum;
}

template <int kType>
void product(const uint8_t* panel, const Tile& tile, float* out, size_t stride, int n_rows, bool accumulate) {
  for (int r = 0; r < n_rows; ++r) {
    float sums[kTile] = {};
    for (int block = 0; block < tile.k / kBlock; ++block) {
      Record record;
      read_record<kType>(panel, block, r, &record);
      for (int t = 0; t < tile.n; ++t) sums[t] += record_dot<kType>(record, tile, t, block);
    }
    for (int t = 0; t < tile.n; ++t) {
      float* y = out + size_t(t) * stride + r;
      *y = accumulate ? *y + sums[t] : sums[t];
    }
  }
}

double int8_burn(long iterations) {
  int sum = 0;
  volatile int seed = 3;
  const int a = seed;
  for (long i = 0; i < iterations; ++i) sum += int(int8_t(sum ^ a)) * int(int8_t(i));
  seed = sum;
  return 2.0 * double(iterations);
}

unsigned planes(int type) { return type == kQ8_0 ? 0u : type == kQ6_K ? unsigned(kS16) : unsigned(kS32); }

}  // namespace

const Kernels kernels_scalar = {
    "scalar", planes, prepare_row, rope_store, attention, float_product<float>, float_product<F16>, float_product<BF16>, product<kQ4_0>,
    product<kQ4_1>, product<kQ5_0>, product<kQ5_1>, product<kQ8_0>, product<kQ4_K>, product<kQ5_K>, product<kQ6_K>, int8_burn, float_burn,
};

}  // namespace hermes3
