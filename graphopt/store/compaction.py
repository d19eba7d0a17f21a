"""One file of captures in place of many, beside writers, readers and other compactions.

Why nothing is lost or counted twice, whenever this stops and whoever else is at work:

- The compacted file names those that it stands for, and readers ignore what it names. So there is one moment, when it
  appears whole, before which the old files count and after which it does. Deleting the old ones changes nothing.
- Writers only add files, under names of their own: none of them is in a compaction that has begun.
- No two compactions stand for the same file. Each writes a claim with the names of its files and then lists all
  claims; of two that overlap, at least the one that wrote later sees the other, and gives up. Having its claim, it
  looks again whether all of its files still count: an earlier compaction could have replaced them in between. From then
  on nobody else touches them.
- Whoever is killed leaves its claim. It is void after an hour, and what holds a claim stops after half an hour.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from graphopt import files
from graphopt.errors import GraphoptError
from graphopt.store import tables
from graphopt.store.observed import CAPTURES, COMPACTED, ObservedCorpus

if TYPE_CHECKING:
    import pyarrow as pa

CLAIMS = "compactions"
CLAIM_LIFE = timedelta(hours=1)
"""Older claims are void. Whoever holds one stops after half of that."""
_ATTEMPTS = 10
_WAITING_ROWS = 1_000_000
"""Rows that are read before they are added up, which bounds memory."""


@dataclass(frozen=True)
class Compaction:
    """What was done.

    Attributes:
        file: the compacted file; None where nothing had to be done.
        replaced: how many files it stands for.
        rows_before: rows of those files.
        rows_after: its rows.
        deleted: how many files were deleted: those, and what earlier compactions had left.
        problems: a line for each file that is broken; it stays where it is.
    """

    file: str | None = None
    replaced: int = 0
    rows_before: int = 0
    rows_after: int = 0
    deleted: int = 0
    problems: tuple[str, ...] = ()


class _Changed(Exception):
    """Another compaction was faster: look again."""


def compact(corpus: ObservedCorpus, *, claim_life: timedelta = CLAIM_LIFE) -> Compaction:
    """Replace all files of captures by one that holds the sum of equal captures.

    Args:
        corpus: where.
        claim_life: how old a claim of another compaction must be to be void. Less than the usual life is only safe
            where no other compaction is at work.

    Raises:
        GraphoptError: there are no captures, another compaction is at work, a compacted file is broken, or the corpus
            cannot be written.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _compact(corpus, claim_life)
        except (_Changed, FileNotFoundError):
            continue
    raise GraphoptError(f"{corpus.folder.url}: other compactions are at work; try again later")


def _compact(corpus: ObservedCorpus, claim_life: timedelta) -> Compaction:
    names = corpus.capture_files()
    if not names:
        raise GraphoptError(f"{corpus.folder.url}: no captures in it as services write them")
    live, dead = sorted_out(corpus, names)
    _remove_old_claims(corpus, claim_life)
    if len(live) < 2:
        _delete(corpus, dead)
        return Compaction(deleted=len(dead))
    deadline = time.monotonic() + CLAIM_LIFE.total_seconds() / 2
    claim = _claim(corpus, live, claim_life)
    try:
        live_now, dead = sorted_out(corpus, corpus.capture_files())
        if not set(live) <= set(live_now):
            raise _Changed
        table, rows, broken = _sum(corpus, live)
        live = [name for name in live if name not in broken]
        name = f"{COMPACTED}{hashlib.sha256(' '.join(live).encode()).hexdigest()[:32]}.parquet"
        if time.monotonic() > deadline:
            raise GraphoptError(f"{corpus.folder.url}: compaction took too long; nothing was changed")
        content = tables.to_parquet(table, replaces=[*live, *dead])
    except BaseException:
        corpus.folder.remove(f"{CLAIMS}/{claim}")
        raise
    corpus.folder.write(f"{CAPTURES}/{name}", content)  # if it fails, it may still appear: the claim stays
    _delete(corpus, [*dead, *live])
    corpus.folder.remove(f"{CLAIMS}/{claim}")
    return Compaction(name, len(live), rows, table.num_rows, len(live) + len(dead), tuple(broken.values()))


def sorted_out(corpus: ObservedCorpus, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Sorted names of the files that count, and of those that a compacted file stands for.

    Raises:
        FileNotFoundError: one went away meanwhile.
        GraphoptError: a compacted file is broken.
    """
    listed = sorted(names)
    replaced: set[str] = set()
    for name in listed:
        if name.startswith(COMPACTED):
            replaced |= corpus.read_captures(name)[1]
    return [name for name in listed if name not in replaced], [name for name in listed if name in replaced]


def _sum(corpus: ObservedCorpus, names: list[str]) -> "tuple[pa.Table, int, dict[str, str]]":
    """The sum of some files, how many rows they have, and what is wrong with those that are broken."""
    table, rows = tables.together([]), 0
    waiting: list[pa.Table] = []
    broken: dict[str, str] = {}
    for name in names:
        try:
            waiting.append(corpus.read_captures(name)[0])
        except GraphoptError as error:
            broken[name] = str(error)
            continue
        rows += waiting[-1].num_rows
        if sum(one.num_rows for one in waiting) > max(_WAITING_ROWS, table.num_rows):
            table, waiting = tables.together([table, *waiting]), []
    return tables.together([table, *waiting]), rows, broken


def _delete(corpus: ObservedCorpus, names: Iterable[str]) -> None:
    for name in names:
        corpus.folder.remove(f"{CAPTURES}/{name}")


# ------------------------------------------------------------------------------------------------------ claims


def _claim(corpus: ObservedCorpus, names: list[str], life: timedelta) -> str:
    """Claim files for this compaction; returns the claim's name.

    Raises:
        GraphoptError: another compaction has claimed some of them.
    """
    own = f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}-{files.token()}.json"
    corpus.folder.write(f"{CLAIMS}/{own}", json.dumps(names).encode())
    for other in corpus.folder.names(CLAIMS, ".json"):
        if other == own or _age(other) > life:
            continue
        try:
            claimed = json.loads(corpus.folder.read(f"{CLAIMS}/{other}"))
        except FileNotFoundError:
            continue
        except ValueError:
            claimed = names  # written by nobody that we know: be careful
        if not set(claimed).isdisjoint(names):
            corpus.folder.remove(f"{CLAIMS}/{own}")
            raise GraphoptError(
                f"{corpus.folder.url}/{CLAIMS}/{other}: another compaction is at work, or was killed less than "
                f"{int(life.total_seconds() / 60)} minutes ago"
            )
    return own


def _age(claim: str) -> timedelta:
    """How long ago a claim was written; endless, where its name does not say."""
    try:
        return datetime.now(UTC) - datetime.strptime(claim.partition("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return timedelta.max


def _remove_old_claims(corpus: ObservedCorpus, life: timedelta) -> None:
    for name in corpus.folder.names(CLAIMS, ".json"):
        if _age(name) > 2 * life:
            corpus.folder.remove(f"{CLAIMS}/{name}")
