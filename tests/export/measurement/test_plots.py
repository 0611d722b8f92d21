"""Tests of the labels in plots."""

from keras_butterfly import export


def test_names_in_plots_are_shown_letter_by_letter(tmp_path):
    latency = export.Latency((1e-6,), 1, 1, 1, "none", "none")
    names = ("$10 model$", "$x^$")
    comparison = export.Comparison(dict.fromkeys(names, latency), dict.fromkeys(names, 1000), dict.fromkeys(names, ()))
    comparison.plot(tmp_path / "plot.svg")
    labels = comparison.figure().axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [r"\$x^\$", r"\$10 model\$"]
