"""Settings of the documentation site. `make docs` builds it."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"  # the exporter, whose functions are documented too, needs it
os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import notebooks


def _package():
    """Import the package without what TensorFlow's compiled code logs, which looks like warnings of this build."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras_butterfly.export

        return keras_butterfly
    finally:
        os.dup2(kept, 2)


project = "keras_butterfly"
author = "the keras_butterfly authors"
copyright = f"2026, {author}"
release = version = _package().__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_click", "docstrings", "checks"]
exclude_patterns = ["_extensions"]
notebooks.copy(Path(__file__).parent)

# Markdown. Links to headings are checked too.
myst_heading_anchors = 4
myst_enable_extensions: list[str] = []  # no formulas in TeX, so that no MathJax has to be loaded

# Notebooks are shown with the outputs that they were saved with. Widgets would load scripts from the network.
nb_execution_mode = "off"
nb_ipywidgets_js: dict = {}
nb_merge_streams = True

# The API reference.
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    # What Keras calls by itself, and what only the exporter and `replace_dense` call.
    "exclude-members": "build, call, compute_output_shape, get_config, save_own_variables, load_own_variables, compute_loss, "
    "compute_metrics, trainable, parts, affine, map_weights, set_map_weights, approximate, thin_kernels, check_rows, "
    "exit_code, from_config, quantize, draw",
}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
default_role = "code"
smartquotes = False  # quotes are often part of code

pygments_dark_style = "github-dark"
html_theme = "furo"
html_title = "keras_butterfly"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5fa5", "color-brand-content": "#0b5fa5"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ff", "color-brand-content": "#7cc4ff"},
}
