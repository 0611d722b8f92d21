"""Tests of what a user sees of the packages: their names, and the notes and tables of summary and replace_dense."""

import keras
from keras import layers

import keras_butterfly
from keras_butterfly import Butterfly, ButterflyDense, export, replace_dense, summary


def test_the_packages_list_their_api_only():
    assert dir(keras_butterfly) == sorted(keras_butterfly.__all__)
    assert dir(export) == sorted(export.__all__)


def test_tables_are_text_under_plain_print():
    model = keras.Sequential([keras.Input((64,)), Butterfly(64, name="hidden")])
    text = str(summary(model, show=False).table())
    assert "hidden" in text and "\n" in text and max(map(len, text.splitlines())) <= 120


def test_a_layer_that_saves_little_is_named():
    model = keras.Sequential([keras.Input((1024,)), Butterfly(1024, name="hidden"), ButterflyDense(10, name="head")])
    (note,) = summary(model, show=False).notes
    assert note.startswith("'head' saves little:") and "10,250" in note
    assert summary(model, show=False).to_dict()["notes"] == [note]
    dense = keras.Sequential([keras.Input((64,)), layers.Dense(16, name="head")])
    _, report = replace_dense(dense, where="head", initialize="fresh", progress=False)
    assert "'head' saves little" in report.notes[0] and "'head' saves little" in " ".join(str(report.table()).split())


def test_what_stays_is_listed_only_if_somebody_would_replace_it():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 64)),
            layers.Conv2D(64, 3, name="convolution"),
            layers.Conv2D(64, 1, name="pointwise"),
            layers.Reshape((36, 64)),
            layers.LSTM(128, name="recurrent"),
            layers.Dense(4, name="small"),
            layers.Dense(1024, name="wide"),
        ]
    )
    _, report = replace_dense(model, where="wide", initialize="fresh", progress=False)
    assert set(report.kept) == {"pointwise", "recurrent"}
    assert report.kept["pointwise"] == "is not selected by `where`"
    model = keras.Sequential([keras.Input((8, 8, 64)), *model.layers, layers.Dense(512, name="last")])
    _, report = replace_dense(model, initialize="fresh", progress=False)
    assert set(report.kept) == {"pointwise", "recurrent", "small", "wide"}
    assert "replaced only if `where` or `min_weights` is given" in report.kept["pointwise"]
    assert "is recurrent, which is not replaced" in report.kept["recurrent"]
