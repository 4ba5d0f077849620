// A minimal unit test framework: checks that say where they failed, and lists of cases.
#pragma once

#include <cmath>
#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace flux::test {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Case {
  const char* name;
  void (*run)();
};

template <typename Left, typename Right>
void check_equal(const Left& left, const Right& right, const char* text, const char* file,
                 int line) {
  if (left == right) return;
  std::ostringstream message;
  message << file << ":" << line << ": " << text << ": " << left << " != " << right;
  throw Failure(message.str());
}

inline void check_near(double left, double right, double tolerance, const char* text,
                       const char* file, int line) {
  if (std::abs(left - right) <= tolerance) return;
  std::ostringstream message;
  message << file << ":" << line << ": " << text << ": " << left << " and " << right
          << " differ by more than " << tolerance;
  throw Failure(message.str());
}

inline void check_true(bool value, const char* text, const char* file, int line) {
  if (value) return;
  throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + text);
}

// Returns the message of the exception that a call threw; empty if it threw none.
template <typename Exception, typename Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.what();
  }
  return {};
}

std::vector<Case> away_policy_cases();
std::vector<Case> binary_action_cases();
std::vector<Case> captured_policy_cases();
std::vector<Case> chunk_player_cases();
std::vector<Case> control_core_cases();
std::vector<Case> control_core_chunk_cases();
std::vector<Case> control_core_fault_cases();
std::vector<Case> control_loop_cases();
std::vector<Case> control_loop_fault_cases();
std::vector<Case> control_loop_mode_cases();
std::vector<Case> cuda_player_cases();
std::vector<Case> driver_memory_cases();
std::vector<Case> driver_memory_process_cases();
std::vector<Case> driver_memory_thread_cases();
std::vector<Case> first_motion_cases();
std::vector<Case> flow_policy_cases();
std::vector<Case> histogram_cases();
std::vector<Case> motion_cases();
std::vector<Case> onnxruntime_engine_cases();
std::vector<Case> planned_policy_cases();
std::vector<Case> realtime_loop_cases();
std::vector<Case> safety_filter_cases();
std::vector<Case> safety_filter_fuzz_cases();
std::vector<Case> continuation_cases();
std::vector<Case> session_replay_cases();

}  // namespace flux::test

#define CHECK(condition) ::flux::test::check_true((condition), #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(left, right) \
  ::flux::test::check_equal((left), (right), #left " == " #right, __FILE__, __LINE__)
#define CHECK_NEAR(left, right, tolerance) \
  ::flux::test::check_near((left), (right), (tolerance), #left " ~ " #right, __FILE__, __LINE__)
#define CHECK_CONTAINS(text, part)                                                              \
  ::flux::test::check_true(std::string(text).find(part) != std::string::npos,                   \
                           (std::string("'") + (text) + "' contains '" + (part) + "'").c_str(), \
                           __FILE__, __LINE__)
