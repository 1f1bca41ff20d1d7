// Repacking of a file's rows into panels, and its inverse. The block layouts are those of ggml-common.h.
#include <cstring>

#include "kernels.h"

namespace hermes3 {

float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16;
  const uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float magnitude = float(mantissa) * 0x1p-24f;
    std::memcpy(&bits, &magnitude, 4);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

uint16_t f32_to_f16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (bits >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (bits < 0x38800000) {  // subnormal: adding 0.5 leaves the rounded mantissa in the low bits
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, 4);
    return uint16_t(sign | (bits - 0x3f000000));
  }
  bits += 0xfff + ((bits >> 13) & 1);
  return uint16_t(sign | ((bits - 0x38000000) >> 13));
}

namespace {

uint16_t u16_at(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

uint32_t u32_at(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

struct Layout {
  int type;
  int columns;       // of one unit (block or super-block)
  int source_bytes;  // of one row's unit in the file
  int panel_bytes;   // of 16 rows' unit in a panel
};

constexpr Layout kLayouts[] = {
    {kF32, 1, 4, 64},
    {kF16, 1, 2, 32},
    {kBF16, 1, 2, 32},
    {kQ4_0, 32, 18, kRecordQ4_0},
    {kQ4_1, 32, 20, kRecordQ4_1},
    {kQ5_0, 32, 22, kRecordQ5_0},
    {kQ5_1, 32, 24, kRecordQ5_1},
    {kQ8_0, 32, 34, kRecordQ8_0},
    {kQ4_K, 256, 144, kSuperQ4_K},
    {kQ5_K, 256, 176, kSuperQ5_K},
    {kQ6_K, 256, 210, kSuperQ6_K},
};

const Layout* layout_of(int type) {
  for (const Layout& layout : kLayouts) {
    if (layout.type == type) return &layout;
  }
  return nullptr;
}

// ---- planes of codes ------------------------------------------------------------------------------------------

// The low four bits of one row's 32 codes into the nibble planes.
void put_nibbles(const uint8_t* codes, int row, uint8_t* nibbles) {
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = u32_at(codes + 4 * i) & 0x0f0f0f0f, high = u32_at(codes + 16 + 4 * i) & 0x0f0f0f0f;
    const uint32_t both = low | (high << 4);
    std::memcpy(nibbles + 64 * i + 4 * row, &both, 4);
  }
}

void put_fifth(const uint8_t* codes, int row, uint8_t* fifth) {
  uint32_t bits = 0;
  for (int g = 0; g < 8; ++g) bits |= ((u32_at(codes + 4 * g) >> 4) & 0x01010101) << g;
  std::memcpy(fifth + 4 * row, &bits, 4);
}

void put_upper(const uint8_t* codes, int row, uint8_t* upper) {
  for (int plane = 0; plane < 2; ++plane) {
    uint32_t bits = 0;
    for (int g = 0; g < 4; ++g) bits |= ((u32_at(codes + 16 * plane + 4 * g) >> 4) & 0x03030303) << (2 * g);
    std::memcpy(upper + 64 * plane + 4 * row, &bits, 4);
  }
}

int code_at(const uint8_t* nibbles, const uint8_t* fifth, const uint8_t* upper, int row, int column) {
  const int g = column / 4, j = 4 * row + column % 4;
  int code = (nibbles[64 * (g % 4) + j] >> (g < 4 ? 0 : 4)) & 15;
  if (fifth) code |= ((fifth[j] >> g) & 1) << 4;
  if (upper) code |= ((upper[64 * (g / 4) + j] >> (2 * (g % 4))) & 3) << 4;
  return code;
}

// ---- one row's unit into a panel's unit -------------------------------------------------------------------------

void split_nibbles(const uint8_t* qs, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = qs[i] & 15;
    codes[i + 16] = qs[i] >> 4;
  }
}

void pack_legacy(int type, const uint8_t* src, int row, uint8_t* unit) {
  uint8_t codes[32];
  const bool has_min = type == kQ4_1 || type == kQ5_1, has_fifth = type == kQ5_0 || type == kQ5_1;
  const uint8_t* p = src;
  uint8_t* out = unit;
  std::memcpy(out + 2 * row, p, 2);
  p += 2, out += 32;
  if (type == kQ8_0) {
    for (int g = 0; g < 8; ++g) std::memcpy(out + 64 * g + 4 * row, p + 4 * g, 4);
    return;
  }
  if (has_min) {
    std::memcpy(out + 2 * row, p, 2);
    p += 2, out += 32;
  }
  const uint32_t fifth = has_fifth ? u32_at(p) : 0;
  if (has_fifth) p += 4;
  split_nibbles(p, codes);
  if (has_fifth) {
    for (int i = 0; i < 32; ++i) codes[i] |= uint8_t(((fifth >> i) & 1) << 4);
    put_fifth(codes, row, out);
    out += kFifth;
  }
  put_nibbles(codes, row, out);
}

void scale_min(const uint8_t* packed, int j, uint8_t* scale, uint8_t* min) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *min = packed[j + 4] & 63;
  } else {
    *scale = uint8_t((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4));
    *min = uint8_t((packed[j + 4] >> 4) | ((packed[j] >> 6) << 4));
  }
}

