"""What a corpus holds: its models and how each one ran, from whichever kind of store."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from graphopt import captures_file, files, store
from graphopt.captures_file import Entry
from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.store.folders import is_url
from graphopt.store.tables import shapes_of

_DOWNLOADS = 16


@dataclass(frozen=True)
class Positional:
    """Executions of an observed graph, whose inputs are known by position.

    Attributes:
        shapes: of the inputs; None for one that was left out or is no tensor.
        executions: how many.
    """

    shapes: tuple[Shape | None, ...]
    executions: int


@dataclass(frozen=True)
class Stored:
    """A model of a corpus.

    Attributes:
        file: where it can be read on this machine.
        name: what captures call it.
        source: path or URL in the corpus, for messages.
        executions: how it ran. An entry without shapes stands for its declared shapes.
        digest: of its structure, where the corpus tells it.
    """

    file: Path
    name: str
    source: str
    executions: tuple[Entry | Positional, ...]
    digest: str = ""


def stored_models(place: Path | str, scratch: Path) -> tuple[list[Stored], list[str]]:
    """The models of a corpus, sorted by their source, and remarks about what is left out.

    Args:
        place: a folder with a ``captures.toml``, a folder of models, a model, or an observed corpus (a URL is one).
            A folder with a ``captures.toml`` that is an observed corpus as well holds both.
        scratch: an existing folder; what is not on this machine is copied there.

    Raises:
        GraphoptError: the corpus cannot be read or is empty.
    """
    if is_url(place):
        models, remarks = _observed(place, scratch)
    else:
        folder = Path(place)
        observed = store.is_observed(folder)
        models, remarks = _observed(folder, scratch) if observed else ([], [])
        if not observed or (folder / captures_file.NAME).is_file():
            others, more = _classic(folder, hidden=(store.GRAPHS,) if observed else ())
            models, remarks = models + others, remarks + more
    if not models:
        raise GraphoptError(min(remarks, default=f"{place}: no models in it"))
    return sorted(models, key=lambda one: one.source), remarks


def _classic(folder: Path, hidden: Iterable[str]) -> tuple[list[Stored], list[str]]:
    if folder.is_file():
        return [Stored(folder, folder.stem, str(folder), (Entry(folder.name),))], []
    try:
        present = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*.onnx")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.relative_to(folder).parts[0] not in hidden
        )
        next(folder.iterdir(), None)  # rglob is silent about a folder that is missing or closed
        listed = (folder / captures_file.NAME).is_file()
    except OSError as error:
        raise GraphoptError(f"{folder}: cannot read: {error.strerror or error}") from None
    groups: dict[str, list[Entry]] = defaultdict(list)
    remarks = []
    if listed:
        for entry in captures_file.read(folder / captures_file.NAME):
            groups[entry.model].append(entry)
        remarks = [
            f"{folder / model}: left out: {captures_file.NAME} does not list it"
            for model in present
            if model not in groups
        ]
    else:
        groups.update({model: [Entry(model)] for model in present})
    models = [
        Stored(folder / model, Path(model).stem, str(folder / model), tuple(entries))
        for model, entries in groups.items()
    ]
    return models, remarks


def _observed(place: Path | str, scratch: Path) -> tuple[list[Stored], list[str]]:
    remarks: list[str] = []
    corpus = store.open(place)
    captures = corpus.captured.total(remarks.append)
    executions: dict[str, list[Positional]] = defaultdict(list)
    names: dict[str, str] = {}
    columns = (captures.column(name).to_pylist() for name in ("graph", "name", "shapes", "executions"))
    for graph, name, shapes, count in zip(*columns, strict=True):
        try:
            executions[graph].append(Positional(shapes_of(shapes), count))
        except GraphoptError as error:
            remarks.append(f"{corpus.folder.url}: {error}")
        names[graph] = min(name, names.get(graph, name))
    present = set(corpus.graphs())
    remarks += [
        f"{corpus.folder.url}/{store.GRAPHS}/{graph}.onnx: no such graph, though it has captures"
        for graph in executions
        if graph not in present
    ]
    wanted = [graph for graph in executions if graph in present]
    uses = Counter(names[graph] for graph in wanted)

    def fetch(graph: str) -> Path | str:
        path = f"{store.GRAPHS}/{graph}.onnx"
        if corpus.folder.local is not None:
            return corpus.folder.local / path
        try:
            files.write_bytes(scratch / f"{graph}.onnx", corpus.folder.read(path))
        except (FileNotFoundError, GraphoptError) as error:
            return str(error)
        return scratch / f"{graph}.onnx"

    models = []
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        for graph, file in zip(wanted, pool.map(fetch, wanted), strict=True):
            if isinstance(file, str):
                remarks.append(file)
                continue
            name = names[graph] if uses[names[graph]] == 1 else f"{names[graph]}-{graph[:8]}"
            source = f"{corpus.folder.url}/{store.GRAPHS}/{graph}.onnx"
            models.append(Stored(file, name, source, tuple(executions[graph]), graph))
    return models, remarks
