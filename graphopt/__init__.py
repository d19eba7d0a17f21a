"""graphopt: find, rank and build operator fusions for a fleet of ONNX models.

``graphopt.load("fused.onnx")`` opens a model that ``graphopt apply`` wrote, with its kernels, in stock onnxruntime;
``graphopt.observe(session, corpus)`` and ``graphopt.observe_all(corpus)`` record what running sessions execute.
Importing this package imports nothing heavy.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.observers import observe, observe_all
    from graphopt.runtime.session import load

__version__ = "0.1.0"
__all__ = ["__version__", "load", "observe", "observe_all"]

# ``mining`` and ``passes`` stand at the top of the checkout and install inside of this package. Where they are not
# inside (a bare checkout, an editable install), the checkout itself is searched too.
if not (Path(__file__).parent / "passes").is_dir():
    __path__.append(str(Path(__file__).parent.parent))


def __getattr__(name: str) -> object:
    """Import what needs onnxruntime on first use."""
    if name == "load":
        from graphopt.runtime.session import load

        return load
    if name in ("observe", "observe_all"):
        from graphopt import observers

        return getattr(observers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
