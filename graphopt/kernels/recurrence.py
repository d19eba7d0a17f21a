"""The step of a recurrent layer, which writes the states of all of its steps; ``c/recurrence.h`` runs it."""

from collections.abc import Iterator, Mapping

from graphopt.kernels.program import Program, Recurrence


class RecurrenceStep:
    """A step that computes the states of one recurrent layer.

    Attributes:
        lines: the C of its table.
    """

    def __init__(self, program: Program, value: int, tensors: Mapping[int, int], name: str, tensor: int) -> None:
        """Write the C.

        Args:
            program: with the value.
            value: the layer.
            tensors: number of the tensor of each value that is in memory; all operands are.
            name: of the C table.
            tensor: where the states go.
        """
        what = program.values[value]
        assert isinstance(what, Recurrence)
        layer = what.layer
        self.name = name
        self.what = what
        inputs = [str(tensors[operand]) for operand in what.inputs]
        others = [str(tensors[operand]) if operand >= 0 else "-1" for operand in what.states]
        reversed_ = ", ".join(str(int(direction)) for direction in layer.reversed)
        numbers = f"{{{', '.join(inputs)}}}, {', '.join(others)}, {tensor}"
        self.lines = [
            f"static const recurrence_code {name} = {{{layer.gates}, {len(layer.reversed)}, {{{reversed_}}}, "
            f"{int(layer.reset_after)}, {int(what.cells)},",
            f"    {numbers}}};",
            "",
        ]

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        weights = self.what.states[0]
        return [f"error = plan_recurrence(p, &{self.name}, &f.of[{self.what.inputs[0]}], f.of[{weights}].size[2]);"]


def shape(index: int, value: Recurrence) -> Iterator[str]:
    """Statements that find the shape of a layer's states when the kernel plans."""
    first, *second = value.inputs
    inputs = f"(const shape *const[]){{&f.of[{first}], {f'&f.of[{second[0]}]' if second else 'NULL'}}}"
    others = ", ".join(f"&f.of[{operand}]" if operand >= 0 else "NULL" for operand in value.states)
    yield f"error = shape_recurrence({value.layer.gates}, {int(value.cells)}, {inputs}, {others}, &f.of[{index}]);"
    yield "if (error)"
    yield "    return error;"
