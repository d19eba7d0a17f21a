"""The reference runtime: a model node by node, for numbers that depend on as little of onnxruntime as can be.

Who computes a node, in this order:

- ``kernels``: fused operators, by the kernel library, as a one-node model in onnxruntime;
- ``bodies``: fused operators without a kernel and all other local functions, by the nodes of the body, by these rules;
- ``graphopt``: If and Loop, whose bodies are graphs run by these rules;
- ``evaluator``: the onnx reference evaluator, one node at a time;
- ``onnxruntime``: what the evaluator does not know (``com.microsoft`` and blocked-layout operators), gets wrong at the
  model's opset version, fails on, or would take hours for (its pooling and resizing are Python loops per element), as a
  one-node model without optimisation.

Blocked-layout tensors pass between nodes as arrays of their padded NCHW shape; only blocked operators look inside.
"""

from collections import ChainMap, Counter, deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt import models
from graphopt.errors import GraphoptError
from graphopt.model_files import captured_names
from graphopt.runtime.evaluator import trusted
from graphopt.runtime.feeds import Feeds, inputs_of
from graphopt.runtime.session import kernel_library, one_line, open_session

FUSED_DOMAIN = "graphopt.fused"
IR_VERSION = 10
"""Of the one-node models: old enough for any onnxruntime that this project supports, new enough for every type."""

Values = MutableMapping[str, Any]
"""Tensor name to value: an array, a list for a sequence, None for an absent optional."""


