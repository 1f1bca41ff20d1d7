// The border between the engine's bookkeeping and its arithmetic: panel formats, prepared activation rows and the
// table of function pointers that each instruction set fills (kernels_*.cpp) and dispatch.cpp chooses from.
//
// Only plain data and declarations may stand here: files that include it are compiled with different instruction
// sets, and an inline function emitted by two of them would be merged by the linker into the wrong one.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hermes3 {

// ggml's type ids (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
enum Type : int {
  kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7, kQ8_0 = 8, kQ4_K = 12, kQ5_K = 13, kQ6_K = 14, kBF16 = 30,
};

// Weights are repacked once, at load, into panels of 16 output rows, so that one vector register holds the same
// columns of 16 (AVX-512) or 8 (AVX2: one half of the panel) rows and no kernel ever sums across lanes.
//
// Quantized panels are a run of records, one for each 32 columns. "Group g" of a record is columns 4g .. 4g+3 of all
// 16 rows: 64 codes, row-major (row * 4 + column), which is what one vpdpbusd takes. Codes are stored as planes:
//   nibbles  uint8[4][64]  plane i: low nibble = group i, high nibble = group i + 4
//   fifth    uint8[64]     bit g of byte j = bit 4 of code j of group g
//   upper    uint8[2][64]  bits 2(g % 4) .. +1 of byte j in plane g / 4 = bits 4, 5 of code j of group g
// Records, in order of their bytes (f16[16], u8[16]: one value for each row):
//   Q4_0   d f16[16], nibbles                       w = d (code - 8)
//   Q4_1   d f16[16], m f16[16], nibbles            w = d code + m
//   Q5_0   d f16[16], fifth, nibbles                w = d (code - 16)
//   Q5_1   d f16[16], m f16[16], fifth, nibbles     w = d code + m
//   Q8_0   d f16[16], int8[8][64]                   w = d code
//   Q4_K   scale u8[16], min u8[16], nibbles        w = (d scale) code - (dmin min); super-block head d f16[16], dmin f16[16]
//   Q5_K   scale u8[16], min u8[16], fifth, nibbles likewise
//   Q6_K   scale int8[2][16], upper, nibbles        w = (d scale[column / 16]) (code - 32); super-block head d f16[16]
// A super-block is its head followed by eight records. Float panels are (k, 16) in the file's own type.
constexpr int kPanelRows = 16;
constexpr int kBlock = 32;           // columns of a record, and of one int8 activation block
constexpr int kSuperBlock = 256;     // columns of a K-quant super-block

constexpr int kNibbles = 256, kFifth = 64, kUpper = 128;
constexpr int kRecordQ4_0 = 32 + kNibbles, kRecordQ4_1 = 64 + kNibbles;
constexpr int kRecordQ5_0 = 32 + kFifth + kNibbles, kRecordQ5_1 = 64 + kFifth + kNibbles;
constexpr int kRecordQ8_0 = 32 + 512;
constexpr int kRecordQ4_K = 32 + kNibbles, kSuperQ4_K = 64 + 8 * kRecordQ4_K;
constexpr int kRecordQ5_K = 32 + kFifth + kNibbles, kSuperQ5_K = 64 + 8 * kRecordQ5_K;
constexpr int kRecordQ6_K = 32 + kUpper + kNibbles, kSuperQ6_K = 32 + 8 * kRecordQ6_K;

// Activation rows as the matrix products take them, in tiles of at most 32 tokens. Quantized weights meet int8 rows, float weights the
// float rows. Block b of token t holds x ~ d * q over 32 columns. The int8 side is ordered (block, token), so that a product
// walks it from front to back: with whole rows one after the other, strides such as 3072 bytes fall into four sets of a first-level cache.
constexpr int kTile = 32;

struct Tile {
  int n, k;               // tokens, columns
  const float* x;         // (n, k)
  const int8_t* q;        // (k / 32, n, 32), in [-127, 127]
  const float* d;         // (k / 32, n)
  // Each table of kernels says which of these it needs for a format (Kernels::planes).
  const float* s32;       // (k / 32, n)     d * sum of q over the block
  const float* s16;       // (k / 32, n, 2)  d * sum of q over each half block
  const float* md;        // (k / 32, n)     -kMagic * d, exactly
  const int32_t* start8;  // (k / 32, n)     kMagicBits - 8 * sum;  likewise for 16, for 128, and by half block for 32
  const int32_t *start16, *start128;
  const int32_t* start32; // (k / 32, n, 2)
};
enum Plane : unsigned { kS32 = 1, kS16 = 2, kMd = 4, kStart8 = 8, kStart16 = 16, kStart128 = 32, kStart32 = 64 };

