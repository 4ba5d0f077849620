#include "flux/chunk_player.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace flux {
namespace {

// A position this close to a row is that row: what remains of adding up rates.
constexpr double kRounding = 1e-9;

double snapped(double position) noexcept {
  const double nearest = std::round(position);
  return std::abs(position - nearest) < kRounding ? nearest : position;
}

}  // namespace

ChunkPlayer::ChunkPlayer(std::size_t action_dim, std::size_t max_rows,
                         std::span<const std::uint8_t> binary_mask)
    : action_dim_(action_dim),
      binary_mask_(binary_mask.begin(), binary_mask.end()),
      past_(kPastRows * action_dim),
      next_past_(kPastRows * action_dim),
      look_(3 * action_dim) {
  binary_mask_.resize(action_dim);
  reserve(max_rows);
}

void ChunkPlayer::reserve(std::size_t max_rows) {
  if (max_rows <= max_rows_) return;
  rows_.reserve(max_rows * action_dim_);
  weights_.resize(max_rows);
  curvature_.resize((kPastRows + max_rows) * action_dim_);
  pivots_.resize(kPastRows + max_rows);
  max_rows_ = max_rows;
}

std::int64_t ChunkPlayer::next_index() const noexcept {
  return static_cast<std::int64_t>(std::ceil(position_));
}

std::int64_t ChunkPlayer::next_row() const noexcept { return origin_ + next_index(); }

bool ChunkPlayer::has_row() const noexcept { return position_ <= static_cast<double>(end_ - 1); }

double ChunkPlayer::rows_since(std::int64_t first_row) const noexcept {
  return std::max(static_cast<double>(origin_ - first_row) + position_, 0.0);
}

bool ChunkPlayer::has_reached(std::int64_t first_row) const noexcept {
  return !has_row() || static_cast<double>(origin_ - first_row) + position_ >= 0.0;
}

std::int64_t ChunkPlayer::row() const noexcept {
  return static_cast<std::int64_t>(std::floor(position_));
}

std::span<const float> ChunkPlayer::remaining() const noexcept {
  const std::int64_t first = std::min(next_index(), num_rows_);
  return std::span(rows_).subspan(static_cast<std::size_t>(first) * action_dim_,
                                  static_cast<std::size_t>(num_rows_ - first) * action_dim_);
}

// A row of the running chunk, or of those before it; null where there is none.
const float* ChunkPlayer::old_row(std::int64_t index) const noexcept {
  if (index >= num_rows_ || index < -static_cast<std::int64_t>(num_past_)) return nullptr;
  if (index >= 0) return rows_.data() + static_cast<std::size_t>(index) * action_dim_;
  return past_.data() + static_cast<std::size_t>(-index - 1) * action_dim_;
}

const float* ChunkPlayer::knot(std::size_t index) const noexcept {
  return old_row(static_cast<std::int64_t>(index) - static_cast<std::int64_t>(num_past_));
}

void ChunkPlayer::keep_past(std::int64_t first_row) noexcept {
  std::size_t kept = 0;
  if (has_row()) {
    for (; kept < kPastRows; ++kept) {
      const std::int64_t before = static_cast<std::int64_t>(kept) + 1;
      const float* row = old_row(first_row - origin_ - before);
      if (row == nullptr) break;
      std::copy_n(row, action_dim_, next_past_.data() + kept * action_dim_);
    }
  }
  past_.swap(next_past_);
  num_past_ = kept;
}

void ChunkPlayer::place(std::vector<float>& rows, std::int64_t first_row,
                        std::int64_t num_rows) noexcept {
  const double position = rows_since(first_row);
  keep_past(first_row);
  rows_.swap(rows);
  num_rows_ = static_cast<std::int64_t>(std::min(rows_.size() / action_dim_, max_rows_));
  origin_ = first_row;
  position_ = begun_at_ = position;
  const std::int64_t first = next_index();
  end_ = num_rows < num_rows_ - first ? first + num_rows : num_rows_;
  is_fitted_ = false;
}

void ChunkPlayer::begin(std::vector<float>& rows, std::int64_t first_row,
                        std::int64_t num_rows) noexcept {
  place(rows, first_row, num_rows);
  std::fill_n(weights_.begin(), num_rows_, 1.0);
}

void ChunkPlayer::merge(std::vector<float>& rows, std::int64_t first_row, double decay) noexcept {
  if (!has_row()) {
    begin(rows, first_row);
    return;
  }
  const double ratio = std::exp(-decay);
  const auto count = static_cast<std::int64_t>(std::min(rows.size() / action_dim_, max_rows_));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::int64_t index = i + first_row - origin_;
    const float* old = index >= 0 ? old_row(index) : nullptr;
    if (old == nullptr) {
      weights_[at] = 1.0;
      continue;
    }
    // Of n predictions the weights add up to (1 - ratio^n) / (1 - ratio); the next one weighs
    // ratio^n. Rows that have been executed stay what they were.
    const double sum = weights_[static_cast<std::size_t>(index)];
    const double weight = index < next_index() ? 0.0 : 1.0 - sum * (1.0 - ratio);
    weights_[at] = sum + weight;
    for (std::size_t k = 0; k < action_dim_; ++k) {
      float& value = rows[at * action_dim_ + k];
      if (binary_mask_[k] != 0 && weight != 0.0) continue;
      const double total = sum * static_cast<double>(old[k]) + weight * static_cast<double>(value);
      value = weight == 0.0 ? old[k] : static_cast<float>(total / (sum + weight));
    }
  }
  place(rows, first_row, kAllRows);
}

