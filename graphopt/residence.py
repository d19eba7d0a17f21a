"""Residence: how much else a graph touches between two uses of the same memory, which decides the cache it comes from.

The operators run in node order, again and again. A tensor that was just written lies in the smallest cache; one that
was written long ago, or an input that was last read in the execution before, lies as far away as what has been touched
since takes room. Results go where a runtime's memory planner puts them: over an operand that nobody needs any more,
else into memory of a tensor that nobody needs any more, else into memory that was last used in the execution before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from graphopt.graph import OperatorGraph

Bytes = Callable[[str], int]
"""Name of a tensor to its bytes; 0 when unknown."""


@dataclass(frozen=True, slots=True)
class Touch:
    """A computed tensor that an operator reads or writes.

    Attributes:
        name: the tensor.
        bytes: its size.
        distance: bytes that were touched since its memory was, itself included.
    """

    name: str
    bytes: int
    distance: int


@dataclass(frozen=True, slots=True)
class Touches:
    """What one operator reads and writes, constants left out.

    Attributes:
        reads: operands, each once.
        writes: results.
    """

    reads: tuple[Touch, ...]
    writes: tuple[Touch, ...]


def touches(graph: OperatorGraph, size: Bytes, in_place: Sequence[bool], views: Sequence[bool]) -> list[Touches]:
    """How far away everything is that each node reads and writes.

    Args:
        graph: the operator graph.
        size: bytes of a tensor.
        in_place: per node, whether its result may take the place of an operand.
        views: per node, whether its first result is its first operand under another name.

    Returns:
        One entry per node.
    """
    constants = {name for name, tensor in graph.tensors.items() if tensor.constant}
    memory = _Memory(sum(size(name) for name in graph.tensors))
    uses = {name: len({node for node, _ in pairs}) for name, pairs in graph.consumers.items()}
    for name in graph.outputs:
        uses[name] = uses.get(name, 0) + 1
    for name in graph.inputs:
        memory.place(name, memory.new(size(name)), uses.get(name, 0) + 1)  # the caller's: never given back
    found = []
    for index, node in enumerate(graph.nodes):
        operands = [name for name in dict.fromkeys(node.inputs) if name and name not in constants]
        results = [name for name in node.outputs if name]
        reads = tuple(Touch(name, size(name), memory.distance(name)) for name in operands)
        for name in operands:
            memory.touch(name)
        if views[index] and operands and results and operands[0] == node.inputs[0]:
            memory.share(results[0], operands[0], uses.get(results[0], 0))
        read = (*operands, *node.captured)
        freed = [memory.release(name) for name in read] if in_place[index] else []
        writes = []
        for name in results:
            if not memory.knows(name):
                memory.place(name, memory.take(size(name), freed), uses.get(name, 0))
            writes.append(Touch(name, size(name), memory.distance(name)))
            memory.touch(name)
        if not in_place[index]:
            for name in read:
                memory.release(name)
        for name in results:
            memory.drop(name)
        found.append(Touches(reads, tuple(writes)))
    return found


@dataclass
class _Memory:
    """Blocks of memory, and when each was touched.

    Attributes:
        everything: bytes that one execution touches: the distance of what it has not touched yet.
        recent: block to bytes, in the order of the last touch.
        sizes: block to bytes.
        blocks: tensor to its block.
        users: block to uses that are still to come.
        free: blocks that nobody needs, the most recently freed one last.
    """

    everything: int
    recent: dict[int, int] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    blocks: dict[str, int] = field(default_factory=dict)
    users: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    numbers: "count[int]" = field(default_factory=count)

    def new(self, size: int) -> int:
        block = next(self.numbers)
        self.sizes[block] = size
        return block

    def place(self, name: str, block: int, uses: int) -> None:
        self.blocks[name] = block
        self.users[block] = uses

    def share(self, name: str, other: str, uses: int) -> None:
        block = self.blocks.get(other)
        if block is not None:
            self.blocks[name] = block
            self.users[block] += uses

    def knows(self, name: str) -> bool:
        return name in self.blocks

    def distance(self, name: str) -> int:
        block = self.blocks.get(name)
        if block not in self.recent:
            return self.everything
        total = 0
        for other in reversed(self.recent):
            total += self.recent[other]
            if other == block or total >= self.everything:
                break
        return min(total, self.everything)

    def touch(self, name: str) -> None:
        block = self.blocks.get(name)
        if block is not None:
            self.recent.pop(block, None)
            self.recent[block] = self.sizes[block]

    def release(self, name: str) -> int | None:
        """One use of a tensor is over; its block, if that was the last."""
        block = self.blocks.get(name)
        if block is None:
            return None
        self.users[block] -= 1
        if self.users[block]:
            return None
        self.free.append(block)
        return block

    def drop(self, name: str) -> None:
        """Give back the block of a result that nobody reads."""
        block = self.blocks[name]
        if not self.users[block] and block not in self.free:
            self.free.append(block)

    def take(self, size: int, preferred: Sequence[int | None]) -> int:
        """A block for a result: a preferred one of that very size, else the last freed that is large enough."""
        for block in preferred:
            if block is not None and self.sizes[block] == size and block in self.free:
                self.free.remove(block)
                return block
        for block in reversed(self.free):
            if self.sizes[block] >= size > 0:
                self.free.remove(block)
                return block
        return self.new(size)
