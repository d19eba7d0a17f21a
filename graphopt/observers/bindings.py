"""Bindings of inputs and outputs that know the shapes of what is bound."""

from typing import Any

from onnxruntime import IOBinding

from graphopt.graph import Shape
from graphopt.observers.counts import shape_of


class RecordingBinding(IOBinding):  # type: ignore[misc]  # onnxruntime has no types
    """An ``IOBinding`` that remembers shapes.

    Attributes:
        input_shapes: of the bound inputs, by name.
    """

    def __init__(self, session: Any) -> None:
        """Bind for an ``InferenceSession``."""
        super().__init__(session)
        self.input_shapes: dict[str, Shape | None] = {}

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        """As ``IOBinding``."""
        super().bind_cpu_input(name, arr_on_cpu)
        self.input_shapes[name] = _shape(arr_on_cpu)

    def bind_input(
        self, name: str, device_type: Any, device_id: Any, element_type: Any, shape: Any, buffer_ptr: Any
    ) -> None:
        """As ``IOBinding``."""
        super().bind_input(name, device_type, device_id, element_type, shape, buffer_ptr)
        self.input_shapes[name] = tuple(int(size) for size in shape)

    def bind_ortvalue_input(self, name: str, ortvalue: Any) -> None:
        """As ``IOBinding``."""
        super().bind_ortvalue_input(name, ortvalue)
        self.input_shapes[name] = _shape(ortvalue)

    def clear_binding_inputs(self) -> None:
        """As ``IOBinding``."""
        super().clear_binding_inputs()
        self.input_shapes.clear()


def _shape(value: Any) -> Shape | None:
    try:
        return shape_of(value)
    except Exception:  # it is bound, which is what counts
        return None
