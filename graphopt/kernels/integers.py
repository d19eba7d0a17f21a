"""The step of sums of products of integers: matrices, and convolutions of one group; ``c/integers.h`` runs it."""

from collections.abc import Iterator, Mapping

from graphopt.kernels.contraction import product_load
from graphopt.kernels.nests import Nest
from graphopt.kernels.program import IntegerContraction, Program
from graphopt.operators.lowering import Window


class IntegerStep:
    """A step that computes one integer contraction.

    Attributes:
        lines: the C of its table.
    """

    def __init__(
        self,
        program: Program,
        value: int,
        tensors: Mapping[int, int],
        name: str,
        tensor: int,
        epilogue: Nest | None = None,
    ) -> None:
        """Write the C.

        Args:
            program: with the value.
            value: the contraction.
            tensors: number of the tensor of each value that is in memory; all operands are.
            name: of the C table.
            tensor: where the sums go.
            epilogue: what is stored instead, computed from the sums (see ``product_load``).
        """
        what = program.values[value]
        assert isinstance(what, IntegerContraction)
        self.name = name
        self.value = value
        self.what = what
        places = ", ".join(str(tensors[operand]) if operand >= 0 else "-1" for operand in what.operands)
        signed = ", ".join(str(int(program.values[operand].dtype == "int8")) for operand in what.operands[:2])
        window = "NULL" if what.window is None else f"&(const integer_window){_window(what.window)}"
        behind = "NULL, NULL, -1"
        if epilogue:
            behind = f"{epilogue.name}_alternatives, &{epilogue.name}_outputs, {product_load(epilogue) or 0}"
        self.lines = [
            *(epilogue.lines if epilogue else ()),
            f"static const integer_code {name} = {{{places}, {tensor}, {signed}, {window},",
            f"    {behind}}};",
            "",
        ]

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        shapes = (f"&f.of[{value}]" if value >= 0 else "NULL" for value in (self.value, *self.what.operands))
        return [f"error = plan_integers(p, &{self.name}, {', '.join(shapes)}, &f);"]


def shape(index: int, value: IntegerContraction) -> Iterator[str]:
    """Statements that find the shape of the sums when the kernel plans."""
    operands = ", ".join(f"&f.of[{operand}]" for operand in value.operands[:2])
    if value.window is None:
        yield f"if (!shape_contraction({operands}, &f.of[{index}]))"
        yield '    return "the shapes of a matrix product contradict each other";'
    else:
        yield f"if (!shape_integer_window(&(const integer_window){_window(value.window)}, {operands}, &f.of[{index}]))"
        yield '    return "the shapes of a convolution contradict each other";'


def _window(window: Window) -> str:
    """C text of a window."""
    pairs = (window.strides, window.dilations, window.before, window.after)
    return f"{{{', '.join(f'{{{height}, {width}}}' for height, width in pairs)}}}"
