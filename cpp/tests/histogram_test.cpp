#include "flux/histogram.hpp"

#include <algorithm>
#include <numeric>
#include <random>

#include "allocations.hpp"
#include "check.hpp"

namespace flux::test {
namespace {

void percentiles_are_within_five_percent_of_the_sorted_samples() {
  std::mt19937 generator(1);
  std::lognormal_distribution<double> seconds(-5.0, 1.5);
  std::vector<double> samples;
  Histogram histogram;
  for (int i = 0; i < 20000; ++i) {
    samples.push_back(seconds(generator));
    histogram.record(samples.back());
  }
  std::ranges::sort(samples);
  for (const double share : {0.5, 0.95, 0.99}) {
    const double exact = samples[static_cast<std::size_t>(share * 20000.0)];
    CHECK_NEAR(histogram.percentile_s(share), exact, 0.05 * exact);
  }
  CHECK_EQUAL(histogram.count(), 20000U);
  CHECK_NEAR(histogram.sum_s(), std::accumulate(samples.begin(), samples.end(), 0.0), 1e-6);
  CHECK_EQUAL(histogram.max_s(), samples.back());
  CHECK_EQUAL(histogram.percentile_s(1.0), samples.back());
}

void every_edge_belongs_to_the_bucket_above_it() {
  const auto edges = Histogram::edges();
  for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
    Histogram histogram;
    histogram.record(edges[i]);
    CHECK_EQUAL(histogram.counts()[i], 1U);
    CHECK(edges[i + 1] / edges[i] < 1.05);
  }
}

void extreme_values_are_counted_at_the_ends() {
  Histogram histogram;
  CHECK_EQUAL(histogram.percentile_s(0.5), 0.0);
  histogram.record(0.0);
  histogram.record(-1.0);
  histogram.record(std::nan(""));
  CHECK_EQUAL(histogram.counts().front(), 3U);
  CHECK_EQUAL(histogram.percentile_s(0.99), 0.0);
  histogram.record(1e9);
  CHECK_EQUAL(histogram.counts().back(), 1U);
  CHECK_EQUAL(histogram.max_s(), 1e9);
}

void recording_allocates_nothing() {
  Histogram histogram;
  const std::size_t before = num_allocations();
  for (int i = 1; i < 1000; ++i) histogram.record(1e-6 * i);
  CHECK_EQUAL(num_allocations(), before);
}

}  // namespace

std::vector<Case> histogram_cases() {
  return {
      {"percentiles are within five percent of the sorted samples",
       percentiles_are_within_five_percent_of_the_sorted_samples},
      {"every edge belongs to the bucket above it", every_edge_belongs_to_the_bucket_above_it},
      {"extreme values are counted at the ends", extreme_values_are_counted_at_the_ends},
      {"recording allocates nothing", recording_allocates_nothing},
  };
}

}  // namespace flux::test
