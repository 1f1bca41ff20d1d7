// From float rows to the K formats of ggml: Q4_K, Q5_K, Q6_K. The search for scales is written once (quantize.inl), over vectors whose lanes
// are the sub-blocks of a super-block, and compiled for each instruction set. All of them give the same bits.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hermes3 {

struct QuantizeJob {
  const float* x;            // (n_blocks, 256), whole rows
  const float* importance;   // (cols): weight of each column's squared error, not negative; or null
  int cols;                  // of a row, a multiple of 256
  size_t n_blocks;
  uint8_t* out;              // (n_blocks, bytes of a block)
};

// Returns false, the output unfinished, where a value is not finite or a scale too large for a float16.
using Quantize = bool (*)(const QuantizeJob& job);

struct Quantizers {
  Quantize q4_k, q5_k, q6_k;
};

extern const Quantizers quantizers_scalar;
extern const Quantizers quantizers_avx2;
extern const Quantizers quantizers_avx512;

Quantize quantizer_of(int type);   // of the instruction set in force; null for a type that is none of the three

}  // namespace hermes3
