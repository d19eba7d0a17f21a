"""Folders of files by URL: on this machine, or wherever fsspec reaches (``s3://``, ``gs://``, ``memory://``, …).

Every write is whole or not at all: a reader finds the complete file or none. Object stores promise that by themselves;
elsewhere a file is written under a temporary name, which starts with a dot, and moved.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt import files
from graphopt.errors import GraphoptError

try:
    import fsspec
except ImportError:  # the extra "observe"
    fsspec = None

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"})
"""Protocols whose objects appear whole, when the last byte has arrived."""


def is_url(place: object) -> bool:
    """Whether a place is named by a URL (``s3://bucket/fleet``) and not by a path."""
    return "://" in str(place)


@dataclass(frozen=True)
class Folder:
    """A folder.

    Attributes:
        url: as it was given.
        filesystem: fsspec's file system.
        root: path in that file system, without a slash at the end.
        local: the folder on this machine; None where it is elsewhere.
    """

    url: str
    filesystem: Any
    root: str
    local: Path | None

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names of the files in a folder below that end so; none where there is no such folder.

        Raises:
            GraphoptError: the folder cannot be listed.
        """
        with self._failing("cannot list", folder):
            self.filesystem.invalidate_cache()  # others write while we look
            try:
                found = self.filesystem.ls(f"{self.root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def exists(self, path: str) -> bool:
        """Whether a file is there.

        Raises:
            GraphoptError: nobody can say.
        """
        with self._failing("cannot read", path):
            self.filesystem.invalidate_cache()
            return bool(self.filesystem.exists(f"{self.root}/{path}"))

    def read(self, path: str) -> bytes:
        """What a file holds.

        Raises:
            FileNotFoundError: it is not there, or no longer.
            GraphoptError: it cannot be read.
        """
        with self._failing("cannot read", path):
            content = self.filesystem.cat_file(f"{self.root}/{path}")
        assert isinstance(content, bytes)
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write a file whole; folders that are missing are made.

        Raises:
            GraphoptError: it cannot be written.
        """
        if self.local is not None:
            files.write_bytes(self.local / path, content)
            return
        with self._failing("cannot write", path, missing=True):
            target = f"{self.root}/{path}"
            if not _OBJECT_STORES.isdisjoint(_protocols(self.filesystem)):
                self.filesystem.pipe_file(target, content)
                return
            parent, _, name = target.rpartition("/")
            temporary = f"{parent}/.{files.token()}.{name}"
            self.filesystem.makedirs(parent, exist_ok=True)
            self.filesystem.pipe_file(temporary, content)
            self.filesystem.mv(temporary, target)

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error.

        Raises:
            GraphoptError: it cannot be removed.
        """
        with self._failing("cannot remove", path):
            try:
                self.filesystem.rm_file(f"{self.root}/{path}")
            except FileNotFoundError:
                return

    @contextmanager
    def _failing(self, what: str, path: str, *, missing: bool = False) -> Iterator[None]:
        """Say in a line what went wrong; that a file is missing stays what it is, unless that is wrong, too."""
        try:
            yield
        except Exception as error:  # file systems, and the networks behind them, fail in their own ways
            if isinstance(error, FileNotFoundError) and not missing:
                raise
            cause = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
            raise GraphoptError(f"{self.url}/{path}: {what}: {cause}") from None


def open_folder(place: str | Path) -> Folder:
    """A folder by its URL or path; nothing is read or written.

    Raises:
        GraphoptError: the package that speaks its protocol is not installed, or does not accept the URL.
    """
    if fsspec is None:
        raise GraphoptError(f"{place}: observed corpora need fsspec and pyarrow: pip install 'graphopt[observe]'")
    url = str(place).rstrip("/") or "/"
    try:
        filesystem, root = fsspec.core.url_to_fs(url if is_url(url) else str(Path(url).absolute()))
    except Exception as error:  # an unknown protocol, a missing package, wrong credentials
        raise GraphoptError(f"{url}: cannot be opened: {' '.join(str(error).split())}") from None
    return Folder(url, filesystem, root.rstrip("/"), Path(root) if "file" in _protocols(filesystem) else None)


def _protocols(filesystem: Any) -> Sequence[str]:
    """The protocols that a file system of fsspec speaks: it names one, or several."""
    protocols = filesystem.protocol
    return [protocols] if isinstance(protocols, str) else protocols
