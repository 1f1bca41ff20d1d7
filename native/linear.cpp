#include "linear.h"

#include <cstring>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <stdexcept>

#include "memory.h"
#include "pool.h"

namespace hermes3 {

Weight::Weight(int type, int rows, int cols, const uint8_t* data)
    : type_(type), rows_(rows), cols_(cols), panel_bytes_(hermes3::panel_bytes(type, cols)), data_(allocate(nbytes())) {
  const size_t bytes = kPanelRows * row_bytes(type, cols);
  const int chunk = std::max(1, int((size_t(1) << 18) / bytes));
  pool()->run((n_panels() + chunk - 1) / chunk, [&](int c, int) {
    pack(c * chunk, std::min((c + 1) * chunk, n_panels()), data + size_t(c) * size_t(chunk) * bytes);
  });
}

Weight::Weight(int type, int rows, int cols, const std::string& path, size_t offset)
    : type_(type), rows_(rows), cols_(cols), panel_bytes_(hermes3::panel_bytes(type, cols)), data_(allocate(nbytes())) {
  const size_t bytes = kPanelRows * row_bytes(type, cols), total = size_t(rows) * row_bytes(type, cols);
  const int chunk = std::max(1, int((size_t(1) << 19) / bytes));
  std::atomic<bool> is_whole{true};
  pool()->run((n_panels() + chunk - 1) / chunk, [&](int c, int) {
    thread_local std::vector<char> buffer;
    const size_t start = size_t(c) * size_t(chunk) * bytes, n = std::min(size_t(chunk) * bytes, total - start);
    if (buffer.size() < n) buffer.resize(n);
    std::ifstream file(path, std::ios::binary);
    file.rdbuf()->pubsetbuf(nullptr, 0);
    if (!file.seekg(std::streamoff(offset + start)) || !file.read(buffer.data(), std::streamsize(n))) {
      is_whole = false;
      return;
    }
    pack(c * chunk, std::min((c + 1) * chunk, n_panels()), reinterpret_cast<const uint8_t*>(buffer.data()));
  });
  if (!is_whole) throw std::runtime_error("the file ends before these rows, or cannot be read");
}

void Weight::pack(int first_panel, int last_panel, const uint8_t* rows) {
  const size_t bytes = kPanelRows * row_bytes(type_, cols_);
  for (int i = first_panel; i < last_panel; ++i) {
    const int n_rows = std::min(kPanelRows, rows_ - i * kPanelRows);
    pack_panel(type_, rows + size_t(i - first_panel) * bytes, n_rows, cols_, data_.get() + size_t(i) * panel_bytes_);
  }
}

KVCache::KVCache(int n_layers, int n_pages, int n_kv_heads, int head_dim, int type)
    : n_layers_(n_layers), n_pages_(n_pages), n_kv_heads_(n_kv_heads), head_dim_(head_dim), type_(type),
      side_bytes_(size_t(n_kv_heads) * kPage * row_bytes(type, head_dim)) {
  data_ = allocate(nbytes());
}

void KVCache::copy_page(int source, int target) const {
  if (source != target) read_page(source, data_.get() + size_t(target) * page_bytes());
}

void KVCache::read_page(int page, uint8_t* to) const { std::memcpy(to, data_.get() + size_t(page) * page_bytes(), page_bytes()); }

void KVCache::write_page(int page, const uint8_t* from) const {
  std::memcpy(data_.get() + size_t(page) * page_bytes(), from, page_bytes());
}

LayerCache KVCache::layer(int i) const {
  uint8_t* k = data_.get() + 2 * side_bytes_ * size_t(i);
  return {k, k + side_bytes_, page_bytes(), n_kv_heads_, head_dim_, type_};
}

namespace {

// The prepared rows of the call in progress, kept from call to call: one set for each calling thread.
struct Scratch {
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> floats;     // planes of Tile, each (n * k / 32) long: d, s32, md, s16 (two)
  std::vector<int32_t> ints;     // start8, start16, start128, start32 (two)
};
constexpr int kFloatPlanes = 5, kIntPlanes = 5;

template <class T>
T* grown(std::vector<T>& v, size_t n) {
  if (v.size() < n) v.resize(n);
  return v.data();
}

constexpr int kSerialFloats = 1 << 15;    // preparing fewer than this many values takes less time than waking the pool

// All of a call's rows, tile after tile.
struct Prepared {
  const LinearJob& job;
  unsigned planes;        // see Plane
  const float* x;
  int8_t* q;
  float* floats;
  int32_t* ints;

