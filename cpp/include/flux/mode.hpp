// How chunks follow each other.
#pragma once

namespace flux {

enum class Mode {
  kSync,   // the robot holds while a chunk is inferred
  kAsync,  // the running chunk goes on while the next one is inferred, and ends where that begins
  kEnsemble,  // chunks are inferred one after the other, and predictions of the same moment
              // averaged
  kRtc,       // as kAsync, but the next chunk is inferred as a continuation of the running one
};

// "sync", "async", "ensemble" or "rtc".
[[nodiscard]] constexpr const char* mode_name(Mode mode) noexcept {
  switch (mode) {
    case Mode::kSync:
      return "sync";
    case Mode::kAsync:
      return "async";
    case Mode::kEnsemble:
      return "ensemble";
    case Mode::kRtc:
      return "rtc";
  }
  return "?";
}

}  // namespace flux
