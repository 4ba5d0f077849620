// flux_tests [GROUP]: runs all groups, or one; exit code 1 if a case failed.
#include <cstring>
#include <exception>

#include "check.hpp"

namespace {

struct Group {
  const char* name;
  std::vector<flux::test::Case> (*cases)();
};

constexpr Group kGroups[] = {
    {"away_policy", flux::test::away_policy_cases},
    {"binary_actions", flux::test::binary_action_cases},
    {"histogram", flux::test::histogram_cases},
    {"motion", flux::test::motion_cases},
    {"safety_filter", flux::test::safety_filter_cases},
    {"safety_filter_fuzz", flux::test::safety_filter_fuzz_cases},
    {"chunk_player", flux::test::chunk_player_cases},
    {"continuation", flux::test::continuation_cases},
    {"flow_policy", flux::test::flow_policy_cases},
    {"captured_policy", flux::test::captured_policy_cases},
    {"cuda_player", flux::test::cuda_player_cases},
    {"planned_policy", flux::test::planned_policy_cases},
    {"onnxruntime_engine", flux::test::onnxruntime_engine_cases},
    {"control_core", flux::test::control_core_cases},
    {"control_core_chunks", flux::test::control_core_chunk_cases},
    {"control_core_faults", flux::test::control_core_fault_cases},
    {"first_motion", flux::test::first_motion_cases},
    {"realtime_loop", flux::test::realtime_loop_cases},
    {"session_replay", flux::test::session_replay_cases},
    {"control_loop", flux::test::control_loop_cases},
    {"control_loop_faults", flux::test::control_loop_fault_cases},
    {"control_loop_modes", flux::test::control_loop_mode_cases},
#if defined(__linux__)
    {"driver_memory", flux::test::driver_memory_cases},
    {"driver_memory_threads", flux::test::driver_memory_thread_cases},
    {"driver_memory_processes", flux::test::driver_memory_process_cases},
#endif
};

bool passes(const flux::test::Case& test) {
  try {
    test.run();
    std::printf("ok    %s\n", test.name);
    return true;
  } catch (const std::exception& error) {
    std::printf("FAIL  %s\n      %s\n", test.name, error.what());
    return false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  int failed = 0;
  int run = 0;
  for (const Group& group : kGroups) {
    if (argc > 1 && std::strcmp(argv[1], group.name) != 0) continue;
    for (const flux::test::Case& test : group.cases()) {
      ++run;
      if (!passes(test)) ++failed;
    }
  }
  std::printf("%d cases, %d failed\n", run, failed);
  return failed > 0 || run == 0 ? 1 : 0;
}
