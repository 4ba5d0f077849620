// Real-time chunking: a new chunk continues the one that the robot still executes.
//
// While a chunk is inferred, the robot executes the first d rows of what is left of the running
// chunk. They are the new chunk's beginning: known, and the new chunk must agree with them.
//
// Letters in shapes: H action_horizon, A action_dim of the network, K rows left of the running
// chunk, s execution_horizon, d delay in rows.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace flux {

// kPrefix takes the first d rows as clean actions, as a policy trained with random prefixes expects
// them. kGuidance pulls any policy's flow towards the rows that are left.
enum class ContinuationMethod { kPrefix, kGuidance };

// How the weight of a row falls between the prefix and decay_end: as the paper's equation 5, in
// equal steps, not at all, or to 0 at once.
enum class GuidanceSchedule { kExponential, kLinear, kOnes, kZeros };

// The fields of flux_core.rtc.RTCConfig, and the delays that the policy was trained with.
struct ContinuationSettings {
  ContinuationMethod method = ContinuationMethod::kPrefix;
  // A fixed delay in rows; -1: measured.
  int prefix_len = -1;
  // The row from which guidance has no weight; -1: 2 * the delay.
  int decay_end = -1;
  GuidanceSchedule schedule = GuidanceSchedule::kExponential;
  double max_guidance_weight = 5.0;
  // Prefix lengths that the policy was trained with, ascending. Guidance takes any length.
  std::vector<int> delays = {0};
};

// Throws std::invalid_argument, naming the field, unless the lengths are within 0..H or -1, the
// weight is positive and finite, the delays are ascending, from 0 to H, and not empty, and the
// method takes a fixed delay.
void check(const ContinuationSettings& settings, int action_horizon);

// Whether the method can use this delay, whatever the horizons.
[[nodiscard]] bool takes(const ContinuationSettings& settings, int delay) noexcept;

// The trained delays as text: "0, 4, 8".
[[nodiscard]] std::string delays_text(const ContinuationSettings& settings);

// The smallest delay of at least `rows` rows with d <= s <= H - d that the method can use; -1 if
// there is none. With a fixed prefix_len no other delay is usable.
[[nodiscard]] int usable_delay(const ContinuationSettings& settings, int rows,
                               int execution_horizon, int action_horizon) noexcept;

// The largest delay with d <= s <= H - d that the method can use; -1 if there is none.
[[nodiscard]] int largest_usable_delay(const ContinuationSettings& settings, int execution_horizon,
                                       int action_horizon) noexcept;

// What one inference continues. Refers to memory that outlives the inference.
struct Continuation {
  const ContinuationSettings* settings = nullptr;
  // (K, A), normalised, with 1 <= K <= H; row 0 is the first row of the new chunk.
  std::span<const float> previous;
  // d <= K. 0 infers as if there were nothing to continue, bit for bit.
  int prefix_len = 0;
};

}  // namespace flux
