"""A bundle: one pattern cut out for a kernel writer, with its model, inputs, expected outputs and a first kernel.

The folder holds ``pattern.onnx`` (the pattern at real shapes, with its real constants), ``inputs.npz`` and
``expected.npz``, ``kernel.c`` (the generated kernel; ``tiles.h`` is part of it), ``kernel.onnx`` (the pattern as one
fused operator) and ``bundle.json``. ``build`` compiles ``kernel.c`` into ``kernel.so``, whatever stands there by then.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from graphopt import corpus, files, models
from graphopt.errors import GraphoptError, about
from graphopt.kernels.compile import compile_library
from graphopt.kernels.emit import Source
from graphopt.machine import Machine
from graphopt.mining.opportunity import Opportunity
from graphopt.observation import one_line
from graphopt.passes.pattern_model import cut_out, load_view, place_of
from graphopt.runtime.session import KERNELS_KEY, VIEW_KEY, open_session
from graphopt.views import ViewName

SCHEMA_VERSION = 1
PATTERN, FUSED, KERNEL, TILES, LIBRARY = "pattern.onnx", "kernel.onnx", "kernel.c", "tiles.h", "kernel.so"
INPUTS, EXPECTED, ABOUT, README = "inputs.npz", "expected.npz", "bundle.json", "README.md"


@dataclass(frozen=True)
class Bundle:
    """What a bundle's folder says.

    Attributes:
        folder: where it is.
        digest: of the pattern.
        name: operator type of the fused operator; ``kernel.c`` defines ``<name>_kernel``.
        source: what ``kernel.c`` holds.
        tiles: what ``tiles.h`` holds: inner loops that the generated kernel uses; empty where it needs none.
    """

    folder: Path
    digest: str
    name: str
    source: str
    tiles: str


def write(opportunity: Opportunity, place: Path | str, folder: Path, machine: Machine, view: ViewName) -> Bundle:
    """Cut a pattern out of a model that holds it, at the shapes where it saves most.

    Args:
        opportunity: the pattern; its first shapes are taken.
        place: the corpus that it was mined from.
        folder: where to write; made when missing. It must not hold a bundle yet.
        machine: roofline description.
        view: the view that was mined.

    Returns:
        The bundle.

    Raises:
        GraphoptError: the folder holds a bundle, the corpus does not hold the model, no kernel can be generated, or the
            pattern does not run on made-up inputs.
    """
    if (folder / ABOUT).exists():
        raise GraphoptError(f"{folder}: holds a bundle already, which may have been worked on; choose another folder")
    with corpus.files_by_name(place) as stored:
        where = place_of(opportunity, stored)
        viewed = load_view(where.file, view)
    cut = cut_out(viewed, where.body, opportunity, machine)
    model = cut.model
    inputs = models.seeded_inputs(model, cut.shapes)
    session = open_session(model, optimization="none")
    names = [value.name for value in session.get_outputs()]
    try:
        expected = dict(zip(names, session.run(None, inputs), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise GraphoptError(f"{opportunity.short}: does not run on made-up inputs: {one_line(error)}") from None
    source = cut.source()
    about = {
        "schema_version": SCHEMA_VERSION,
        "kind": "bundle",
        "digest": opportunity.digest,
        "name": source.title,
        "operators": [node.operator for node in cut.fusion.body.nodes],
        "model": opportunity.shapes[0].model,
        "nodes": list(opportunity.shapes[0].nodes),
        "view": view,
    }
    onnx.helper.set_model_props(cut.fused, {VIEW_KEY: "executed", KERNELS_KEY: LIBRARY})
    models.save(model, folder / PATTERN)
    models.save(cut.fused, folder / FUSED)
    for name, arrays in ((INPUTS, inputs), (EXPECTED, expected)):
        with files.staged(folder / name) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    files.write_text(folder / KERNEL, source.kernels[0][1])
    files.write_text(folder / TILES, "\n".join(source.tiles))
    files.write_text(folder / README, _readme(opportunity, source.title))
    files.write_text(folder / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    bundle = read(folder)
    build(bundle)
    return bundle


def read(folder: Path) -> Bundle:
    """The bundle in a folder.

    Raises:
        GraphoptError: it is none, or a file of it is missing.
    """
    try:
        about = files.parse_json((folder / ABOUT).read_text("utf-8"))
        source, tiles = ((folder / name).read_text("utf-8") for name in (KERNEL, TILES))
    except OSError as error:
        raise GraphoptError(f"{error.filename or folder}: cannot read: {error.strerror or error}") from None
    except ValueError:
        raise GraphoptError(f"{folder / ABOUT}: not a bundle (not JSON, or not UTF-8)") from None
    if not isinstance(about, dict) or about.get("kind") != "bundle" or about.get("schema_version") != SCHEMA_VERSION:
        raise GraphoptError(f"{folder / ABOUT}: not a bundle of this version")
    digest, name = about.get("digest"), about.get("name")
    if not isinstance(digest, str) or not isinstance(name, str) or not (name.isidentifier() and name.isascii()):
        raise GraphoptError(f"{folder / ABOUT}: not a bundle of this version")
    return Bundle(folder, digest, name, source, tiles)


def read_kernel(folder: Path, digest: str) -> Bundle:
    """The bundle in a folder, for a pattern.

    Args:
        folder: the bundle.
        digest: first digits of the pattern's digest.

    Raises:
        GraphoptError: as ``read``, or it is a bundle of another pattern.
    """
    bundle = read(folder)
    if not bundle.digest.startswith(digest):
        raise GraphoptError(f"{folder}: is the bundle of pattern {bundle.digest[:12]}, not of {digest}")
    return bundle


def build(bundle: Bundle) -> Path:
    """Compile ``kernel.c`` into ``kernel.so``.

    Returns:
        The library.

    Raises:
        GraphoptError: there is no compiler, or it rejects the kernel.
    """
    if f"{bundle.name}_kernel" not in bundle.source:
        raise GraphoptError(f"{bundle.folder / KERNEL}: does not define {bundle.name}_kernel")
    with about(bundle.folder / KERNEL), files.staged(bundle.folder / LIBRARY) as temporary:
        compile_library(Source(bundle.name, ((bundle.name, bundle.source),), (bundle.tiles,)), temporary)
    return bundle.folder / LIBRARY


def _readme(opportunity: Opportunity, name: str) -> str:
    chain = " → ".join(operator.rpartition(".")[2] for operator in opportunity.operators)
    return f"""# {chain}

Pattern {opportunity.digest}.

- `{PATTERN}`: the pattern at its most valuable shapes, `{INPUTS}` and `{EXPECTED}`: values to try it with.
- `{KERNEL}`: the generated kernel; `{name}_kernel` at its end is what onnxruntime gets to see.
- `{FUSED}`: the pattern as one operator, `{LIBRARY}`: the kernel compiled.

Edit `{KERNEL}`, then build it, hold it against the expected values and time it:

    graphopt check .

When it is right and fast, use it in place of the generated kernel, measured like any other:

    graphopt apply model.onnx --kernel {opportunity.digest[:12]}=. -o fused.onnx
"""
