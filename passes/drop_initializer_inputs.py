"""Take initializers off the list of graph inputs, so that runtimes may fold and pack them."""

from dataclasses import dataclass
from typing import ClassVar

import onnx

from graphopt.passes.base import Context, PassResult, register
from graphopt.passes.protos import copy

FIRST_IR_WITHOUT = 4
"""First ONNX IR version in which an initializer need not be a graph input."""


@register("drop-initializer-inputs")
@dataclass(frozen=True)
class DropInitializerInputs:
    """Take weights off the graph inputs: callers can no longer replace them, runtimes can fold and pack them."""

    name: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """The model without initializers among its inputs; IR version at least 4."""
        constants = {tensor.name for tensor in model.graph.initializer}
        constants |= {sparse.values.name for sparse in model.graph.sparse_initializer}
        listed = [i for i, value in enumerate(model.graph.input) if value.name in constants]
        if not listed:
            return PassResult(model, False)
        changed = copy(model)
        for position in reversed(listed):
            del changed.graph.input[position]
        changed.ir_version = max(changed.ir_version, FIRST_IR_WITHOUT)
        return PassResult(changed, True, (f"{len(listed)} initializers are no longer graph inputs",))
