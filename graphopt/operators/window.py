"""Sliding windows without products: pooling, resizing, sampling."""

from dataclasses import replace
from math import prod

from graphopt.graph import Node, OperatorGraph
from graphopt.operators import rowwise
from graphopt.operators.base import Cost, CostFormula, FusionClass, Operands, Operator
from graphopt.operators.convolution import window_of
from graphopt.operators.formulas import elements, integer, per_input, per_output, present, text, traffic, window_size
from graphopt.operators.lowering import CannotLowerError, Pool, Pooling, Rowwise


def pool_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One operation per element under the window and output element (ONNX: MaxPool, AveragePool, LpPool)."""
    return traffic(inputs, outputs, window_size(node) * elements(outputs, 0))


def resize_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Nearest: none; linear: 2 taps, cubic: 4 taps per resized dimension, a multiply-add each, one dimension at a time.

    Source: ONNX operators Resize and Upsample. ``roi``, ``scales`` and ``sizes`` are read by the host. Nearest reads at
    most one element per element written.
    """
    source, output = present(inputs, 0), present(outputs, 0)
    if source is None or output is None:
        return Cost(0, 0, 0, 0)
    mode = text(node, "mode", "nearest")
    taps = {"linear": 2, "bilinear": 2, "cubic": 4}.get(mode, 0)
    resized = sum(a != b for a, b in zip(source.shape, output.shape, strict=False))
    name = "resize_cubic" if taps == 4 else "resize_linear" if taps else "resize_nearest"
    cost = traffic(inputs, outputs, 2 * taps * resized * output.elements, host=(1, 2, 3), rate_class=name)
    return cost if taps else replace(cost, bytes_read=min(cost.bytes_read, output.bytes))


def grid_sample_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """2 (linear) or 4 (cubic) taps per sampled dimension, all combinations, a multiply-add each (ONNX: GridSample)."""
    source = present(inputs, 0)
    dimensions = len(source.shape) - 2 if source is not None else 2
    taps = {"nearest": 0, "cubic": 4, "bicubic": 4}.get(text(node, "mode", "linear"), 2)
    each = 2 * taps**dimensions if taps else 0
    return traffic(inputs, outputs, each * elements(outputs, 0))


def affine_grid_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A product with a matrix of one row per dimension for each grid point (ONNX: AffineGrid; size in slot 1)."""
    theta = present(inputs, 0)
    depth = theta.shape[-1] if theta is not None and theta.shape else 0
    return traffic(inputs, outputs, 2 * depth * elements(outputs, 0), host=(1,))


def region_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Samples per output element times 8 operations (4 weighted neighbours) plus the fold.

    Source: ONNX operator RoiAlign. ``sampling_ratio`` 0 means one sample per element of the region: 4 are assumed.
    """
    ratio = integer(node, "sampling_ratio", 0)
    samples = ratio * ratio if ratio else 4
    return traffic(inputs, outputs, 9 * samples * elements(outputs, 0))


