"""Matrix products and what is built on them: MatMul, Gemm, Einsum, attention.

Convention: 2 * M * N * K operations per product; ``alpha`` folds into the product, a bias or an activation costs one
operation per output element. The storage of a transposed operand is read once like any other.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from graphopt.graph import Node, OperatorGraph
from graphopt.operators import elementwise
from graphopt.operators.base import Cost, FusionClass, Operands, Operator
from graphopt.operators.formulas import attention_flops, contracted, elements, integer, present, text, traffic
from graphopt.operators.lowering import (
    CannotLowerError,
    Elementwise,
    Expression,
    IndexMap,
    MatrixProduct,
    Transpose,
    call,
    literal,
)


def matmul_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """2 * K operations per output element (ONNX: MatMul; onnxruntime: FusedMatMul, TransposeMatMul)."""
    left = present(inputs, 0)
    if left is None:
        return Cost(0, 0, 0, 0)
    depth = contracted(
        left.shape,
        transposed=bool(integer(node, "transA", 0)),
        batch_transposed=bool(integer(node, "transBatchA", 0)),
    )
    each = 2 * depth + ("activation" in node.attributes)
    return traffic(inputs, outputs, each * elements(outputs, 0))


def gemm_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """2 * K operations per output element, one for C, one for an activation (ONNX: Gemm; onnxruntime: FusedGemm)."""
    left = present(inputs, 0)
    if left is None:
        return Cost(0, 0, 0, 0)
    depth = contracted(left.shape, transposed=bool(integer(node, "transA", 0)))
    each = 2 * depth + (present(inputs, 2) is not None) + ("activation" in node.attributes)
    return traffic(inputs, outputs, each * elements(outputs, 0))


def gemm_gelu_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A matrix product, a bias, and FastGelu's 8 operations (onnxruntime contrib operator GemmFastGelu)."""
    left = present(inputs, 0)
    depth = contracted(left.shape) if left is not None else 0
    return traffic(inputs, outputs, (2 * depth + 9) * elements(outputs, 0))


def packed_matmul_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """2 * K operations per output element, one for a bias; the weights stay packed and are read at their stored size.

    Unpacking (2 operations per weight) is left to the rate. Source: onnxruntime's MatMulNBits and MatMulBnb4.
    """
    each = 2 * integer(node, "K", 0) + (node.op_type == "MatMulNBits" and present(inputs, 5) is not None)
    return traffic(inputs, outputs, each * elements(outputs, 0))


def einsum_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One multiply-add per point of the space of all indices and per further operand (ONNX: Einsum).

    The product over all distinct index sizes is what the definition computes: no order of contraction is assumed.
    With one operand there is one addition per point.
    """
    left = text(node, "equation", "").replace(" ", "").partition("->")[0]
    sizes: dict[str, int] = {}
    operands = [operand for operand in inputs if operand is not None]
    for term, operand in zip(left.split(","), operands, strict=False):
        head, dots, tail = term.partition("...")
        shape = operand.shape
        named = [*zip(head, shape, strict=False), *zip(reversed(tail), reversed(shape), strict=False)]
        if dots:
            middle = shape[len(head) : len(shape) - len(tail)]
            named += [(f"...{len(middle) - i}", size) for i, size in enumerate(middle)]
        for name, size in named:
            sizes[name] = max(size, sizes.get(name, 0))
    each = max(1, 2 * (len(operands) - 1))
    return traffic(inputs, outputs, each * prod(sizes.values()))


def attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Two matrix products and a softmax per head (ONNX: Attention; see attention_flops).

    Q, K, V are [batch, heads, length, size], or [batch, length, heads * size] with q_num_heads and kv_num_heads.
    Keys of the past (slot 4) count. A causal mask does not lower the count: the definition computes every score.
    """
    query, key, value, past = (present(inputs, slot) for slot in (0, 1, 2, 4))
    if query is None or key is None or value is None:
        return Cost(0, 0, 0, 0)
    earlier = past.shape[2] if past is not None and len(past.shape) == 4 else 0
    if len(query.shape) == 4:
        batch, heads, queries, size = query.shape
        keys, value_size = key.shape[2], value.shape[3]
    else:
        batch, queries, width = query.shape
        heads = max(1, integer(node, "q_num_heads", 1))
        size = width // heads
        keys = key.shape[1]
        value_size = value.shape[2] // max(1, integer(node, "kv_num_heads", heads))
    return traffic(inputs, outputs, attention_flops(batch, heads, queries, keys + earlier, size, value_size))