  int n_tiles() const { return (job.n + kTile - 1) / kTile; }
  // Where block 0 of this token of this tile lies; the planes follow each other.
  RowJob place(int tile, int token) const {
    RowJob to{};
    const size_t k = size_t(job.k), blocks = k / 32, plane = size_t(job.n) * blocks, at = size_t(tile) * kTile * blocks + size_t(token);
    to.n_tokens = std::min(kTile, job.n - tile * kTile);
    if (!q) return to;
    to.q = q + at * kBlock;
    const auto where = [&](Plane which, auto* base, size_t i) { return planes & which ? base + i : nullptr; };
    to.d = floats + at;
    to.s32 = where(kS32, floats, plane + at), to.md = where(kMd, floats, 2 * plane + at), to.s16 = where(kS16, floats, 3 * plane + 2 * at);
    to.start8 = where(kStart8, ints, at), to.start16 = where(kStart16, ints, plane + at), to.start128 = where(kStart128, ints, 2 * plane + at);
    to.start32 = where(kStart32, ints, 3 * plane + 2 * at);
    return to;
  }
  Tile tile(int i) const {
    const RowJob at = place(i, 0);
    return {at.n_tokens, job.k, x ? x + size_t(i) * kTile * size_t(job.k) : nullptr, at.q, at.d, at.s32, at.s16, at.md,
            at.start8, at.start16, at.start128, at.start32};
  }
};

Prepared prepare(const LinearJob& job, bool wants_float, bool wants_int8, unsigned planes, Scratch& s) {
  const size_t n = size_t(job.n), k = size_t(job.k), plane = n * (k / 32);
  const bool is_plain = !job.norm && !job.is_swiglu;
  if (is_plain && !wants_int8) return {job, 0, job.x, nullptr, nullptr, nullptr};
  float* x = is_plain ? nullptr : grown(s.x, n * k);
  int8_t* q = wants_int8 ? grown(s.q, n * k) : nullptr;
  const Prepared rows{job, planes, !wants_float ? nullptr : is_plain ? job.x : x, q, grown(s.floats, kFloatPlanes * plane), grown(s.ints, kIntPlanes * plane)};
  const auto one_row = [&](int row, int) {
    const size_t t = size_t(row);
    RowJob to = rows.place(row / kTile, row % kTile);
    to.in = job.x + t * (job.is_swiglu ? 2 * k : k);
    to.k = job.k, to.norm = job.norm, to.eps = job.eps, to.is_swiglu = job.is_swiglu;
    if (x) to.x = x + t * k;
    kernels().prepare_row(to);
  };
  if (n * k <= kSerialFloats) {
    for (int t = 0; t < job.n; ++t) one_row(t, 0);
  } else {
    // Neighbouring tokens share cache lines of the planes: 16 of them go to one thread.
    const int chunk = job.n < 64 ? 1 : 16;
    pool()->run((job.n + chunk - 1) / chunk, [&](int c, int thread) {
      for (int t = c * chunk; t < std::min(job.n, (c + 1) * chunk); ++t) one_row(t, thread);
    });
  }
  return rows;
}

// Panels [from, to) of one weight: a few tiles at a time stay in the second-level cache while the panels pass.
void multiply(const Weight& weight, int from, int to, const Prepared& rows, float* out) {
  constexpr int kTiles = 4;
  const PanelProduct product = product_of(kernels(), weight.type());
  const size_t stride = rows.job.stride;
  for (int first = 0; first < rows.n_tiles(); first += kTiles) {
    for (int i = from; i < to; ++i) {
      const int n_rows = std::min(kPanelRows, weight.rows() - i * kPanelRows);
      for (int t = first; t < std::min(first + kTiles, rows.n_tiles()); ++t) {
        product(weight.panel(i), rows.tile(t), out + size_t(t) * kTile * stride + size_t(i) * kPanelRows, stride, n_rows, rows.job.accumulate);
      }
    }
  }
}

}  // namespace

void embed(const Weight& weight, const int32_t* ids, int n, float* out) {
  pool()->run(n >= 16 ? n : 1, [&](int chunk, int) {
    const int first = n >= 16 ? chunk : 0, last = n >= 16 ? chunk + 1 : n;
    for (int t = first; t < last; ++t) {
      unpack_row(weight.type(), weight.panel(ids[t] / kPanelRows), ids[t] % kPanelRows, weight.cols(), out + size_t(t) * size_t(weight.cols()));
    }
  });
}

void linear(const std::vector<const Weight*>& weights, const LinearJob& job) {
  if (job.n == 0) return;
  thread_local Scratch scratch;
  bool wants_float = false, wants_int8 = false;
  unsigned planes = 0;
  int n_panels = 0;
  for (const Weight* w : weights) {
    (w->is_float() ? wants_float : wants_int8) = true;
    if (!w->is_float()) planes |= kernels().planes(w->type());
    n_panels += w->n_panels();
  }
  const Prepared rows = prepare(job, wants_float, wants_int8, planes, scratch);
  const std::shared_ptr<Pool> threads = pool();
  // Few rows are bound by the weights' bytes: every thread streams one long run of panels, for what is asked for ahead of a run's end is
  // another thread's. The last quarter in small pieces evens the threads out. Many rows are bound by arithmetic, and only small pieces even.
  const int n_threads = threads->size(), n_runs = job.n <= kTile ? n_threads : 0;
  const int run = n_runs > 0 ? n_panels * 3 / 4 / n_runs : 0, rest = n_panels - n_runs * run;
  const int pieces = n_threads * (n_runs > 0 ? 4 : 16), piece = n_runs > 0 ? (rest + pieces - 1) / pieces : std::max(1, rest / pieces);
  threads->run(n_runs + (rest + piece - 1) / piece, [&](int c, int) {
    const int first = c < n_runs ? c * run : n_runs * run + (c - n_runs) * piece;
    const int last = std::min(first + (c < n_runs ? run : piece), n_panels);
    int base = 0;                         // of this weight among the call's panels
    size_t column = 0;
    for (const Weight* w : weights) {
      multiply(*w, std::max(first - base, 0), std::min(last - base, w->n_panels()), rows, job.out + column);
      base += w->n_panels();
      column += size_t(w->rows());
    }
  });
}

void store_rows(const LayerCache& cache, float* qkv, int n, const float* cos, const float* sin, const int32_t* slots, int n_heads) {
  const size_t width = size_t(n_heads + 2 * cache.n_kv_heads) * size_t(cache.head_dim), half = size_t(cache.head_dim / 2);
  const int chunk = n < 8 ? n : 4;
  pool()->run((n + chunk - 1) / std::max(1, chunk), [&](int c, int) {
    for (int t = c * chunk; t < std::min(n, (c + 1) * chunk); ++t) {
      kernels().rope_store(cache, qkv + size_t(t) * width, cos + size_t(t) * half, sin + size_t(t) * half, slots[t], n_heads);
    }
  });
}

void attend(const LayerCache& cache, const float* qkv, float* out, const Sequences& sequences, int n_heads) {
  constexpr int kQueryChunk = 16;
  struct Part { int sequence, first, n; };
  thread_local std::vector<Part> parts;
  parts.clear();
  for (int s = 0; s < sequences.n; ++s) {
    const int end = sequences.query_offsets[s + 1];
    for (int q = sequences.query_offsets[s]; q < end; q += kQueryChunk) parts.push_back({s, q, std::min(kQueryChunk, end - q)});
  }
  const size_t dim = size_t(cache.head_dim), kv = size_t(cache.n_kv_heads), heads = size_t(n_heads);
  const std::vector<Part>& list = parts;
  // Longest first: the last parts of a prompt see the most positions.
  const int n_jobs = int(list.size()) * cache.n_kv_heads;
  pool()->run(n_jobs, [&](int i, int) {
    const Part& part = list[size_t(n_jobs - 1 - i) / kv];
    AttentionJob job;
    job.cache = cache;
    job.stride = (heads + 2 * kv) * dim;
    job.out_stride = heads * dim;
    job.q = qkv + size_t(part.first) * job.stride;
    job.out = out + size_t(part.first) * job.out_stride;
    job.table = sequences.tables + size_t(part.sequence) * size_t(sequences.max_pages);
    job.n_queries = part.n;
    job.first_position = sequences.first_positions[part.sequence] + part.first - sequences.query_offsets[part.sequence];
    job.group = n_heads / cache.n_kv_heads;
    job.kv_head = i % cache.n_kv_heads;
    kernels().attention(job);
  });
}

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double burn_rate(double (*burn)(long), double seconds) {
  const std::shared_ptr<Pool> threads = pool();
  double best = 0;
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto pass = std::chrono::steady_clock::now();
    std::atomic<uint64_t> operations{0};
    threads->run(threads->size() * 8, [&](int, int) { operations += uint64_t(burn(100000)); });
    best = std::max(best, double(operations.load()) / seconds_since(pass) / 1e9);
  } while (seconds_since(start) < seconds);
  return best;
}

}  // namespace

