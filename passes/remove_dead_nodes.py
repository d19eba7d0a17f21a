"""Remove what no output needs."""

from dataclasses import dataclass
from typing import ClassVar

import onnx

from graphopt.passes.base import Context, PassResult, register
from graphopt.protos import copy, drop_unused


@register("remove-dead-nodes")
@dataclass(frozen=True)
class RemoveDeadNodes:
    """Remove nodes and initializers that no graph output depends on."""

    name: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """The model without dead nodes. Reads inside of If, Loop and Scan bodies count; the bodies stay as they are."""
        changed = copy(model)
        nodes, initializers = drop_unused(changed.graph)
        if not nodes and not initializers:
            return PassResult(model, False)
        return PassResult(changed, True, (f"{nodes} dead nodes and {initializers} unused initializers removed",))
