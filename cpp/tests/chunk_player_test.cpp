#include "flux/chunk_player.hpp"

#include <cmath>
#include <random>

#include "allocations.hpp"
#include "check.hpp"

namespace flux::test {
namespace {

constexpr std::size_t kDim = 2;
constexpr std::size_t kMaxRows = 64;

// (rows, kDim), of which row i is (f(first + i), -f(first + i)).
template <typename Function>
std::vector<float> rows_of(int count, std::int64_t first, Function f) {
  std::vector<float> rows;
  for (int i = 0; i < count; ++i) {
    const auto value = static_cast<float>(f(static_cast<double>(first + i)));
    rows.insert(rows.end(), {value, -value});
  }
  return rows;
}

std::vector<float> counted(int count, std::int64_t first = 0) {
  return rows_of(count, first, [](double row) { return row; });
}

ChunkPlayer player_of(std::vector<float> rows) {
  ChunkPlayer player(kDim, kMaxRows);
  player.begin(rows, 0);
  return player;
}

// The second action of each row is binary.
ChunkPlayer switching_player() { return {kDim, kMaxRows, std::vector<std::uint8_t>{0, 1}}; }

void a_binary_action_keeps_its_row_s_value_between_rows() {
  ChunkPlayer player = switching_player();
  std::vector rows{0.0F, 0.0F, 1.0F, 1.0F, 2.0F, 0.0F, 3.0F, 0.0F};
  player.begin(rows, 0);
  std::vector<float> switched;
  for (int tick = 0; tick < 12; ++tick) {
    const ChunkPlayer::Look look = player.look(0.25);
    CHECK_NEAR(look.action[0], static_cast<float>(tick) / 4.0F, 1e-5);
    switched.push_back(look.action[1]);
    player.advance(0.25);
  }
  CHECK(switched == (std::vector<float>{0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0}));
}

void a_binary_action_is_neither_averaged_nor_faded() {
  ChunkPlayer player = switching_player();
  std::vector first{0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F};
  player.begin(first, 0);
  std::vector second{4.0F, 1.0F, 4.0F, 1.0F, 4.0F, 1.0F};
  player.merge(second, 0);
  const std::span<const float> merged = player.remaining();
  CHECK(merged[0] > 1.0F && merged[0] < 3.0F);
  CHECK_EQUAL(merged[1], 1.0F);
  std::vector third{9.0F, 0.0F, 9.0F, 0.0F, 9.0F, 0.0F};
  player.fade(third, 0, 1, 2);
  CHECK_EQUAL(third[0], merged[0]);  // kept
  CHECK_EQUAL(third[1], 1.0F);
  CHECK(third[2] > merged[0] && third[2] < 9.0F);  // fading
  CHECK_EQUAL(third[3], 0.0F);
}

void rows_are_executed_exactly_at_one_row_per_tick() {
  const auto wave = [](double row) { return std::sin(row) / 3.0; };
  std::vector<float> rows = rows_of(7, 0, wave);
  const std::vector<float> expected = rows;
  const float* memory = rows.data();
  ChunkPlayer player(kDim, kMaxRows);
  player.begin(rows, 0);
  for (std::size_t i = 0; i < 7; ++i) {
    CHECK(player.has_row());
    CHECK_EQUAL(player.row(), static_cast<std::int64_t>(i));
    const ChunkPlayer::Look look = player.look(1.0);
    CHECK_EQUAL(look.action.data(), memory + i * kDim);
    CHECK_EQUAL(look.action[1], expected[i * kDim + 1]);
    CHECK_EQUAL(look.preview.size(), std::min<std::size_t>(6 - i, 2) * kDim);
    CHECK_EQUAL(player.remaining().size(), (7 - i) * kDim);
    player.advance(1.0);
  }
  CHECK(!player.has_row());
  CHECK(player.remaining().empty());
  CHECK_EQUAL(player.next_row(), 7);
  CHECK_EQUAL(player.executed(), 7.0);
}

// A straight line is its own spline, so what is executed shows where the robot is.
void no_row_is_executed_twice_or_left_out_however_chunks_and_rates_change() {
  std::mt19937 random(17);
  const auto line = [](double row) { return 0.125 * row - 3.0; };
  for (const bool is_merged : {false, true}) {
    ChunkPlayer player(kDim, kMaxRows);
    std::vector<float> rows = rows_of(30, 0, line);
    player.begin(rows, 0);
    double expected = 0.0;
    std::int64_t first_row = 0;
    int wait = 5;
    for (int tick = 0; tick < 4000; ++tick) {
      if (wait-- == 5) first_row = player.next_row();
      if (wait <= 0 && player.has_reached(first_row)) {
        rows = rows_of(30, first_row, line);
        is_merged ? player.merge(rows, first_row) : player.begin(rows, first_row);
        wait = static_cast<int>(random() % 20);
      }
      const double rate = static_cast<double>(random() % 5) / 4.0;
      CHECK(player.has_row());
      CHECK_NEAR(player.look(rate).action[0], line(expected), 1e-4);
      CHECK_NEAR(player.look(rate).action[1], -line(expected), 1e-4);
      player.advance(rate);
      expected += rate;
      CHECK_EQUAL(player.next_row(), static_cast<std::int64_t>(std::ceil(expected)));
    }
  }
}

// Solves the natural spline's equations as they are, by elimination.
std::vector<double> bends_of(const std::vector<double>& y) {
  const std::size_t n = y.size();
  std::vector<std::vector<double>> equations(n, std::vector<double>(n + 1, 0.0));
  equations[0][0] = equations[n - 1][n - 1] = 1.0;
  for (std::size_t i = 1; i + 1 < n; ++i) {
    equations[i][i - 1] = equations[i][i + 1] = 1.0;
    equations[i][i] = 4.0;
    equations[i][n] = 6.0 * (y[i - 1] - 2.0 * y[i] + y[i + 1]);
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t other = 0; other < n; ++other) {
      if (other == i) continue;
      const double factor = equations[other][i] / equations[i][i];
      for (std::size_t k = i; k <= n; ++k) equations[other][k] -= factor * equations[i][k];
    }
  }
  std::vector<double> bends(n);
  for (std::size_t i = 0; i < n; ++i) bends[i] = equations[i][n] / equations[i][i];
  return bends;
}

void between_rows_the_motion_is_the_natural_cubic_spline() {
  std::mt19937 random(4);
  std::uniform_real_distribution<float> any(-1.0F, 1.0F);
  for (const int count : {1, 2, 3, 4, 20}) {
    std::vector<double> y;
    for (int i = 0; i < count; ++i) y.push_back(static_cast<double>(any(random)));
    const std::vector<double> bends = bends_of(y);
    ChunkPlayer player =
        player_of(rows_of(count, 0, [&](double row) { return y[static_cast<std::size_t>(row)]; }));
    for (double at = 0.0; at <= count - 1; at += 0.125) {
      const auto i = static_cast<std::size_t>(at);
      const double after = at - std::floor(at);
      const double before = 1.0 - after;
      double expected = y[i];
      if (after > 0.0) {
        expected = before * y[i] + after * y[i + 1] +
                   ((before * before * before - before) * bends[i] +
                    (after * after * after - after) * bends[i + 1]) /
                       6.0;
      }
      CHECK(player.has_row());
      CHECK_NEAR(player.look(0.125).action[0], expected, 1e-6);
      player.advance(0.125);
    }
    CHECK(!player.has_row());
  }
}

void the_preview_is_what_the_next_ticks_execute() {
  const auto wave = [](double row) { return std::sin(row); };
  ChunkPlayer player = player_of(rows_of(5, 0, wave));
  ChunkPlayer ahead = player_of(rows_of(5, 0, wave));
  ahead.advance(0.4);
  while (ahead.has_row()) {
    const ChunkPlayer::Look look = player.look(0.4);
    CHECK(look.preview.size() >= kDim);
    CHECK_EQUAL(look.preview[0], ahead.look(0.4).action[0]);
    player.advance(0.4);
    ahead.advance(0.4);
  }
  CHECK(player.look(0.4).preview.empty());
}

void a_chunk_that_continues_the_last_one_does_not_bend_at_the_border() {
  const auto wave = [](double row) { return std::sin(0.3 * row); };
  ChunkPlayer whole = player_of(rows_of(60, 0, wave));
  ChunkPlayer player = player_of(rows_of(20, 0, wave));
  for (int tick = 0; tick < 100; ++tick) {
    // Every chunk takes over after one tick, where a natural spline of its own would be straight.
    if (tick % 20 == 1 && tick > 20) {
      const std::int64_t first_row = player.next_row();
      player.advance(0.25);
      whole.advance(0.25);
      while (!player.has_reached(first_row)) {
        player.advance(0.25);
        whole.advance(0.25);
      }
      std::vector<float> rows = rows_of(20, first_row, wave);
      player.begin(rows, first_row);
    }
    CHECK_NEAR(player.look(0.25).action[0], whole.look(0.25).action[0], 1e-5);
    player.advance(0.25);
    whole.advance(0.25);
  }
}

void rows_executed_since_the_observation_are_skipped() {
  ChunkPlayer player = player_of(counted(10));
  for (int i = 0; i < 3; ++i) player.advance(1.0);
  const std::int64_t first_row = player.next_row();
  CHECK_EQUAL(first_row, 3);
  for (int i = 0; i < 4; ++i) player.advance(1.0);
  CHECK_EQUAL(player.rows_since(first_row), 4.0);
  std::vector<float> rows = counted(10, 100);
  player.begin(rows, first_row);
  CHECK_EQUAL(player.look(1.0).action[0], 104.0F);
  CHECK_EQUAL(player.executed(), 0.0);
  CHECK_EQUAL(player.next_row(), 7);
  CHECK_EQUAL(rows.size(), 10U * kDim);  // the memory of the last chunk
}

void a_chunk_for_a_standing_robot_begins_with_its_first_row() {
  ChunkPlayer player = player_of(counted(3));
  while (player.has_row()) player.advance(0.4);
  const std::int64_t first_row = player.next_row();
  CHECK_EQUAL(first_row, 3);
  CHECK(player.has_reached(first_row));
  std::vector<float> rows = counted(5, 10);
  player.begin(rows, first_row, 2);
  CHECK_EQUAL(player.look(1.0).action[0], 10.0F);
  CHECK_EQUAL(player.look(1.0).preview.size(), kDim);
  player.advance(1.0);
  CHECK(player.has_row());
  player.advance(1.0);
  CHECK(!player.has_row());
  CHECK_EQUAL(player.next_row(), 5);
  player.clear();
  CHECK_EQUAL(player.next_row(), 5);
  CHECK(!player.has_chunk() && !player.has_row() && player.remaining().empty());
  rows = counted(4, 20);
  player.begin(rows, 5);
  CHECK_EQUAL(player.look(0.5).action[0], 20.0F);
}

void a_chunk_waits_until_its_first_row_is_reached() {
  ChunkPlayer player = player_of(counted(10));
  player.advance(0.4);
  const std::int64_t first_row = player.next_row();
  CHECK_EQUAL(first_row, 1);
  CHECK_EQUAL(player.remaining()[0], 1.0F);
  CHECK(!player.has_reached(first_row));
  CHECK_EQUAL(player.rows_since(first_row), 0.0);
  player.advance(0.4);
  player.advance(0.4);
  CHECK(player.has_reached(first_row));
  CHECK_NEAR(player.rows_since(first_row), 0.2, 1e-12);
}

void a_late_chunk_is_faded_in() {
  ChunkPlayer player = player_of(counted(10));
  for (int i = 0; i < 6; ++i) player.advance(1.0);
  std::vector<float> rows = counted(10, 100);
  player.fade(rows, 4, 2, 4);
  const std::vector<float> expected{
      4.0F, 5.0F, 6.0F + 0.2F * 96, 7.0F + 0.4F * 96, 8.0F + 0.6F * 96, 9.0F + 0.8F * 96, 106.0F};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK_NEAR(rows[i * kDim], expected[i], 1e-4);
    CHECK_NEAR(rows[i * kDim + 1], -expected[i], 1e-4);
  }
  // Where the running chunk ends, the new one is as it was.
  rows = counted(10, 100);
  player.fade(rows, 8, 1, 8);
  CHECK_EQUAL(rows[0], 8.0F);
  CHECK_EQUAL(rows[2 * kDim], 102.0F);
  player.clear();
  player.fade(rows, 8, 10, 0);
  CHECK_EQUAL(rows[2 * kDim], 102.0F);
}

