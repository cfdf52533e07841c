"""``make docs``: the API reference of what others build on, from its docstrings. Warnings are errors.

python docs/reference.py FOLDER
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path

import pdoc

# The stages' own modules are read as code.
DOCUMENTED = (
    "longvu_model",
    "pipelines.store",
    "pipelines.engine",
    "pipelines.video_models",
    "pipelines.corpus",
    "pipelines.config",
    "pipelines.storage",
    "pipelines.errors",
    "pipelines.tracking",
    "pipelines.lineage",
    "pipelines.extract.stages",
    "pipelines.evaluate.tasks.base",
)


def build(folder: Path) -> None:
    """Write the pages.

    Raises:
        UserWarning: a docstring cannot be rendered, or a name does not resolve.
    """
    for name in DOCUMENTED:
        module = import_module(name)
        # pdoc looks for names in the module itself; ours are imported when they are first asked for.
        for public in getattr(module, "__all__", ()):
            setattr(module, public, getattr(module, public))
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # transformers 5.23 makes configurations dataclasses; their annotations use names of its own modules only.
        warnings.filterwarnings("ignore", r"Error parsing type annotation .* for longvu_model\.\S*Config\.__init__")
        pdoc.pdoc(*DOCUMENTED, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
