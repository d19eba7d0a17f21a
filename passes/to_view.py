"""Turn the model into the view that fusion works on."""

from dataclasses import dataclass
from typing import ClassVar

import onnx

from graphopt.passes.base import Context, PassResult, register
from graphopt.views import ViewName, to_view


@register("to-view")
@dataclass(frozen=True)
class ToView:
    """Let onnxruntime optimise the model: executed (all, this machine), portable (extended, any machine) or raw."""

    view: ViewName = "executed"
    name: ClassVar[str]

    def run(self, model: onnx.ModelProto, context: Context) -> PassResult:
        """The model in that view."""
        if self.view == "raw":
            return PassResult(model, False)
        changed = to_view(model, self.view)
        before, after = len(model.graph.node), len(changed.graph.node)
        return PassResult(changed, True, (f"{self.view} view: {before} nodes became {after}",))