// An int32 added to the bits of this float is added to its value, as long as the sum stays below 2^22 in magnitude: dot products that
// start from the bits are floats without a conversion, and fma(that, d, -kMagic * d) is d * dot, rounded once. d has 22 bits, so that 3 d is exact.
constexpr float kMagic = 12582912.0f;          // 3 * 2^22
constexpr int32_t kMagicBits = 0x4b400000;

// One row's way from the residual stream into a matrix product.
struct RowJob {
  const float* in;        // (k), or (2k) for swiglu: gate, then up
  int k;
  const float* norm;      // (k) RMSNorm weight, or null
  float eps;
  bool is_swiglu;
  float* x;               // (k) result, or null where only the int8 form is wanted and in is used as it is
  int n_tokens;           // of the tile; the following point at this row's place in block 0 of the tile
  int8_t* q;              // null where only the float form is wanted
  float* d;
  float *s32, *s16, *md;  // null where no format of the call needs it
  int32_t *start8, *start16, *start128, *start32;
};

constexpr int kPage = 32;            // tokens of one page of the KV cache
constexpr int kMaxHeadDim = 256;

// One layer's pages. K is stored transposed, so that one load takes 16 keys' values of a dimension and a score never
// sums across lanes: k (n_pages, n_kv_heads, head_dim, kPage), v (n_pages, n_kv_heads, kPage, head_dim), where pages
// are `page_stride` bytes apart: all layers of a page lie together, so that a short prompt touches little memory.
// Q8_0 has int8 codes there, and behind those of all heads of a page a scale for each 32 values of a token: f16
// (n_kv_heads, head_dim / 32, kPage), of k as of v.
struct LayerCache {
  uint8_t* k;
  uint8_t* v;
  size_t page_stride;
  int n_kv_heads;
  int head_dim;
  int type;                   // kF32, kF16 or kQ8_0
};

struct AttentionJob {
  LayerCache cache;
  const float* q;             // first query row, (n_queries, stride): the heads of one token are adjacent
  float* out;                 // (n_queries, out_stride)
  size_t stride, out_stride;  // in floats
  const int32_t* table;       // page of each kPage positions of the sequence
  int n_queries;
  int first_position;         // of query 0
  int group;                  // query heads that share one kv head
  int kv_head;
};

// One panel against one tile: out[t * stride + r] (+)= sum_k w[r][k] * row[t][k] for r < n_rows.
// The sum of one (row, token) runs over the blocks in order, whatever the other arguments: this is what makes logits
// independent of the batch and of the thread count.
using PanelProduct = void (*)(const uint8_t* panel, const Tile& tile, float* out, size_t stride, int n_rows, bool accumulate);

struct Kernels {
  const char* name;
  unsigned (*planes)(int type);   // which planes of a tile the product of this format reads
  void (*prepare_row)(const RowJob& job);
  // Rotates q (n_heads) and k in place by HF's half-split RoPE and writes k and v into one slot of the cache.
  void (*rope_store)(const LayerCache& cache, float* qkv, const float* cos, const float* sin, int slot, int n_heads);
  void (*attention)(const AttentionJob& job);
  PanelProduct f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k;
  // Bounds of the machine, for the benches: the multiply-adds of the products on registers alone. They return the operations done.
  double (*int8_burn)(long iterations);
  double (*float_burn)(long iterations);
};

extern const Kernels kernels_scalar;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;

PanelProduct product_of(const Kernels& kernels, int type);   // null for an unknown type

// dispatch.cpp
const Kernels& kernels();                 // in force; throws std::runtime_error where HERMES3_ISA names none of this machine
int available_kernels(const Kernels** out);   // best first, at most 3; returns how many

// pack.cpp
bool is_known_type(int type);
int block_columns(int type);              // columns must be a multiple of it
size_t row_bytes(int type, int cols);     // of the file's layout
size_t panel_bytes(int type, int cols);
void pack_panel(int type, const uint8_t* rows, int n_rows, int cols, uint8_t* panel);
void unpack_row(int type, const uint8_t* panel, int row, int cols, float* out);   // exact dequantization

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);   // to nearest, ties to even, as vcvtps2ph does

}  // namespace hermes3
