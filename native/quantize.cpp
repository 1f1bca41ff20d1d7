// Which quantizers run: those of the instruction set in force.
#include "quantize.h"

#include <cstring>

#include "kernels.h"

namespace hermes3 {
namespace {

const Quantizers& quantizers() {
#if defined(HERMES3_X86)
  if (std::strcmp(kernels().name, "avx512") == 0) return quantizers_avx512;
  if (std::strcmp(kernels().name, "avx2") == 0) return quantizers_avx2;
#endif
  return quantizers_scalar;
}

}  // namespace

Quantize quantizer_of(int type) {
  switch (type) {
    case kQ4_K: return quantizers().q4_k;
    case kQ5_K: return quantizers().q5_k;
    case kQ6_K: return quantizers().q6_k;
    default: return nullptr;
  }
}

}  // namespace hermes3
