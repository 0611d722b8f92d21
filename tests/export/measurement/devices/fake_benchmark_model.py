"""A stand-in for Google's benchmark_model with the options by which inputs are given and outputs are written.

It takes the inputs in the order of the interpreter, checks the sizes of their files, and writes the raw outputs one after
another. So does the real one (tflite/tools/benchmark/benchmark_tflite_model.cc).
"""

import argparse
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

parser = argparse.ArgumentParser()
for option in ("graph", "input_layer", "input_layer_shape", "input_layer_value_files", "output_filepath"):
    parser.add_argument(f"--{option}", required=True)
for option in ("num_runs", "warmup_runs", "min_secs"):
    parser.add_argument(f"--{option}", type=float)
options = parser.parse_args()

interpreter = Interpreter(options.graph)
names, shapes = options.input_layer.split(","), options.input_layer_shape.split(":")
files = dict(pair.split(":") for pair in options.input_layer_value_files.split(","))
details = interpreter.get_input_details()
assert len(names) == len(shapes) == len(details)
for detail, shape in zip(details, shapes, strict=True):
    interpreter.resize_tensor_input(detail["index"], [int(axis) for axis in shape.split(",")])
interpreter.allocate_tensors()
for detail, name in zip(interpreter.get_input_details(), names, strict=True):
    values = np.frombuffer(Path(files[name]).read_bytes(), detail["dtype"])
    assert values.size == np.prod(detail["shape"])
    interpreter.set_tensor(detail["index"], values.reshape(detail["shape"]))
interpreter.invoke()
outputs = [interpreter.get_tensor(detail["index"]).tobytes() for detail in interpreter.get_output_details()]
Path(options.output_filepath).write_bytes(b"".join(outputs))
print("INFO: Inference timings in us: Init: 1183, First inference: 9, Warmup (avg): 9, Inference (avg): 9")
