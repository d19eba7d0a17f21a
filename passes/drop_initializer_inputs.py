"""Take initializers off the list of graph inputs, so that runtimes may fold and pack them."""

from dataclasses import dataclass
from typing import ClassVar

import onnx

from graphopt.foldable import without_initializer_inputs
from graphopt.passes.base import Context, PassResult, register


@register("drop-initializer-inputs")
@dataclass(frozen=True)
class DropInitializerInputs:
    """Take weights off the graph inputs: callers can no longer replace them, runtimes can fold and pack them."""

    name: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """The model without initializers among its inputs; IR version at least 4."""
        changed, dropped = without_initializer_inputs(model)
        if not dropped:
            return PassResult(model, False)
        return PassResult(changed, True, (f"{dropped} initializers are no longer graph inputs",))
