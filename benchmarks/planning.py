"""How long planning takes: four layers 1024 wide, all different, measured from nothing, then with wisdom, then estimated.

python benchmarks/planning.py
"""

import time

import keras

from keras_butterfly import Butterfly, ButterflyDense, export


def seconds(model, **settings) -> float:
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