double read_bandwidth(double seconds) {
  constexpr size_t kBytes = size_t(512) << 20, kPiece = size_t(1) << 20;
  const std::shared_ptr<uint8_t> data = allocate(kBytes);
  uint8_t* base = data.get();
  const std::shared_ptr<Pool> threads = pool();
  threads->run(int(kBytes / kPiece), [&](int c, int) { std::fill_n(base + size_t(c) * kPiece, kPiece, uint8_t(c)); });
  std::atomic<uint64_t> sink{0};
  double best = 0;
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto pass = std::chrono::steady_clock::now();
    threads->run(int(kBytes / kPiece), [&](int c, int) {
      const uint64_t* p = reinterpret_cast<const uint64_t*>(base + size_t(c) * kPiece);
      uint64_t sums[8] = {};
      for (size_t i = 0; i < kPiece / 8; i += 8) {
        __builtin_prefetch(p + i + 256);
        for (size_t j = 0; j < 8; ++j) sums[j] += p[i + j];
      }
      sink += sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
    });
    best = std::max(best, double(kBytes) / seconds_since(pass) / 1e9);
  } while (seconds_since(start) < seconds);
  return best;
}

double int8_peak(double seconds) { return burn_rate(kernels().int8_burn, seconds); }

double float_peak(double seconds) { return burn_rate(kernels().float_burn, seconds); }

}  // namespace hermes3
