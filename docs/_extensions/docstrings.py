"""Render the docstrings of the package: sections such as `Args:` as lists, text in backticks as code or as links.

The docstrings are plain text with sections in Google's style. Sphinx reads reStructuredText, in which `||x||_F` and `2 * 3`
mean something else, so everything outside backticks is escaped.
"""

import re
from functools import cache
from textwrap import dedent

from public_names import public_objects
from sphinx.util import inspect as sphinx_inspect

LISTS = re.compile(r"^(Args|Raises|Attributes[^:]*):$")
TEXTS = re.compile(r"^(Returns):$")
EXAMPLES = re.compile(r"^(Example):$")
LABEL = r"(Weights|Multiply-adds[^:`]*|Names of the weights|Saving|Input shape|Output shape|Dtype|Precision|Reference): "
TITLES = {"Args": "Arguments"}
# Classes that public functions return or take.
DOCUMENTED_TOO = (
    "keras_butterfly.compression.distillation.Distiller",
    "keras_butterfly.compression.report.ReplacementReport",
    "keras_butterfly.export.measurement.devices.Device",
    "keras_butterfly.export.tflite.parity.Parity",
    "keras_butterfly.model_summary.Summary",
)
# Public names that are also words of an argument or of mathematics.
UNLINKED = {"wisdom", "get", "sigma", "eigenvalues", "summary", "measure", "compare", "compress"}


def setup(app):
    app.connect("autodoc-process-docstring", lambda app, what, name, obj, options, lines: _render(lines))
    app.connect("autodoc-process-signature", _signature)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True}


def _signature(app, what, name, obj, options, signature, return_annotation):
    """Return the arguments of `__init__` as those of a class, because Keras's classes have a `__new__` that takes anything."""
    if what != "class" or not isinstance(obj, type) or obj.__init__ is object.__init__:
        return None
    arguments = sphinx_inspect.signature(obj.__init__, bound_method=True)
    if getattr(obj, "_is_protocol", False):
        return "", None
    return sphinx_inspect.stringify_signature(arguments, show_return_annotation=False, unqualified_typehints=True), None


def _render(lines: list[str]) -> None:
    """Convert `lines`, the lines of a docstring, to reStructuredText, in place."""
    lines[:] = render("\n".join(lines).expandtabs()).splitlines()


def render(docstring: str) -> str:
    """Return a docstring as reStructuredText."""
    blocks = re.split(r"\n\s*\n", docstring.rstrip())
    return "\n\n".join(_section(block) for block in _merged(blocks)) + "\n"


def _merged(blocks: list[str]) -> list[str]:
    """Return the blocks, each section with all indented blocks that follow its heading."""
    merged: list[str] = []
    for block in blocks:
        heading = merged[-1].split("\n", 1)[0] if merged else ""
        in_section = any(pattern.match(heading) for pattern in (LISTS, TEXTS, EXAMPLES))
        if in_section and block.startswith("    "):
            merged[-1] += "\n\n" + block
        else:
            merged.append(block)
    return merged


def _section(block: str) -> str:
    """Return one block, a section or a paragraph, as reStructuredText."""
    heading, _, rest = block.partition("\n")
    if EXAMPLES.match(heading):
        return f".. rubric:: Example\n\n{_code(dedent(rest), 'pycon' if '>>>' in rest else 'python')}"
    if TEXTS.match(heading):
        return f".. rubric:: {heading[:-1]}\n\n{_inline(_joined(rest))}"
    if LISTS.match(heading):
        return f".. rubric:: {TITLES.get(heading[:-1], heading[:-1])}\n\n{_definitions(dedent(rest))}"
    return _paragraph(block)


def _paragraph(block: str) -> str:
    """Return a paragraph, a list, or an indented formula as reStructuredText."""
    lines = block.split("\n")
    if lines[0].startswith("    "):
        return _code(dedent(block), "text")
    if lines[0].startswith("- "):
        items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
        return "\n".join(f"- {_inline(_joined(item))}" for item in items)
    if re.match(LABEL, block):
        return "\n\n".join(_labelled(part) for part in re.split(rf"\n(?={LABEL.replace('(', '(?:')})", block))
    indented = next((i for i, line in enumerate(lines) if line.startswith("    ")), len(lines))
    text = _inline(_joined("\n".join(lines[:indented])))
    return text + (f"\n\n{_code(dedent(chr(10).join(lines[indented:])), 'text')}" if indented < len(lines) else "")


def _labelled(part: str) -> str:
    """Return a paragraph such as "Input shape: ..." with a bold label. Labels of later sentences are bold too."""
    pieces = re.split(rf"(?:^|(?<=\. )){LABEL}", _joined(part))
    return " ".join(f"**{piece}:**" if i % 2 else _inline(piece.strip()) for i, piece in enumerate(pieces) if piece)


def _definitions(block: str) -> str:
    """Return lines `name: text`, each with indented lines that continue it, as a definition list."""
    items = re.split(r"\n(?=\S)", block)
    return "\n\n".join(_definition(item) for item in items)


def _definition(item: str) -> str:
    """Return one item `name: text` of a definition list. Several names are separated by commas."""
    names, _, text = item.partition(": ")
    term = ", ".join(f"``{name.strip()}``" for name in names.split(","))
    return f"{term}\n    {_inline(_joined(text))}"


def _code(text: str, language: str) -> str:
    """Return the lines of code in `text` as a code block of reStructuredText, highlighted as `language`."""
    indented = "\n".join(f"    {line}".rstrip() for line in text.strip("\n").split("\n"))
    return f".. code-block:: {language}\n\n{indented}"


def _joined(text: str) -> str:
    """Return the lines of a paragraph as one line."""
    return " ".join(text.split())


def _inline(text: str) -> str:
    """Return text whose backticks mean code or a link, and whose single asterisks mean a title. All else is escaped."""
    parts = re.split(r"(`[^`]+`|\*[A-Z][^*]+\*)", text)
    return "".join(_code_or_link(part[1:-1]) if part.startswith("`") else _escaped(part) for part in parts if part)


def _code_or_link(code: str) -> str:
    """Return a link to the public name that `code` is, or else the code."""
    target = _links().get(code.removesuffix("()"))
    return f":py:obj:`{code} <{target}>`" if target else f"``{code}``"


def _escaped(text: str) -> str:
    """Return text in which reStructuredText finds no markup, except a title between asterisks."""
    if re.fullmatch(r"\*[A-Z][^*]+\*", text):
        return text
    return re.sub(r"([\\*|_`])", r"\\\1", text)


@cache
def _links() -> dict[str, str]:
    """Return a dict from the short names that docstrings use, such as "export.compare", to full public names."""
    links = {}
    for name in public_objects():
        module, _, member = name.rpartition(".")
        if member not in UNLINKED:
            links[member] = name
        if module == "keras_butterfly.export":
            links[f"export.{member}"] = name
    links |= {name.rsplit(".", 1)[1]: name for name in DOCUMENTED_TOO}
    links["devices.Device"] = links["Device"]
    return links


def _resolve(app, env, node, contnode):
    """Link a type of a signature to the page of its public name. Types without a page are shown as text.

    Signatures name a class by the module that defines it, such as `keras_butterfly.export.model.TFLiteModel`. Other libraries
    have no page here. References in the text are not touched, so a wrong one fails the build.
    """
    if node.get("refdomain") != "py" or "refexplicit" in node:  # only references in the text have this attribute
        return None
    for name, value in public_objects().items():
        if f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}" == node["reftarget"]:
            return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)
    return contnode
