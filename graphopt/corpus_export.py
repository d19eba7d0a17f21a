"""A corpus as a folder of models with a ``captures.toml``, to hand on, look at, or capture from again."""

import tempfile
from pathlib import Path

from graphopt import captures_file, files, model_files
from graphopt.captures_file import Entry
from graphopt.corpus_sources import stored_models
from graphopt.corpus_storing import file_name
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.model_inputs import inputs_of
from graphopt.redaction import redact


def export(place: Path | str, folder: Path, *, redacted: bool = False) -> tuple[int, tuple[str, ...]]:
    """Write all graphs and captures of a corpus into a folder.

    Args:
        place: a folder or a URL.
        folder: where; it must be empty, or is made.
        redacted: replace all names and drop comments (``redaction.redact``).

    Returns:
        How many graphs were written, and a line for each that could not be.

    Raises:
        GraphoptError: the corpus cannot be read, the folder is not empty or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GraphoptError(f"{folder}: is not an empty folder")
    entries: list[Entry] = []
    models: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        stored, problems = stored_models(place, Path(scratch))
        for one in stored:
            try:
                model = model_files.load(one.file)
            except GraphoptError as error:
                problems.append(str(error))
                continue
            order = [i.name for i in inputs_of(model)]
            written = redact(model) if redacted else model
            names = dict(zip(order, (i.name for i in inputs_of(written)), strict=True))
            name = f"{file_name('model' if redacted else one.name)}-{digest(model)[:12]}.onnx"
            if name not in models:
                model_files.save(written, folder / name)
                models.add(name)
            for run in one.executions:
                if isinstance(run, Entry):
                    shapes = {names[i]: shape for i, shape in run.shapes.items() if i in names}
                    ranges = {names[i]: bounds for i, bounds in run.ranges.items() if i in names}
                    entries.append(Entry(name, shapes, run.executions, ranges, run.view))
                elif len(run.shapes) == len(order):
                    pairs = zip(order, run.shapes, strict=True)
                    shapes = {names[i]: shape for i, shape in pairs if shape is not None}
                    entries.append(Entry(name, shapes, run.executions))
                else:
                    problems.append(f"{one.source}: captured with {len(run.shapes)} inputs; it has {len(order)}")
    if not entries:
        raise GraphoptError(f"{place}: nothing to export ({problems[0] if problems else 'it is empty'})")
    files.write_text(folder / captures_file.NAME, captures_file.text(entries))
    return len(models), tuple(problems)
