"""Tests of the style of plots: colors, numbers and labels."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from keras_butterfly import export
from keras_butterfly.export.measurement import plots

# Deuteranopia on linear RGB, after Machado, Oliveira and Fernandes (2009).
DEUTERANOPIA = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])


def lab(color: str, seen=None) -> np.ndarray:
    """Return a color in CIE Lab, as it is or as a matrix of color blindness changes it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if seen is not None:
        linear = np.clip(seen @ linear, 0, 1)
    ratio = XYZ @ linear / (XYZ @ np.ones(3))
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", [None, DEUTERANOPIA])
@pytest.mark.parametrize("palette", [plots.COLORS, tuple(plots.KINDS.values())])
def test_colors_can_be_told_apart(palette, seen):
    distances = [np.linalg.norm(lab(one, seen) - lab(other, seen)) for one, other in combinations(palette, 2)]
    assert min(distances) > 10  # About 2 is the smallest difference that is seen at all.


def test_names_in_plots_are_shown_letter_by_letter(tmp_path):
    latency = export.Latency((1e-6,), 1, 1, 1, "none", "none")
    names = ("$10 model$", "$x^$")
    comparison = export.Comparison(dict.fromkeys(names, latency), dict.fromkeys(names, 1000), dict.fromkeys(names, ()))
    comparison.plot(tmp_path / "plot.svg")
    labels = comparison.figure().axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [r"\$x^\$", r"\$10 model\$"]


def test_a_kind_has_one_color_and_other_names_take_free_ones():
    found = plots.colors(["mine", "dense", "butterfly", "mine", "yours"])
    assert found["dense"] == plots.KINDS["dense"]
    assert found["butterfly"] == plots.KINDS["butterfly"]
    assert len(set(found.values())) == 4
    assert len(plots.colors(map(str, range(20)))) == 20


def test_short_numbers():
    numbers = {0.05: "0.05", 1: "1", 800: "800", 999.9: "1k", 49_610: "49.6k", 1_863_690: "1.86M", 2e6: "2M"}
    assert {number: plots.short_number(number) for number in numbers} == numbers


def test_labels_cover_no_point_and_no_other_label():
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    points = [(1, 1), (1.1, 1), (1, 1.02), (1.05, 1.05), (2, 2), (2, 2)]
    axes.scatter(*zip(*points, strict=True))
    plots.log_scale(axes, "x")
    plots.label_points(axes, points, [f"label {index}" for index in range(len(points))])
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to the points
    assert [text.get_text() for text in axes.texts] == [f"label {index}" for index in range(len(points))]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.contains(*axes.transData.transform(point)) for box in boxes for point in points)
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.corners())


def test_points_along_a_line_on_a_logarithmic_axis():
    line = plots.along([(1, 0), (100, 1), (100, 3)])
    assert len(line) == 41
    np.testing.assert_allclose([line[0], line[10], line[20], line[-1]], [(1, 0), (10, 0.5), (100, 1), (100, 3)])