void merged_rows_are_the_weighted_means_of_all_predictions() {
  std::mt19937 random(9);
  std::uniform_real_distribution<float> any(-1.0F, 1.0F);
  constexpr int kRows = 12;
  ChunkPlayer player(kDim, kMaxRows);
  std::vector<std::pair<std::int64_t, std::vector<float>>> chunks;
  std::int64_t executed = 0;
  for (int turn = 0; turn < 30; ++turn) {
    const std::int64_t first_row = player.next_row();
    for (std::size_t delay = random() % 3; delay > 0 && player.has_row(); --delay) {
      player.advance(1.0);
      ++executed;
    }
    std::vector<float> rows;
    for (int i = 0; i < kRows; ++i) {
      const float value = any(random);
      rows.insert(rows.end(), {value, -value});
    }
    chunks.emplace_back(first_row, rows);
    player.merge(rows, first_row, 0.1);
    for (std::int64_t row = executed; row < first_row + kRows; ++row) {
      double sum = 0.0;
      double weights = 0.0;
      int i = 0;
      for (const auto& [first, predicted] : chunks) {
        const std::int64_t at = row - first;
        if (at < 0 || at >= kRows) continue;
        const double weight = std::exp(-0.1 * i++);
        sum += weight * static_cast<double>(predicted[static_cast<std::size_t>(at) * kDim]);
        weights += weight;
      }
      const auto at = static_cast<std::size_t>(row - executed);
      CHECK_NEAR(player.remaining()[at * kDim], sum / weights, 1e-6);
    }
    for (std::size_t i = 1 + random() % 3; i > 0; --i) {
      player.advance(1.0);
      ++executed;
    }
  }
}

