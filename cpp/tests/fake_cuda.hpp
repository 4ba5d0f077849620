// What the handles of the fake driver point to. A launch only records the graph; it runs when the
// stream is synchronised, as on a slow GPU.
#pragma once

namespace flux::cuda {

struct Context {
  int code = 0;  // what cuCtxSetCurrent returns
};
struct GraphExec {
  void (*run)(void* data) = nullptr;
  void* data = nullptr;
  int code = 0;  // what cuGraphLaunch returns
};
struct Stream {
  GraphExec* launched = nullptr;
  int code = 0;  // what cuStreamSynchronize returns
};

}  // namespace flux::cuda
