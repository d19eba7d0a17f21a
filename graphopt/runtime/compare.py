"""How far two results of one output lie apart.

The measure, per output tensor: the greatest absolute difference of elements that are finite on both sides, against

    absolute + relative * max|reference|

with the reference's greatest finite magnitude in the *tensor*, not in the element. An element that cancels to nearly
nothing (a logit near zero, a mean-free activation) carries the rounding error of the large terms it came from, so an
error relative to itself says nothing. NaN and infinities must stand at the same places, with the same sign. Integers,
bools and strings must be equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.graph import Shape


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What difference counts as rounding: at most ``absolute + relative * max|reference tensor|``."""

    relative: float
    absolute: float


EXACT = Tolerance(0.0, 0.0)
TOLERANCES: Mapping[str, Tolerance] = {
    "float64": Tolerance(1e-7, 1e-10),
    "float32": Tolerance(1e-3, 1e-6),
    "float16": Tolerance(1e-2, 1e-4),
    "bfloat16": Tolerance(5e-2, 1e-3),
}
"""Tolerance by dtype; every dtype that is not here must be equal.

Rounding adds up over hundreds of layers: the factor over the dtype's own epsilon is about 10,000 for float32, and 10
for float16, whose kernels compute in float32."""


class Verdict(StrEnum):
    """Outcome of a comparison."""

    EQUAL = "equal"  # bit for bit, NaN included
    CLOSE = "close"  # within the tolerance
    DIFFERENT = "different"
    SKIPPED = "skipped"  # the original does not run at these shapes


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output of two models on the same inputs.

    Attributes:
        name: of the output.
        dtype: numpy's name of the reference's element type.
        shape: of the reference.
        verdict: see Verdict.
        reason: why it is different, or what to know about the comparison; empty when there is nothing to say.
        max_absolute: greatest absolute difference of elements that are finite on both sides.
        max_relative: the same over the greatest finite magnitude of the reference tensor.
        nan_mismatches: elements that are NaN on one side only.
        infinity_mismatches: elements that are infinite on one side only, or with another sign.
        differing: elements beyond the tolerance, mismatched NaN and infinities included.
        elements: elements in all.
    """

    name: str
    dtype: str
    shape: Shape
    verdict: Verdict
    reason: str = ""
    max_absolute: float = 0.0
    max_relative: float = 0.0
    nan_mismatches: int = 0
    infinity_mismatches: int = 0
    differing: int = 0
    elements: int = 0

    def to_dict(self) -> dict[str, object]:
        """For JSON; NaN and infinity cannot occur."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "verdict": str(self.verdict),
            "reason": self.reason,
            "max_absolute": self.max_absolute,
            "max_relative": self.max_relative,
            "nan_mismatches": self.nan_mismatches,
            "infinity_mismatches": self.infinity_mismatches,
            "differing": self.differing,
            "elements": self.elements,
        }


def compare_values(
    name: str, expected: Any, found: Any, tolerances: Mapping[str, Tolerance] = TOLERANCES
) -> list[OutputComparison]:
    """Compare one output; sequences and maps entry by entry.

    Args:
        name: of the output; entries of sequences get ``name[0]``.
        expected: the reference: an array, or a list or dict of them, or None for an absent optional.
        found: what is compared with it.
        tolerances: by dtype; a dtype that is not there must be equal.

    Returns:
        One comparison, or one per entry.
    """
    if isinstance(expected, list | tuple | dict) or isinstance(found, list | tuple | dict):
        if type(expected) is not type(found) or len(expected) != len(found):
            reason = f"{_kind(expected)} became {_kind(found)}"
            return [OutputComparison(name, "", (), Verdict.DIFFERENT, reason)]
        keys = expected if isinstance(expected, dict) else range(len(expected))
        if isinstance(expected, dict) and set(expected) != set(found):
            return [OutputComparison(name, "", (), Verdict.DIFFERENT, "the map's keys differ")]
        return [c for key in keys for c in compare_values(f"{name}[{key}]", expected[key], found[key], tolerances)]
    if expected is None or found is None:
        same = expected is None and found is None
        verdict = Verdict.EQUAL if same else Verdict.DIFFERENT
        return [OutputComparison(name, "", (), verdict, "" if same else "absent on one side")]
    return [compare(name, np.asarray(expected), np.asarray(found), tolerances)]


