"""Reorders between NCHW and onnxruntime's blocked layout (domain com.microsoft.nchwc).

A blocked tensor keeps its channels in groups of B (8 or 16, a property of the CPU): storage order
``[N, C/B, H, W, B]``, channels padded with zeros to a multiple of B. onnxruntime reports its shape as
``[N, padded C, H, W]``. Seen as index maps over the storage, a reorder is a reshape, a transpose and a reshape.
"""

from functools import cache

import numpy as np
from onnx import TensorProto, helper

from graphopt.graph import Node, OperatorGraph
from graphopt.operators.base import FusionClass, Operator, elementwise_cost
from graphopt.operators.lowering import CannotLowerError, Dim, IndexMap, Layout, PadTo, Reshape, Take, Transpose

DOMAIN = "com.microsoft.nchwc"

LARGEST_TILE = {0: 12, 1: 16, 2: 14, 3: 9, 4: 7}
"""Most pixels of a convolution kernel's tile by blocks of output channels (0: depthwise): what 32 registers hold."""


@cache
def block_size() -> int:
    """B on this machine: 8 or 16; 0 where onnxruntime has no blocked layout.

    Found by asking: ReorderInput pads four channels to a whole block.
    """
    import onnxruntime

    graph = helper.make_graph(
        [helper.make_node("ReorderInput", ["x"], ["y"], domain=DOMAIN, channels_last=0)],
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {"x": np.zeros((1, 4, 1, 1), np.float32)})
    except Exception:  # no such operator in this build
        return 0
    return int(result.shape[1])


def known_block_size() -> int:
    """The same, for a lowering.

    Raises:
        CannotLowerError: there is no blocked layout.
    """
    if not block_size():
        raise CannotLowerError("this onnxruntime has no blocked layout")
    return block_size()


def _output_maps(graph: OperatorGraph, node: Node, result: int) -> tuple[IndexMap, ...]:
    channels, block = node.attributes.get("channels"), known_block_size()
    if not isinstance(channels, int):
        raise CannotLowerError("ReorderOutput without channels")
    if graph.tensors[node.inputs[0]].rank != 4:
        raise CannotLowerError("ReorderOutput of other than four dimensions")
    groups = Reshape(sizes=(Dim((0,)), Dim((1,), divided=block), Dim((2,)), Dim((3,)), Dim(times=block)))
    if node.attributes.get("channels_last", 0):
        apart = Transpose((0, 2, 3, 1, 4))
        together = Reshape(sizes=(Dim((0,)), Dim((1,)), Dim((2,)), Dim((3, 4))))
        return groups, apart, together, Take(3, channels)
    apart = Transpose((0, 1, 4, 2, 3))
    together = Reshape(sizes=(Dim((0,)), Dim((1, 2)), Dim((3,)), Dim((4,))))
    return groups, apart, together, Take(1, channels)


def _input_maps(graph: OperatorGraph, node: Node, result: int) -> tuple[IndexMap, ...]:
    block = known_block_size()
    if graph.tensors[node.inputs[0]].rank != 4:
        raise CannotLowerError("ReorderInput of other than four dimensions")
    first: tuple[IndexMap, ...] = (Transpose((0, 3, 1, 2)),) if node.attributes.get("channels_last", 0) else ()
    return (
        *first,
        PadTo(1, block),
        Reshape(sizes=(Dim((0,)), Dim((1,), divided=block), Dim(times=block), Dim((2,)), Dim((3,)))),
        Transpose((0, 1, 3, 4, 2)),
        Reshape(sizes=(Dim((0,)), Dim((1, 4)), Dim((2,)), Dim((3,)))),
    )


OPERATORS: tuple[Operator, ...] = (
    Operator(
        "ReorderInput",
        FusionClass.LAYOUT,
        elementwise_cost(0),
        domain=DOMAIN,
        rate_class="transpose",
        attributes=("channels_last",),
        lowering=Layout(_input_maps),
    ),
    # channels is a size, not a kind of computation: it is not in the label, but a kernel of its own per value
    Operator(
        "ReorderOutput",
        FusionClass.LAYOUT,
        elementwise_cost(0),
        domain=DOMAIN,
        rate_class="transpose",
        attributes=("channels_last",),
        lowering=Layout(_output_maps),
    ),
)
