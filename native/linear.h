// The three jobs of a layer, cut into chunks for the pool. They know kernels, panels and pages; no Python, no names of tensors.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"

namespace hermes3 {

// A matrix (rows, cols) repacked into panels.
class Weight {
 public:
  Weight(int type, int rows, int cols, const uint8_t* data);
  // The rows of a file from this byte on: each thread reads some and packs them while they are in its cache, so that no copy of the matrix is
  // made, whose fresh memory would cost more than the reading. Throws std::runtime_error where the file cannot be read so far.
  Weight(int type, int rows, int cols, const std::string& path, size_t offset);
  int type() const { return type_; }
  int rows() const { return rows_; }
  int cols() const { return cols_; }
  size_t nbytes() const { return panel_bytes_ * size_t(n_panels()); }
  int n_panels() const { return (rows_ + kPanelRows - 1) / kPanelRows; }
  bool is_float() const { return type_ == kF32 || type_ == kF16 || type_ == kBF16; }
  const uint8_t* panel(int i) const { return data_.get() + size_t(i) * panel_bytes_; }

 private:
  void pack(int first_panel, int last_panel, const uint8_t* rows);

  int type_, rows_, cols_;
  size_t panel_bytes_;
  std::shared_ptr<uint8_t> data_;
};

// K and V of all layers; see LayerCache for the layout of a page.
class KVCache {
 public:
  KVCache(int n_layers, int n_pages, int n_kv_heads, int head_dim, int type);   // kF32, kF16 or kQ8_0
  LayerCache layer(int i) const;
  int n_layers() const { return n_layers_; }
  int n_pages() const { return n_pages_; }
  int n_kv_heads() const { return n_kv_heads_; }
  int head_dim() const { return head_dim_; }
  size_t nbytes() const { return page_bytes() * size_t(n_pages_); }
  size_t page_bytes() const { return 2 * side_bytes_ * size_t(n_layers_); }
  void copy_page(int source, int target) const;   // all layers of it
  void read_page(int page, uint8_t* to) const;    // its page_bytes
  void write_page(int page, const uint8_t* from) const;

 private:
  int n_layers_, n_pages_, n_kv_heads_, head_dim_, type_;
  size_t side_bytes_;                     // of one page's and layer's K, and of its V
  std::shared_ptr<uint8_t> data_;
};

struct LinearJob {
  const float* x;                         // (n, k), or (n, 2k) for swiglu
  int n, k;
  float* out;                             // (n, sum of rows)
  size_t stride;                          // of out
  const float* norm;
  float eps;
  bool is_swiglu, accumulate;
};

void embed(const Weight& weight, const int32_t* ids, int n, float* out);
void linear(const std::vector<const Weight*>& weights, const LinearJob& job);
void store_rows(const LayerCache& cache, float* qkv, int n, const float* cos, const float* sin, const int32_t* slots, int n_heads);

struct Sequences {
  int n;
  const int32_t* query_offsets;           // (n + 1)
  const int32_t* first_positions;         // (n)
  const int32_t* tables;                  // (n, max_pages)
  int max_pages;
};

void attend(const LayerCache& cache, const float* qkv, float* out, const Sequences& sequences, int n_heads);

// Ceilings of this machine, on the pool's threads.
double read_bandwidth(double seconds);    // GB/s
double int8_peak(double seconds);         // Gop/s of the kernels' own int8 instruction
double float_peak(double seconds);        // Gop/s of float32 multiply-adds

}  // namespace hermes3