void a_robot_that_stands_still_in_chunk_time_stays_where_it_is() {
  const auto wave = [](double row) { return std::sin(row); };
  ChunkPlayer player = player_of(rows_of(5, 0, wave));
  player.advance(0.3);
  const float here = player.look(0.0).action[0];
  player.advance(0.0);
  const ChunkPlayer::Look look = player.look(0.0);
  CHECK_EQUAL(look.action[0], here);
  CHECK_EQUAL(look.preview[0], here);
  CHECK_EQUAL(look.preview[kDim], here);
}

void rows_beyond_the_reserved_ones_are_not_executed() {
  ChunkPlayer player(kDim, 4);
  std::vector<float> rows = counted(10);
  player.begin(rows, 0);
  CHECK_EQUAL(player.num_rows(), 4);
  player.reserve(10);
  rows = counted(10, 3);
  player.begin(rows, 3);
  CHECK_EQUAL(player.num_rows(), 10);
}

void playing_allocates_nothing() {
  ChunkPlayer player(kDim, kMaxRows);
  std::vector<float> rows = counted(40);
  std::vector<float> other = counted(40);
  const std::size_t before = num_allocations();
  player.begin(rows, 0);
  for (int i = 0; i < 30; ++i) {
    (void)player.look(0.6);
    player.advance(0.6);
  }
  player.fade(other, 10, 8, 4);
  player.begin(other, 10);
  (void)player.look(0.6);
  player.advance(0.6);
  player.merge(rows, 12);
  (void)player.look(0.6);
  player.clear();
  CHECK_EQUAL(num_allocations(), before);
}

}  // namespace

