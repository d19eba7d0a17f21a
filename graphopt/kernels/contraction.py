"""The step of a contraction: a batch of matrix products over tensors.

Views between the tensors and the operands are index maps: the planner finds how an operand lies in its tensor as nested
loops. ``c/contraction.h`` packs the right operand (once where it is constant) and reads the left one where it lies. The
*epilogue* is element-wise work on each block of products before it is stored; a factor and a bias need none.
"""

from dataclasses import dataclass
from itertools import permutations

from graphopt.kernels.nests import Nest
from graphopt.kernels.places import Place
from graphopt.kernels.program import Contraction, Map, Program, View
from graphopt.kernels.scalar import number
from graphopt.operators.lowering import Call, Expression, Literal, Operand

PRODUCT = -1
"""Stands for the tensor of the products, which an epilogue reads from scratch."""


class Product:
    """A step that computes one contraction.

    Attributes:
        lines: the C of its functions and tables.
        left: number of the tensor that the left operand lies in.
    """

    def __init__(
        self,
        program: Program,
        value: int,
        tensors: dict[int, int],
        name: str,
        tensor: int,
        linear: "Linear | None" = None,
        epilogue: Nest | None = None,
    ) -> None:
        """Write the C.

        Args:
            program: with the value.
            value: the contraction.
            tensors: values that are in memory before the step, by the number of their tensor.
            name: beginning of the names of the C functions.
            tensor: where the products go.
            linear: what the products are scaled by, and what is added to each row of them.
            epilogue: what is stored instead, computed from the result of that (see ``product_load``).
        """
        contraction = program.values[value]
        assert isinstance(contraction, Contraction)
        self.program = program
        self.tensors = tensors
        self.value = value
        self.name = name
        self.operands = contraction.operands
        self.lines = list(epilogue.lines) if epilogue else []
        self.left, right = (
            self._place(operand, side, operand) for operand, side in zip(self.operands, _SIDES, strict=True)
        )
        scale, bias, place_bias = "1.0f", -1, "NULL"
        if linear:
            scale = number(Literal(linear.scale, "float32"))
            if linear.bias >= 0:
                bias, place_bias = self._place(linear.bias, "bias", linear.value), f"{name}_bias"
        table, stores, product = "NULL", "NULL", -1
        if epilogue:
            table, stores = f"{epilogue.name}_alternatives", f"&{epilogue.name}_outputs"
            product = product_load(epilogue) or 0
        places = ", ".join(f"{name}_{side}" for side in _SIDES)
        self.lines += [
            f"static const contraction_code {name} = {{{self.left}, {right}, {tensor}, {places},",
            f"    {scale}, {bias}, {place_bias}, {table}, {stores}, {product}}};",
            "",
        ]

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        left, right = self.operands
        return [f"error = plan_contraction(p, &{self.name}, &f.of[{self.value}], &f.of[{left}], &f.of[{right}], &f);"]

    def _place(self, operand: int, side: str, root: int) -> int:
        """Emits the place function from an index into value ``root`` to an operand; the tensor that it leads to."""
        place = Place(self.program, self.tensors, 0)
        state, value = place.at("m0", root, operand), operand
        while value not in self.tensors:
            view = self.program.values[value]
            assert isinstance(view, View), "the operand of a contraction is in memory, or a view of what is"
            following = place.view(value, view, state)
            assert following is not None
            value, state = following
        place.load(value, state)
        self.lines += [
            f"static verdict {self.name}_{side}(domain *d, const void *frame, affine *store, load_place *load)",
            "{",
            f"    const {self.program.name}_frame *f = frame;",
            "    index_map m0;",
            "    map_output(d, &m0);",
            "    *store = m0.row[0];",
            *(f"    {line}" for line in place.lines),
            "    return DONE;",
            "}",
            "",
        ]
        return self.tensors[value]


@dataclass(frozen=True, slots=True)
class Linear:
    """What is done to products on the way from registers to memory.

    Attributes:
        value: the value that comes of it.
        scale: factor of the products.
        bias: value that is added, with an element for each column; -1 for none.
    """

    value: int
    scale: float = 1.0
    bias: int = -1


def linear_of(value: Map, number_: int, before: Linear) -> Linear | None:
    """``before`` with a map of its value that scales it or adds to it; None where the map does anything else."""
    expression = value.expression
    if not isinstance(expression, Call) or len(expression.arguments) != 2 or before.bias >= 0:
        return None
    for this, other in (expression.arguments, expression.arguments[::-1]):
        if expression.primitive == "multiply" and isinstance(other, Literal) and _is(value, this, before.value):
            return Linear(number_, float(other.value)) if before.scale == 1.0 else None
        if expression.primitive == "add" and isinstance(other, Operand):
            if _is(value, this, before.value):
                return Linear(number_, before.scale, value.operands[other.slot])
            scaled = this.arguments if isinstance(this, Call) and this.primitive == "multiply" else ()
            for factor, product in permutations(scaled, 2) if before.scale == 1.0 else ():
                if isinstance(factor, Literal) and _is(value, product, before.value):
                    return Linear(number_, float(factor.value), value.operands[other.slot])
    return None


def _is(value: Map, expression: Expression, operand: int) -> bool:
    return isinstance(expression, Operand) and value.operands[expression.slot] == operand


def product_load(epilogue: Nest) -> int | None:
    """Number of the load that is the product; None where the nest cannot be an epilogue: it must be one flat loop."""
    if len(epilogue.alternatives) != 1:
        return None
    (alternative,) = epilogue.alternatives
    found = [slot for slot, load in enumerate(alternative.loads) if load.tensor == PRODUCT]
    picks = any(load.index >= 0 or load.only_index for load in alternative.loads)
    return found[0] if len(found) == 1 and not picks and alternative.compute != "NULL" else None


_SIDES = ("left", "right")
