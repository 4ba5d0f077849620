// A latency histogram that may be written by one thread while others read it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace flux {

// Counts durations in buckets that grow by 4.9 % (48 per decade) from 100 ns to 100 s. Values
// outside this range are counted in the first or last bucket. Percentiles are therefore within 5 %
// of the samples' own; count, sum and maximum are exact.
class Histogram {
 public:
  static constexpr int kBucketsPerDecade = 48;
  static constexpr int kDecades = 9;
  static constexpr std::size_t kNumBuckets = std::size_t{kBucketsPerDecade} * kDecades;
  static constexpr double kLowestEdgeS = 1e-7;

  Histogram() = default;
  Histogram(const Histogram&) = delete;
  Histogram& operator=(const Histogram&) = delete;

  // Never allocates, locks or throws. One writer at a time.
  void record(double duration_s) noexcept;
  // Forgets all samples. By the writer.
  void reset() noexcept;

  [[nodiscard]] std::uint64_t count() const noexcept;
  [[nodiscard]] double sum_s() const noexcept;
  [[nodiscard]] double max_s() const noexcept;
  // The duration that a fraction `share` (0..1) of the samples does not exceed; 0 without samples.
  [[nodiscard]] double percentile_s(double share) const noexcept;
  [[nodiscard]] std::vector<std::uint64_t> counts() const;

  // The kNumBuckets + 1 bounds: bucket i holds [edges[i], edges[i + 1]) seconds.
  [[nodiscard]] static std::span<const double> edges() noexcept;

 private:
  std::array<std::atomic<std::uint64_t>, kNumBuckets> counts_{};
  std::atomic<double> sum_s_{0.0};
  std::atomic<double> max_s_{0.0};
};

}  // namespace flux