std::vector<Case> chunk_player_cases() {
  return {
      {"rows are executed exactly at one row per tick",
       rows_are_executed_exactly_at_one_row_per_tick},
      {"no row is executed twice or left out, however chunks and rates change",
       no_row_is_executed_twice_or_left_out_however_chunks_and_rates_change},
      {"between rows the motion is the natural cubic spline",
       between_rows_the_motion_is_the_natural_cubic_spline},
      {"the preview is what the next ticks execute", the_preview_is_what_the_next_ticks_execute},
      {"a chunk that continues the last one does not bend at the border",
       a_chunk_that_continues_the_last_one_does_not_bend_at_the_border},
      {"rows executed since the observation are skipped",
       rows_executed_since_the_observation_are_skipped},
      {"a chunk for a standing robot begins with its first row",
       a_chunk_for_a_standing_robot_begins_with_its_first_row},
      {"a chunk waits until its first row is reached",
       a_chunk_waits_until_its_first_row_is_reached},
      {"a late chunk is faded in", a_late_chunk_is_faded_in},
      {"merged rows are the weighted means of all predictions",
       merged_rows_are_the_weighted_means_of_all_predictions},
      {"a robot that stands still in chunk time stays where it is",
       a_robot_that_stands_still_in_chunk_time_stays_where_it_is},
      {"rows beyond the reserved ones are not executed",
       rows_beyond_the_reserved_ones_are_not_executed},
      {"a binary action keeps its row's value between rows",
       a_binary_action_keeps_its_row_s_value_between_rows},
      {"a binary action is neither averaged nor faded",
       a_binary_action_is_neither_averaged_nor_faded},
      {"playing allocates nothing", playing_allocates_nothing},
  };
}

}  // namespace flux::test
