"""The same names and the same order every time, for models that onnxruntime wrote.

onnxruntime numbers what its optimisers make (``reorder_token_17``) in the order of addresses in memory, and stores
nodes and weights in an order that depends on it: two runs over one model give two files of equal structure. Here the
names that it made are replaced and everything is put into an order that follows from the structure alone.
"""

from collections.abc import Iterable, Iterator, Mapping

from onnx import GraphProto, ModelProto, NodeProto

from graphopt.model_files import bodies, captured_names, every_graph


def stabilize(model: ModelProto, original: ModelProto) -> None:
    """Rename and reorder in place.

    Nodes stand in depth-first order from the graph's outputs (a topological order). A tensor, weight or node that the
    original does not have is called after the node that makes or first reads it (``ReorderInput_12_result_0``).

    Args:
        model: what onnxruntime wrote.
        original: what it was given; names in it are kept.
    """
    kept = {name for graph in every_graph(original.graph) for name in _names(graph)}
    taken = kept | {name for graph in every_graph(model.graph) for name in _names(graph)}
    _stabilize(model.graph, {}, kept, taken)


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield node.name
        yield from node.output


def _stabilize(graph: GraphProto, outer: Mapping[str, str], kept: set[str], taken: set[str]) -> None:
    """Do it for a graph whose free names are renamed as ``outer`` says, and for its bodies."""
    graph.ClearField("value_info")  # in an order of its own, and inferred again by whoever reads the model
    nodes = [graph.node[index] for index in _depth_first(graph)]
    fixed = {value.name for value in (*graph.input, *graph.output)}
    weights = {tensor.name for tensor in graph.initializer}
    renamed = {name: new for name, new in outer.items() if name not in fixed and name not in weights}
    own = weights | {name for node in nodes for name in node.output}
    decided: set[str] = set()

    def decide(name: str, base: str) -> None:
        if not name or name not in own or name in decided:
            return
        decided.add(name)
        renamed.pop(name, None)  # an own name hides the outer one
        if name not in fixed and name not in kept:
            renamed[name] = _fresh(base, taken)

    for index, node in enumerate(nodes):
        base = f"{node.op_type}_{index}"
        for slot, name in enumerate(node.input):
            decide(name, f"{base}_operand_{slot}")
        for name in captured_names(node):
            decide(name, f"{base}_captured")
        for position, name in enumerate(node.output):
            decide(name, f"{base}_result_{position}")
    for index, node in enumerate(nodes):
        if node.name not in kept:
            node.ClearField("doc_string")
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        if not node.name or node.name not in kept:
            node.name = _fresh(f"{node.op_type}_{index}", taken)
        for body in bodies(node):
            _stabilize(body, renamed, kept, taken)
    for value in graph.output:  # of a body: it may hand an outer tensor on
        value.name = renamed.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    ordered = GraphProto()
    ordered.node.extend(nodes)
    del graph.node[:]
    graph.node.extend(ordered.node)
    graph.initializer.sort(key=lambda tensor: tensor.name)


def _fresh(base: str, taken: set[str]) -> str:
    name = base
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _depth_first(graph: GraphProto) -> list[int]:
    """Indices of the nodes, each after the ones that it reads, in the order in which the outputs need them."""
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    order: list[int] = []
    seen: set[int] = set()

    def visit(names: Iterable[str]) -> None:
        stack = [iter([producer[name] for name in names if name in producer])]
        path: list[int] = []
        while stack:
            index = next(stack[-1], None)
            if index is None:
                stack.pop()
                if path:
                    order.append(path.pop())
            elif index not in seen:
                seen.add(index)
                path.append(index)
                stack.append(iter([producer[name] for name in _reads(graph.node[index]) if name in producer]))

    visit(value.name for value in graph.output)
    for index in range(len(graph.node)):  # what no output needs
        if index not in seen:
            visit(name for name in graph.node[index].output if name)
            if index not in seen:
                seen.add(index)
                order.append(index)
    return order


def _reads(node: NodeProto) -> list[str]:
    return [*node.input, *captured_names(node)]
