"""Tables in pages in Markdown that are made anew from results, each between two comments."""

import re
from collections.abc import Callable, Iterable, Sequence


def replaced(page: str, pattern: str, table: Callable[[str], str]) -> str:
    """Return `page` with the text between each pair of lines `<!-- NAME -->` and `<!-- end -->` replaced by `table(NAME)`.

    Args:
        page: a text in Markdown.
        pattern: a regular expression, without groups, of the names of tables. Other comments stay as they are.
        table: a function that takes a name, and returns the table.
    """

    def made(match: re.Match) -> str:
        return f"<!-- {match.group(1)} -->\n{table(match.group(1))}\n<!-- end -->"

    return re.sub(rf"<!-- ({pattern}) -->\n.*?<!-- end -->", made, page, flags=re.DOTALL)


def in_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, with the texts of its heads and of the cells of each row."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return "\n".join([first, f"|{'---|' * len(heads)}", *others])