def columns_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One addition per column element (ONNX: Col2Im; image and block shape are read by the host)."""
    return traffic(inputs, outputs, elements(inputs, 0), host=(1, 2))


def unpool_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """The output is cleared, then each value is written to its place (ONNX: MaxUnpool)."""
    whole = traffic(inputs, outputs, 0, host=(2,))
    values = present(inputs, 0)
    return Cost(
        0, whole.bytes_read, whole.bytes_written + (values.bytes if values is not None else 0), whole.parameter_bytes
    )


def global_pool(flops_per_element: int) -> CostFormula:
    """Formula for pooling over all positions: so many operations per input element."""
    return per_input(flops_per_element)


def spectrum_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """5 * n * log2(n) operations per transform of length n, as for a complex fast Fourier transform.

    Source: the usual count for the radix-2 algorithm (ONNX: DFT, STFT). A transform's length is the axis of the signal
    (DFT) or the frame (STFT: the window in slot 2, else the last output axis).
    """
    signal, output = present(inputs, 0), present(outputs, 0)
    if signal is None or output is None or len(output.shape) < 2:
        return Cost(0, 0, 0, 0)
    window = present(inputs, 2)
    if node.op_type == "STFT":
        length = window.shape[0] if window is not None and window.shape else 2 * (output.shape[-2] - 1)
        transforms = prod(output.shape[:-2])
    else:
        axis = present(inputs, 2)
        given = axis.tensor.value if axis is not None else None
        default = integer(node, "axis", 1) if node.version < 20 else -2  # then it became an operand
        position = int(given.ravel()[0]) if given is not None and given.size else default
        length = signal.shape[position]
        transforms = prod(output.shape[:-1]) // max(1, output.shape[position])
    flops = 5 * length * max(1, (max(1, length) - 1).bit_length()) * transforms
    return traffic(inputs, outputs, flops, host=(1,))


def real_spectrum_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """5 * n * log2(n) operations per transform over n real points, which are the last ``signal_ndim`` axes.

    Source: onnxruntime contrib operators Rfft (real operand) and Irfft (real result); the other side has a last axis
    of 2 more.
    """
    real = present(inputs if node.op_type == "Rfft" else outputs, 0)
    dimensions = integer(node, "signal_ndim", 1)
    if real is None or len(real.shape) < dimensions:
        return Cost(0, 0, 0, 0)
    length = prod(real.shape[len(real.shape) - dimensions :])
    flops = 5 * length * max(1, (max(1, length) - 1).bit_length()) * (real.elements // max(1, length))
    return traffic(inputs, outputs, flops)


_WINDOW = FusionClass.WINDOW
_MS = "com.microsoft"
_BLOCKED = "com.microsoft.nchwc"
_POOL = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
_AVERAGE = (*_POOL, "count_include_pad")
_MAXIMUM = (*_POOL, "storage_order")
_RESIZE = (
    "antialias",
    "axes",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "mode",
    "nearest_mode",
)


def _pooled(graph: OperatorGraph, node: Node) -> Pool:
    """The window of a MaxPool or AveragePool of float32.

    Raises:
        CannotLowerError: no kernel knows this use.
    """
    if graph.tensors[node.inputs[0]].dtype != "float32":
        raise CannotLowerError(f"{node.op_type} of other than float32")
    if len(node.outputs) > 1 and node.outputs[1]:
        raise CannotLowerError(f"{node.op_type} that says where each greatest element stands")
    given = node.attributes.get("kernel_shape")
    window, kernel = window_of(graph, node), tuple(int(size) for size in given) if isinstance(given, tuple) else ()
    if len(kernel) != window.dimensions:
        raise CannotLowerError(f"{node.op_type}: kernel_shape of {len(kernel)} numbers")
    counts_pads = node.op_type == "AveragePool" and bool(integer(node, "count_include_pad", 0))
    kind = "maximum" if node.op_type == "MaxPool" else "mean"
    rounds_up = bool(integer(node, "ceil_mode", 0))
    return Pool(kind, window, (1, 1, *kernel)[-2:], rounds_up, counts_pads)  # type: ignore[arg-type]


def _pool(op_type: str, attributes: tuple[str, ...], domain: str = "", lowering: Pooling | None = None) -> Operator:
    return Operator(op_type, _WINDOW, pool_cost, domain, "pool", attributes, lowering=lowering)


def _global(
    op_type: str,
    flops_per_element: int,
    domain: str = "",
    attributes: tuple[str, ...] = (),
    lowering: Rowwise | None = None,
) -> Operator:
    cost = global_pool(flops_per_element)
    return Operator(op_type, FusionClass.REDUCTION, cost, domain, "reduce", attributes, lowering=lowering)


OPERATORS: tuple[Operator, ...] = (
    _pool("MaxPool", _MAXIMUM, lowering=Pooling(_pooled)),
    _pool("AveragePool", _AVERAGE, lowering=Pooling(_pooled)),
    _pool("LpPool", (*_POOL, "p")),
    _pool("MaxPool", _MAXIMUM, _BLOCKED, Pooling(_pooled)),
    _pool("AveragePool", _AVERAGE, _BLOCKED, Pooling(_pooled)),
    _pool("NhwcMaxPool", _POOL, _MS),
    _pool("MaxpoolWithMask", ("auto_pad", "kernel_shape", "pads", "storage_order", "strides"), _MS),
    _global("GlobalAveragePool", 1, lowering=rowwise.global_pool("mean")),
    _global("GlobalMaxPool", 1, lowering=rowwise.global_pool("maximum")),
    _global("GlobalLpPool", 2, attributes=("p",)),
    _global("GlobalAveragePool", 1, _BLOCKED, lowering=rowwise.blocked_global_pool("mean")),
    _global("GlobalMaxPool", 1, _BLOCKED, lowering=rowwise.blocked_global_pool("maximum")),
    # Opset 10 had the scales in slot 1 and other coordinates.
    Operator(
        "Resize",
        _WINDOW,
        resize_cost,
        rate_class="resize_linear",
        attributes=_RESIZE,
        structural=(1, 2, 3),
        changed=(11,),
    ),
    Operator(
        "Upsample", _WINDOW, resize_cost, rate_class="resize_nearest", attributes=("mode", "scales"), structural=(1,)
    ),
    Operator(
        "Upsample",
        _WINDOW,
        resize_cost,
        _BLOCKED,
        "resize_nearest",
        ("coordinate_transformation_mode", "mode", "scales"),
    ),
    Operator("GridSample", _WINDOW, grid_sample_cost, "", "resize_linear", ("align_corners", "mode", "padding_mode")),
    Operator("GridSample", _WINDOW, grid_sample_cost, _MS, "resize_linear", ("align_corners", "mode", "padding_mode")),
    Operator("AffineGrid", _WINDOW, affine_grid_cost, "", "mul", ("align_corners",), structural=(1,)),
    Operator(
        "RoiAlign",
        _WINDOW,
        region_cost,
        rate_class="resize_linear",
        attributes=(
            "coordinate_transformation_mode",
            "mode",
            "output_height",
            "output_width",
            "sampling_ratio",
            "spatial_scale",
        ),
    ),
    Operator("MaxRoiPool", _WINDOW, per_output(4), rate_class="pool", attributes=("pooled_shape", "spatial_scale")),
    Operator(
        "CropAndResize",
        _WINDOW,
        per_output(8, host=(3,)),
        _MS,
        "resize_linear",
        ("mode", "extrapolation_value"),
        structural=(3,),
    ),
    Operator(
        "MaxUnpool",
        _WINDOW,
        unpool_cost,
        rate_class="scatter",
        attributes=("kernel_shape", "pads", "strides"),
        structural=(2,),
    ),
    Operator(
        "Col2Im",
        _WINDOW,
        columns_cost,
        rate_class="add",
        attributes=("dilations", "pads", "strides"),
        structural=(1, 2),
    ),
    Operator(
        "DFT",
        FusionClass.REDUCTION,
        spectrum_cost,
        rate_class="fft",
        attributes=("axis", "inverse", "onesided"),
        structural=(1, 2),
        labelled=(2,),
    ),
    Operator(
        "STFT", FusionClass.REDUCTION, spectrum_cost, rate_class="fft", attributes=("onesided",), structural=(1, 3)
    ),
    *(
        Operator(
            name,
            FusionClass.REDUCTION,
            real_spectrum_cost,
            _MS,
            rate_class="fft",
            attributes=("normalized", "onesided", "signal_ndim"),
        )
        for name in ("Rfft", "Irfft")
    ),
)
