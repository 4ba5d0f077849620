// Arbitrary chunks, delays, tick spacings and stops, judged from the commands alone.
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "flux/safety_filter.hpp"
#include "motion_judge.hpp"

namespace flux::test {
namespace {

constexpr std::size_t kDim = 2;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class Random {
 public:
  explicit Random(std::uint32_t seed) : generator_(seed) {}

  int below(int bound) { return static_cast<int>(generator_() % static_cast<unsigned>(bound)); }
  std::size_t index(int size) { return static_cast<std::size_t>(below(size)); }
  bool one_in(int number) { return below(number) == 0; }
  double uniform(double lowest, double highest) {
    return lowest + (highest - lowest) * static_cast<double>(generator_()) * 0x1p-32;
  }
  double log_uniform(double lowest, double highest) {
    return lowest * std::pow(highest / lowest, uniform(0.0, 1.0));
  }
  double normal() { return normal_(generator_); }

 private:
  std::mt19937 generator_;
  std::normal_distribution<double> normal_;
};

// Limits from tight to wide, whose smallest motion in a period is well above float32's rounding.
JointLimits any_limits(Random& random, double period_s) {
  while (true) {
    JointLimits limits;
    limits.velocity = random.log_uniform(0.1, 10.0);
    limits.acceleration = limits.velocity / random.log_uniform(0.02, 1.0);
    limits.jerk = limits.acceleration / random.log_uniform(0.01, 0.5);
    const double centre = random.uniform(-1.0, 1.0);
    const double half = random.log_uniform(0.02, 5.0);
    // Numbers that float32 can hold, because the limits in force are rounded to float32.
    limits.lower = std::round((centre - half) * 0x1p20) * 0x1p-20;
    limits.upper = std::round((centre + half) * 0x1p20) * 0x1p-20;
    const double smallest = limits.jerk * period_s * period_s * period_s;
    if (smallest > 1e-5 * (std::abs(centre) + half)) return limits;
  }
}

SafetyFilter filter_for(const std::array<JointLimits, kDim>& joints, double control_hz) {
  std::vector<double> lower, upper, velocity, acceleration, jerk;
  for (const JointLimits& joint : joints) {
    lower.push_back(joint.lower);
    upper.push_back(joint.upper);
    velocity.push_back(joint.velocity);
    acceleration.push_back(joint.acceleration);
    jerk.push_back(joint.jerk);
  }
  return {SafetyLimits(lower, upper, velocity, acceleration, jerk), control_hz};
}

double min_jerk(double s) { return s * s * s * (10.0 - 15.0 * s + 6.0 * s * s); }

// One joint's rows of a chunk that begins at `start`; anything from smooth to absurd.
std::vector<float> any_rows(Random& random, const JointLimits& limits, double start,
                            double period_s) {
  const int kind = random.below(12);
  const double middle = (limits.lower + limits.upper) / 2.0;
  const double width = limits.upper - limits.lower;
  const double goal = middle + random.uniform(-0.6, 0.6) * width;
  const double noise = random.log_uniform(1e-6, 1e-1);
  const double time = random.log_uniform(0.02, 4.0);
  const double frequency = random.log_uniform(0.05, 5.0);
  const double speed = random.uniform(-1.2, 1.2) * limits.velocity;
  std::vector<float> rows;
  for (int k = 1, count = 1 + random.below(50); k <= count; ++k) {
    const double t = k * period_s;
    double row = goal;
    if (kind == 1) row = goal > middle ? 1e6 : -1e6;
    if (kind == 2) row = goal + (k % 2 == 0 ? 0.5 : -0.5);
    if (kind == 3) row = start + noise * random.normal();
    if (kind == 4) row = middle + random.uniform(-1.0, 1.0) * width;
    if (kind == 5 || kind == 6) row = start + (goal - start) * min_jerk(std::min(t / time, 1.0));
    if (kind == 7) row = start + speed * t;
    if (kind == 8) row = start + 0.2 * width * (1.0 - std::cos(6.28 * frequency * t));
    if (kind == 9) row = start + 0.2 * width * std::sin(6.28 * frequency * t);
    if (kind == 10) row = start;
    if (kind == 11) row = random.one_in(2) ? 3e38 : -1e-45;
    rows.push_back(static_cast<float>(row));
    if (random.one_in(300)) rows.back() = random.one_in(2) ? kNaN : 1.0F / 0.0F;
  }
  return rows;
}

// Runs one filter with random input and judges everything that it does.
class Fuzz {
 public:
  explicit Fuzz(std::uint32_t seed)
      : random_(seed),
        control_hz_(std::array{10.0, 25.0, 50.0, 100.0}.at(random_.index(4))),
        joints_{any_limits(random_, 1.0 / control_hz_), any_limits(random_, 1.0 / control_hz_)},
        filter_(filter_for(joints_, control_hz_)),
        judges_{JointJudge(joints_[0]), JointJudge(joints_[1])} {
    reset();
  }