def _kind(value: Any) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | tuple | dict) else type(value).__name__


def compare(
    name: str,
    expected: NDArray[Any],
    found: NDArray[Any],
    tolerances: Mapping[str, Tolerance] = TOLERANCES,
) -> OutputComparison:
    """Compare two arrays; see the module's text for the measure.

    Args:
        name: of the output.
        expected: the reference.
        found: what is compared with it.
        tolerances: by dtype; a dtype that is not there must be equal.

    Returns:
        What differs.
    """
    dtype = "string" if expected.dtype.kind in "OUS" else expected.dtype.name
    shape = tuple(expected.shape)
    if expected.dtype != found.dtype and not (expected.dtype.kind in "OUS" and found.dtype.kind in "OUS"):
        return OutputComparison(name, dtype, shape, Verdict.DIFFERENT, f"{dtype} became {found.dtype.name}")
    if shape != found.shape:
        reason = f"shape {list(shape)} became {list(found.shape)}"
        return OutputComparison(name, dtype, shape, Verdict.DIFFERENT, reason)
    if dtype == "string" or expected.dtype.kind in "iub":
        return _compare_exactly(name, dtype, expected, found, tolerances.get(dtype, EXACT))
    return _compare_floats(name, dtype, expected, found, tolerances.get(dtype, EXACT))


def _compare_exactly(
    name: str, dtype: str, expected: NDArray[Any], found: NDArray[Any], tolerance: Tolerance
) -> OutputComparison:
    unequal = expected != found
    differing = int(np.count_nonzero(unequal))
    if not differing:
        return OutputComparison(name, dtype, tuple(expected.shape), Verdict.EQUAL, elements=expected.size)
    worst = relative = 0.0
    reason = f"{differing} of {expected.size} elements differ"
    if dtype in ("int32", "int64"):
        reason += "; where they are indices (ArgMax, TopK), a tie is enough for that"
    if expected.dtype.kind in "iu":
        left, right = expected[unequal].astype(np.float64), found[unequal].astype(np.float64)
        errors = np.abs(left - right)
        worst, scale = float(errors.max()), float(np.abs(expected.astype(np.float64)).max())
        relative = worst / scale if scale else worst
        allowed = tolerance.absolute + tolerance.relative * scale
        differing = int(np.count_nonzero(errors > allowed))
    verdict = Verdict.DIFFERENT if differing else Verdict.CLOSE
    return OutputComparison(
        name, dtype, tuple(expected.shape), verdict, reason, worst, relative, 0, 0, differing, expected.size
    )


def _compare_floats(
    name: str, dtype: str, expected: NDArray[Any], found: NDArray[Any], tolerance: Tolerance
) -> OutputComparison:
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64  # float16 and bfloat16 differences overflow
    left, right = expected.astype(wide), found.astype(wide)
    nans = np.isnan(left) != np.isnan(right)
    infinite = np.isinf(left) | np.isinf(right)
    infinities = infinite & (left != right) & ~nans
    comparable = np.isfinite(left) & np.isfinite(right)
    errors = np.abs(left[comparable] - right[comparable])
    worst = float(errors.max(initial=0.0))
    magnitudes = np.abs(left[np.isfinite(left)])
    scale = float(magnitudes.max(initial=0.0))
    beyond = int(np.count_nonzero(errors > tolerance.absolute + tolerance.relative * scale))
    nan_mismatches, infinity_mismatches = int(np.count_nonzero(nans)), int(np.count_nonzero(infinities))
    differing = beyond + nan_mismatches + infinity_mismatches
    reasons = []
    if beyond:
        reasons.append(f"{beyond} of {expected.size} elements beyond the tolerance")
    if nan_mismatches:
        reasons.append(f"{nan_mismatches} NaN on one side only")
    if infinity_mismatches:
        reasons.append(f"{infinity_mismatches} infinities on one side only")
    if expected.size and not magnitudes.size:
        reasons.append("the original has no finite element here, so little was compared")
    rounded = Verdict.EQUAL if worst == 0.0 else Verdict.CLOSE
    verdict = Verdict.DIFFERENT if differing else rounded
    return OutputComparison(
        name,
        dtype,
        tuple(expected.shape),
        verdict,
        "; ".join(reasons),
        worst,
        worst / scale if scale else worst,
        nan_mismatches,
        infinity_mismatches,
        differing,
        expected.size,
    )