def packed_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Projection of the input to Q, K, V by one matrix, its bias, then attention.

    Source: onnxruntime contrib operator Attention: input [batch, length, width], weights [width, 3 * hidden],
    bias, mask, past [2, batch, heads, past length, size]. ``qkv_hidden_sizes`` says how wide Q, K and V are where they
    differ.
    """
    source, weights, past = (present(inputs, slot) for slot in (0, 1, 4))
    if source is None or weights is None or len(source.shape) != 3:
        return Cost(0, 0, 0, 0)
    batch, length, width = source.shape
    columns = weights.shape[-1]
    heads = max(1, integer(node, "num_heads", 1))
    widths = node.attributes.get("qkv_hidden_sizes")
    given = [n for n in widths if isinstance(n, int)] if isinstance(widths, tuple) else []
    size, value_size = (given[0] // heads, given[2] // heads) if len(given) == 3 else (columns // 3 // heads,) * 2
    earlier = past.shape[3] if past is not None and len(past.shape) == 5 else 0
    project = batch * length * columns * (2 * width + (present(inputs, 2) is not None))
    attend = attention_flops(batch, heads, length, length + earlier, size, value_size)
    return traffic(inputs, outputs, project + attend)


def multi_head_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Attention on ready projections; a packed query holds keys and values too.

    Source: onnxruntime contrib operator MultiHeadAttention: query [batch, length, hidden] or packed
    [batch, length, heads, 3, size]; key [batch, keys, hidden] or [batch, heads, keys, size];
    value; bias; past key in slot 6.
    """
    query, key, value, past = (present(inputs, slot) for slot in (0, 1, 2, 6))
    if query is None:
        return Cost(0, 0, 0, 0)
    heads = max(1, integer(node, "num_heads", 1))
    batch, queries = query.shape[0], query.shape[1]
    size = query.shape[4] if len(query.shape) == 5 else query.shape[2] // heads
    keys, value_size = queries, size
    if key is not None:
        keys = key.shape[2] if len(key.shape) == 4 else key.shape[1]
    if value is not None:
        value_size = value.shape[3] if len(value.shape) == 4 else value.shape[2] // heads
    earlier = past.shape[2] if past is not None and len(past.shape) == 4 else 0
    flops = attention_flops(batch, heads, queries, keys + earlier, size, value_size)
    if present(inputs, 3) is not None:
        flops += batch * heads * (queries * size + keys * (size + value_size))
    return traffic(inputs, outputs, flops)


