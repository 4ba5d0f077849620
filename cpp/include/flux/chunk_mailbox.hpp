// Carries requests for chunks from the control thread to the inference thread, and chunks back.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace flux {

// Where the robot is in its chunks, as the control thread publishes it.
struct ChunkProgress {
  std::int64_t next_row = 0;  // the first that has not been executed, of ChunkPlayer
  // For how long the robot's own speed scaling has held it up.
  std::int64_t slowed_ns = 0;
};

// A request that the inference thread has taken. Its observation must be taken afterwards.
struct InferenceRequest {
  std::uint64_t index = 0;  // of the chunk within the session, from 0
  std::uint64_t session = 0;
  std::uint64_t ticket = 0;   // identifies the request; never repeats
  std::uint64_t epoch = 0;    // a hold begins a new epoch and makes older chunks worthless
  std::int64_t taken_ns = 0;  // when the request was taken
  ChunkProgress progress;     // then; the chunk begins with progress.next_row
  // The chunk begins with so many rows of ChunkMailbox::previous(); 0 if it continues nothing.
  int prefix_len = 0;
};

// Actions in robot units, with what decides whether and from where they are executed.
struct TimedChunk {
  std::vector<float> actions;  // (H, A)
  std::int64_t observed_ns = 0;
  InferenceRequest request;
  // Index of the first value that is not finite; -1 if all are.
  std::int64_t non_finite = -1;
};

// At most one request is open, in one atomic word:
//
//   free --post--> posted --take--> taken --answer--> chunk, failed or cancelled --release--> free
//
// The inference thread owns the chunk while the request is taken, the control thread otherwise. The
// control thread's functions never allocate, lock or wait.
class ChunkMailbox {
 public:
  enum class Status : std::uint64_t { kFree, kPosted, kTaken, kChunk, kFailed, kCancelled };

  // Allocates chunks of up to `max_rows` rows. `binary_mask`, (A), is 1 where an action is binary;
  // empty if none is.
  ChunkMailbox(std::size_t action_dim, std::size_t max_rows,
               std::span<const std::uint8_t> binary_mask = {});

  [[nodiscard]] std::size_t action_dim() const noexcept { return action_dim_; }
  [[nodiscard]] std::size_t max_rows() const noexcept { return max_rows_; }
  [[nodiscard]] std::span<const std::uint8_t> binary_mask() const noexcept { return binary_mask_; }

  // Control thread.
  [[nodiscard]] Status status() const noexcept;
  // Number of the last request, from 1; 0 before the first.
  [[nodiscard]] std::uint64_t ticket() const noexcept { return ticket_; }
  // How often discard() was called.
  [[nodiscard]] std::uint64_t epoch() const noexcept {
    return epoch_.load(std::memory_order_relaxed);
  }
  // Opens a request; the status must be kFree.
  //
  // Args:
  //   remaining: what is left of the running chunk from the published next row on, (K, A) with K of
  //     at most max_rows; copied. Empty if the chunk continues nothing.
  //   prefix_len: rows of it with which the chunk has to begin.
  void post(std::uint64_t index, std::uint64_t session, std::span<const float> remaining = {},
            int prefix_len = 0) noexcept;
  // Begins a new epoch: withdraws a request that is only posted, and returns true; cancels one that
  // is taken. Its answer still comes, and must be released.
  bool discard() noexcept;
  // Goes from an answer to kFree.
  void release() noexcept;
  // What a tick touches, to be kept from being paged out.
  [[nodiscard]] std::vector<std::span<const std::byte>> memory() const {
    return {std::as_bytes(std::span(chunk_.actions)), std::as_bytes(std::span(previous_))};
  }
  // The answer, valid in kChunk.
  [[nodiscard]] TimedChunk& chunk() noexcept { return chunk_; }
  // Any thread.
  [[nodiscard]] bool is_wanted(const InferenceRequest& request) const noexcept {
    return request.epoch == epoch_.load(std::memory_order_relaxed);
  }
  void set_progress(const ChunkProgress& progress) noexcept {
    next_row_.store(progress.next_row, std::memory_order_relaxed);
    slowed_ns_.store(progress.slowed_ns, std::memory_order_relaxed);
  }

  [[nodiscard]] ChunkProgress progress() const noexcept {
    return {.next_row = next_row_.load(std::memory_order_relaxed),
            .slowed_ns = slowed_ns_.load(std::memory_order_relaxed)};
  }

  // Inference thread.
  [[nodiscard]] std::optional<InferenceRequest> take(std::int64_t now_ns = 0) noexcept;
  // While a request is taken: what was left of the running chunk then, (K, A), from the request's
  // next row on, with K of at least its prefix_len.
  [[nodiscard]] std::span<const float> previous() const noexcept {
    return std::span(previous_).subspan(previous_begin_, previous_end_ - previous_begin_);
  }
  // Whether the request is still taken.
  [[nodiscard]] bool is_open(const InferenceRequest& request) const noexcept;
  // Set once nobody wants the answer any more.
  [[nodiscard]] const std::atomic<bool>& is_cancelled() const noexcept { return is_cancelled_; }
  // Each answers an open request; returns false if it is not open.
  bool answer(const InferenceRequest& request, std::span<const float> actions,
              std::int64_t observed_ns);
  bool fail(const InferenceRequest& request, const std::string& text);
  bool give_up(const InferenceRequest& request) noexcept;

  // Any thread but the control thread: the text of the last failure.
  [[nodiscard]] std::string failure() const;

 private:
  void close(const InferenceRequest& request, Status status) noexcept;

  std::size_t action_dim_;
  std::size_t max_rows_;
  std::vector<std::uint8_t> binary_mask_;
  TimedChunk chunk_;
  // Ticket and status; what follows of an open request is written before it is posted.
  std::atomic<std::uint64_t> word_{0};
  std::uint64_t ticket_ = 0;
  std::uint64_t index_ = 0;
  std::uint64_t session_ = 0;
  std::int64_t posted_row_ = 0;  // of the first value of previous_
  int prefix_len_ = 0;
  std::vector<float> previous_;  // (max_rows, A)
  std::size_t previous_end_ = 0;
  std::size_t previous_begin_ = 0;  // set when it is taken
  std::atomic<bool> is_cancelled_{false};
  std::atomic<std::uint64_t> epoch_{0};
  std::atomic<std::int64_t> next_row_{0};
  std::atomic<std::int64_t> slowed_ns_{0};
  mutable std::mutex failure_mutex_;
  std::string failure_;
};

}  // namespace flux
