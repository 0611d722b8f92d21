"""Giving the tensors of a .tflite file readable names. Viewers such as Model Explorer name operators after their outputs.

The converter gives a merged operator the names of all operators that were merged into it, and it loses the names of inputs and
outputs. Here an operator of a butterfly layer keeps only the name that tells its place in the layer, for example
"dense_1/butterfly/factor_0/Conv2D". Inputs and outputs get their names in the signature.
"""

import re
import struct

from ..lowering import SCOPES
from .graph import schema
from .tensorflow_internals import field_position

# (index of the subgraph, index of the tensor) -> name of the tensor
TensorNames = dict[tuple[int, int], str]

_NAME_FIELD = 10  # The offset of `name` in the vtable of `Tensor`, as TFLite's schema defines it.
_LENGTH = struct.Struct("<I")
_BUTTERFLY_SCOPE = re.compile(f"/({'|'.join(SCOPES.values())})/")


def rename_tensors(content: bytes) -> bytes:
    """Return a .tflite file with readable tensor names.

    A new name overwrites the old one in place and is never longer, so that offsets and the alignment of weights stay valid. A
    tensor keeps its old name if that is too short, or if another tensor has the new name.
    """
    buffer = bytearray(content)
    model = schema.Model.GetRootAs(buffer)
    names = {**_layer_names(model), **_signature_names(model)}
    for graph_index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(graph_index)
        taken = {graph.Tensors(index).Name().decode() for index in range(graph.TensorsLength())}
        for (names_graph, tensor), name in names.items():
            # The converter too appends a number if weights have taken the name.
            free = name if name not in taken else f"{name}1"
            if names_graph == graph_index and free not in taken and _overwrite(buffer, graph.Tensors(tensor), free.encode()):
                taken.add(free)
    return bytes(buffer)


def _layer_names(model) -> TensorNames:
    """Return the name of each tensor that an operator of a butterfly layer computes."""
    names: TensorNames = {}
    for graph_index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(graph_index)
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            for tensor in (operator.Outputs(output) for output in range(operator.OutputsLength())):
                merged = graph.Tensors(tensor).Name().decode().split(";")
                in_layer = [name for name in merged if _BUTTERFLY_SCOPE.search(name)]
                if in_layer:
                    names[graph_index, tensor] = in_layer[-1]
    return names


def _signature_names(model) -> TensorNames:
    """Return the name of each input and output, as the signatures have it."""
    names: TensorNames = {}
    for index in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(index)
        ends = [signature.Inputs(i) for i in range(signature.InputsLength())]
        ends += [signature.Outputs(i) for i in range(signature.OutputsLength())]
        names |= {(signature.SubgraphIndex(), end.TensorIndex()): end.Name().decode() for end in ends}
    return names


def _overwrite(buffer: bytearray, tensor, name: bytes) -> bool:
    """Overwrite a tensor's name in place, and return True. If the new name is longer, change nothing and return False."""
    start = field_position(tensor, _NAME_FIELD)
    start += _LENGTH.unpack_from(buffer, start)[0]
    (length,) = _LENGTH.unpack_from(buffer, start)
    if len(name) > length:
        return False
    _LENGTH.pack_into(buffer, start, len(name))
    buffer[start + 4 : start + 4 + length] = name.ljust(length, b"\0")
    return True
