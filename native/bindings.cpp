// The native border: check every argument, release the GIL, call the table.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <string>

#include "kernels.h"
#include "linear.h"
#include "pool.h"
#include "quantize.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hermes3 {
namespace {

template <class T, int kDims>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
using Bytes = Array<const uint8_t, 1>;
using In1 = Array<const float, 1>;
using In2 = Array<const float, 2>;
using Out2 = Array<float, 2>;
using Ints1 = Array<const int32_t, 1>;
using Ints2 = Array<const int32_t, 2>;

void require(bool condition, const std::string& message) {
  if (!condition) throw nb::value_error(message.c_str());
}

std::string text(size_t n) { return std::to_string(n); }

Weight make_weight(int type, int rows, int cols, const Bytes& data) {
  require(is_known_type(type), "no kernel for ggml type " + std::to_string(type));
  require(rows > 0 && cols > 0, "rows and cols must be positive, got " + std::to_string(rows) + " x " + std::to_string(cols));
  require(cols % block_columns(type) == 0,
          "cols must be a multiple of " + std::to_string(block_columns(type)) + " for this type, got " + std::to_string(cols));
  const size_t wanted = size_t(rows) * row_bytes(type, cols);
  require(data.shape(0) == wanted, "data has " + text(data.shape(0)) + " bytes, the shape needs " + text(wanted));
  const uint8_t* bytes = data.data();
  nb::gil_scoped_release release;
  return Weight(type, rows, cols, bytes);
}

Weight read_weight(int type, int rows, int cols, const std::string& path, size_t offset) {
  require(is_known_type(type), "no kernel for ggml type " + std::to_string(type));
  require(rows > 0 && cols > 0, "rows and cols must be positive, got " + std::to_string(rows) + " x " + std::to_string(cols));
  require(cols % block_columns(type) == 0,
          "cols must be a multiple of " + std::to_string(block_columns(type)) + " for this type, got " + std::to_string(cols));
  nb::gil_scoped_release release;
  return Weight(type, rows, cols, path, offset);
}

void embed_checked(const Weight& weight, const Ints1& ids, Out2 out) {
  require(out.shape(0) == ids.shape(0) && out.shape(1) == size_t(weight.cols()), "out must be (len(ids), cols)");
  const int n = int(ids.shape(0));
  for (int i = 0; i < n; ++i) {
    require(ids(i) >= 0 && ids(i) < weight.rows(), "id " + std::to_string(ids(i)) + " is outside [0, " + std::to_string(weight.rows()) + ")");
  }
  const int32_t* in = ids.data();
  float* to = out.data();
  nb::gil_scoped_release release;
  embed(weight, in, n, to);
}

void linear_checked(const std::vector<const Weight*>& weights, const In2& x, Out2 out, const std::optional<In1>& norm, float eps, bool swiglu,
                    bool accumulate) {
  require(!weights.empty(), "linear needs at least one weight");
  size_t rows = 0;
  for (const Weight* w : weights) {
    require(w->cols() == weights[0]->cols(), "the weights of one linear call must have the same cols");
    rows += size_t(w->rows());
  }
  const size_t k = size_t(weights[0]->cols());
  require(x.shape(1) == (swiglu ? 2 * k : k), "x has " + text(x.shape(1)) + " columns, the weights take " + text(swiglu ? 2 * k : k));
  require(out.shape(0) == x.shape(0) && out.shape(1) == rows, "out must be (" + text(x.shape(0)) + ", " + text(rows) + ")");
  require(!norm || norm->shape(0) == k, "norm must have " + text(k) + " values");
  require(!(norm && swiglu), "norm and swiglu exclude each other");
  const LinearJob job{x.data(), int(x.shape(0)), int(k), out.data(), rows, norm ? norm->data() : nullptr, eps, swiglu, accumulate};
  nb::gil_scoped_release release;
  linear(weights, job);
}

KVCache make_cache(int n_layers, int n_pages, int n_kv_heads, int head_dim, const std::string& dtype) {
  require(n_layers > 0 && n_pages > 0 && n_kv_heads > 0, "n_layers, n_pages and n_kv_heads must be positive");
  require(head_dim > 0 && head_dim % 16 == 0 && head_dim <= kMaxHeadDim,
          "head_dim must be a multiple of 16 up to " + std::to_string(kMaxHeadDim) + ", got " + std::to_string(head_dim));
  const int type = dtype == "f32" ? kF32 : dtype == "f16" ? kF16 : kQ8_0;
  require(type != kQ8_0 || dtype == "q8_0", "dtype must be 'f32', 'f16' or 'q8_0', got '" + dtype + "'");
  require(type != kQ8_0 || head_dim % kBlock == 0, "a cache of q8_0 takes a head_dim that is a multiple of 32, got " + std::to_string(head_dim));
  require(n_pages <= (1 << 26), "n_pages must be at most 67108864, got " + std::to_string(n_pages));
  return KVCache(n_layers, n_pages, n_kv_heads, head_dim, type);
}

void copy_pages(const KVCache& cache, const Ints1& sources, const Ints1& targets) {
  const size_t n = sources.shape(0);
  require(targets.shape(0) == n, "sources and targets must be of one length");
  for (size_t i = 0; i < n; ++i) {
    for (const int32_t page : {sources(i), targets(i)})
      require(page >= 0 && page < cache.n_pages(), "page " + std::to_string(page) + " is outside the cache");
  }
  const int32_t* from = sources.data();
  const int32_t* to = targets.data();
  nb::gil_scoped_release release;
  for (size_t i = 0; i < n; ++i) cache.copy_page(from[i], to[i]);
}

void check_page(const KVCache& cache, int page, size_t n_bytes) {
  require(page >= 0 && page < cache.n_pages(), "page " + std::to_string(page) + " is outside the cache");
  require(n_bytes == cache.page_bytes(), "a page has " + text(cache.page_bytes()) + " bytes, got " + text(n_bytes));
}

void read_page(const KVCache& cache, int page, Array<uint8_t, 1> out) {
  check_page(cache, page, out.shape(0));
  uint8_t* to = out.data();
  nb::gil_scoped_release release;
  cache.read_page(page, to);
}

void write_page(const KVCache& cache, int page, const Bytes& data) {
  check_page(cache, page, data.shape(0));
  const uint8_t* from = data.data();
  nb::gil_scoped_release release;
  cache.write_page(page, from);
}

LayerCache layer_checked(const KVCache& cache, int layer, size_t width, int n_heads) {
  require(layer >= 0 && layer < cache.n_layers(), "layer " + std::to_string(layer) + " is outside the cache");
  require(n_heads > 0 && n_heads % cache.n_kv_heads() == 0, "n_heads must be a multiple of n_kv_heads");
  const size_t wanted = size_t(n_heads + 2 * cache.n_kv_heads()) * size_t(cache.head_dim());
  require(width == wanted, "qkv has " + text(width) + " columns, the cache and n_heads need " + text(wanted));
  return cache.layer(layer);
}

void rope_store_checked(const KVCache& cache, int layer, Out2 qkv, const In2& cos, const In2& sin, const Ints1& slots, int n_heads) {
  const LayerCache pages = layer_checked(cache, layer, qkv.shape(1), n_heads);
  const size_t n = qkv.shape(0), half = size_t(cache.head_dim() / 2);
  require(cos.shape(0) == n && sin.shape(0) == n && cos.shape(1) == half && sin.shape(1) == half, "cos and sin must be (n, head_dim / 2)");
  require(slots.shape(0) == n, "slots must be (n,)");
  for (size_t i = 0; i < n; ++i) require(slots(i) >= 0 && slots(i) / kPage < cache.n_pages(), "slot " + std::to_string(slots(i)) + " is outside the cache");
  float* rows = qkv.data();
  const float* c = cos.data();
  const float* s = sin.data();
  const int32_t* to = slots.data();
  nb::gil_scoped_release release;
  store_rows(pages, rows, int(n), c, s, to, n_heads);
}

void check_sequences(const KVCache& cache, size_t n_queries, const Ints1& offsets, const Ints1& firsts, const Ints2& tables) {
  const size_t n = firsts.shape(0);
  require(offsets.shape(0) == n + 1 && tables.shape(0) == n, "query_offsets must be (n_seq + 1,), tables (n_seq, max_pages)");
  require(offsets(0) == 0 && size_t(offsets(n)) == n_queries, "query_offsets must run from 0 to the number of rows");
  for (size_t s = 0; s < n; ++s) {
    require(offsets(s) <= offsets(s + 1) && firsts(s) >= 0, "query_offsets must not fall, first_positions not be negative");
    const int64_t positions = int64_t(firsts(s)) + offsets(s + 1) - offsets(s);
    const int64_t pages = (positions + kPage - 1) / kPage;
    require(pages <= int64_t(tables.shape(1)), "sequence " + text(s) + " needs " + std::to_string(pages) + " pages in its table");
    for (int64_t p = 0; p < pages; ++p) {
      const int32_t page = tables(s, size_t(p));
      require(page >= 0 && page < cache.n_pages(), "page " + std::to_string(page) + " is outside the cache");
    }
  }
}

void attention_checked(const KVCache& cache, int layer, const In2& qkv, Out2 out, const Ints1& offsets, const Ints1& firsts, const Ints2& tables,
                       int n_heads) {
  const LayerCache pages = layer_checked(cache, layer, qkv.shape(1), n_heads);
  require(out.shape(0) == qkv.shape(0) && out.shape(1) == size_t(n_heads * cache.head_dim()), "out must be (n, n_heads * head_dim)");
  check_sequences(cache, qkv.shape(0), offsets, firsts, tables);
  const Sequences sequences{int(firsts.shape(0)), offsets.data(), firsts.data(), tables.data(), int(tables.shape(1))};
  const float* rows = qkv.data();
  float* to = out.data();
  nb::gil_scoped_release release;
  attend(pages, rows, to, sequences, n_heads);
}

void quantize_checked(int type, const In2& x, const std::optional<In1>& importance, Array<uint8_t, 1> out) {
  const Quantize quantize = quantizer_of(type);
  require(quantize != nullptr, "ggml type " + std::to_string(type) + " is not one of Q4_K (12), Q5_K (13), Q6_K (14)");
  const size_t rows = x.shape(0), cols = x.shape(1);
  require(cols > 0 && cols % kSuperBlock == 0 && cols <= (1u << 30), "columns must be a multiple of 256, got " + text(cols));
  require(!importance || importance->shape(0) == cols, "importance must have " + text(cols) + " values");
  const size_t wanted = rows * row_bytes(type, int(cols));
  require(out.shape(0) == wanted, "out has " + text(out.shape(0)) + " bytes, the shape needs " + text(wanted));
  const QuantizeJob job{x.data(), importance ? importance->data() : nullptr, int(cols), rows * cols / kSuperBlock, out.data()};
  bool is_done;
  {
    nb::gil_scoped_release release;
    is_done = quantize(job);
  }
  require(is_done, "weights are not finite, or too large for a block's float16 scale (65504)");
}

std::vector<std::string> isas() {
  const Kernels* found[3];
  std::vector<std::string> names;
  const int n = available_kernels(found);
  for (int i = 0; i < n; ++i) names.emplace_back(found[i]->name);
  return names;
}

nb::dict cpu_features() {
  nb::dict features;
#if defined(HERMES3_X86)
  features["avx2"] = bool(__builtin_cpu_supports("avx2"));
  features["fma"] = bool(__builtin_cpu_supports("fma"));
  features["f16c"] = bool(__builtin_cpu_supports("f16c"));
  features["avx512f"] = bool(__builtin_cpu_supports("avx512f"));
  features["avx512bw"] = bool(__builtin_cpu_supports("avx512bw"));
  features["avx512vnni"] = bool(__builtin_cpu_supports("avx512vnni"));
#endif
  return features;
}

void set_threads(int n) {
  require(n >= 1 && n <= 1024, "threads must be from 1 to 1024, got " + std::to_string(n));
  set_pool_threads(n);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Kernels of the CPU engine. Arrays must be C-contiguous and of the exact dtype; ValueError otherwise.";
  try {
    kernels();
  } catch (const std::exception& e) {
    throw nb::import_error(e.what());
  }
  m.attr("PAGE") = kPage;
  m.def("isa", [] { return std::string(kernels().name); }, "Instruction set in force: 'avx512', 'avx2' or 'scalar'.");
  m.def("available_isas", &isas, "Instruction sets that this machine can run, best first; HERMES3_ISA forces one.");
  m.def("cpu_features", &cpu_features);
  m.def("physical_cores", &physical_cores, "Cores of the affinity mask, capped by the cgroup's CPU quota.");
  m.def("set_threads", &set_threads, "n"_a);
  m.def("threads", &pool_threads);
  m.def("read_bandwidth", &read_bandwidth, "seconds"_a, nb::call_guard<nb::gil_scoped_release>(), "Best pass of reading 512 MiB on all threads, GB/s.");
  m.def("int8_peak", &int8_peak, "seconds"_a, nb::call_guard<nb::gil_scoped_release>(), "Best rate of the int8 multiply-add on registers, Gop/s.");
  m.def("float_peak", &float_peak, "seconds"_a, nb::call_guard<nb::gil_scoped_release>(), "Best rate of float32 multiply-adds on registers, Gop/s.");

  nb::class_<Weight>(m, "Weight", "A matrix (rows, cols) of one ggml type, repacked into panels of 16 rows.")
      .def("__init__", [](Weight* self, int type, int rows, int cols, const Bytes& data) { new (self) Weight(make_weight(type, rows, cols, data)); },
           "type"_a, "rows"_a, "cols"_a, "data"_a.noconvert())
      .def_static("read", &read_weight, "type"_a, "rows"_a, "cols"_a, "path"_a, "offset"_a, "Rows as a file has them from byte offset on; RuntimeError where they cannot be read.")
      .def_prop_ro("type", &Weight::type)
      .def_prop_ro("rows", &Weight::rows)
      .def_prop_ro("cols", &Weight::cols)
      .def_prop_ro("nbytes", &Weight::nbytes);
  nb::class_<KVCache>(m, "KVCache", "Paged keys and values of all layers.")
      .def("__init__", [](KVCache* self, int n_layers, int n_pages, int n_kv_heads, int head_dim, const std::string& dtype) {
             new (self) KVCache(make_cache(n_layers, n_pages, n_kv_heads, head_dim, dtype));
           }, "n_layers"_a, "n_pages"_a, "n_kv_heads"_a, "head_dim"_a, "dtype"_a)
      .def_prop_ro("n_pages", &KVCache::n_pages)
      .def_prop_ro("nbytes", &KVCache::nbytes)
      .def_prop_ro("page_bytes", &KVCache::page_bytes)
      .def("read_page", &read_page, "page"_a, "out"_a.noconvert(), "out (page_bytes) = a page, all layers of it.")
      .def("write_page", &write_page, "page"_a, "data"_a.noconvert(), "A page = data (page_bytes), as read_page gave it.")
      .def("copy_pages", &copy_pages, "sources"_a.noconvert(), "targets"_a.noconvert(), "Copies pages, all layers of each, one after the other.");

  m.def("embed", &embed_checked, "weight"_a, "ids"_a.noconvert(), "out"_a.noconvert(), "out[i] = dequantized row ids[i].");
  m.def("linear", &linear_checked, "weights"_a, "x"_a.noconvert(), "out"_a.noconvert(), "norm"_a.noconvert().none(), "eps"_a, "swiglu"_a, "accumulate"_a,
        "out (n, sum of rows) (+)= act(x) W^T; act is RMSNorm where norm is given, silu(gate) * up for swiglu.");
  m.def("rope_store", &rope_store_checked, "cache"_a, "layer"_a, "qkv"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(), "slots"_a.noconvert(),
        "n_heads"_a, "Rotates q and k of qkv (n, (H + 2 KV) D) in place and writes k and v into the slots.");
  m.def("attention", &attention_checked, "cache"_a, "layer"_a, "qkv"_a.noconvert(), "out"_a.noconvert(), "query_offsets"_a.noconvert(),
        "first_positions"_a.noconvert(), "tables"_a.noconvert(), "n_heads"_a, "Causal attention with grouped heads over the sequences' pages.");
  m.def("quantize", &quantize_checked, "type"_a, "x"_a.noconvert(), "importance"_a.noconvert().none(), "out"_a.noconvert(),
        "out = x (rows, cols) in a K format, of least squared error, weighted by importance (cols); on the calling thread.");
}

}  // namespace hermes3
