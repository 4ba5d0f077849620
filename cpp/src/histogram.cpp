#include "flux/histogram.hpp"

#include <algorithm>
#include <cmath>

namespace flux {
namespace {

using Edges = std::array<double, Histogram::kNumBuckets + 1>;

Edges make_edges() noexcept {
  Edges edges{};
  for (std::size_t i = 0; i < edges.size(); ++i) {
    edges[i] = Histogram::kLowestEdgeS *
               std::pow(10.0, static_cast<double>(i) / Histogram::kBucketsPerDecade);
  }
  return edges;
}

const Edges kEdges = make_edges();

std::size_t bucket_of(double duration_s) noexcept {
  const auto above = std::upper_bound(kEdges.begin(), kEdges.end(), duration_s);
  const auto index = std::distance(kEdges.begin(), above) - 1;
  return static_cast<std::size_t>(
      std::clamp<std::ptrdiff_t>(index, 0, std::ptrdiff_t{Histogram::kNumBuckets} - 1));
}

}  // namespace

void Histogram::record(double duration_s) noexcept {
  if (!(duration_s >= 0.0)) duration_s = 0.0;
  auto& bucket = counts_[bucket_of(duration_s)];
  // A plain load and store are enough, as there is only one writer.
  bucket.store(bucket.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  sum_s_.store(sum_s_.load(std::memory_order_relaxed) + duration_s, std::memory_order_relaxed);
  if (duration_s > max_s_.load(std::memory_order_relaxed)) {
    max_s_.store(duration_s, std::memory_order_relaxed);
  }
}

void Histogram::reset() noexcept {
  for (auto& bucket : counts_) bucket.store(0, std::memory_order_relaxed);
  sum_s_.store(0.0, std::memory_order_relaxed);
  max_s_.store(0.0, std::memory_order_relaxed);
}

std::uint64_t Histogram::count() const noexcept {
  std::uint64_t total = 0;
  for (const auto& bucket : counts_) total += bucket.load(std::memory_order_relaxed);
  return total;
}

double Histogram::sum_s() const noexcept { return sum_s_.load(std::memory_order_relaxed); }

double Histogram::max_s() const noexcept { return max_s_.load(std::memory_order_relaxed); }

double Histogram::percentile_s(double share) const noexcept {
  const double rank = share * static_cast<double>(count());
  double seen = 0.0;
  for (std::size_t i = 0; i < kNumBuckets; ++i) {
    const auto inside = static_cast<double>(counts_[i].load(std::memory_order_relaxed));
    if (inside > 0.0 && seen + inside >= rank) {
      const double fraction = std::clamp((rank - seen) / inside, 0.0, 1.0);
      const double value = kEdges[i] + fraction * (kEdges[i + 1] - kEdges[i]);
      return std::min(value, max_s());
    }
    seen += inside;
  }
  return 0.0;
}

std::vector<std::uint64_t> Histogram::counts() const {
  std::vector<std::uint64_t> copy;
  copy.reserve(kNumBuckets);
  for (const auto& bucket : counts_) copy.push_back(bucket.load(std::memory_order_relaxed));
  return copy;
}

std::span<const double> Histogram::edges() noexcept { return kEdges; }

}  // namespace flux
