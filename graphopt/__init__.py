"""graphopt: find, rank and build operator fusions for a fleet of ONNX models.

``graphopt.load("fused.onnx")`` opens a model that ``graphopt apply`` wrote, with its kernels, in stock onnxruntime.
Importing this package imports nothing heavy.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.runtime.session import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

# ``mining`` and ``passes`` stand at the top of the checkout and install inside of this package. Where they are not
# inside (a bare checkout, an editable install), the checkout itself is searched too.
if not (Path(__file__).parent / "passes").is_dir():
    __path__.append(str(Path(__file__).parent.parent))


def __getattr__(name: str) -> object:
    """Import ``load`` on first use: it needs onnxruntime."""
    if name == "load":
        from graphopt.runtime.session import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
