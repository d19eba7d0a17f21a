"""One file of a table in place of many, beside writers, readers and other compactions.

Why nothing is lost or counted twice, whenever this stops and whoever else is at work:

- The compacted file names those that it stands for, and readers ignore what it names. So there is one moment, when it
  appears whole, before which the old files count and after which it does. Deleting the old ones changes nothing.
- Writers only add files, under names of their own: none of them is in a compaction that has begun. Whoever cannot know
  whether a file was written writes it again, for an hour at most: so long do its name and those that stand for it stay
  among the names that compacted files stand for.
- No two compactions stand for the same file. Each writes a claim with the names of its files and then lists all
  claims; of two that overlap, at least the one that wrote later sees the other, and gives up. Having its claim, it
  looks again whether all of its files still count: an earlier compaction could have replaced them in between. From then
  on nobody else touches them.
- Whoever is killed leaves its claim. It is void after an hour, and what holds a claim stops after half an hour; a file
  that was written too late all the same is taken back before anything is deleted.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta

from graphopt import files
from graphopt.errors import GraphoptError
from graphopt.store import tables
from graphopt.store.folders import Folder
from graphopt.store.observed import ObservedCorpus
from graphopt.store.rows import COMPACTED, LATE, Rows, Standing, age, counted_twice, moment

CLAIMS = "compactions"
CLAIM_LIFE = timedelta(hours=1)
"""Older claims are void. Whoever holds one stops after half of that."""
_ATTEMPTS = 10


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


def compact(corpus: ObservedCorpus, *, claim_life: timedelta = CLAIM_LIFE) -> dict[str, Compaction]:
    """Replace all files of each table by one, in which equal rows are added up.

    Args:
        corpus: where.
        claim_life: how old a claim of another compaction must be to be void. Less than the usual life is only safe
            where no other compaction is at work.

    Returns:
        What was done, by folder.

    Raises:
        GraphoptError: there are no captures, another compaction is at work, a compacted file is broken, or the corpus
            cannot be written.
    """
    if not corpus.captured.names():
        raise GraphoptError(f"{corpus.folder.url}: no captures in it as services write them")
    return {rows.kind.folder: _compact(rows, claim_life) for rows in (corpus.captured, corpus.sampled)}


def _compact(rows: Rows, claim_life: timedelta) -> Compaction:
    for _ in range(_ATTEMPTS):
        try:
            return _compact_once(rows, claim_life)
        except (_Changed, FileNotFoundError):
            continue
    raise GraphoptError(f"{rows.folder.url}: other compactions are at work; try again later")


def _compact_once(rows: Rows, claim_life: timedelta) -> Compaction:
    standing = _standing(rows)
    live = standing.live
    _remove_old_claims(rows.folder, claim_life)
    if len(live) < 2:
        rows.remove(standing.dead)
        return Compaction(deleted=len(standing.dead))
    claim = _claim(rows.folder, live, claim_life)
    try:
        standing = _standing(rows)
        if not set(live) <= set(standing.live):
            raise _Changed
        table, before, broken = rows.added_up(live, standing.read)
        live = [name for name in live if name not in broken]
        name = f"{COMPACTED}{hashlib.sha256(' '.join(live).encode()).hexdigest()[:32]}.parquet"
        recent = [one for ones in standing.replaces.values() for one in ones if age(one) < LATE]
        content = tables.to_parquet(table, replaces={*live, *standing.dead, *recent})
        _check_time(rows.folder, claim)
    except BaseException:
        rows.folder.remove(f"{CLAIMS}/{claim}")
        raise
    rows.write(name, content)  # if it fails, it may still appear: the claim stays
    try:
        _check_time(rows.folder, claim)
    except GraphoptError:  # somebody else may have taken over: what we claimed was not touched yet
        rows.remove([name])
        raise
    rows.remove([*standing.dead, *live])
    rows.folder.remove(f"{CLAIMS}/{claim}")
    deleted = len(live) + len(standing.dead)
    return Compaction(name, len(live), before, table.num_rows, deleted, tuple(broken.values()))


def _standing(rows: Rows) -> Standing:
    """Which files count.

    Raises:
        FileNotFoundError: one went away meanwhile.
        GraphoptError: a compacted file is broken, or two stand for the same file.
    """
    standing = rows.standing(rows.names())
    for problem in standing.broken.values():
        raise GraphoptError(problem)
    for one, by in counted_twice(standing.replaces).items():
        raise GraphoptError(f"{rows.folder.url}/{rows.path(one)}: {' and '.join(by)} both stand for it; remove one")
    return standing


# ------------------------------------------------------------------------------------------------------ claims


def _claim(folder: Folder, names: list[str], life: timedelta) -> str:
    """Claim files for this compaction; returns the claim's name.

    Raises:
        GraphoptError: another compaction has claimed some of them.
    """
    own = f"{moment()}-{files.token()}.json"
    folder.write(f"{CLAIMS}/{own}", json.dumps(names).encode())
    for other in folder.names(CLAIMS, ".json"):
        if other == own or age(other) > life:
            continue
        try:
            claimed = files.parse_json(folder.read(f"{CLAIMS}/{other}"))
        except FileNotFoundError:
            continue
        except ValueError:
            claimed = names  # written by nobody that we know: be careful
        if not set(claimed).isdisjoint(names):
            folder.remove(f"{CLAIMS}/{own}")
            raise GraphoptError(
                f"{folder.url}/{CLAIMS}/{other}: another compaction is at work, or was killed less than "
                f"{int(life.total_seconds() / 60)} minutes ago"
            )
    return own


def _check_time(folder: Folder, claim: str) -> None:
    """Go on only while nobody takes our claim for void.

    Raises:
        GraphoptError: it took too long.
    """
    if age(claim) > CLAIM_LIFE / 2:
        raise GraphoptError(f"{folder.url}: compaction took too long; nothing was changed")


def _remove_old_claims(folder: Folder, life: timedelta) -> None:
    for name in folder.names(CLAIMS, ".json"):
        if age(name) > 2 * life:
            folder.remove(f"{CLAIMS}/{name}")