void pack_q4q5_k(bool is_q5, const uint8_t* src, int row, uint8_t* unit) {
  std::memcpy(unit + 2 * row, src, 2);
  std::memcpy(unit + 32 + 2 * row, src + 2, 2);
  const uint8_t* scales = src + 4;
  const uint8_t* qh = src + 16;
  const uint8_t* qs = src + (is_q5 ? 48 : 16);
  for (int j = 0; j < 8; ++j) {
    uint8_t* record = unit + 64 + j * (is_q5 ? kRecordQ5_K : kRecordQ4_K);
    scale_min(scales, j, record + row, record + 16 + row);
    uint8_t codes[32];
    for (int i = 0; i < 32; ++i) {
      codes[i] = (qs[32 * (j / 2) + i] >> (j % 2 ? 4 : 0)) & 15;
      if (is_q5) codes[i] |= uint8_t(((qh[i] >> j) & 1) << 4);
    }
    if (is_q5) put_fifth(codes, row, record + 32);
    put_nibbles(codes, row, record + 32 + (is_q5 ? kFifth : 0));
  }
}

void pack_q6_k(const uint8_t* src, int row, uint8_t* unit) {
  const uint8_t* ql = src;
  const uint8_t* qh = src + 128;
  const uint8_t* scales = src + 192;
  std::memcpy(unit + 2 * row, src + 208, 2);
  for (int j = 0; j < 8; ++j) {
    uint8_t* record = unit + 32 + j * kRecordQ6_K;
    record[row] = scales[2 * j];
    record[16 + row] = scales[2 * j + 1];
    const uint8_t* low = ql + 64 * (j / 4) + 32 * (j % 2);
    const uint8_t* high = qh + 32 * (j / 4);
    uint8_t codes[32];
    for (int i = 0; i < 32; ++i) {
      codes[i] = uint8_t(((low[i] >> (j % 4 < 2 ? 0 : 4)) & 15) | (((high[i] >> (2 * (j % 4))) & 3) << 4));
    }
    put_upper(codes, row, record + 32);
    put_nibbles(codes, row, record + 32 + kUpper);
  }
}

void pack_unit(int type, const uint8_t* src, int row, uint8_t* unit) {
  switch (type) {
    case kF32: std::memcpy(unit + 4 * row, src, 4); break;
    case kF16:
    case kBF16: std::memcpy(unit + 2 * row, src, 2); break;
    case kQ4_K: pack_q4q5_k(false, src, row, unit); break;
    case kQ5_K: pack_q4q5_k(true, src, row, unit); break;
    case kQ6_K: pack_q6_k(src, row, unit); break;
    default: pack_legacy(type, src, row, unit);
  }
}

// ---- one row's unit out of a panel's unit -----------------------------------------------------------------------

void unpack_legacy(int type, const uint8_t* unit, int row, float* out) {
  const float d = f16_to_f32(u16_at(unit + 2 * row));
  const uint8_t* p = unit + 32;
  if (type == kQ8_0) {
    for (int i = 0; i < 32; ++i) out[i] = d * float(int8_t(p[64 * (i / 4) + 4 * row + i % 4]));
    return;
  }
  const bool has_min = type == kQ4_1 || type == kQ5_1, has_fifth = type == kQ5_0 || type == kQ5_1;
  float m = 0;
  if (has_min) {
    m = f16_to_f32(u16_at(p + 2 * row));
    p += 32;
  }
  const uint8_t* fifth = has_fifth ? p : nullptr;
  if (has_fifth) p += kFifth;
  const int offset = type == kQ4_0 ? 8 : type == kQ5_0 ? 16 : 0;
  for (int i = 0; i < 32; ++i) {
    const float value = d * float(code_at(p, fifth, nullptr, row, i) - offset);
    out[i] = has_min ? value + m : value;
  }
}

