"""The model in a .tflite file as objects that can be changed, and questions about its graphs.

Operators are `OperatorT`, tensors are `TensorT`. An operator holds its tensors as indices into the tensors of its graph.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

CODES = schema.BuiltinOperator
# The operators that multiply by a matrix or a kernel. Their second input is the weights.
PRODUCTS = (CODES.CONV_2D, CODES.FULLY_CONNECTED, CODES.BATCH_MATMUL)
# The runtime uses weights in place, where they lie in the file, and needs them at multiples of so many bytes.
_ALIGNMENT = 16


@dataclass(frozen=True, eq=False)
class Graph:
    """One graph of a model.

    Attributes:
        model: the model, a `ModelT`, which holds the codes of the operators and the data of the tensors.
        content: the graph, a `SubGraphT`.
    """

    model: schema.ModelT
    content: schema.SubGraphT

    @property
    def operators(self) -> list:
        """The operators in the order of execution."""
        return self.content.operators or []

    @property
    def tensors(self) -> list:
        return self.content.tensors

    def code(self, operator) -> int:
        """Return which operator it is, one of `CODES`."""
        return self.model.operatorCodes[operator.opcodeIndex].builtinCode

    def is_product(self, operator) -> bool:
        return self.code(operator) in PRODUCTS

    def name(self, index: int) -> str:
        """Return the name of a tensor."""
        return self.tensors[index].name.decode()

    def makers(self) -> dict:
        """Return the operator that computes each tensor, by the index of the tensor."""
        return {index: operator for operator in self.operators for index in operator.outputs}

    def uses(self, index: int) -> int:
        """Return how many operators take a tensor."""
        return sum(index in operator.inputs for operator in self.operators)

    def is_shared(self, tensor) -> bool:
        """Return whether other tensors of the model have the data of `tensor`."""
        return sum(each.buffer == tensor.buffer for graph in self.model.subgraphs for each in graph.tensors) > 1

    def range(self, index: int) -> tuple[float, float]:
        """Return the least and the largest value of a tensor in a calibrated model. Without a range they are 0 and infinity."""
        ranges = self.tensors[index].quantization
        known = ranges is not None and ranges.max is not None and len(ranges.max)
        return (min(ranges.min), max(ranges.max)) if known else (0.0, np.inf)

    def step(self, index: int) -> float:
        """Return one step of int8 for the values of a tensor in a calibrated model. Without a range it is infinite."""
        least, largest = self.range(index)
        return (max(largest, 0) - min(least, 0)) / 255

    def remove(self, operators: Iterable) -> None:
        """Remove some operators from the graph."""
        removed = ids(operators)
        self.content.operators = [operator for operator in self.operators if id(operator) not in removed]


class _AlignedBuffer(schema.BufferT):
    """A buffer that is written at a multiple of 16 bytes, so that the runtime can use its weights in place."""

    def Pack(self, builder):
        if self.data is None:
            return super().Pack(builder)
        data = bytes(self.data)
        builder.Prep(_ALIGNMENT, len(data))
        start = builder.CreateByteVector(data)
        schema.BufferStart(builder)
        schema.BufferAddData(builder, start)
        return schema.BufferEnd(builder)


def ids(operators: Iterable) -> set[int]:
    """Return the identities of operators. Two operators that are equal have different ones."""
    return {id(operator) for operator in operators}


def read_model(content: bytes) -> schema.ModelT:
    """Return the model in a .tflite file."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))


def graphs(model: schema.ModelT) -> list[Graph]:
    """Return the graphs of a model."""
    return [Graph(model, content) for content in model.subgraphs]


def packed(model: schema.ModelT) -> bytes:
    """Return a model as the bytes of a .tflite file. Its buffers are replaced by aligned ones."""
    model.buffers = [_AlignedBuffer(data=buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
