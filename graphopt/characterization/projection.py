"""Projected performance on an accelerator with software-managed memory on the chip, over the size of that memory.

The analysis of figure 3 of Park et al. (2018), with the hypothetical accelerator that they define. What is not stated
there is decided here: element-wise operators are part of the layer before them; weights and activations take one byte
per element; a tensor lies on the chip as a whole or not at all; layers execute one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from graphopt import machine, operators
from graphopt.characterization.layers import steps_of
from graphopt.characterization.liveness import Storage, storages
from graphopt.characterization.parameters import fixed_tensors
from graphopt.graph import Capture
from graphopt.machine import Machine
from graphopt.operators.base import FusionClass

MEGABYTE = 10**6
CAPACITIES = tuple(size * MEGABYTE for size in (0, 1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128))
"""Bytes of memory on the chip that figure 3 goes over."""

ACCELERATORS = ("accelerator-1tbs", "accelerator-10tbs")
"""Machines of figure 3: the same but for the bandwidth on the chip."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device with two levels of memory.

    Attributes:
        operations: per second, multiply and add counted apart.
        off_chip_bandwidth: bytes per second.
        on_chip_bandwidth: bytes per second.
        capacity: bytes on the chip.
        weight_bytes: per element of weights.
        activation_bytes: per element of activations.
    """

    operations: float
    off_chip_bandwidth: float
    on_chip_bandwidth: float
    capacity: int = 0
    weight_bytes: int = 1
    activation_bytes: int = 1


@dataclass(frozen=True, slots=True)
class Access:
    """A step's use of a tensor.

    Attributes:
        storage: number of the storage that it lies in.
        elements: how many are read or written.
    """

    storage: int
    elements: int


@dataclass(frozen=True, slots=True)
class Step:
    """A layer with the element-wise operators that follow it.

    Attributes:
        operations: of all of them.
        accesses: what it reads from before and writes for later.
    """

    operations: int
    accesses: tuple[Access, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A capture as the projection sees it.

    Attributes:
        steps: in execution order.
        storages: tensors; ``birth`` and ``death`` are places in the order of the nodes.
        weights: for each storage, whether it holds weights, which stay from execution to execution.
        nodes: how many nodes the graph has.
    """

    steps: tuple[Step, ...]
    storages: tuple[Storage, ...]
    weights: tuple[bool, ...]
    nodes: int


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected time of one execution.

    Attributes:
        seconds: in all.
        operations: in all.
        bound: seconds of the steps that arithmetic, on-chip and off-chip memory bound, by these names.
        resident: bytes of weights that stay on the chip.
    """

    seconds: float
    operations: int
    bound: Mapping[str, float]
    resident: int

    @property
    def speed(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds if self.seconds else 0.0


def schedule(capture: Capture) -> Schedule:
    """Steps and tensors of a capture. Operators without known cost are left out."""
    graph = capture.graph
    fixed = fixed_tensors(graph)
    found, _ = storages(capture)
    weights = [
        Storage((name,), prod(shape), -1, len(graph.nodes))
        for name in sorted(fixed)
        if (shape := capture.shape(name)) is not None
    ]
    everything = (*found, *weights)
    place = {name: number for number, storage in enumerate(everything) for name in storage.tensors}
    step_of: dict[int, int] = {}
    members: list[list[int]] = []
    for index, node in enumerate(graph.nodes):
        row = operators.find(node)
        if row is None or operators.cost(capture, index) is None or all(name in fixed for name in node.outputs if name):
            continue
        makers = [graph.producers[name][0] for name in node.inputs if name in graph.producers]
        earlier = [step_of[maker] for maker in makers if maker in step_of]
        if row.fusion_class is FusionClass.ELEMENTWISE and earlier:
            step_of[index] = max(earlier)
            members[max(earlier)].append(index)
        else:
            step_of[index] = len(members)
            members.append([index])
    steps = [_step(capture, nodes, place, fixed) for nodes in members]
    return Schedule(
        tuple(steps), everything, tuple(number >= len(found) for number in range(len(everything))), len(graph.nodes)
    )


def project(plan: Schedule, device: Accelerator) -> Projection:
    """Time of one execution: each step takes as long as the slowest of arithmetic and the two memories.

    Args:
        plan: the capture's steps.
        device: the accelerator; what lies in its memory is chosen by ``placed``.
    """
    return _timed(plan, device, placed(plan, device))


def _timed(plan: Schedule, device: Accelerator, on_chip: frozenset[int]) -> Projection:
    bound = {"arithmetic": 0.0, "on-chip": 0.0, "off-chip": 0.0}
    for step in plan.steps:
        near = far = 0
        for access in step.accesses:
            size = access.elements * _element(plan, access.storage, device)
            if access.storage in on_chip:
                near += size
            else:
                far += size
        times = {
            "arithmetic": step.operations / device.operations,
            "on-chip": near / device.on_chip_bandwidth,
            "off-chip": far / device.off_chip_bandwidth,
        }
        slowest = max(times, key=lambda name: times[name])
        bound[slowest] += times[slowest]
    resident = sum(plan.storages[number].elements * device.weight_bytes for number in on_chip if plan.weights[number])
    return Projection(sum(bound.values()), sum(step.operations for step in plan.steps), bound, resident)


def placed(plan: Schedule, device: Accelerator) -> frozenset[int]:
    """Storages that lie on the chip, chosen greedily.

    In the order of traffic per byte of capacity, the largest first, each tensor takes its place if there is room during
    all of its life: weights live through the whole execution, and from one to the next.
    """
    traffic = [0] * len(plan.storages)
    for step in plan.steps:
        for access in step.accesses:
            traffic[access.storage] += access.elements
    order = sorted(
        (number for number, moved in enumerate(traffic) if moved),
        key=lambda number: (-traffic[number] / max(1, plan.storages[number].elements), number),
    )
    free = np.full(plan.nodes + 1, device.capacity, np.int64)
    chosen = set()
    for number in order:
        storage = plan.storages[number]
        size = storage.elements * _element(plan, number, device)
        life = free[max(0, storage.birth) : storage.death + 1]
        if size and life.min() >= size:
            chosen.add(number)
            life -= size
    return frozenset(chosen)


def sweep(
    plan: Schedule, capacities: Sequence[int] = CAPACITIES, names: Iterable[str] = ACCELERATORS
) -> list[tuple[Accelerator, Projection]]:
    """Projections on machines of these names with each of these capacities on the chip, machines outermost."""
    bases = [accelerator(machine.load(name)) for name in names]
    # What lies on the chip does not depend on how fast anything is.
    chosen = {size: placed(plan, replace(bases[0], capacity=size)) for size in capacities}
    devices = [replace(base, capacity=size) for base in bases for size in capacities]
    return [(one, _timed(plan, one, chosen[one.capacity])) for one in devices]


def accelerator(device: Machine) -> Accelerator:
    """A machine seen as memory on the chip (its first level) and off it (its last one), computing in 8-bit integers."""
    inner, outer = device.memory[0], device.memory[-1]
    capacity = 0 if inner.capacity is None else int(inner.capacity.value)
    return Accelerator(device.peak_of("int8"), outer.bandwidth.value, inner.bandwidth.value, capacity)


def _element(plan: Schedule, number: int, device: Accelerator) -> int:
    return device.weight_bytes if plan.weights[number] else device.activation_bytes


def _step(capture: Capture, nodes: Sequence[int], place: Mapping[str, int], fixed: frozenset[str]) -> Step:
    graph, inside = capture.graph, set(nodes)
    operations = 0
    moved: dict[int, int] = {}
    for index in nodes:
        node, row, cost = graph.nodes[index], operators.find(graph.nodes[index]), operators.cost(capture, index)
        assert row is not None and cost is not None  # by construction
        operations += cost.flops
        if not cost.bytes_written and not cost.flops:
            continue  # a view
        picks = row.fusion_class in (FusionClass.LOOKUP, FusionClass.LAYOUT)
        times = steps_of(capture, node)
        most = sum(prod(capture.shape(name) or (0,)) for name in node.outputs if name)
        for slot, name in enumerate(node.inputs):
            if not name or name not in place or slot in row.structural:
                continue
            if name in graph.producers and graph.producers[name][0] in inside:
                continue
            size = prod(capture.shape(name) or (0,))
            read = min(size, most) if picks and slot == 0 else size
            read *= times if name in fixed else 1
            moved[place[name]] = max(read, moved.get(place[name], 0))
        for name in node.outputs:
            if name and name in place and _leaves(capture, name, inside):
                moved[place[name]] = moved.get(place[name], 0) + prod(capture.shape(name) or (0,))
    return Step(operations, tuple(Access(number, size) for number, size in moved.items()))


def _leaves(capture: Capture, name: str, inside: set[int]) -> bool:
    graph = capture.graph
    return name in graph.outputs or any(user not in inside for user, _ in graph.consumers.get(name, ()))
