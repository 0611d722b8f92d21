"""Which operators a .tflite file holds, and which of them the stock runtime has built in."""

from collections import Counter
from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

_BUILTIN_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def operator_names(content: bytes) -> tuple[str, ...]:
    """The operators of all subgraphs in the order of execution; custom ones as "CUSTOM <name>"."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    return tuple(
        operator_name(model.operatorCodes[op.opcodeIndex]) for graph in model.subgraphs for op in graph.operators or []
    )


def tensor_names(content: bytes) -> list[str]:
    """The names of all tensors that an operator computes."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    return [
        graph.tensors[index].name.decode() for graph in model.subgraphs for op in graph.operators or [] for index in op.outputs
    ]


def check_builtin(content: bytes) -> tuple[str, ...]:
    """The operators of `content`, all built in.

    Raises:
        ValueError: naming the operators that are not.
    """
    names = operator_names(content)
    foreign = sorted({name for name in names if name.startswith("CUSTOM")})
    if foreign:
        raise ValueError(
            f"Expected TFLite's built-in operators only, so that the stock runtime loads the model. Received: {foreign}. "
            "Replace the layers that need them."
        )
    return names


def counted(names: Sequence[str]) -> str:
    """For example "FULLY_CONNECTED 2, RESHAPE 1"."""
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def operator_name(code) -> str:
    # Files before schema 3a keep small codes in the older field.
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return f"CUSTOM {code.customCode.decode()}"
    return _BUILTIN_NAMES[builtin]
