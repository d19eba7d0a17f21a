"""Writing files that belong together: made in a folder beside the target, renamed at the end, the model last."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.interrupts import held_back


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A folder beside the output that is gone afterwards, whatever happens."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.stem}."))
    except OSError as error:
        raise GraphoptError(f"{output}: cannot write: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(stage: Path, output: Path) -> None:
    """Rename the staged files to where they belong, the model last; files of an earlier run that are obsolete go.

    Each rename is whole. Should the machine stop between two of them, the old model stands beside a new library, whose
    digest it does not know: it then runs by its function bodies, with the same numbers.
    """
    files = sorted((file for file in stage.iterdir() if file.is_file()), key=lambda file: file.name == output.name)
    names = {file.name for file in files}
    with held_back():
        try:
            for file in files:
                file.replace(output.parent / file.name)
        except OSError as error:
            raise GraphoptError(f"{output}: cannot write: {error.strerror or error}") from None
        if f"{output.stem}.so" not in names:
            _remove_obsolete(output)


def _remove_obsolete(output: Path) -> None:
    """Remove the kernel library and source of an earlier run, known by the comment that generated C begins with."""
    source = output.with_suffix(".c")
    with suppress(OSError):
        if b"graphopt" in source.read_bytes()[:400]:
            source.unlink()
            output.with_suffix(".so").unlink(missing_ok=True)