  void run(int ticks) {
    const double jitter = std::array{0.0, random_.uniform(0.0, 0.3), 0.75}.at(random_.index(3));
    for (int i = 0; i < ticks; ++i) {
      const double dt = any_spacing(jitter);
      if (dt > 3.0 / control_hz_) reset();  // the gap rule: from the measured state, at rest
      if (dt <= 3.0 / control_hz_) tick(dt);
    }
    stop();
  }

  int exact = 0;
  int clipped = 0;

 private:
  void reset() {
    std::vector<float> start;
    for (std::size_t i = 0; i < kDim; ++i) {
      const double share = random_.one_in(8) ? 0.0 : random_.uniform(0.0, 1.0);
      const double at = joints_[i].lower + share * (joints_[i].upper - joints_[i].lower);
      start.push_back(std::min(static_cast<float>(at), static_cast<float>(joints_[i].upper)));
      judges_[i].reset(start[i]);
      is_on_track_[i] = true;
    }
    filter_.reset(start);
    rows_.clear();
    row_ = 0;
  }

  double any_spacing(double jitter) {
    const double period_s = 1.0 / control_hz_;
    if (random_.one_in(400)) return random_.uniform(3.01, 100.0) * period_s;
    if (random_.one_in(50)) return random_.uniform(1.0, 3.0) * period_s;
    if (random_.one_in(50)) return random_.uniform(0.25, 1.0) * period_s;
    return random_.uniform(1.0 - jitter, 1.0 + jitter) * period_s;
  }

  void tick(double dt) {
    if (row_ >= rows_.size() || random_.one_in(100)) new_chunk();
    if (hold_ > 0) {
      --hold_;
      filter_.brake(dt);
      judge_brake(dt);
      return;
    }
    const std::vector<float> action = rows_[row_++];
    std::vector<float> preview;
    for (std::size_t k = row_; k < std::min(row_ + 2, rows_.size()) && has_preview_; ++k) {
      preview.insert(preview.end(), rows_[k].begin(), rows_[k].end());
    }
    const std::uint32_t flags = filter_.apply(action, preview, dt);
    const bool is_finite = std::isfinite(action[0]) && std::isfinite(action[1]);
    CHECK_EQUAL((flags & kNonFinite) != 0, !is_finite);
    is_finite ? judge_action(action, flags, dt) : judge_brake(dt);
  }

  void new_chunk() {
    row_ = 0;
    has_preview_ = !random_.one_in(8);
    // Late chunks: the robot brakes meanwhile.
    if (random_.one_in(4)) hold_ = random_.below(30);
    const double period_s = 1.0 / control_hz_;
    const auto first =
        any_rows(random_, joints_[0], static_cast<double>(filter_.command()[0]), period_s);
    const auto second =
        any_rows(random_, joints_[1], static_cast<double>(filter_.command()[1]), period_s);
    rows_.clear();
    for (std::size_t k = 0; k < std::min(first.size(), second.size()); ++k) {
      rows_.push_back({first[k], second[k]});
    }
  }

  // The time that a step may use: since the last command, but at most one period.
  [[nodiscard]] double usable(double dt) const { return std::min(dt, 1.0 / control_hz_); }

  void judge_action(const std::vector<float>& action, std::uint32_t flags, double dt) {
    for (std::size_t i = 0; i < kDim; ++i) {
      const float command = filter_.command()[i];
      const bool is_exact = command == action[i];
      if (is_on_track_[i] && !is_exact && judges_[i].is_surely_admissible(action[i], usable(dt))) {
        throw Failure("an admissible row is not sent exactly");
      }
      const double change = std::abs(static_cast<double>(command) - static_cast<double>(action[i]));
      // Both the excess over the position limits and the rest of the change may be tolerated.
      if (change > 2.0 * SafetyFilter::kTolerance) CHECK(flags != 0);
      judge(i, dt);
      is_on_track_[i] = is_exact;
      is_exact ? ++exact : ++clipped;
    }
  }

