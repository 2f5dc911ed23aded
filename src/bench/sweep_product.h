// From the layouts of a sweep to its points.
#pragma once

#include <vector>

#include "bench/sweep_exclude.h"
#include "bench/sweep_layouts.h"

namespace helix {

// Adds the points of layouts under each load of the axes, less what is excluded. Fails at `where`
// when there are too many.
void add_points(const std::vector<Family>& families, const Axes& axes,
                const std::vector<Exclusion>& exclusions, const Node& where,
                std::vector<Point>& points);

// The one point that an entry of `points` describes; what it leaves out is as in the sweep.
Point explicit_point(const Node& entry, const Node& sweep, Models& models);

// Drops points equal to earlier ones, and puts those that share weights side by side.
void make_distinct(std::vector<Point>& points);

}  // namespace helix
