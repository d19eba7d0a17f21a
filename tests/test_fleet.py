"""The generator of fleets: distinct, valid graphs of the size that was asked for, the same for the same seed."""

import random
import statistics
from pathlib import Path

import pytest

from benchmarks import fleet
from graphopt import corpus
from graphopt.mining.graphs import MiningGraph, from_any

MODELS = ("mobilenet_v3_large", "bert_base", "dlrm")


@pytest.fixture(scope="module")
def origins(sample_graphs: Path) -> list[MiningGraph]:
    found = []
    for name in MODELS:
        found += [from_any(capture) for capture in corpus.load(sample_graphs / f"{name}.onnx", view="raw").captures]
    return found


@pytest.fixture(scope="module")
def made(origins: list[MiningGraph]) -> list[MiningGraph]:
    return fleet.fleet(origins, 200, seed=1)


def test_distinct_graphs_of_the_size_asked_for(made: list[MiningGraph]) -> None:
    assert len({graph.fingerprint for graph in made}) == len(made) == 200
    sizes = [len(graph.labels) for graph in made]
    assert 0.9 * fleet.MEAN_SIZE < statistics.mean(sizes) < 1.1 * fleet.MEAN_SIZE
    assert max(sizes) > 2 * min(sizes)


def test_the_same_seed_makes_the_same_fleet(origins: list[MiningGraph], made: list[MiningGraph]) -> None:
    assert fleet.fleet(origins, 20, seed=1) == made[:20]
    assert fleet.fleet(origins, 20, seed=2) != made[:20]


def test_graphs_are_valid(made: list[MiningGraph]) -> None:
    for graph in made:
        assert len(graph.topological) == len(graph.labels)
        for node, label in enumerate(graph.labels):
            front = label.rpartition(")->")[0]
            operands = [kind for kind in front.rpartition("(")[2].split(",") if kind != "-"]
            assert len(graph.incoming[node]) <= len(operands), label
            for producer, output, _ in graph.incoming[node]:
                kinds = fleet.results(graph.labels[producer])
                carried = kinds[output]
                assert carried in operands, f"{graph.labels[producer]} into {label}"


def test_labels_come_from_the_folder_or_differ_in_width_activation_and_branches(
    origins: list[MiningGraph], made: list[MiningGraph]
) -> None:
    known = {label for graph in origins for label in graph.labels}
    new = {label for graph in made for label in graph.labels} - known
    assert new
    assert all("group=" in label or "activation=" in label or label.startswith("Concat") for label in new)


def chain(*names: str, uses: dict[int, list[int]] | None = None) -> list[fleet.Node]:
    """Nodes of one type in a row; ``uses``: further operands of some of them."""
    nodes = []
    for at, name in enumerate(names):
        producers = [*([at - 1] if at else []), *(uses or {}).get(at, [])]
        operands = tuple(fleet.Operand(producer, 0, slot, False) for slot, producer in enumerate(producers))
        label = f"{name}({','.join(['float32[2]'] * max(len(producers), 1))})->float32[2]"
        nodes.append(fleet.Node(label, operands))
    return nodes


def shape(nodes: list[fleet.Node]) -> list[tuple[str, list[int]]]:
    return [(fleet.name(node.label), [operand.producer for operand in node.operands]) for node in nodes]


def test_blocks_are_repeated_and_dropped() -> None:
    # A mask (node 0) is read by every block of two; the last block gives the end.
    nodes = chain("Mask", "A", "B", "A", "B", "End", uses={2: [0], 4: [0]})
    assert fleet.Block(1, 2) in list(fleet.blocks(nodes))
    longer = fleet.repeated(nodes, fleet.Block(1, 2), 2)
    assert shape(longer) == shape(
        chain("Mask", "A", "B", "A", "B", "A", "B", "A", "B", "End", uses={2: [0], 4: [0], 6: [0], 8: [0]})
    )
    assert fleet.without_block(nodes, fleet.Block(1, 2)) == chain("Mask", "A", "B", "End", uses={2: [0]})


def test_operators_are_dropped_and_inserted() -> None:
    pool = {"float32[2]": ["Relu(float32[2])->float32[2]"]}
    nodes = chain("Gemm", "Relu", "Gemm")
    assert shape(fleet.dropped(random.Random(0), nodes, pool)) == [("Gemm", []), ("Gemm", [0])]
    for seed in range(5):
        grown = shape(fleet.inserted(random.Random(seed), nodes, pool))
        assert sorted(name for name, _ in grown) == ["Gemm", "Gemm", "Relu", "Relu"]
        assert [operands for _, operands in grown] == [[], [0], [1], [2]]


def test_branches_come_and_go() -> None:
    nodes = chain("Split", "Relu", "Relu", "Concat", "Gemm")
    nodes[2] = nodes[2]._replace(operands=(fleet.Operand(0, 0, 0, False),))
    ends = tuple(fleet.Operand(at, 0, 0, False) for at in (1, 2))
    nodes[3] = fleet.Node("Concat{axis=1}(float32[2],float32[2])->float32[2]", ends)
    wider = fleet.another_branch(random.Random(0), nodes, {})
    assert shape(wider) == [
        ("Split", []),
        ("Relu", [0]),
        ("Relu", [0]),
        ("Relu", [0]),
        ("Concat", [1, 2, 3]),
        ("Gemm", [4]),
    ]
    assert wider[4].label == "Concat{axis=1}(float32[2],float32[2],float32[2])->float32[2]"
    assert fleet.one_branch_less(random.Random(0), wider, {}) == nodes
    assert fleet.one_branch_less(random.Random(0), nodes, {}) == nodes


def test_width_and_activations_change_throughout() -> None:
    nodes = [*chain("Conv", "Relu", "Relu")]
    nodes[0] = nodes[0]._replace(label="Conv{group=16}(float32[2],float32[2])->float32[2]")
    nodes.append(nodes[0]._replace(label="Conv{group=1}(float32[2],float32[2])->float32[2]"))
    wider = fleet.another_width(random.Random(0), nodes, {})
    assert wider[0] != nodes[0]
    assert wider[1:] == nodes[1:]
    pool = {"float32[2]": ["Tanh(float32[2])->float32[2]"]}
    changed = fleet.another_activation(random.Random(0), nodes, pool)
    assert [fleet.name(node.label) for node in changed] == ["Conv", "Tanh", "Tanh", "Conv"]
