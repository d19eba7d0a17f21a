"""Random models with If, Loop and Scan, nested, whose bodies read values of the graphs around them."""

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

SHAPE = (2, 3)
STEPS = 4
INPUTS = {"x": SHAPE, "steps": (STEPS, *SHAPE), "condition": (), "trips": ()}
OPSET = 17

_UNARY = ("Tanh", "Sigmoid", "Relu", "Neg")
_BINARY = ("Add", "Mul", "Sub")


class _Scope:
    """A graph while it is drawn: its nodes and constants, and the tensors of SHAPE that may be read in it."""

    def __init__(self, draw: st.DrawFn, names: list[int], readable: list[str], depth: int) -> None:
        self.draw, self.names, self.readable, self.depth = draw, names, list(readable), depth
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def name(self, stem: str) -> str:
        self.names[0] += 1
        return f"{stem}_{self.names[0]}"

    def any(self) -> str:
        return self.draw(st.sampled_from(self.readable))

    def constant(self, shape: tuple[int, ...]) -> str:
        values = np.random.default_rng(self.names[0]).uniform(-1, 1, shape).astype(np.float32)
        return self.keep(values, "c")

    def keep(self, values: np.ndarray, stem: str) -> str:
        name = self.name(stem)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def add(self, op_type: str, inputs: list[str], results: int = 1, **attributes: object) -> list[str]:
        outputs = [self.name(op_type.lower()) for _ in range(results)]
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=self.name("node"), **attributes))
        return outputs

    def result(self) -> str:
        """A value of this graph's own: bodies cannot hand on what they do not make."""
        own = [name for node in self.nodes for name in node.output if name in self.readable]
        return self.draw(st.sampled_from(own)) if own else self.add("Identity", [self.any()])[0]

    def body(self, readable: tuple[str, ...] = ()) -> "_Scope":
        inner = _Scope(self.draw, self.names, [*self.readable, *readable], self.depth + 1)
        inner.fill(3)
        return inner

    def graph(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.GraphProto:
        return helper.make_graph(self.nodes, self.name("g"), inputs, outputs, self.constants)

    def fill(self, most: int) -> None:
        for _ in range(self.draw(st.integers(1, most))):
            kinds = ["unary", "binary", "binary", "product", "bias"]
            kinds += ["If", "Loop", "Scan"] if self.depth < 2 else []
            kind = self.draw(st.sampled_from(kinds))
            if kind == "unary":
                made = self.add(self.draw(st.sampled_from(_UNARY)), [self.any()])
            elif kind == "binary":
                made = self.add(self.draw(st.sampled_from(_BINARY)), [self.any(), self.any()])
            elif kind == "product":
                made = self.add("MatMul", [self.any(), self.constant((SHAPE[1], SHAPE[1]))])
            elif kind == "bias":
                made = self.add("Add", [self.any(), self.constant((SHAPE[1],))])
            elif kind == "If":
                made = self.add_if()
            elif kind == "Loop":
                made = self.add_loop()
            else:
                made = self.add_scan()
            self.readable += made

    def add_if(self) -> list[str]:
        results = self.draw(st.integers(1, 2))
        branches = []
        for _ in range(2):
            inner = self.body()
            names = [inner.result() for _ in range(results)]
            if len(set(names)) < results:
                names[1] = inner.add("Identity", [names[0]])[0]
            branches.append(inner.graph([], [_value(name) for name in names]))
        condition = self.draw(st.sampled_from(["condition", ""])) or self.keep(np.array(self.draw(st.booleans())), "b")
        return self.add("If", [condition], results, then_branch=branches[0], else_branch=branches[1])

    def _states(self) -> tuple[list[str], list[str]]:
        first = [self.draw(st.sampled_from([*self.readable, ""])) for _ in range(self.draw(st.integers(1, 3)))]
        return [name or self.constant(SHAPE) for name in first], [self.name("state") for _ in first]

    def _carried(self, inner: "_Scope", states: list[str], by_name: bool) -> list[str]:
        """What each state becomes: itself, itself through an Identity, or something else."""
        names: list[str] = []
        kinds = ["identity", "other", *["same"][:by_name]]
        for state in states:
            kind = self.draw(st.sampled_from(kinds))
            name = state if kind == "same" else inner.result() if kind == "other" else ""
            names.append(name if name and name not in names else inner.add("Identity", [state])[0])
        return names

    def _scanned(self, inner: "_Scope") -> list[str]:
        return [inner.add("Identity", [inner.any()])[0] for _ in range(self.draw(st.integers(0, 2)))]

    def _summed(self, made: list[str], states: int) -> list[str]:
        """States as they are, and what was scanned summed over the trips, with something in front of no trips."""
        summed = []
        for name in made[states:]:
            axis = self.keep(np.array([0]), "axis")
            rows = self.add("Concat", [self.constant((1, *SHAPE)), name], axis=0)
            summed += self.add("ReduceSum", [*rows, axis], keepdims=0)
        return made[:states] + summed

    def add_loop(self) -> list[str]:
        first, states = self._states()
        inner = self.body(tuple(states))
        trip, going, still = self.name("trip"), self.name("going"), self.name("still")
        inner.nodes.append(helper.make_node("Identity", [going], [still]))
        carried = self._carried(inner, states, by_name=True)
        scanned = self._scanned(inner)
        graph = inner.graph(
            [helper.make_tensor_value_info(trip, TensorProto.INT64, []), _bool(going), *map(_value, states)],
            [_bool(still), *map(_value, carried), *map(_value, scanned)],
        )
        trips = self.draw(st.sampled_from(["trips", ""])) or self.keep(np.array(self.draw(st.integers(0, 3))), "n")
        made = self.add("Loop", [trips, "", *first], len(carried) + len(scanned), body=graph)
        return self._summed(made, len(carried))

    def add_scan(self) -> list[str]:
        first, states = self._states()
        step = self.name("step")
        inner = self.body((*states, step))
        # onnxruntime leaves the result of a Scan unwritten where its body hands an input on by name
        carried = self._carried(inner, states, by_name=False)
        scanned = self._scanned(inner)
        graph = inner.graph([*map(_value, states), _value(step)], [*map(_value, carried), *map(_value, scanned)])
        made = self.add("Scan", [*first, "steps"], len(carried) + len(scanned), body=graph, num_scan_inputs=1)
        return self._summed(made, len(carried))


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)


def _bool(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A model with the inputs INPUTS: every value between two operators has SHAPE."""
    scope = _Scope(draw, [0], ["x"], 0)
    scope.fill(2)
    control = draw(st.sampled_from([scope.add_if, scope.add_loop, scope.add_scan]))
    scope.readable += control()
    scope.fill(3)
    outputs = [name for node in scope.nodes for name in node.output if name in scope.readable][-3:]
    dtypes = {"condition": TensorProto.BOOL, "trips": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(n, dtypes.get(n, TensorProto.FLOAT), s) for n, s in INPUTS.items()]
    graph = scope.graph(inputs, [_value(name) for name in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def feeds(condition: bool, trips: int) -> dict[str, np.ndarray]:
    """Inputs for a model."""
    rng = np.random.default_rng(7)
    return {
        "x": rng.uniform(-1, 1, SHAPE).astype(np.float32),
        "steps": rng.uniform(-1, 1, (STEPS, *SHAPE)).astype(np.float32),
        "condition": np.array(condition),
        "trips": np.array(trips, np.int64),
    }
