// The K formats with avx2 instructions: the compiler's doing, from quantize.inl.
#include "quantize.h"

#include "kernels.h"

namespace hermes3 {
namespace {
#include "quantize.inl"
}  // namespace

extern const Quantizers quantizers_avx2 = {&quantize_affine<false>, &quantize_affine<true>, &quantize_linear};

}  // namespace hermes3
