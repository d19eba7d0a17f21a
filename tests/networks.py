"""Published networks by their structure: shapes only, weights dropped."""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Activation = str
"""An operator type; empty for none."""


class Network:
    """A graph that grows by a layer with each call; calls take and return (tensor, channels)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=f"n{len(self.nodes)}", **attributes))
        return output

    def constant(self, *values: int) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values, np.int64), f"i{len(self.initializers)}"))
        return self.initializers[-1].name

    def weight(self, *shape: int) -> str:
        """A dropped weight: a constant of this shape without values."""
        output = self.add("ConstantOfShape", self.constant(*shape))
        self.nodes[-1].metadata_props.add(key="graphopt.weight", value="dropped")
        return output

    def conv(
        self, x: str, fan_in: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: Activation = "Relu"
    ) -> str:
        """A convolution with folded batch normalization, padded to keep the size, and an activation."""
        pad = kernel // 2
        y = self.add(
            "Conv",
            x,
            self.weight(out, fan_in // groups, kernel, kernel),
            self.weight(out),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=groups,
        )
        return self.act(y, act)

    def act(self, x: str, act: Activation) -> str:
        if act == "Silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        return self.add(act, x) if act else x

    def fc(self, x: str, fan_in: int, out: int, act: Activation = "") -> str:
        """A product of the last axis with a matrix, and a bias."""
        y = self.add("Add", self.add("MatMul", x, self.weight(fan_in, out)), self.weight(out))
        return self.act(y, act)

    def norm(self, x: str, width: int) -> str:
        return self.add("LayerNormalization", x, self.weight(width), self.weight(width), axis=-1)

    def classify(self, x: str, channels: int, classes: int = 1000) -> str:
        pooled = self.add("Flatten", self.add("GlobalAveragePool", x))
        return self.fc(pooled, channels, classes)

    def model(self, output: str, size: int) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def resnet(depths: tuple[int, ...], *, groups: int = 1, width: int = 64, stride_first: bool = False) -> ModelProto:
    """ResNet with bottlenecks (He et al. 2015), or ResNeXt with groups (Xie et al. 2016).

    Args:
        depths: blocks of each stage.
        groups: of the 3 x 3 convolutions.
        width: their channels in the first stage.
        stride_first: whether the first 1 x 1 convolution of a stage has the stride, as in the publication, or the
            3 x 3 convolution, as in most libraries today.
    """
    net = Network("resnet")
    x, channels = net.conv("image", 3, 64, 7, 2), 64
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, depth in enumerate(depths):
        inner, outer = width << stage, 256 << stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            early, late = (stride, 1) if stride_first else (1, stride)
            y = net.conv(x, channels, inner, 1, early)
            y = net.conv(y, inner, inner, 3, late, groups)
            y = net.conv(y, inner, outer, act="")
            shortcut = net.conv(x, channels, outer, 1, stride, act="") if not block else x
            x, channels = net.add("Relu", net.add("Add", y, shortcut)), outer
    return net.model(net.classify(x, channels), 224)


def resnet18() -> ModelProto:
    """ResNet-18 (He et al. 2015)."""
    net = Network("resnet18")
    x, channels = net.conv("image", 3, 64, 7, 2), 64
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage in range(4):
        for block in range(2):
            out, stride = 64 << stage, 2 if stage and not block else 1
            y = net.conv(net.conv(x, channels, out, 3, stride), out, out, 3, act="")
            shortcut = net.conv(x, channels, out, 1, stride, act="") if out != channels else x
            x, channels = net.add("Relu", net.add("Add", y, shortcut)), out
    return net.model(net.classify(x, channels), 224)


def mobilenet_v2() -> ModelProto:
    """MobileNetV2 1.0 (Sandler et al. 2018)."""
    net = Network("mobilenet_v2")
    x, channels = net.conv("image", 3, 32, 3, 2, act="Relu"), 32
    for factor, out, repeats, first in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for block in range(repeats):
            stride, inner = (first if not block else 1), channels * factor
            y = net.conv(x, channels, inner) if factor > 1 else x
            y = net.conv(net.conv(y, inner, inner, 3, stride, inner), inner, out, act="")
            x, channels = net.add("Add", x, y) if stride == 1 and channels == out else y, out
    return net.model(net.classify(net.conv(x, channels, 1280), 1280), 224)


def efficientnet_b0() -> ModelProto:
    """EfficientNet-B0 (Tan and Le 2019): squeeze and excite at a quarter of a block's input channels."""
    net = Network("efficientnet_b0")
    x, channels = net.conv("image", 3, 32, 3, 2, act="Silu"), 32
    for factor, kernel, out, repeats, first in (
        *((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2)),
        *((6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)),
    ):
        for block in range(repeats):
            stride, inner = (first if not block else 1), channels * factor
            y = net.conv(x, channels, inner, act="Silu") if factor > 1 else x
            y = net.conv(y, inner, inner, kernel, stride, inner, act="Silu")
            squeezed = net.conv(net.add("GlobalAveragePool", y), inner, channels // 4, act="Silu")
            y = net.add("Mul", y, net.conv(squeezed, channels // 4, inner, act="Sigmoid"))
            y = net.conv(y, inner, out, act="")
            x, channels = net.add("Add", x, y) if stride == 1 and channels == out else y, out
    return net.model(net.classify(net.conv(x, channels, 1280, act="Silu"), 1280), 224)


def shufflenet_v2() -> ModelProto:
    """ShuffleNetV2 1.0 (Ma et al. 2018)."""
    net = Network("shufflenet_v2")

    def halves(x: str, channels: int) -> tuple[str, str]:
        bounds = [net.constant(0), net.constant(channels // 2), net.constant(channels)]
        axis = net.constant(1)
        return net.add("Slice", x, bounds[0], bounds[1], axis), net.add("Slice", x, bounds[1], bounds[2], axis)

    def shuffled(a: str, b: str, channels: int, size: int) -> str:
        y = net.add("Reshape", net.add("Concat", a, b, axis=1), net.constant(1, 2, channels // 2, size, size))
        return net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3, 4]), net.constant(1, channels, size, size))

    x, channels, size = net.conv("image", 3, 24, 3, 2), 24, 56
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for out, repeats in ((116, 4), (232, 8), (464, 4)):
        half, size = out // 2, size // 2
        left = net.conv(net.conv(x, channels, channels, 3, 2, channels, ""), channels, half)
        right = net.conv(x, channels, half)
        right = net.conv(net.conv(right, half, half, 3, 2, half, ""), half, half)
        x, channels = shuffled(left, right, out, size), out
        for _ in range(repeats - 1):
            left, right = halves(x, out)
            right = net.conv(net.conv(net.conv(right, half, half), half, half, 3, 1, half, ""), half, half)
            x = shuffled(left, right, out, size)
    return net.model(net.classify(net.conv(x, channels, 1024), 1024), 224)


def vision_transformer(width: int, heads: int, depth: int = 12) -> ModelProto:
    """ViT (Dosovitskiy et al. 2020) on patches of 16 x 16: DeiT-tiny is 192 wide with 3 heads, ViT-B 768 with 12."""
    net = Network("vision_transformer")
    patches = net.add(
        "Conv", "image", net.weight(width, 3, 16, 16), net.weight(width), kernel_shape=[16, 16], strides=[16, 16]
    )
    rows = net.add("Reshape", patches, net.constant(1, width, 196))
    x = net.add("Concat", net.weight(1, 1, width), net.add("Transpose", rows, perm=[0, 2, 1]), axis=1)
    x = net.add("Add", x, net.weight(1, 197, width))
    split = net.constant(1, 197, heads, width // heads)
    for _ in range(depth):
        y = net.norm(x, width)
        q, k, v = (net.add("Reshape", net.fc(y, width, width), split) for _ in range(3))
        scores = net.add(
            "MatMul", net.add("Transpose", q, perm=[0, 2, 1, 3]), net.add("Transpose", k, perm=[0, 2, 3, 1])
        )
        mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), net.add("Transpose", v, perm=[0, 2, 1, 3]))
        joined = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), net.constant(1, 197, width))
        x = net.add("Add", x, net.fc(joined, width, width))
        x = net.add("Add", x, net.fc(net.fc(net.norm(x, width), width, 4 * width, "Gelu"), 4 * width, width))
    first = net.add("Gather", net.norm(x, width), net.constant(0), axis=1)
    return net.model(net.fc(first, width, 1000), 224)


def convnext_tiny() -> ModelProto:
    """ConvNeXt-T (Liu et al. 2022)."""
    net = Network("convnext_tiny")
    x, channels = "image", 3

    def normalized(x: str, width: int) -> str:
        last = net.norm(net.add("Transpose", x, perm=[0, 2, 3, 1]), width)
        return net.add("Transpose", last, perm=[0, 3, 1, 2])

    for stage, (depth, out) in enumerate(((3, 96), (3, 192), (9, 384), (3, 768))):
        patch = 2 if stage else 4
        x = net.add(
            "Conv",
            normalized(x, channels) if stage else x,
            net.weight(out, channels, patch, patch),
            net.weight(out),
            kernel_shape=[patch] * 2,
            strides=[patch] * 2,
        )
        channels = out
        if not stage:
            x = normalized(x, out)
        for _ in range(depth):
            y = net.add("Transpose", net.conv(x, out, out, 7, 1, out, ""), perm=[0, 2, 3, 1])
            y = net.fc(net.fc(net.norm(y, out), out, 4 * out, "Gelu"), 4 * out, out)
            y = net.add("Transpose", net.add("Mul", y, net.weight(out)), perm=[0, 3, 1, 2])
            x = net.add("Add", x, y)
    pooled = net.norm(net.add("Flatten", net.add("GlobalAveragePool", x)), channels)
    return net.model(net.fc(pooled, channels, 1000), 224)