void unpack_q4q5_k(bool is_q5, const uint8_t* unit, int row, float* out) {
  const float d = f16_to_f32(u16_at(unit + 2 * row)), dmin = f16_to_f32(u16_at(unit + 32 + 2 * row));
  for (int j = 0; j < 8; ++j) {
    const uint8_t* record = unit + 64 + j * (is_q5 ? kRecordQ5_K : kRecordQ4_K);
    const float scale = d * float(record[row]), min = dmin * float(record[16 + row]);
    const uint8_t* fifth = is_q5 ? record + 32 : nullptr;
    const uint8_t* nibbles = record + 32 + (is_q5 ? kFifth : 0);
    for (int i = 0; i < 32; ++i) out[32 * j + i] = scale * float(code_at(nibbles, fifth, nullptr, row, i)) - min;
  }
}

void unpack_q6_k(const uint8_t* unit, int row, float* out) {
  const float d = f16_to_f32(u16_at(unit + 2 * row));
  for (int j = 0; j < 8; ++j) {
    const uint8_t* record = unit + 32 + j * kRecordQ6_K;
    for (int i = 0; i < 32; ++i) {
      const float scale = d * float(int8_t(record[16 * (i / 16) + row]));
      out[32 * j + i] = scale * float(code_at(record + 32 + kUpper, nullptr, record + 32, row, i) - 32);
    }
  }
}

void unpack_unit(int type, const uint8_t* unit, int row, float* out) {
  switch (type) {
    case kF32: std::memcpy(out, unit + 4 * row, 4); break;
    case kF16: *out = f16_to_f32(u16_at(unit + 2 * row)); break;
    case kBF16: {
      const uint32_t bits = uint32_t(u16_at(unit + 2 * row)) << 16;
      std::memcpy(out, &bits, 4);
      break;
    }
    case kQ4_K: unpack_q4q5_k(false, unit, row, out); break;
    case kQ5_K: unpack_q4q5_k(true, unit, row, out); break;
    case kQ6_K: unpack_q6_k(unit, row, out); break;
    default: unpack_legacy(type, unit, row, out);
  }
}

}  // namespace

bool is_known_type(int type) { return layout_of(type) != nullptr; }

int block_columns(int type) { return layout_of(type)->columns; }

size_t row_bytes(int type, int cols) {
  const Layout* layout = layout_of(type);
  return size_t(cols / layout->columns) * size_t(layout->source_bytes);
}

size_t panel_bytes(int type, int cols) {
  const Layout* layout = layout_of(type);
  return size_t(cols / layout->columns) * size_t(layout->panel_bytes);
}

void pack_panel(int type, const uint8_t* rows, int n_rows, int cols, uint8_t* panel) {
  const Layout* layout = layout_of(type);
  const size_t bytes = row_bytes(type, cols);
  if (n_rows < kPanelRows) std::memset(panel, 0, panel_bytes(type, cols));
  for (int unit = 0; unit < cols / layout->columns; ++unit) {
    for (int row = 0; row < n_rows; ++row) {
      pack_unit(type, rows + size_t(row) * bytes + size_t(unit) * size_t(layout->source_bytes), row,
                panel + size_t(unit) * size_t(layout->panel_bytes));
    }
  }
}

void unpack_row(int type, const uint8_t* panel, int row, int cols, float* out) {
  const Layout* layout = layout_of(type);
  for (int unit = 0; unit < cols / layout->columns; ++unit) {
    unpack_unit(type, panel + size_t(unit) * size_t(layout->panel_bytes), row, out + unit * layout->columns);
  }
}

PanelProduct product_of(const Kernels& kernels, int type) {
  switch (type) {
    case kF32: return kernels.f32;
    case kF16: return kernels.f16;
    case kBF16: return kernels.bf16;
    case kQ4_0: return kernels.q4_0;
    case kQ4_1: return kernels.q4_1;
    case kQ5_0: return kernels.q5_0;
    case kQ5_1: return kernels.q5_1;
    case kQ8_0: return kernels.q8_0;
    case kQ4_K: return kernels.q4_k;
    case kQ5_K: return kernels.q5_k;
    case kQ6_K: return kernels.q6_k;
    default: return nullptr;
  }
}

}  // namespace hermes3
