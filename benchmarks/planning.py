"""Measure how long the planning of an export takes: by measuring, with wisdom from before, and by estimates.

    python benchmarks/planning.py

The model has four different layers 1024 wide.
"""

import time

import keras

from keras_butterfly import Butterfly, ButterflyDense, export


def seconds(model, **settings) -> float:
    """Return how long an export takes."""
    start = time.perf_counter()
    export.to_tflite(model, progress=False, **settings)
    return time.perf_counter() - start


def main():
    hidden = {"activation": "relu"}
    layers = [Butterfly(**hidden), Butterfly(transposed=True, **hidden), Butterfly(stacks=2, **hidden), ButterflyDense(1024)]
    model = keras.Sequential([keras.Input((1024,)), *layers])
    known = export.Wisdom()
    print(f"measured from nothing: {seconds(model, wisdom=known):.1f} s (aim 60 s)")
    print(f"with wisdom: {seconds(model, wisdom=known):.1f} s (aim 2 s)")
    print(f"estimated: {seconds(model, effort='estimate'):.1f} s")


if __name__ == "__main__":
    main()
