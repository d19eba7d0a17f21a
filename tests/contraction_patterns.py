"""Random patterns around matrix products, each valid for inputs of many shapes.

A pattern works on a tensor [batch, rows, columns]: products with weights, with itself and with a computed operand,
biases, residuals, activations, softmax and transposes. Sizes have names, so that one pattern has inputs of any sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from tests.kernel_checks import Array, Case

SIZES = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 40, 65)
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class ContractionPattern:
    """A graph, and its inputs by the names of their sizes.

    Attributes:
        name: of the kernel.
        nodes: in topological order.
        inputs: name to names of sizes.
        outputs: tensors that leave the pattern.
    """

    name: str
    nodes: tuple[NodeProto, ...]
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]

    def feeds(self, seed: int) -> dict[str, Array]:
        """Inputs of random sizes; values are such that sums stay about one."""
        random = np.random.default_rng(seed)
        sizes: dict[str, int] = {"one": 1}
        found = {}
        for name, shape in self.inputs.items():
            for size in shape:
                sizes.setdefault(size, int(random.choice(SIZES)) if size != "batch" else int(random.integers(1, 4)))
            values = random.standard_normal([sizes[size] for size in shape])
            found[name] = (values / np.sqrt(sizes[shape[-2]] if name.startswith("w") else 1)).astype(np.float32)
        return found

    def case(self, shaped: bool) -> Case:
        """As a case; example shapes are those of seed 0."""
        return Case(self.name, self.nodes, self.feeds(0), self.outputs, shaped=shaped)


def random_contraction(seed: int) -> ContractionPattern:
    """The pattern of a seed."""
    random = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    inputs: dict[str, tuple[str, ...]] = {"x0": ("batch", "rows", "columns")}
    shape = ["batch", "rows", "columns"]
    last, outputs, products = "x0", [], 0

    def fresh(*sizes: str, weight: bool = False) -> str:
        name = f"{'w' if weight else 'x'}{len(inputs)}"
        inputs[name] = sizes
        return name

    def add(op_type: str, *operands: str, domain: str = "", **attributes: object) -> str:
        nodes.append(helper.make_node(op_type, list(operands), [f"t{len(nodes)}"], domain=domain, **attributes))
        return str(nodes[-1].output[0])

    while len(nodes) < 8 or products == 0:
        step = int(random.integers(0, 9))
        if step in (0, 1):
            width = f"width{len(nodes)}"
            last = add("MatMul", last, fresh(shape[2], width, weight=True))
            shape[2], products = width, products + 1
        elif step == 2:
            last = add("FusedMatMul", last, last, domain=MICROSOFT, transB=1, alpha=0.1)
            last = add("Tanh", last)  # keeps numbers small, so that rounding stays small
            shape[2], products = shape[1], products + 1
        elif step == 3:
            last = add("Transpose", last, perm=[0, 2, 1])
            shape[1:] = shape[:0:-1]
        elif step == 4:
            last = add("Add", last, fresh(shape[2]))
        elif step == 5:
            last = add("Add", last, fresh(*shape))
        elif step == 6:
            last = add(str(random.choice(["Relu", "Sigmoid", "Tanh"])), last)
        elif step == 7:
            last = add("Softmax", last, axis=-1)
        else:
            other = add("Mul", last, fresh("batch", shape[1], "one"))
            last = add("Tanh", add("MatMul", other, fresh("batch", shape[2], shape[2], weight=True)))
            products += 1
        if random.random() < 0.15:
            outputs.append(last)
    outputs = list(dict.fromkeys([*outputs, last]))
    return ContractionPattern(f"contraction{seed}", tuple(nodes), inputs, tuple(outputs))
