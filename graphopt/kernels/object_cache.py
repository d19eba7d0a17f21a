"""Compiled parts of kernel libraries, kept by what they were made from.

Equal kernels of different models are compiled once. The cache is a folder of the user's own (mode 0700). A file's name
is the digest of all that it depends on: the C, the compiler and its flags. It begins with the digest of its name and
what follows, which is checked before it is used. Files are written to another name and renamed, so runs at the same
time do not disturb each other; the ones that were not used for longest go when the folder grows too large.
"""

import hashlib
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

VARIABLE = "GRAPHOPT_CACHE"
"""Names the folder; ``off`` switches the cache off."""

LARGEST = 256 << 20
"""Bytes that the cache may hold."""

_DIGEST = hashlib.sha256().digest_size


class ObjectCache:
    """A folder of compiled parts.

    Attributes:
        folder: where they are; made when missing.
        largest: bytes that they may take together.
    """

    def __init__(self, folder: Path, largest: int = LARGEST) -> None:
        self.folder = folder
        self.largest = largest

    def fetch(self, key: str, file: Path) -> bool:
        """Write the part with this key to a file; False where it is not known or not whole."""
        place = self.folder / f"{key}.o"
        try:
            content = place.read_bytes()
            if _digest(key, content[_DIGEST:]) != content[:_DIGEST]:
                place.unlink()
                return False
            os.utime(place)
        except OSError:
            return False
        file.write_bytes(content[_DIGEST:])
        return True

    def store(self, key: str, file: Path) -> None:
        """Keep a part. A cache that cannot be written is no error: there is just none."""
        content = file.read_bytes()
        temporary = self.folder / f".{key}.{secrets.token_hex(6)}"
        try:
            temporary.write_bytes(_digest(key, content) + content)
            temporary.replace(self.folder / f"{key}.o")
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        self._shrink()

    def _shrink(self) -> None:
        known = []
        for place in self.folder.glob("*.o"):
            with suppress(OSError):  # another run may just have removed it
                status = place.stat()
                known.append((status.st_mtime_ns, status.st_size, place))
        total = sum(size for _, size, _ in known)
        if total <= self.largest:
            return
        for _, size, place in sorted(known):
            with suppress(OSError):
                place.unlink()
            total -= size
            if total <= self.largest * 3 // 4:  # so that not every new part looks through all of them
                return


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def open_cache() -> ObjectCache | None:
    """The user's cache; None where it is switched off or its folder is not safe to use.

    ``$GRAPHOPT_CACHE`` names the folder, else ``$XDG_CACHE_HOME/graphopt``, else ``~/.cache/graphopt``.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() in ("off", "0", "no"):
        return None
    try:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        folder = (Path(chosen) if chosen else Path(home) / "graphopt") / "objects"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except (OSError, RuntimeError):
        return None
    private = stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())
    if os.name == "posix" and private and stat.S_IMODE(status.st_mode) & 0o077:
        private = False
    return ObjectCache(folder) if private else None
