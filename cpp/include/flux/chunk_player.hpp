// The running chunk, where in it the robot is, and what follows. Positions are in rows: at a rate
// of one row per tick, the rows themselves are executed; at others, what is executed lies on a
// natural cubic spline through the rows. Nothing here depends on time, threads or robots.
// Binary actions, 0 or 1, are never mixed: between rows they keep the last row's value.
//
// Letters in shapes: H rows of a chunk, A action_dim, K rows left of the running chunk.
//
//   const std::int64_t first_row = player.next_row();  // when an observation is taken
//   player.begin(rows, first_row);                     // its chunk replaces the running one
//   if (player.has_row()) {                            // at every tick
//     const ChunkPlayer::Look look = player.look(rate);
//     filter.apply(look.action, look.preview, dt_s);
//     player.advance(rate);
//   }
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace flux {

// Rows are numbered across chunks, in the order in which they are executed. Nothing but the
// constructor, reserve() and memory() allocates; nothing locks, waits or throws.
class ChunkPlayer {
 public:
  static constexpr std::int64_t kAllRows = std::numeric_limits<std::int64_t>::max();
  // Temporal ensembling (Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost
  // Hardware", section IV.B): the i-th prediction of a row, from the oldest on, weighs exp(-m i).
  static constexpr double kEnsembleDecay = 0.01;
  // Rows before the running chunk's first one through which its spline runs, so that it continues
  // the last chunk's. Rows farther back change a spline by less than 1e-4 of its curvature.
  static constexpr std::size_t kPastRows = 8;

  // What a tick executes: the action, (A), and what the next two ticks would, up to (2, A), less
  // where the chunk ends. Valid until the next call of a function that is not const.
  struct Look {
    std::span<const float> action;
    std::span<const float> preview;
  };

  // Args:
  //   max_rows: of a chunk that can be executed; any further rows are ignored.
  //   binary_mask: (A), 1 where an action is binary; empty if none is.
  ChunkPlayer(std::size_t action_dim, std::size_t max_rows,
              std::span<const std::uint8_t> binary_mask = {});
  // Makes room for chunks of more rows; for those that begin afterwards.
  void reserve(std::size_t max_rows);

  [[nodiscard]] std::size_t action_dim() const noexcept { return action_dim_; }
  [[nodiscard]] std::size_t max_rows() const noexcept { return max_rows_; }

  // The first row that has not been executed: with it begins the chunk of an observation that is
  // taken now.
  [[nodiscard]] std::int64_t next_row() const noexcept;
  // Whether the running chunk has something to execute.
  [[nodiscard]] bool has_row() const noexcept;
  // Whether a chunk that begins with this row can replace the running one: the robot has reached
  // the row, or has nothing to execute.
  [[nodiscard]] bool has_reached(std::int64_t first_row) const noexcept;
  // How far the robot is past a row, at least 0.
  [[nodiscard]] double rows_since(std::int64_t first_row) const noexcept;

  // Makes `rows`, (H, A), the running chunk, and swaps the last one's memory into it. Rows that
  // have been executed since `first_row` are skipped, and at most `num_rows` of the others are
  // executed. Where the last chunk still has rows, the spline continues it. `first_row` has been
  // reached, and was the next row when or after the last chunk began.
  void begin(std::vector<float>& rows, std::int64_t first_row,
             std::int64_t num_rows = kAllRows) noexcept;
  // Temporal ensembling: like begin(), but each row becomes the weighted mean of all predictions of
  // it that have been merged; of a binary action, the newest counts.
  void merge(std::vector<float>& rows, std::int64_t first_row,
             double decay = kEnsembleDecay) noexcept;
  // Makes the running chunk continue in `rows`, (H, A), before they begin: the first `num_kept` of
  // them become what the running chunk has there, and over the next `num_faded` the one fades into
  // the other; a binary action does not fade. Rows that the running chunk does not have stay as
  // they are.
  void fade(std::span<float> rows, std::int64_t first_row, std::int64_t num_kept,
            std::int64_t num_faded) const noexcept;
  // Discards the running chunk.
  void clear() noexcept;
  // Also numbers the rows from 0 again.
  void reset() noexcept;

  // What the coming tick executes; has_row() must hold.
  //
  // Args:
  //   rate: rows per tick, from 0 to 1.
  [[nodiscard]] Look look(double rate) noexcept;
  // Moves on by a tick.
  void advance(double rate) noexcept;

  // What is left of the running chunk from next_row() on, (K, A), including rows that begin() was
  // told not to execute.
  [[nodiscard]] std::span<const float> remaining() const noexcept;
  // The row of the running chunk at which the robot is, or which it is about to leave.
  [[nodiscard]] std::int64_t row() const noexcept;
  // H of the running chunk; 0 without one.
  [[nodiscard]] std::int64_t num_rows() const noexcept { return num_rows_; }
  [[nodiscard]] bool has_chunk() const noexcept { return num_rows_ > 0; }
  // Rows executed since the running chunk began.
  [[nodiscard]] double executed() const noexcept { return position_ - begun_at_; }

  // What ticks touch, to be kept from being paged out.
  [[nodiscard]] std::vector<std::span<const std::byte>> memory() const;

 private:
  [[nodiscard]] std::int64_t next_index() const noexcept;
  [[nodiscard]] std::size_t num_knots() const noexcept {
    return num_past_ + static_cast<std::size_t>(num_rows_);
  }
  [[nodiscard]] const float* old_row(std::int64_t index) const noexcept;
  [[nodiscard]] const float* knot(std::size_t index) const noexcept;
  void keep_past(std::int64_t first_row) noexcept;
  void place(std::vector<float>& rows, std::int64_t first_row, std::int64_t num_rows) noexcept;
  void fit() noexcept;
  void evaluate(double position, std::span<float> values) noexcept;

  std::size_t action_dim_;
  std::size_t max_rows_ = 0;
  std::vector<std::uint8_t> binary_mask_;  // (A)

  // The running chunk: its rows, how many of them are executed, and the number of its first one.
  std::vector<float> rows_;  // (H, A)
  std::int64_t num_rows_ = 0;
  std::int64_t end_ = 0;
  std::int64_t origin_ = 0;
  // Of the coming tick, and where the chunk began.
  double position_ = 0.0;
  double begun_at_ = 0.0;
  // Per row, the sum of the weights of what has been merged into it.
  std::vector<double> weights_;

  // The spline: the rows before the running chunk's first one, and its second derivative at each
  // knot, fitted once it is needed.
  std::vector<float> past_;       // (kPastRows, A), the newest first
  std::vector<float> next_past_;  // (kPastRows, A)
  std::size_t num_past_ = 0;
  std::vector<double> curvature_;  // (kPastRows + H, A)
  std::vector<double> pivots_;     // (kPastRows + H)
  bool is_fitted_ = false;
  std::vector<float> look_;  // (3, A)
};

}  // namespace flux
