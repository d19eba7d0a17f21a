"""Bindings of inputs and outputs that know the shapes of what is bound."""

from typing import Any

from onnxruntime import IOBinding

from graphopt.graph import Shape
from graphopt.observers.counts import Counts, Steps, shape_of


class RecordingBinding(IOBinding):  # type: ignore[misc]  # onnxruntime has no types
    """An ``IOBinding`` that remembers shapes."""

    def __init__(self, session: Any) -> None:
        """Bind for an ``InferenceSession``."""
        super().__init__(session)
        self._shape_of: dict[str, Shape | None] = {}
        self._counter: Steps | None = None
        self._generation = 0

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        """As ``IOBinding``."""
        super().bind_cpu_input(name, arr_on_cpu)
        self._remember(name, _shape(arr_on_cpu))

    def bind_input(
        self, name: str, device_type: Any, device_id: Any, element_type: Any, shape: Any, buffer_ptr: Any
    ) -> None:
        """As ``IOBinding``."""
        super().bind_input(name, device_type, device_id, element_type, shape, buffer_ptr)
        self._remember(name, tuple(int(size) for size in shape))

    def bind_ortvalue_input(self, name: str, ortvalue: Any) -> None:
        """As ``IOBinding``."""
        super().bind_ortvalue_input(name, ortvalue)
        self._remember(name, _shape(ortvalue))

    def clear_binding_inputs(self) -> None:
        """As ``IOBinding``."""
        super().clear_binding_inputs()
        self._shape_of.clear()
        self._counter = None

    def _remember(self, name: str, shape: Shape | None) -> None:
        self._shape_of[name] = shape
        self._counter = None

    def counter(self, counts: Counts) -> Steps:
        """What to move on when an execution with what is bound has ended well."""
        if self._counter is None or self._generation != counts.generation:
            self._generation = counts.generation
            self._counter = counts.counter_of(tuple([self._shape_of.get(name) for name in counts.names]))
        return self._counter


def _shape(value: Any) -> Shape | None:
    try:
        return shape_of(value)
    except Exception:  # it is bound, which is what counts
        return None
