// The K formats with scalar instructions: the compiler's doing, from quantize.inl.
#include "quantize.h"

#include "kernels.h"

namespace hermes3 {
namespace {
#include "quantize.inl"
}  // namespace

extern const Quantizers quantizers_scalar = {&quantize_affine<false>, &quantize_affine<true>, &quantize_linear};

}  // namespace hermes3
