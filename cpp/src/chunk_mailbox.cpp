#include "flux/chunk_mailbox.hpp"

#include <algorithm>
#include <cmath>

namespace flux {
namespace {

constexpr unsigned kStatusBits = 3;

constexpr std::uint64_t word_of(std::uint64_t ticket, ChunkMailbox::Status status) noexcept {
  return ticket << kStatusBits | static_cast<std::uint64_t>(status);
}

constexpr ChunkMailbox::Status status_of(std::uint64_t word) noexcept {
  return static_cast<ChunkMailbox::Status>(word & ((1U << kStatusBits) - 1));
}

}  // namespace

ChunkMailbox::ChunkMailbox(std::size_t action_dim, std::size_t max_rows,
                           std::span<const std::uint8_t> binary_mask)
    : action_dim_(action_dim),
      max_rows_(max_rows),
      binary_mask_(binary_mask.begin(), binary_mask.end()),
      previous_(action_dim * max_rows) {
  binary_mask_.resize(action_dim);
  chunk_.actions.resize(action_dim * max_rows);
}

ChunkMailbox::Status ChunkMailbox::status() const noexcept {
  return status_of(word_.load(std::memory_order_acquire));
}

void ChunkMailbox::post(std::uint64_t index, std::uint64_t session,
                        std::span<const float> remaining, int prefix_len) noexcept {
  index_ = index;
  session_ = session;
  posted_row_ = next_row_.load(std::memory_order_relaxed);
  prefix_len_ = prefix_len;
  previous_end_ = std::min(remaining.size(), previous_.size());
  std::copy_n(remaining.begin(), previous_end_, previous_.begin());
  is_cancelled_.store(false, std::memory_order_relaxed);
  word_.store(word_of(++ticket_, Status::kPosted), std::memory_order_release);
}

bool ChunkMailbox::discard() noexcept {
  epoch_.store(epoch_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  is_cancelled_.store(true, std::memory_order_relaxed);
  std::uint64_t posted = word_of(ticket_, Status::kPosted);
  return word_.compare_exchange_strong(posted, word_of(ticket_, Status::kFree),
                                       std::memory_order_acq_rel);
}

void ChunkMailbox::release() noexcept {
  word_.store(word_of(ticket_, Status::kFree), std::memory_order_release);
}

std::optional<InferenceRequest> ChunkMailbox::take(std::int64_t now_ns) noexcept {
  std::uint64_t word = word_.load(std::memory_order_acquire);
  if (status_of(word) != Status::kPosted) return std::nullopt;
  // The epoch is read before the request is taken: a hold that begins in between then makes the
  // chunk worthless, instead of being missed.
  InferenceRequest request;
  request.ticket = word >> kStatusBits;
  request.epoch = epoch_.load(std::memory_order_relaxed);
  const std::uint64_t taken = word_of(request.ticket, Status::kTaken);
  if (!word_.compare_exchange_strong(word, taken, std::memory_order_acq_rel)) return std::nullopt;
  request.index = index_;
  request.session = session_;
  request.taken_ns = now_ns;
  request.progress = progress();
  // Rows may have been executed since the request was posted.
  const std::size_t executed =
      static_cast<std::size_t>(request.progress.next_row - posted_row_) * action_dim_;
  previous_begin_ = std::min(executed, previous_end_);
  // A chunk for which too few rows are left has to begin on its own.
  const std::size_t left = (previous_end_ - previous_begin_) / action_dim_;
  request.prefix_len = left < static_cast<std::size_t>(prefix_len_) ? 0 : prefix_len_;
  return request;
}

bool ChunkMailbox::is_open(const InferenceRequest& request) const noexcept {
  return word_.load(std::memory_order_acquire) == word_of(request.ticket, Status::kTaken);
}

void ChunkMailbox::close(const InferenceRequest& request, Status status) noexcept {
  word_.store(word_of(request.ticket, status), std::memory_order_release);
}

bool ChunkMailbox::answer(const InferenceRequest& request, std::span<const float> actions,
                          std::int64_t observed_ns) {
  if (!is_open(request)) return false;
  chunk_.actions.assign(actions.begin(), actions.end());
  // There are no times before 0, and the difference to one could overflow.
  chunk_.observed_ns = std::max<std::int64_t>(observed_ns, 0);
  chunk_.request = request;
  const auto bad = std::ranges::find_if_not(actions, [](float v) { return std::isfinite(v); });
  chunk_.non_finite = bad == actions.end() ? -1 : bad - actions.begin();
  close(request, Status::kChunk);
  return true;
}

bool ChunkMailbox::fail(const InferenceRequest& request, const std::string& text) {
  if (!is_open(request)) return false;
  {
    const std::lock_guard lock(failure_mutex_);
    failure_ = text;
  }
  close(request, Status::kFailed);
  return true;
}

bool ChunkMailbox::give_up(const InferenceRequest& request) noexcept {
  if (!is_open(request)) return false;
  close(request, Status::kCancelled);
  return true;
}

std::string ChunkMailbox::failure() const {
  const std::lock_guard lock(failure_mutex_);
  return failure_;
}

}  // namespace flux
