// What the handles of the fake driver point to. A launch only remembers the graph; it runs when
// the stream is waited for, as on a card that is in no hurry.
#pragma once

namespace flux::cuda {

struct Context {
  int code = 0;  // what cuCtxSetCurrent answers
};
struct GraphExec {
  void (*run)(void* data) = nullptr;
  void* data = nullptr;
  int code = 0;  // what cuGraphLaunch answers
};
struct Stream {
  GraphExec* launched = nullptr;
  int code = 0;  // what cuStreamSynchronize answers
};

}  // namespace flux::cuda