def grouped_query_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Attention of all query heads over all keys, past ones included; 3 operations per element if it rotates.

    Source: onnxruntime contrib operator GroupQueryAttention: query [batch, length, heads * size] (with keys and
    values when slot 1 is absent), past keys in slot 3, present keys [batch, kv heads, total, size] as result 1.
    """
    query, key, past, total = present(inputs, 0), present(inputs, 1), present(inputs, 3), present(outputs, 1)
    if query is None:
        return Cost(0, 0, 0, 0)
    batch, queries, width = query.shape
    heads = max(1, integer(node, "num_heads", 1))
    groups = max(1, integer(node, "kv_num_heads", heads))
    size = width // heads if key is not None else width // (heads + 2 * groups)
    keys = queries + (past.shape[2] if past is not None and len(past.shape) == 4 else 0)
    if total is not None and len(total.shape) == 4:
        keys = total.shape[2]
    rotate = 3 * batch * queries * size * (heads + groups) if integer(node, "do_rotary", 0) else 0
    flops = attention_flops(batch, heads, queries, keys, size, size) + rotate
    whole = traffic([None if slot in (7, 8) else x for slot, x in enumerate(inputs)], outputs, flops)
    read, parameters = whole.bytes_read, whole.parameter_bytes
    for angles in (present(inputs, 7), present(inputs, 8)):  # a row for each position
        if angles is not None and len(angles.shape) == 2:
            rows = angles.bytes // max(1, angles.shape[0]) * min(angles.shape[0], batch * queries)
            read, parameters = (read, parameters + rows) if angles.tensor.constant else (read + rows, parameters)
    return Cost(flops, read, whole.bytes_written, parameters)


# ------------------------------------------------------------------ lowerings

Maps = tuple[IndexMap, ...]


def _rank(graph: OperatorGraph, node: Node, slot: int) -> int:
    rank = graph.tensors[node.inputs[slot]].rank
    if rank is None or rank < 2:
        raise CannotLowerError(f"{node.op_type} of a vector")
    return rank


def _transposed(rank: int, *, last: bool, first: bool = False) -> Maps:
    """Index maps for an operand whose last two dimensions are swapped, or whose first one goes behind the batch."""
    axes = list(range(rank))
    if first:
        axes = [*axes[1:-1], 0, axes[-1]]
    if last:
        axes[-2:] = axes[:-3:-1]
    return (Transpose(tuple(axes)),) if axes != list(range(rank)) else ()


def _operand_maps(graph: OperatorGraph, node: Node) -> tuple[Maps, Maps]:
    """FusedMatMul: ``transBatchA`` moves the first dimension behind the others but the last, then ``transA`` swaps."""
    left, right = (
        _transposed(
            _rank(graph, node, slot),
            last=bool(integer(node, f"trans{letter}", 0)),
            first=bool(integer(node, f"transBatch{letter}", 0)),
        )
        for slot, letter in enumerate("AB")
    )
    return left, right


def _factor(node: Node, name: str) -> float:
    value = node.attributes.get(name)
    return float(value) if isinstance(value, int | float) else 1.0


def _times(factor: float, x: Expression) -> Expression:
    return x if factor == 1.0 else call("multiply", literal(factor, x), x)


def _scaled(node: Node, x: Sequence[Expression | None]) -> Expression:
    """The product times ``alpha``, and an activation of it."""
    assert x[0] is not None
    return _activated(node, _times(_factor(node, "alpha"), x[0]))


def _with_bias(node: Node, x: Sequence[Expression | None]) -> Expression:
    """Gemm: alpha * product + beta * bias, and an activation of it."""
    assert x[0] is not None
    total = _times(_factor(node, "alpha"), x[0])
    if len(x) > 2 and x[2] is not None:
        total = call("add", total, _times(_factor(node, "beta"), x[2]))
    return _activated(node, total)


def _activated(node: Node, x: Expression) -> Expression:
    """The activation of a fused operator: an element-wise operator by name, its attributes with a prefix."""
    kind = text(node, "activation", "")
    if not kind:
        return x
    row = next((row for row in elementwise.OPERATORS if row.op_type == kind and not row.domain), None)
    if row is None or not isinstance(row.lowering, Elementwise):
        raise CannotLowerError(f"{node.op_type} with activation {kind}")
    attributes = {
        name: node.attributes[f"activation_{name}"]
        for name in ("alpha", "beta", "gamma")
        if f"activation_{name}" in node.attributes
    }
    return row.lowering.expression(replace(node, op_type=kind, attributes=attributes), (x,))


_PRODUCT = MatrixProduct(_operand_maps, _scaled)
_PRODUCT_WITH_BIAS = MatrixProduct(_operand_maps, _with_bias, cost=2)

# ------------------------------------------------------------------ the table

_MATRIX = FusionClass.CONTRACTION
_MS = "com.microsoft"
_GEMM = ("alpha", "beta", "transA", "transB")
_FUSED = ("activation", "activation_alpha", "activation_beta", "activation_gamma", "activation_axis")
_MATMUL = ("alpha", "transA", "transB", "transBatchA", "transBatchB")

OPERATORS: tuple[Operator, ...] = (
    Operator("MatMul", _MATRIX, matmul_cost, rate_class="gemm", lowering=_PRODUCT),
    Operator("FusedMatMul", _MATRIX, matmul_cost, _MS, "gemm", _MATMUL, lowering=_PRODUCT),
    Operator("TransposeMatMul", _MATRIX, matmul_cost, _MS, "gemm", ("alpha", "transA", "transB"), lowering=_PRODUCT),
    Operator("FusedMatMulActivation", _MATRIX, matmul_cost, _MS, "gemm", (*_MATMUL, *_FUSED), lowering=_PRODUCT),
    Operator(
        "Gemm", _MATRIX, gemm_cost, rate_class="gemm", attributes=(*_GEMM, "broadcast"), lowering=_PRODUCT_WITH_BIAS
    ),
    Operator("FusedGemm", _MATRIX, gemm_cost, _MS, "gemm", (*_GEMM, *_FUSED[:-1]), lowering=_PRODUCT_WITH_BIAS),
    Operator("GemmFastGelu", _MATRIX, gemm_gelu_cost, _MS, "gemm"),
    Operator(
        "GemmFloat8", _MATRIX, gemm_cost, _MS, "gemm", ("activation", "alpha", "beta", "dtype", "transA", "transB")
    ),
    # Counted as if the sparse operand were dense: how many elements it has is no part of its shape.
    Operator("SparseToDenseMatMul", _MATRIX, matmul_cost, _MS, "gemm", ("alpha", "transA", "transB")),
    Operator(
        "MatMulNBits", _MATRIX, packed_matmul_cost, _MS, "gemm", ("K", "N", "bits", "block_size", "accuracy_level")
    ),
    Operator("MatMulBnb4", _MATRIX, packed_matmul_cost, _MS, "gemm", ("K", "N", "block_size", "quant_type", "transB")),
    Operator("Einsum", _MATRIX, einsum_cost, rate_class="gemm", attributes=("equation",)),
    Operator(
        "Attention",
        _MATRIX,
        attention_cost,
        rate_class="gemm",
        attributes=(
            "is_causal",
            "kv_num_heads",
            "q_num_heads",
            "qk_matmul_output_mode",
            "scale",
            "softcap",
            "softmax_precision",
        ),
    ),
    Operator(
        "Attention",
        _MATRIX,
        packed_attention_cost,
        _MS,
        "gemm",
        (
            "num_heads",
            "qkv_hidden_sizes",
            "scale",
            "unidirectional",
            "do_rotary",
            "rotary_embedding_dim",
            "mask_filter_value",
        ),
    ),
    Operator(
        "MultiHeadAttention",
        _MATRIX,
        multi_head_attention_cost,
        _MS,
        "gemm",
        ("num_heads", "scale", "unidirectional", "mask_filter_value"),
    ),
    Operator(
        "GroupQueryAttention",
        _MATRIX,
        grouped_query_attention_cost,
        _MS,
        "gemm",
        (
            "num_heads",
            "kv_num_heads",
            "scale",
            "softcap",
            "do_rotary",
            "rotary_interleaved",
            "local_window_size",
            "smooth_softmax",
            "causal",
            "qk_norm_epsilon",
            "qk_output",
        ),
    ),
)
