"""The step of a pool: the greatest or the mean element under a window that slides; ``c/pooling.h`` runs it."""

from collections.abc import Iterator, Mapping

from graphopt.kernels.program import Pooled, Program


class PoolingStep:
    """A step that computes one pool.

    Attributes:
        lines: none; what it needs stands before ``make_plan`` or in ``c/pooling.h``.
    """

    def __init__(self, program: Program, value: int, what: Pooled, tensors: Mapping[int, int], tensor: int) -> None:
        """Prepare the call.

        Args:
            program: with the value.
            value: number of the pool.
            what: the pool.
            tensors: number of the tensor of each value that is in memory; the operand is.
            tensor: where the result goes.
        """
        self.lines: list[str] = []
        table = _name_of(program, value)
        self._call = f"plan_pool(p, &{table}, &f.of[{what.operand}], {tensors[what.operand]}, {tensor})"

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        return [f"error = {self._call};"]


def _name_of(program: Program, value: int) -> str:
    return f"{program.name}_pool{value}"


def description(program: Program, index: int, value: Pooled) -> Iterator[str]:
    """C of what a pool's operator says."""
    pool, window = value.pool, value.pool.window
    pairs = (pool.kernel, window.strides, window.dilations, window.before, window.after)
    yield f"static const pool {_name_of(program, index)} = {{"
    yield f"    {int(pool.kind == 'maximum')}, {window.dimensions}, {int(window.block > 0)},"
    yield f"    {('', 'upper', 'lower').index(window.same)}, {int(pool.rounds_up)}, {int(pool.counts_pads)},"
    yield f"    {', '.join(f'{{{first}, {second}}}' for first, second in pairs)},"
    yield from ("};", "")


def shape(program: Program, index: int, value: Pooled) -> Iterator[str]:
    """Statements that find the shape of the result when the kernel plans."""
    yield f"error = shape_pool(&{_name_of(program, index)}, &f.of[{value.operand}], &f.of[{index}]);"
    yield "if (error)"
    yield "    return error;"
