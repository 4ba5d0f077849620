// The last latencies of an inference, and how long nearly all of them took.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace flux {

class LatencyWindow {
 public:
  static constexpr std::size_t kSize = 50;
  static constexpr double kQuantile = 0.95;

  void clear() noexcept { count_ = 0; }
  void add(double latency_s) noexcept { latencies_s_[count_++ % kSize] = latency_s; }

  // The smallest latency that at least 95 % of the last 50 do not exceed; 0 without any.
  [[nodiscard]] double quantile_s() const noexcept {
    if (count_ == 0) return 0.0;
    std::array<double, kSize> sorted = latencies_s_;
    const std::size_t count = std::min(count_, kSize);
    const auto rank =
        static_cast<std::ptrdiff_t>(std::ceil(kQuantile * static_cast<double>(count)));
    const auto end = sorted.begin() + static_cast<std::ptrdiff_t>(count);
    std::nth_element(sorted.begin(), sorted.begin() + rank - 1, end);
    return sorted[static_cast<std::size_t>(rank - 1)];
  }

 private:
  std::array<double, kSize> latencies_s_{};
  std::size_t count_ = 0;
};

}  // namespace flux
