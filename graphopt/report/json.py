"""Results as JSON: dataclasses become objects; what JSON cannot say (infinities, NaN) becomes null."""

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath

import numpy as np

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def text(value: object) -> str:
    """A result as JSON, indented, with a line end. Keys stand in the order of the fields."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: object) -> Json:
    """A result made of what JSON knows.

    Raises:
        TypeError: it holds something that has no form in JSON.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")
