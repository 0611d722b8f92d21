"""Checks of the site beyond Sphinx's: each public name has a page and a docstring, and no page loads from the network."""

import re
from pathlib import Path

from public_names import public_objects
from sphinx.util import logging

LOG = logging.getLogger(__name__)
LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//[^\"]*\"|<link[^>]+rel=\"stylesheet\"[^>]*href=\"https?://[^\"]*\""
)


def setup(app):
    app.connect("env-check-consistency", _check_names)
    app.connect("build-finished", _check_pages)
    return {"parallel_read_safe": True}


def _check_names(app, env):
    """Warn of public names that no page documents, and of public classes and functions without a docstring."""
    documented = env.get_domain("py").objects
    for name, value in public_objects().items():
        if name not in documented:
            LOG.warning("No page documents the public name %s. Add it to a page below docs/api.", name)
        if not getattr(value, "__doc__", None):
            LOG.warning("The public name %s has no docstring.", name)


def _check_pages(app, exception):
    """Warn of pages that would load a script, a style or a picture from the network."""
    if exception is not None or app.builder.format != "html":
        return
    for page in sorted(Path(app.outdir).rglob("*.html")):
        for loaded in LOADED.findall(page.read_text(encoding="utf-8")):
            LOG.warning("%s loads from the network: %s", page.relative_to(app.outdir), loaded)