@dataclass
class ReferenceRuntime:
    """A model ready to run node by node; what is built for a node is kept for the next run.

    Attributes:
        model: the model.
        kernels: kernel library for the fused operators; None runs their bodies.
        executed: nodes run so far, by who computed them (see the module's text).
    """

    model: ModelProto
    kernels: Path | None = None
    executed: Counter[str] = field(default_factory=Counter)
    _functions: dict[tuple[str, str], FunctionProto] = field(init=False, repr=False)
    _runners: dict[tuple[Any, ...], Any] = field(init=False, repr=False, default_factory=dict)
    _constants: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Index the functions and unpack the weights."""
        self._functions = {(f.domain, f.name): f for f in self.model.functions}
        self._constants = dict(_initializers(self.model.graph))

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Run the model.

        Args:
            feeds: input name to array.

        Returns:
            Output name to value, in the model's order.

        Raises:
            GraphoptError: an input is missing, or nothing here can compute a node.
        """
        missing = [i.name for i in inputs_of(self.model) if i.name not in feeds]
        if missing:
            raise GraphoptError(f"no values for the inputs {', '.join(missing)}")
        values: Values = {**self._constants, **feeds}
        self._run_nodes(self.model.graph.node, values, _opsets(self.model), frozenset(self._constants) - set(feeds))
        return {output.name: values[output.name] for output in self.model.graph.output}

    def __call__(self, feeds: Feeds) -> dict[str, Any]:
        """The same as ``run``: a runtime is a runner for ``verify`` and ``bench``."""
        return self.run(feeds)

    def _run_nodes(
        self, nodes: Iterable[NodeProto], values: Values, opsets: Mapping[str, int], constants: Set[str]
    ) -> None:
        known = set(constants)
        for node in _ordered(nodes, values):
            try:
                results = self._run_node(node, values, opsets, known)
            except GraphoptError:
                raise
            except Exception as error:  # whatever numpy, the evaluator or onnxruntime raise
                kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
                raise GraphoptError(f"node {node.name or node.output[0]} ({kind}): {one_line(error)}") from None
            if node.op_type == "Constant" and not node.domain:
                known.update(node.output)
            for name, value in zip(node.output, results, strict=False):
                if name:
                    values[name] = value

    def _run_node(self, node: NodeProto, values: Values, opsets: Mapping[str, int], constants: Set[str]) -> list[Any]:
        function = self._functions.get((node.domain, node.op_type))
        if node.domain == FUSED_DOMAIN and self.kernels is not None:
            results = self._run_kernel(node, values, opsets, constants, optional=function is not None)
            if results is not None:
                return results
        if function is not None:
            self.executed["bodies"] += 1
            return self._run_function(node, function, [values[name] if name else None for name in node.input])
        if not node.domain and node.op_type in ("If", "Loop"):
            self.executed["graphopt"] += 1
            bodies = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
            if node.op_type == "If":
                chosen = bodies["then_branch" if bool(np.asarray(values[node.input[0]]).item()) else "else_branch"]
                return self._run_body(chosen, [], values, opsets)
            return self._run_loop(node, bodies["body"], values, opsets)
        if trusted(node, values, opsets.get(node.domain, 1)):
            try:
                results = self._evaluate(node, values, opsets)
            except Exception:  # unknown to the evaluator, or it fails: the next in the order answers, or raises
                pass
            else:
                self.executed["evaluator"] += 1
                return results
        self.executed["onnxruntime"] += 1
        return self._run_alone(node, values, opsets, constants, None)

    def _run_kernel(
        self, node: NodeProto, values: Values, opsets: Mapping[str, int], constants: Set[str], *, optional: bool
    ) -> list[Any] | None:
        """A fused operator by its kernel; None where the library has none for it and a body can stand in."""
        try:
            results = self._run_alone(node, values, opsets, constants, self.kernels)
        except _NoSession as error:
            if optional:
                return None
            raise GraphoptError(str(error)) from None
        self.executed["kernels"] += 1
        return results

    def _run_function(self, node: NodeProto, function: FunctionProto, arguments: list[Any]) -> list[Any]:
        values: Values = dict.fromkeys(function.input)  # operands that the call leaves out are absent
        values.update(zip(function.input, arguments, strict=False))
        key = ("body", id(node), id(function))
        body = self._runners.get(key)
        if body is None:
            attributes = {attribute.name: attribute for attribute in (*function.attribute_proto, *node.attribute)}
            body = self._runners[key] = [_bound(inner, attributes) for inner in function.node]
            self._runners[("node", id(node))] = node
        self._run_nodes(body, values, {o.domain: o.version for o in function.opset_import}, frozenset())
        return [values.get(name) for name in function.output]

    def _run_body(self, graph: GraphProto, arguments: list[Any], outer: Values, opsets: Mapping[str, int]) -> list[Any]:
        """A body of If or Loop, which sees the values around it."""
        weights = dict(_initializers(graph))
        own: dict[str, Any] = dict(weights)
        own.update(zip((value.name for value in graph.input), arguments, strict=False))
        values: Values = ChainMap(own, outer)
        self._run_nodes(graph.node, values, opsets, frozenset(weights))
        return [values[output.name] for output in graph.output]

    def _run_loop(self, node: NodeProto, body: GraphProto, values: Values, opsets: Mapping[str, int]) -> list[Any]:
        slots = [values[name] if name else None for name in node.input]
        trips = None if slots[0] is None else int(np.asarray(slots[0]).item())
        going = True if len(slots) < 2 or slots[1] is None else bool(np.asarray(slots[1]).item())
        carried = slots[2:]
        stacked: list[list[Any]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
        iteration = 0
        while going and (trips is None or iteration < trips):
            arguments = [np.array(iteration, np.int64), np.array(going), *carried]
            condition, *results = self._run_body(body, arguments, values, opsets)
            going = bool(np.asarray(condition).item())
            carried, scanned = results[: len(carried)], results[len(carried) :]
            for rows, row in zip(stacked, scanned, strict=True):
                rows.append(row)
            iteration += 1
        declared = body.output[1 + len(carried) :]
        return [*carried, *(_stack(rows, value) for rows, value in zip(stacked, declared, strict=True))]

    def _evaluate(self, node: NodeProto, values: Values, opsets: Mapping[str, int]) -> list[Any]:
        feeds = {name: values[name] for name in node.input if name}
        key = ("evaluator", id(node), _signature(feeds))
        evaluator = self._runners.get(key)
        if evaluator is None:
            evaluator = ReferenceEvaluator(_single(node, feeds, {}, opsets))
            self._runners[key] = evaluator
            self._runners[("node", id(node))] = node  # keeps the id from being given to another node
        with np.errstate(all="ignore"):
            results = evaluator.run(None, {name: value for name, value in feeds.items() if value is not None})
        present = iter(results)
        return [_as_value(next(present)) if name else None for name in node.output]

    def _run_alone(
        self,
        node: NodeProto,
        values: Values,
        opsets: Mapping[str, int],
        constants: Set[str],
        kernels: Path | None,
    ) -> list[Any]:
        """One node as a model of its own in onnxruntime; what its bodies read becomes inputs."""
        names = dict.fromkeys((*(n for n in node.input if n), *captured_names(node)))
        operands = {name: values[name] for name in names if name in values and values[name] is not None}
        weights = {name: operands.pop(name) for name in list(operands) if name in constants}
        key = ("session", id(node), _signature(operands))
        session = self._runners.get(key)
        if session is None:
            single = _single(node, operands, weights, opsets)
            if kernels is None:
                single.functions.extend(self.model.functions)  # bodies may call them
                used = {opset.domain for opset in single.opset_import}
                single.opset_import.extend(o for o in self.model.opset_import if o.domain not in used)
            try:
                session = open_session(single, optimization="none", kernels=kernels)
            except GraphoptError as error:
                raise _NoSession(str(error)) from None
            self._runners[key] = session
            self._runners[("node", id(node))] = node
        present = iter(session.run(None, operands))
        return [next(present) if name else None for name in node.output]


class _NoSession(Exception):
    """onnxruntime does not open a one-node model."""


def open_reference(
    model: Path | ModelProto, *, kernels: Path | None = None, use_kernels: bool = True
) -> ReferenceRuntime:
    """A model ready to run in the reference runtime, again and again.

    Args:
        model: a file, or a model in memory.
        kernels: kernel library; by default the one that the model file names, where it exists.
        use_kernels: False computes fused operators by their function bodies.

    Returns:
        The runtime.

    Raises:
        GraphoptError: the file is no valid model, or the kernel library does not exist.
    """
    if use_kernels and kernels is None and isinstance(model, Path):
        found = kernel_library(model)
        kernels = found if found is not None and found.is_file() else None
    if use_kernels and kernels is not None and not kernels.is_file():
        raise GraphoptError(f"{kernels}: no such kernel library")
    proto = models.load(model) if isinstance(model, Path) else model
    return ReferenceRuntime(proto, kernels if use_kernels else None)


def run(
    model: Path | ModelProto, feeds: Feeds, *, kernels: Path | None = None, use_kernels: bool = True
) -> dict[str, Any]:
    """Run a model once in the reference runtime.

    Args:
        model: a file, or a model in memory.
        feeds: input name to array.
        kernels: kernel library; by default the one that the model file names, where it exists.
        use_kernels: False computes fused operators by their function bodies.

    Returns:
        Output name to value.

    Raises:
        GraphoptError: the model is not valid, an input is missing, or nothing can compute a node.
    """
    return open_reference(model, kernels=kernels, use_kernels=use_kernels).run(feeds)


def _opsets(model: ModelProto) -> dict[str, int]:
    return {opset.domain: opset.version for opset in model.opset_import}


def _initializers(graph: GraphProto) -> Iterator[tuple[str, Any]]:
    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for sparse in graph.sparse_initializer:
        dense = np.zeros(tuple(sparse.dims), numpy_helper.to_array(sparse.values).dtype)
        indices = numpy_helper.to_array(sparse.indices)
        where = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, dense.shape)
        dense[where] = numpy_helper.to_array(sparse.values)
        yield sparse.values.name, dense


