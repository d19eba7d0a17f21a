"""A folder in memory whose users take turns, one access at a time, as a test says."""

import hashlib
import threading
from collections.abc import Callable, Sequence

from graphopt.errors import GraphoptError


class Killed(BaseException):
    """A process was killed."""


class Turns:
    """Threads that wait for their turn before each access; who goes next is drawn."""

    def __init__(self, choose: Callable[[list[str]], str], deaths: dict[str, int]) -> None:
        """Make turns.

        Args:
            choose: given the names of those that can go, the one that does.
            deaths: name of a thread to how many accesses it survives.
        """
        self._choose, self._deaths = choose, deaths
        self._waiting: dict[str, threading.Event] = {}
        self._done: set[str] = set()
        self._change = threading.Condition()
        self.errors: list[BaseException] = []

    def wait(self) -> None:
        """Wait for this thread's turn."""
        name = threading.current_thread().name
        event = threading.Event()
        with self._change:
            self._waiting[name] = event
            self._change.notify_all()
        event.wait()
        left = self._deaths.get(name)
        if left is not None:
            if left == 0:
                raise Killed
            self._deaths[name] = left - 1

    def run(self, work: dict[str, Callable[[], object]]) -> None:
        """Run all of it to its end."""

        def body(name: str) -> None:
            try:
                work[name]()
            except (Killed, GraphoptError):
                pass  # a compaction that another one stops
            except BaseException as error:
                self.errors.append(error)
            finally:
                with self._change:
                    self._done.add(name)
                    self._change.notify_all()

        threads = [threading.Thread(target=body, args=(name,), name=name) for name in work]
        for thread in threads:
            thread.start()
        while True:
            with self._change:
                self._change.wait_for(lambda: len(self._waiting) + len(self._done) == len(work))
                if not self._waiting:
                    break
                event = self._waiting.pop(self._choose(sorted(self._waiting)))
            event.set()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


class SteppedFolder:
    """What ``store.folders.Folder`` does; a listing looks at one name after the other, in several steps."""

    url = "stepped://folder"
    local = None

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.turns: Turns | None = None

    def _step(self) -> None:
        if self.turns is not None:
            self.turns.wait()

    def names(self, folder: str, suffix: str) -> list[str]:
        found: list[str] = []
        last = ""
        while True:
            self._step()
            later = sorted((_place(name), name) for name in self._in(folder) if _place(name) > last)
            if not later:
                return sorted(name for name in found if name.endswith(suffix))
            found += [name for _, name in later[:2]]  # a page
            last = _place(found[-1])

    def _in(self, folder: str) -> Sequence[str]:
        return [path.removeprefix(f"{folder}/") for path in list(self.files) if path.startswith(f"{folder}/")]

    def exists(self, path: str) -> bool:
        self._step()
        return path in self.files

    def read(self, path: str) -> bytes:
        self._step()
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def write(self, path: str, content: bytes) -> None:
        self._step()
        self.files[path] = content

    def remove(self, path: str) -> None:
        self._step()
        self.files.pop(path, None)


def _place(name: str) -> str:
    """Where a name stands in a listing: anywhere, as in a hashed directory."""
    return hashlib.sha256(name.encode()).hexdigest()
