"""An observed corpus: graphs by digest, and captures that any number of processes append without locks."""

import re
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from graphopt import model_files
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.store import tables
from graphopt.store.folders import Folder, is_url, open_folder
from graphopt.store.rows import Rows
from graphopt.weights import drop_weights

GRAPHS = "graphs"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ObservedCorpus:
    """A corpus that services write and miners read, at the same time.

    Attributes:
        folder: where it is.
    """

    folder: Folder

    def put_graph(self, model: ModelProto) -> str:
        """Store a model without its weights, unless it is there.

        Args:
            model: a checked model; its weights may be in memory, in other files (they are not read), or dropped.

        Returns:
            Its digest, by which it is found.

        Raises:
            GraphoptError: its weights cannot be dropped, or the corpus cannot be written.
        """
        light = drop_weights(model)
        found = digest(light)
        path = f"{GRAPHS}/{found}.onnx"
        if not self.folder.exists(path):
            self.folder.write(path, light.SerializeToString(deterministic=True))
        return found

    def graphs(self) -> list[str]:
        """Sorted digests of all stored graphs."""
        names = (name.removesuffix(".onnx") for name in self.folder.names(GRAPHS, ".onnx"))
        return [name for name in names if _DIGEST.fullmatch(name)]

    def graph(self, found: str) -> ModelProto:
        """A stored graph by its digest, checked; its large weights are dropped.

        Raises:
            GraphoptError: it is not there, or broken.
        """
        path = f"{GRAPHS}/{found}.onnx"
        if not _DIGEST.fullmatch(found):
            raise GraphoptError(f"{self.folder.url}: {found!r} is not the digest of a graph")
        try:
            content = self.folder.read(path)
        except FileNotFoundError:
            raise GraphoptError(f"{self.folder.url}/{path}: no such graph") from None
        return model_files.from_bytes(content, f"{self.folder.url}/{path}")

    @property
    def captured(self) -> Rows:
        """Executions by graph and input shapes."""
        return Rows(self.folder, tables.CAPTURES)

    @property
    def sampled(self) -> Rows:
        """Operator times."""
        return Rows(self.folder, tables.PROFILES)


def open(place: str | Path) -> ObservedCorpus:
    """An observed corpus, by its URL or folder; nothing is read or written yet.

    Raises:
        GraphoptError: fsspec or pyarrow is missing, or the URL cannot be used.
    """
    folder = open_folder(place)
    if not tables.AVAILABLE:
        raise GraphoptError(f"{place}: observed corpora need fsspec and pyarrow: pip install 'graphopt[observe]'")
    return ObservedCorpus(folder)


def is_digest(text: str) -> bool:
    """Whether a text is a graph's digest."""
    return _DIGEST.fullmatch(text) is not None


def is_observed(place: str | Path) -> bool:
    """Whether a corpus is an observed one: any URL is; a folder, when it holds captures as services write them."""
    return is_url(place) or next((Path(place) / tables.CAPTURES.folder).glob("*.parquet"), None) is not None
