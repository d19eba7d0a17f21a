"""The step of a contraction: a batch of matrix products over tensors.

Views between the tensors and the operands are index maps: the planner finds how an operand lies in its tensor as nested
loops. ``c/contraction.h`` packs the right operand (once where it is constant) and reads the left one where it lies. The
*epilogue* is element-wise work on each block of products before it is stored.
"""

from graphopt.kernels.nests import Nest
from graphopt.kernels.places import Place
from graphopt.kernels.program import Contraction, Program, View

PRODUCT = -1
"""Stands for the tensor of the products, which an epilogue reads from scratch."""


class Product:
    """A step that computes one contraction.

    Attributes:
        lines: the C of its functions and tables.
    """

    def __init__(
        self,
        program: Program,
        value: int,
        tensors: dict[int, int],
        name: str,
        tensor: int,
        epilogue: Nest | None = None,
    ) -> None:
        """Write the C.

        Args:
            program: with the value.
            value: the contraction.
            tensors: values that are in memory before the step, by the number of their tensor.
            name: beginning of the names of the C functions.
            tensor: where the products go.
            epilogue: what is stored instead, computed from the products (see ``product_load``).
        """
        contraction = program.values[value]
        assert isinstance(contraction, Contraction)
        self.program = program
        self.tensors = tensors
        self.value = value
        self.name = name
        self.operands = contraction.operands
        self.lines = list(epilogue.lines) if epilogue else []
        left, right = (self._place(operand, side) for operand, side in zip(self.operands, _SIDES, strict=True))
        table, stores, product = "NULL", "NULL", -1
        if epilogue:
            table, stores = f"{epilogue.name}_alternatives", f"&{epilogue.name}_outputs"
            product = product_load(epilogue) or 0
        places = ", ".join(f"{name}_{side}" for side in _SIDES)
        self.lines += [
            f"static const contraction_code {name} = {{{left}, {right}, {tensor}, {places},",
            f"    {table}, {stores}, {product}}};",
            "",
        ]

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        left, right = self.operands
        return [f"error = plan_contraction(p, &{self.name}, &f.of[{self.value}], &f.of[{left}], &f.of[{right}], &f);"]

    def _place(self, operand: int, side: str) -> int:
        """Emits the place function of an operand; the tensor that it leads to."""
        place = Place(self.program, self.tensors, 0)
        state, value = place.new_map("m0"), operand
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


def product_load(epilogue: Nest) -> int | None:
    """Number of the load that is the product; None where the nest cannot be an epilogue: it must be one flat loop."""
    if len(epilogue.alternatives) != 1:
        return None
    (alternative,) = epilogue.alternatives
    found = [slot for slot, load in enumerate(alternative.loads) if load.tensor == PRODUCT]
    picks = any(load.index >= 0 or load.only_index for load in alternative.loads)
    return found[0] if len(found) == 1 and not picks and alternative.compute != "NULL" else None


_SIDES = ("left", "right")
