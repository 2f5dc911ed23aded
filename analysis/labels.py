"""Puts labels beside points so that none hides another."""

import math

from matplotlib import patheffects
from matplotlib.transforms import Bbox

# Distances from a point, in points of type; beyond `LEADER` a thin line leads to the label.
DISTANCES = (7, 11, 17, 25, 36, 50, 68, 90, 110)
LEADER = 18
SIZE = 7.6
# Up and to the right there is nothing of the point's own curve; degrees, the best first.
ANGLES = (35, 0, 60, 90, 15, 75, 25, 50, -20, -35, 180, 145, 120, -60, 215, -90)


def beside(x, y, width, height, angle, distance):
    """A box of the label's size whose nearest edge or corner is `distance` away at that angle."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = x + across * distance, y + up * distance
    left = x - width * (0 if across > 0.3 else 1 if across < -0.3 else 0.5)
    bottom = y - height * (0 if up > 0.3 else 1 if up < -0.3 else 0.5)
    return Bbox.from_bounds(left, bottom, width, height)


def overlap(a, b):
    """The area that two boxes share."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0


def inside(outer, box):
    return (outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and
            box.y1 <= outer.y1)


def crossings(segment, box):
    """Whether a straight segment touches a box, by halving it."""
    (x0, y0), (x1, y1) = segment
    if max(x0, x1) < box.x0 or min(x0, x1) > box.x1 or max(y0, y1) < box.y0 or \
            min(y0, y1) > box.y1:
        return False
    if abs(x1 - x0) + abs(y1 - y0) < 2 or x0 == x1 or y0 == y1:
        return True
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    return crossings((segment[0], middle), box) or crossings((middle, segment[1]), box)


def nearest_in(box, x, y):
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)


class Board:
    """What is drawn already, in pixels."""

    def __init__(self, axes, points, curves):
        self.pixels = axes.figure.dpi / 72
        self.frame = axes.get_window_extent()
        to_pixels = axes.transData.transform
        half = 3.5 * self.pixels
        self.markers = [Bbox([[x - half, y - half], [x + half, y + half]])
                        for x, y in (to_pixels(point) for point in points)]
        self.segments = []
        for curve in curves:
            corners = [tuple(to_pixels(point)) for point in curve]
            for (x0, y0), (x1, y1) in zip(corners, corners[1:]):
                self.segments += [((x0, y0), (x0, y1)), ((x0, y1), (x1, y1))]
        self.labels = []
        self.leaders = []

    def cost(self, x, y, box, rank, distance):
        """None where the label may not stand: on another one, on a leader, outside."""
        if not inside(self.frame, box) or any(overlap(box, label) for label in self.labels):
            return None
        leader = ((x, y), nearest_in(box, x, y))
        if any(crossings(line, box) for line in self.leaders) or \
                any(crossings(leader, label) for label in self.labels):
            return None
        hidden = sum(overlap(box, marker) > 0 for marker in self.markers)
        crossed = sum(crossings(line, box) for line in self.segments)
        return distance + 1.5 * rank + 45 * hidden + 60 * crossed

    def place(self, x, y, width, height):
        """(cost, box) of the best place; None when there is none."""
        best = None
        for distance in DISTANCES:
            for rank, angle in enumerate(ANGLES):
                box = beside(x, y, width, height, angle, distance * self.pixels)
                cost = self.cost(x, y, box, rank, distance)
                if cost is not None and (best is None or cost < best[0]):
                    best = (cost, box)
        return best


def text_size(axes, words):
    text = axes.text(0, 0, words, size=SIZE)
    box = text.get_window_extent(axes.figure.canvas.get_renderer())
    text.remove()
    return box.width, box.height


def write(axes, board, point, words, color, box):
    """The label as a distance from its point, so that it holds at any resolution."""
    at = axes.transData.transform(point)
    end = nearest_in(box, *at)
    arrow = None
    if math.dist(end, at) > LEADER * board.pixels:
        corner = ((end[0] - box.x0) / box.width, (end[1] - box.y0) / box.height)
        arrow = {"arrowstyle": "-", "color": color, "lw": 0.6, "alpha": 0.7, "shrinkA": 0,
                 "shrinkB": 3.5, "relpos": corner}
        board.leaders.append((tuple(at), end))
    offset = ((box.x0 - at[0]) / board.pixels, (box.y0 - at[1]) / board.pixels)
    note = axes.annotate(words, point, offset, textcoords="offset points", size=SIZE, color=color,
                         va="bottom", ha="left", zorder=8, arrowprops=arrow, gid="label")
    note.set_path_effects([patheffects.withStroke(linewidth=2.2, foreground="white")])
    board.labels.append(box.padded(1.5 * board.pixels))


def place_labels(axes, labels, points, curves):
    """labels: (x, y, text, short text, colour). A long text that has no good place gives way to the
    short one, and that to nothing. The figure has a canvas that can measure text."""
    board = Board(axes, points, curves)
    # From the right, where the room is; those further left then go up.
    for x, y, text, short, color in sorted(labels, key=lambda label: (-label[0], label[1])):
        at = axes.transData.transform((x, y))
        for words, dearest in ((text, 190), (short, 250)):
            found = board.place(*at, *text_size(axes, words))
            if found and found[0] < dearest:
                write(axes, board, (x, y), words, color, found[1])
                break
