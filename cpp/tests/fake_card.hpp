// Controls the fake driver in fake_card.cpp, which needs no GPU: "device memory" is host memory,
// kernels are host functions, and streams, captures and graphs behave as the driver documents them.
//
// The functions are plain C, so that Python can call them through ctypes. They act on the library
// as loaded: whoever opens the same file sees the same card.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// A kernel: (x, y, z) of the grid and the block of parameters.
using FakeKernel = void (*)(const unsigned* grid, const unsigned char* parameters);

// Everything as in the beginning, with a card of this kind. Returns how many objects were alive.
int fake_reset(int major, int minor, std::size_t shared_limit, std::size_t total, std::size_t free);
// What launches of `symbol` do; null: nothing. A symbol that was never named does nothing either.
void fake_kernel(const char* symbol, FakeKernel run);
// The call `name` returns `code` once, after having succeeded `successes` times.
void fake_refuse(const char* name, int successes, int code);
// Whether calls are written to the log; true after a reset. Nothing is allocated otherwise.
void fake_record(bool is_on);
// One line per call, in order, such as "cuLaunchKernel add 1,2,3 128,1,1 0 captured 00ff...". Valid
// until the next call.
const char* fake_log();
// How many of what was made and not released: "modules", "streams", ...; all with "".
int fake_live(const char* kind);
}