def _ordered(nodes: Iterable[NodeProto], values: Mapping[str, Any]) -> Iterator[NodeProto]:
    """Nodes so that producers stand before consumers; the given order wherever it already is one."""
    waiting = deque(nodes)
    made = {name for node in waiting for name in node.output if name}
    stalled = 0
    while waiting:
        node = waiting.popleft()
        needed = (*node.input, *captured_names(node))
        if any(name in made and name not in values for name in needed if name) and stalled <= len(waiting):
            waiting.append(node)
            stalled += 1
            continue
        stalled = 0
        yield node


def _bound(node: NodeProto, attributes: Mapping[str, AttributeProto]) -> NodeProto:
    """A node of a function body with references to the call's attributes replaced by their values.

    With attributes, every node is a copy of its own: what is built for a node holds the constants around it.
    """
    if not attributes:
        return node
    bound = NodeProto()
    bound.CopyFrom(node)
    del bound.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            bound.attribute.append(attribute)
        elif attribute.ref_attr_name in attributes:
            value = bound.attribute.add()
            value.CopyFrom(attributes[attribute.ref_attr_name])
            value.name = attribute.name
    return bound


def _signature(feeds: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(_value_info(name, value).SerializeToString(deterministic=True) for name, value in feeds.items())


def _single(
    node: NodeProto, operands: Mapping[str, Any], weights: Mapping[str, Any], opsets: Mapping[str, int]
) -> ModelProto:
    """A model of one node."""
    graph = helper.make_graph(
        [node],
        "single",
        [_value_info(name, value) for name, value in operands.items() if value is not None],
        [_untyped(name) for name in node.output if name],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    imported = dict(opsets)
    imported.setdefault(node.domain, 1)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(imported.items())],
        ir_version=IR_VERSION,
    )


def _untyped(name: str) -> ValueInfoProto:
    value = ValueInfoProto()
    value.name = name
    return value


def _value_info(name: str, value: Any) -> ValueInfoProto:
    """The type and rank of a value, without sizes, so that what is built for it serves other sizes too.

    Short lists keep theirs: shape inference goes by the length of operands like the sizes and scales of Resize.
    """
    if isinstance(value, list):
        first = np.asarray(value[0]) if value else np.zeros(0, np.float32)
        return helper.make_tensor_sequence_value_info(name, helper.np_dtype_to_tensor_dtype(first.dtype), None)
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        return helper.make_tensor_value_info(name, onnx.TensorProto.STRING, [None] * array.ndim)
    listed = array.ndim == 1 and array.size <= 64
    dims = [array.size] if listed else [None] * array.ndim
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), dims)


def _as_value(value: Any) -> Any:
    """What the evaluator returns as an array; it hands out numpy scalars for tensors of rank 0."""
    return value if value is None or isinstance(value, list) else np.asarray(value)


def _stack(rows: list[Any], declared: ValueInfoProto) -> Any:
    """A scan output of Loop: its rows under a new first axis; without rows, the declared type says what is empty."""
    if rows:
        return np.stack([np.asarray(row) for row in rows])
    tensor = declared.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else np.dtype(np.float32)
    return np.zeros((0, *(dim.dim_value for dim in tensor.shape.dim)), dtype)