  void judge_brake(double dt) {
    for (std::size_t i = 0; i < kDim; ++i) judge(i, dt);
    is_on_track_.fill(filter_.is_at_rest());
  }

  void judge(std::size_t joint, double dt) {
    const char* broken = judges_[joint].take(filter_.command()[joint], usable(dt));
    if (broken != nullptr) throw Failure(std::string("a command breaks a limit: ") + broken);
  }

  void stop() {
    const double period_s = 1.0 / control_hz_;
    double time_s = 0.0;
    while (!filter_.is_at_rest()) {
      const double dt = random_.uniform(0.25, 1.0) * period_s;
      filter_.brake(dt);
      judge_brake(dt);
      time_s += dt;
      CHECK(time_s <= filter_.rest_time_bound_s());
    }
    const std::vector<float> rest(filter_.command().begin(), filter_.command().end());
    for (int i = 0; i < 5; ++i) {
      filter_.brake(period_s);
      judge_brake(period_s);
      CHECK(std::ranges::equal(rest, filter_.command()));
    }
  }

  Random random_;
  double control_hz_;
  std::array<JointLimits, kDim> joints_;
  SafetyFilter filter_;
  std::array<JointJudge, kDim> judges_;
  std::array<bool, kDim> is_on_track_{};
  std::vector<std::vector<float>> rows_;
  std::size_t row_ = 0;
  int hold_ = 0;
  bool has_preview_ = true;
};

// A motion from rest that respects the limits: sinusoids that grow from 0, or a move to a goal and
// back, scaled so that the largest of velocity, acceleration and jerk is the share `load` of its
// limit. The position limits are as close as the judge allows.
struct Trajectory {
  double period_s = 0.0;
  double load = 0.0;
  JointLimits limits;
  std::vector<float> rows;
};

std::vector<double> any_shape(Random& random, double period_s) {
  const double time = random.log_uniform(0.3, 2.0);
  std::array<double, 9> waves{};
  for (double& wave : waves) wave = random.uniform(0.0, 1.0);
  const bool is_move = random.one_in(3);
  std::vector<double> shape;
  for (int k = 1; k <= 300; ++k) {
    const double t = k * period_s;
    double at = 0.0;
    for (std::size_t i = 0; i < 9; i += 3) {
      at += waves[i] * std::sin((0.5 + 9.0 * waves[i + 1]) * t + 6.28 * waves[i + 2]);
    }
    if (is_move) at = min_jerk(std::min(t / (2.0 * time), 1.0)) * (1.0 - waves[0]);
    shape.push_back(at * min_jerk(std::min(t / time, 1.0)));
  }
  return shape;
}

// The largest share of a limit that the differences of a motion from rest at 0 use.
double largest_load(const std::vector<double>& shape, double period_s, const JointLimits& limits) {
  double load = 0.0, p = 0.0, v = 0.0, a = 0.0;
  for (const double row : shape) {
    const double v_now = (row - p) / period_s;
    const double a_now = (v_now - v) / period_s;
    load = std::max({load, std::abs(v_now) / limits.velocity, std::abs(a_now) / limits.acceleration,
                     std::abs(a_now - a) / period_s / limits.jerk});
    p = row, v = v_now, a = a_now;
  }
  return load;
}

bool is_surely_admissible(const Trajectory& trajectory) {
  JointJudge judge(trajectory.limits);
  judge.reset(0.0F);
  return std::ranges::all_of(trajectory.rows, [&](float row) {
    return judge.is_surely_admissible(row, trajectory.period_s) &&
           judge.take(row, trajectory.period_s) == nullptr;
  });
}

Trajectory any_trajectory(Random& random, double highest_load) {
  Trajectory made;
  made.period_s = random.one_in(2) ? 0.02 : 0.04;
  made.limits = any_limits(random, made.period_s);
  const std::vector<double> shape = any_shape(random, made.period_s);
  const double largest = largest_load(shape, made.period_s, made.limits);
  made.load = random.uniform(0.6, highest_load);
  double gap = random.log_uniform(1e-4, 1e-1);
  while (true) {
    made.rows.clear();
    for (const double at : shape) made.rows.push_back(static_cast<float>(at * made.load / largest));
    const auto [least, most] = std::ranges::minmax(made.rows);
    made.limits.lower = std::min(static_cast<double>(least), 0.0) - gap;
    made.limits.upper = std::max(static_cast<double>(most), 0.0) + gap;
    if (is_surely_admissible(made)) return made;
    gap *= 2.0;
    if (gap > 10.0) made.load *= 0.98;
  }
}

SafetyFilter filter_for(const Trajectory& trajectory) {
  const JointLimits& limits = trajectory.limits;
  return {SafetyLimits(std::vector{limits.lower}, std::vector{limits.upper},
                       std::vector{limits.velocity}, std::vector{limits.acceleration},
                       std::vector{limits.jerk}),
          1.0 / trajectory.period_s};
}

void a_trajectory_within_the_limits_is_sent_bit_for_bit() {
  Random random(1);
  double load = 0.0;
  constexpr int kTrajectories = 50;
  for (int i = 0; i < kTrajectories; ++i) {
    const Trajectory trajectory = any_trajectory(random, 0.95);
    const bool has_preview = random.one_in(2);
    SafetyFilter filter = filter_for(trajectory);
    filter.reset(std::vector{0.0F});
    for (std::size_t k = 0; k < trajectory.rows.size(); ++k) {
      const auto rows = std::span(trajectory.rows).subspan(k);
      const auto preview = has_preview ? rows.subspan(1) : std::span<const float>();
      CHECK_EQUAL(filter.apply(rows.first(1), preview, trajectory.period_s), 0U);
      CHECK_EQUAL(filter.command()[0], trajectory.rows[k]);
    }
    load += trajectory.load / kTrajectories;
  }
  // The trajectories did use the limits.
  CHECK(load > 0.6);
}

void a_trajectory_that_begins_elsewhere_is_joined_and_then_sent_bit_for_bit() {
  Random random(2);
  for (int i = 0; i < 50; ++i) {
    const Trajectory trajectory = any_trajectory(random, 0.8);
    const JointLimits& limits = trajectory.limits;
    SafetyFilter filter = filter_for(trajectory);
    const double start = random.uniform(limits.lower, limits.upper);
    filter.reset(std::vector{static_cast<float>(start)});
    std::size_t num_missed = 0;
    const std::size_t begin = static_cast<std::size_t>(random.below(50));
    for (std::size_t k = begin; k < trajectory.rows.size(); ++k) {
      const auto rows = std::span(trajectory.rows).subspan(k);
      (void)filter.apply(rows.first(1), rows.subspan(1), trajectory.period_s);
      if (filter.command()[0] != trajectory.rows[k]) num_missed = k - begin + 1;
    }
    // About the least that a move between the limits takes.
    const double least = (limits.upper - limits.lower) / limits.velocity +
                         limits.velocity / limits.acceleration +
                         2.0 * limits.acceleration / limits.jerk;
    CHECK(static_cast<double>(num_missed) * trajectory.period_s <= 2.5 * least);
  }
}

void a_million_arbitrary_ticks_stay_within_all_limits() {
  int exact = 0;
  int clipped = 0;
  for (std::uint32_t seed = 0; seed < 2600; ++seed) {
    Fuzz fuzz(seed);
    try {
      fuzz.run(400);
    } catch (const std::exception& error) {
      throw Failure("seed " + std::to_string(seed) + ": " + error.what());
    }
    exact += fuzz.exact;
    clipped += fuzz.clipped;
  }
  // Both happen often; otherwise little was tested.
  CHECK(exact > 200'000);
  CHECK(clipped > 200'000);
}

}  // namespace

std::vector<Case> safety_filter_fuzz_cases() {
  return {
      {"a trajectory within the limits is sent bit for bit",
       a_trajectory_within_the_limits_is_sent_bit_for_bit},
      {"a trajectory that begins elsewhere is joined and then sent bit for bit",
       a_trajectory_that_begins_elsewhere_is_joined_and_then_sent_bit_for_bit},
      {"a million arbitrary ticks stay within all limits",
       a_million_arbitrary_ticks_stay_within_all_limits},
  };
}

}  // namespace flux::test