void ChunkPlayer::fade(std::span<float> rows, std::int64_t first_row, std::int64_t num_kept,
                       std::int64_t num_faded) const noexcept {
  const auto count = static_cast<std::int64_t>(rows.size() / action_dim_);
  const std::int64_t last = std::min(count, num_kept + num_faded);
  for (std::int64_t i = 0; has_chunk() && i < last; ++i) {
    const float* old = old_row(i + first_row - origin_);
    if (old == nullptr) continue;
    const double share =
        i < num_kept ? 0.0
                     : static_cast<double>(i - num_kept + 1) / static_cast<double>(num_faded + 1);
    for (std::size_t k = 0; k < action_dim_; ++k) {
      float& value = rows[static_cast<std::size_t>(i) * action_dim_ + k];
      if (binary_mask_[k] != 0 && i >= num_kept) continue;
      const auto before = static_cast<double>(old[k]);
      const double mixed = before + share * (static_cast<double>(value) - before);
      value = static_cast<float>(mixed);
    }
  }
}

void ChunkPlayer::clear() noexcept {
  origin_ = next_row();
  position_ = begun_at_ = 0.0;
  num_rows_ = end_ = 0;
  num_past_ = 0;
}

void ChunkPlayer::reset() noexcept {
  clear();
  origin_ = 0;
}

ChunkPlayer::Look ChunkPlayer::look(double rate) noexcept {
  const std::span<const float> all(rows_);
  const auto last = static_cast<double>(end_ - 1);
  const bool is_row = position_ == std::floor(position_);
  if (is_row && rate == 1.0) {
    const auto at = static_cast<std::size_t>(position_);
    const std::size_t left = static_cast<std::size_t>(end_) - at - 1;
    return {.action = all.subspan(at * action_dim_, action_dim_),
            .preview =
                all.subspan((at + 1) * action_dim_, std::min<std::size_t>(left, 2) * action_dim_)};
  }
  std::size_t count = 0;
  for (; count < 3; ++count) {
    const double position = snapped(position_ + static_cast<double>(count) * rate);
    if (position > last) break;
    evaluate(position, std::span(look_).subspan(count * action_dim_, action_dim_));
  }
  const std::span<const float> looked = std::span(look_).first(count * action_dim_);
  return {.action = looked.first(action_dim_), .preview = looked.subspan(action_dim_)};
}

void ChunkPlayer::advance(double rate) noexcept { position_ = snapped(position_ + rate); }

// Solves M[i-1] + 4 M[i] + M[i+1] = 6 (y[i-1] - 2 y[i] + y[i+1]) for the second derivatives M, with
// M = 0 at both ends.
void ChunkPlayer::fit() noexcept {
  is_fitted_ = true;
  const std::size_t count = num_knots();
  std::fill_n(curvature_.begin(), count * action_dim_, 0.0);
  pivots_[0] = 0.0;
  for (std::size_t i = 1; i + 1 < count; ++i) {
    pivots_[i] = 1.0 / (4.0 - pivots_[i - 1]);
    const float* before = knot(i - 1);
    const float* here = knot(i);
    const float* after = knot(i + 1);
    for (std::size_t k = 0; k < action_dim_; ++k) {
      const double bend = static_cast<double>(before[k]) - 2.0 * static_cast<double>(here[k]) +
                          static_cast<double>(after[k]);
      const double last = curvature_[(i - 1) * action_dim_ + k];
      curvature_[i * action_dim_ + k] = (6.0 * bend - last) * pivots_[i];
    }
  }
  for (std::size_t i = count - 1; i-- > 1;) {
    for (std::size_t k = 0; k < action_dim_; ++k) {
      curvature_[i * action_dim_ + k] -= pivots_[i] * curvature_[(i + 1) * action_dim_ + k];
    }
  }
}

void ChunkPlayer::evaluate(double position, std::span<float> values) noexcept {
  const double floor = std::floor(position);
  const auto index = static_cast<std::int64_t>(floor);
  const float* left = old_row(index);
  const float* right = old_row(index + 1);
  const double after = position - floor;
  if (after == 0.0 || right == nullptr) {
    std::copy_n(left, action_dim_, values.begin());
    return;
  }
  if (!is_fitted_) fit();
  const double before = 1.0 - after;
  const double left_weight = (before * before * before - before) / 6.0;
  const double right_weight = (after * after * after - after) / 6.0;
  const double* bend =
      curvature_.data() + (num_past_ + static_cast<std::size_t>(index)) * action_dim_;
  for (std::size_t k = 0; k < action_dim_; ++k) {
    const double value = before * static_cast<double>(left[k]) +
                         after * static_cast<double>(right[k]) + left_weight * bend[k] +
                         right_weight * bend[action_dim_ + k];
    values[k] = binary_mask_[k] != 0 ? left[k] : static_cast<float>(value);
  }
}

std::vector<std::span<const std::byte>> ChunkPlayer::memory() const {
  return {std::as_bytes(std::span(rows_.data(), rows_.capacity())),
          std::as_bytes(std::span(weights_)),
          std::as_bytes(std::span(past_)),
          std::as_bytes(std::span(next_past_)),
          std::as_bytes(std::span(curvature_)),
          std::as_bytes(std::span(pivots_)),
          std::as_bytes(std::span(look_))};
}

}  // namespace flux
