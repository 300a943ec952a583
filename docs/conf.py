"""The configuration of Sphinx: `make docs` builds the site into build/docs, without a network; warnings are errors."""

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

from seemore_jax.version import __version__

ROOT = Path(__file__).parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

project = "seemore-jax"
author = "The seemore-jax authors"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
# The tests execute the notebook (tests/test_documentation.py); a build of the site only shows it.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True  # the attributes of a class are listed once,
napoleon_attr_annotations = False  # and their types where autodoc lists them
napoleon_use_rtype = False
python_maximum_signature_line_length = 100
# In docstrings, a word in single backticks is code.
default_role = "code"
# Names of axes in shapes, such as "height", look like references to attributes of that name.
suppress_warnings = ["ref.python"]
# Names in type annotations that have no page here: those of other packages, whose look-up needs a network, and those
# that begin with an underscore.
nitpick_ignore_regex = [(r"py:.*", r"(?!seemore_jax\.).*"), (r"py:.*", r".*\._\w+")]

html_theme = "sphinx_book_theme"
html_title = f"seemore-jax {__version__}"
html_theme_options = {
    "repository_url": REPOSITORY,
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_issues_button": True,
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
}


def _plain_text(app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring, which is plain text with code in single backticks.

    Drawings and tables become literal blocks: in a docstring of a module, these are all indented lines; elsewhere,
    lines of a table. A star is no markup, and a letter may follow code.
    """
    converted: list[str] = []
    inside = False
    for line in lines:
        drawn = line.lstrip().startswith("|") or (what == "module" and line.startswith("  "))
        if drawn and not inside:
            indentation = line[: len(line) - len(line.lstrip())] if what != "module" else ""
            converted += ["", f"{indentation}.. code-block:: text", ""]
        inside = drawn or (inside and not line.strip())
        if drawn:
            converted.append(f"    {line}")
        else:
            pieces = re.split("(`[^`]*`)", line)  # text, code, text, …
            pieces[::2] = [text.replace("*", r"\*") for text in pieces[::2]]
            pieces[2::2] = [re.sub(r"^(?=\w)", r"\\ ", text) for text in pieces[2::2]]
            converted.append("".join(pieces))
    lines[:] = converted


def _short_names(
    app: Sphinx, what: str, name: str, of: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Calls JAX's array as users do."""
    shortened = [text and text.replace("jaxlib._jax.Array", "Array") for text in (signature, returned)]
    return shortened[0], shortened[1]


def setup(app: Sphinx) -> None:
    """Connects the functions above; the first one is to be called before napoleon's."""
    app.connect("autodoc-process-docstring", _plain_text, priority=100)
    app.connect("autodoc-process-signature", _short_names)
