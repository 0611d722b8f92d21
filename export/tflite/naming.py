"""Readable names for the tensors of a .tflite file, after which viewers such as Model Explorer name operators.

The converter joins the names of all operators that it merged into one, and loses those of inputs and outputs. Each operator of
a butterfly layer keeps the one that says where it is, "dense_1/butterfly/factor_0/Conv2D"; inputs and outputs get their
signature's.
"""

import re
import struct

from ..lowering import SCOPES
from .operators import schema

_NAME_FIELD = 10  # of the table `Tensor` in TFLite's schema
_LENGTH = struct.Struct("<I")
_OURS = re.compile(f"/({'|'.join(SCOPES.values())})/")


def renamed(content: bytes) -> bytes:
    """`content` with readable names. They are written over the old ones, never longer, so that nothing moves and the alignment
    of weights is kept; an old name that is too short, or a new one that is taken, leaves a tensor as it is."""
    buffer = bytearray(content)
    model = schema.Model.GetRootAs(buffer)
    wanted: dict[tuple[int, int], str] = {}
    for graph_index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(graph_index)
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            for tensor in (operator.Outputs(output) for output in range(operator.OutputsLength())):
                ours = [part for part in graph.Tensors(tensor).Name().decode().split(";") if _OURS.search(part)]
                if ours:
                    wanted[graph_index, tensor] = ours[-1]
    for index in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(index)
        ends = [signature.Inputs(i) for i in range(signature.InputsLength())]
        ends += [signature.Outputs(i) for i in range(signature.OutputsLength())]
        wanted |= {(signature.SubgraphIndex(), end.TensorIndex()): end.Name().decode() for end in ends}
    for graph_index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(graph_index)
        taken = {graph.Tensors(index).Name().decode() for index in range(graph.TensorsLength())}
        for (of, tensor), name in wanted.items():
            free = name if name not in taken else f"{name}1"  # as the converter does where weights have taken the name
            if of == graph_index and free not in taken and _overwrite(buffer, graph.Tensors(tensor), free.encode()):
                taken.add(free)
    return bytes(buffer)


def _overwrite(buffer: bytearray, tensor, name: bytes) -> bool:
    """Whether `name` fitted into the place of the tensor's."""
    table = tensor._tab
    start = table.Pos + table.Offset(_NAME_FIELD)
    start += _LENGTH.unpack_from(buffer, start)[0]
    (length,) = _LENGTH.unpack_from(buffer, start)
    if len(name) > length:
        return False
    _LENGTH.pack_into(buffer, start, len(name))
    buffer[start + 4 : start + 4 + length] = name.ljust(length, b"\0")
    return True
