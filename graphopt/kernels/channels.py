"""The step of sums over the channels around each; ``c/channels.h`` runs it."""

from collections.abc import Iterator, Mapping

from graphopt.kernels.program import ChannelWindow, Program


class ChannelStep:
    """A step that computes one channel window.

    Attributes:
        tensor: that it writes.
        reads: tensors that it reads.
        lines: the C of its table.
    """

    def __init__(
        self, program: Program, value: int, what: ChannelWindow, tensors: Mapping[int, int], tensor: int
    ) -> None:
        """Prepare the call.

        Args:
            program: with the value.
            value: number of the window.
            what: the window.
            tensors: number of the tensor of each value that is in memory; the operand is.
            tensor: where the sums go.
        """
        self.lines: list[str] = []
        self.tensor = tensor
        self.reads = {tensors[what.operand]}
        window = f"{what.size}, {int(what.block > 0)}"
        self._call = f"plan_channels(p, &f.of[{value}], {window}, {tensors[what.operand]}, {tensor})"

    def plan_call(self) -> list[str]:
        """C statements that plan the step."""
        return [f"error = {self._call};"]


def shape(index: int, value: ChannelWindow) -> Iterator[str]:
    """Statements that find the shape of the sums when the kernel plans."""
    wrong = f"f.of[{value.operand}].rank < 2"
    if value.block:
        wrong += f" || f.of[{value.operand}].size[1] % BLOCK != 0"
    yield f"if ({wrong})"
    yield '    return "a window over the channels of a tensor that has none, or no whole blocks";'
    yield f"f.of[{index}] = f.of[{value.operand}];"
