"""Take values that a loop hands from trip to trip unchanged out of its states: its body reads them from outside."""

from dataclasses import dataclass
from typing import ClassVar

import onnx

from graphopt.foldable import with_free_loop_constants
from graphopt.passes.base import Context, PassResult, register


@register("free-loop-constants")
@dataclass(frozen=True)
class FreeLoopConstants:
    """Let bodies of Loop and Scan read what no trip changes from outside, so that runtimes can fold and pack it."""

    name: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """The model whose Loop and Scan nodes have no states that stay the same."""
        changed, freed = with_free_loop_constants(model)
        if not freed:
            return PassResult(model, False)
        return PassResult(changed, True, (f"{freed} states of loops that never change are read from outside",))
