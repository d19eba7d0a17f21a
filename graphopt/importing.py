"""Captures from what others keep: a model, its profile, a folder or archive of models, a PyTorch program."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from graphopt import corpus_storing, exported_program, model_folders, profile_events
from graphopt.capture import Execution
from graphopt.corpus import Progress
from graphopt.corpus_storing import Weights
from graphopt.errors import GraphoptError
from graphopt.graph import Shape
from graphopt.model_inputs import Range
from graphopt.observation import one_line
from graphopt.views import ViewName
from graphopt.weights import load_without_weights


@dataclass(frozen=True)
class Target:
    """Where captures go, and in what form; ``corpus_storing.add_executions`` describes each.

    Attributes:
        place: the corpus.
        name: what it calls the model; None: the file's stem. Models of a folder keep their own names.
        view: the view that is stored.
        weights: whether weights are.
        redacted: whether names are not.
    """

    place: Path | str
    name: str | None = None
    view: ViewName | None = None
    weights: Weights = "drop"
    redacted: bool = False


@dataclass(frozen=True)
class Source:
    """What is captured.

    Attributes:
        path: a model, a PyTorch program, a folder or an archive.
        shapes: input name to shape, of a single model.
        executions: how often it ran with these shapes.
        ranges: input name to (low, high) of its values, of a single model.
        profile: onnxruntime's profile of a single model, which tells shapes and executions.
        listing: the list of a folder or archive.
    """

    path: Path
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    executions: int = 1
    ranges: Mapping[str, Range] = field(default_factory=dict)
    profile: Path | None = None
    listing: Path | None = None


@dataclass(frozen=True)
class Imported:
    """What came of it.

    Attributes:
        files: models in the corpus, each once, in the order of the source.
        problems: a line for each model that could not be captured.
    """

    files: tuple[Path | str, ...]
    problems: tuple[str, ...] = ()


def capture(source: Source, target: Target, progress: Progress | None = None) -> Imported:
    """Store captures of a source.

    Args:
        source: what is captured.
        target: where.
        progress: told after each model of a folder or archive.

    Raises:
        GraphoptError: nothing could be captured.
    """
    path = source.path
    if path.suffix.lower() == exported_program.SUFFIX:
        model, shapes = exported_program.read(path)
        name = target.name or (None if target.redacted else path.stem)
        one = Execution(source.shapes or shapes, source.executions, source.ranges)
        return Imported((_add(target, model, [one], name),))
    if path.suffix.lower() != ".onnx" and (path.is_dir() or model_folders.is_archive(path)):
        return _folder(source, target, progress)
    if source.profile is None:
        executions = [Execution(source.shapes, source.executions, source.ranges)]
    else:
        found = profile_events.executions_of(load_without_weights(path), source.profile)
        executions = [Execution(shapes, count, source.ranges) for shapes, count in found]
    return Imported((_add(target, path, executions, target.name),))


def _add(
    target: Target,
    model: Path | ModelProto,
    executions: list[Execution],
    name: str | None = None,
    given_view: ViewName | None = None,
) -> Path | str:
    return corpus_storing.add_executions(
        target.place,
        model,
        executions,
        name=name,
        view=target.view,
        given_view=given_view,
        weights=target.weights,
        redacted=target.redacted,
    )


def _folder(source: Source, target: Target, progress: Progress | None) -> Imported:
    stored: list[Path | str] = []
    problems: list[str] = []
    with model_folders.opened(source.path) as folder:
        try:
            models = model_folders.entries_of(folder, source.listing)
        except GraphoptError as error:
            raise GraphoptError(str(error).replace(str(folder), str(source.path))) from None
        for done, (model, entries) in enumerate(models.items()):
            for view in sorted({entry.view for entry in entries}, key=str):
                group = [Execution(one.shapes, one.executions, one.ranges) for one in entries if one.view == view]
                try:
                    stored.append(_add(target, folder / model, group, given_view=view))
                except GraphoptError as error:
                    problems.append(str(error).replace(str(folder), str(source.path)))
                except Exception as error:  # one model that nobody has thought of must not end the work on a fleet
                    problems.append(f"{source.path}/{model}: cannot be captured: {one_line(error)}")
            if progress is not None:
                progress(done + 1, len(models), model)
    if not stored:
        raise GraphoptError(problems[0])
    return Imported(tuple(dict.fromkeys(stored)), tuple(problems))
