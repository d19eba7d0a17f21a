"""Fused pieces of language models in domain com.microsoft: attention in further forms, experts, gates, n-grams.

Sources: the operator definitions of onnxruntime 1.31 (contrib operators). Conventions are those of the families that
the pieces come from: matrix products and attention as in ``contraction``, normalisations as in ``normalization``.
"""

from math import prod

from graphopt.graph import Node
from graphopt.operators.base import Cost, FusionClass, Operand, Operands, Operator
from graphopt.operators.formulas import (
    attention_flops,
    contracted,
    elements,
    integer,
    per_input,
    present,
    traffic,
)
from graphopt.operators.normalization import layer_normalization_flops, rms_normalization_flops

# ------------------------------------------------------------------ attention


def quantized_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Integer projection to Q, K, V with rescaling and bias (2 per element), then attention in floating point.

    Source: QAttention: input [batch, length, width], weights [width, 3 * hidden], past [2, batch, heads, length, size]
    in slot 8.
    """
    source, weights, past = (present(inputs, slot) for slot in (0, 1, 8))
    if source is None or weights is None or len(source.shape) != 3:
        return Cost(0, 0, 0, 0)
    earlier = past.shape[3] if past is not None and len(past.shape) == 5 else 0
    return traffic(inputs, outputs, _projected_attention_flops(node, source, weights, earlier, extra=2))


def masked_self_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Projection of one new token to Q, K, V, then attention over the past and itself.

    Source: DecoderMaskedSelfAttention: past [2, batch, heads, length, size] in slot 4, which holds room for all keys.
    """
    source, weights, past = (present(inputs, slot) for slot in (0, 1, 4))
    if source is None or weights is None or len(source.shape) != 3:
        return Cost(0, 0, 0, 0)
    room = past.shape[3] if past is not None and len(past.shape) == 5 else 0
    earlier = max(0, room - source.shape[1]) if integer(node, "past_present_share_buffer", 0) else room
    return traffic(inputs, outputs, _projected_attention_flops(node, source, weights, earlier, extra=1))


def _projected_attention_flops(node: Node, source: Operand, weights: Operand, earlier: int, extra: int) -> int:
    batch, length, width = source.shape
    columns = weights.shape[-1]
    heads = max(1, integer(node, "num_heads", 1))
    size = columns // 3 // heads
    attend = attention_flops(batch, heads, length, length + earlier, size, size)
    return batch * length * columns * (2 * width + extra) + attend


def masked_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Attention of one new token over the past (slot 5) and itself, on ready projections.

    Source: DecoderMaskedMultiHeadAttention: query [batch, 1, hidden], key [batch, 1, hidden] or, across models,
    [batch, heads, keys, size].
    """
    query, key, past = (present(inputs, slot) for slot in (0, 1, 5))
    if query is None or len(query.shape) != 3:
        return Cost(0, 0, 0, 0)
    heads = max(1, integer(node, "num_heads", 1))
    batch, queries, width = query.shape
    size = width // heads if key is not None else width // 3 // heads
    if key is not None and len(key.shape) == 4:
        keys = key.shape[2]
    else:
        room = past.shape[2] if past is not None and len(past.shape) == 4 else 0
        keys = max(queries, room) if integer(node, "past_present_share_buffer", 0) else room + queries
    bias = 3 * batch * queries * heads * size if present(inputs, 10) is not None else 0
    return traffic(inputs, outputs, attention_flops(batch, heads, queries, keys, size, size) + bias)


def block_sparse_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Attention over the keys that the block mask and causality leave: counted with all keys, so an upper bound.

    Source: SparseAttention: query [batch, length, heads * size], or Q, K, V packed when slot 1 is absent; the cache
    [batch, kv heads, most keys, size] in slots 3 and 4 is shared with the results, so only new keys are written.
    """
    query, key, cache = (present(inputs, slot) for slot in (0, 1, 3))
    total = present(inputs, 7)
    if query is None or cache is None or len(query.shape) != 3 or len(cache.shape) != 4:
        return Cost(0, 0, 0, 0)
    batch, queries, width = query.shape
    heads = max(1, integer(node, "num_heads", 1))
    groups = max(1, integer(node, "kv_num_heads", heads))
    size = width // heads if key is not None else width // (heads + 2 * groups)
    given = total.tensor.value if total is not None else None
    keys = min(cache.shape[2], int(given.ravel()[0])) if given is not None and given.size else cache.shape[2]
    rotate = 3 * batch * queries * size * (heads + groups) if integer(node, "do_rotary", 0) else 0
    flops = attention_flops(batch, heads, queries, keys, size, size) + rotate
    whole = traffic([x if slot not in (3, 4) else None for slot, x in enumerate(inputs)], outputs[:1], flops)
    width_of_element = cache.bytes // max(1, cache.elements)
    past = 2 * batch * groups * keys * size * width_of_element
    new = 2 * batch * groups * queries * size * width_of_element
    return Cost(flops, whole.bytes_read + past, whole.bytes_written + new, whole.parameter_bytes)


# ------------------------------------------------------------------ matrix products with packed weights


def blob_matmul_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """2 * K operations per result; the weights are read as packed (MatMulFpQ4, MatMulBlockQuantizedFp4/Fp8Weight)."""
    left = present(inputs, 0)
    depth = contracted(left.shape) if left is not None else 0
    host = (2,) if node.op_type == "MatMulFpQ4" else ()
    return traffic(inputs, outputs, 2 * depth * elements(outputs, 0), host=host)


def packed_projections_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A normalisation and the packed projections that share it.

    Source: MatMulNBitsQkv (three results) and MatMulNBitsMlp (gate and up projections, Swish of the gate, product):
    2 * K per projected element, 1 where it has a bias; the normalisation where there is a scale, 1 for a skip.
    """
    source = present(inputs, 0)
    depth = integer(node, "K", 0)
    rows = source.elements // max(1, depth) if source is not None else 0
    separate = node.op_type == "MatMulNBitsQkv"
    widths = [integer(node, name, 0) for name in (("Nq", "Nkv", "Nkv") if separate else ("N", "N"))]
    flops = 0 if separate else 3 * rows * widths[0]
    for width, bias in zip(widths, (5, 8, 11), strict=False):
        flops += rows * width * (2 * depth + (present(inputs, bias) is not None))
    if present(inputs, 2) is not None:
        flops += rows * depth * (rms_normalization_flops(scale=True) + (present(inputs, 1) is not None))
    return traffic(inputs, outputs, flops)


def experts_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Each token goes through ``k`` experts: 2 operations per weight of each; 3 per inner element for the activation.

    Source: MoE, QMoE: input [tokens, hidden], router probabilities [tokens, experts], weights of the experts
    [experts, inner, hidden] and [experts, hidden, inner]. At most tokens * k experts have their weights read; which
    ones depends on the values, so this many are counted. Softmax over the experts and the weighted sum are in.
    """
    quantized = node.op_type == "QMoE"
    slots = (2, 5, 8) if quantized else (2, 4, 6)
    source, router = present(inputs, 0), present(inputs, 1)
    layers = [weights for slot in slots if (weights := present(inputs, slot)) is not None]
    if source is None or router is None or not layers or not source.shape:
        return Cost(0, 0, 0, 0)
    hidden = source.shape[-1]
    tokens, experts = source.elements // max(1, hidden), router.shape[-1]
    chosen = min(experts, integer(node, "k", 1))
    second = present(inputs, slots[1])
    # Weights may hold several values per element: the inner size follows from the outer one.
    per_byte = 8 // integer(node, "expert_weight_bits", 4) if quantized else 1
    inner = second.shape[-1] * per_byte if second is not None else 0
    products = sum(prod(weights.shape[1:]) * per_byte for weights in layers)
    flops = tokens * chosen * (2 * products + 3 * inner + 2 * hidden) + 5 * router.elements
    used = min(experts, tokens * chosen)
    whole = traffic([x if slot < 2 else None for slot, x in enumerate(inputs)], outputs, flops)
    fixed = [x for x in inputs[2:] if x is not None and x.tensor.constant]
    moved = [x for x in inputs[2:] if x is not None and not x.tensor.constant]
    return Cost(
        flops,
        whole.bytes_read + sum(x.bytes * used // max(1, experts) for x in moved),
        whole.bytes_written,
        whole.parameter_bytes + sum(x.bytes * used // max(1, experts) for x in fixed),
    )


# ------------------------------------------------------------------ gates, streams, distances


def gated_rms_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Root-mean-square normalisation with scale, times the gate's sigmoid (and the gate, for Swish) (GatedRMSNorm)."""
    gate = 2 if node.attributes.get("activation", "silu") == "sigmoid" else 3
    return traffic(inputs, outputs, (rms_normalization_flops(scale=True) + gate) * elements(inputs, 0))


def branch_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Root-mean-square normalisation of each branch (BranchwiseRMSNorm)."""
    return traffic(inputs, outputs, rms_normalization_flops(scale=present(inputs, 1) is not None) * elements(inputs, 0))


def engram_gate_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Two normalisations, a scalar product of their results, gate times value, and its normalisation if asked for.

    Source: EngramGate. The few operations per row that make the gate out of the product are left out.
    """
    each = 2 * rms_normalization_flops(scale=True) + 2 + 1
    if len(outputs) > 1 and outputs[1] is not None:
        each += rms_normalization_flops(scale=True)
    return traffic(inputs, outputs, each * elements(inputs, 0))


def stream_mix_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One multiply-add per element for the branch, and one per stream with a stream matrix (HyperConnectionPostMix)."""
    matrix = present(inputs, 3)
    streams = matrix.shape[-1] if matrix is not None and matrix.shape else 0
    return traffic(inputs, outputs, (2 + 2 * streams) * elements(inputs, 0))


def distance_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Per pair of rows: subtract, square, add for each column; a root for Euclidean distance (CDist)."""
    left = present(inputs, 0)
    columns = left.shape[-1] if left is not None and left.shape else 0
    root = node.attributes.get("metric", "sqeuclidean") == "euclidean"
    return traffic(inputs, outputs, (3 * columns + root) * elements(outputs, 0))


def relative_bias_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A bucket per pair of positions (10 operations, shared by the heads), a picked number per element.

    Source: RelativePositionBias: table [buckets, heads], lengths in slots 1 and 2, result [1, heads, queries, keys].
    """
    result, table = present(outputs, 0), present(inputs, 0)
    pairs = result.shape[-1] * result.shape[-2] if result is not None and len(result.shape) == 4 else 0
    return traffic([table], outputs, 10 * pairs)


def gated_bias_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Query bias, a product with [head size, D], its sums and two gates per row, one product per result.

    Source: GatedRelativePositionBias: query [batch, length, heads * size], weight [size, D] in slot 3.
    """
    query, weight = present(inputs, 0), present(inputs, 3)
    if query is None or weight is None or len(weight.shape) != 2:
        return Cost(0, 0, 0, 0)
    size, columns = weight.shape
    rows = query.elements // max(1, size)
    flops = query.elements + rows * columns * (2 * size + 1 + 1) + 6 * rows + elements(outputs, 0)
    return traffic(inputs, outputs, flops)


def word_convolution_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Characters are embedded, convolved over windows and the greatest value per word is kept.

    Source: WordConvEmbedding: words [..., characters], weights [filters, 1, window, size], table [characters, size].
    """
    words, weights, table = (present(inputs, slot) for slot in (0, 1, 3))
    if words is None or weights is None or table is None or not words.shape or len(weights.shape) != 4:
        return Cost(0, 0, 0, 0)
    length = words.shape[-1]
    positions = max(0, length - weights.shape[2] + 1) * (words.elements // max(1, length))
    # window * size products and the bias per filter and position, tanh, and the maximum
    flops = positions * (2 * weights.elements + 3 * weights.shape[0])
    rest = traffic([words, weights, present(inputs, 2)], outputs, flops)
    picked = min(table.bytes, words.elements * table.shape[-1] * (table.bytes // max(1, table.elements)))
    return Cost(flops, rest.bytes_read, rest.bytes_written, rest.parameter_bytes + picked)


def warping_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Per cell the smallest of three neighbours and a sum (DynamicTimeWarping)."""
    return traffic(inputs, outputs, 3 * elements(inputs, 0))


def all_finite_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One test per element of any number of tensors (IsAllFinite)."""
    return traffic(inputs, outputs, sum(operand.elements for operand in inputs if operand is not None))


def hash_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Per token and order n: n products and n - 1 exclusive ors; per head a remainder and an offset.

    Source: NGramHashMapping, VarlenNGramHashMapping: orders 2 to ``max_ngram_size``, so many heads for each.
    """
    greatest, heads = integer(node, "max_ngram_size", 2), integer(node, "n_head_per_ngram", 1)
    each = sum(2 * n - 1 + 2 * heads for n in range(2, greatest + 1))
    return traffic(inputs, outputs, each * elements(inputs, 0))


def quantized_embedding_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Two or three picked rows per token, dequantized (2), summed and normalised (QEmbedLayerNormalization)."""
    output = present(outputs, 0)
    if output is None:
        return Cost(0, 0, 0, 0)
    rest = traffic([None if slot in (2, 3, 4) else x for slot, x in enumerate(inputs)], outputs, 0)
    tables = [table for slot in (2, 3, 4) if (table := present(inputs, slot)) is not None]
    picked = sum(min(output.elements * (t.bytes // max(1, t.elements)), t.bytes) for t in tables)
    each = 2 * len(tables) + len(tables) - 1 + layer_normalization_flops(scale=True, bias=True)
    return Cost(each * output.elements, rest.bytes_read, rest.bytes_written, rest.parameter_bytes + picked)


_MS = "com.microsoft"
_MATRIX, _ROWS, _EACH = FusionClass.CONTRACTION, FusionClass.REDUCTION, FusionClass.ELEMENTWISE
_HEADS = ("mask_filter_value", "num_heads", "scale")
_EXPERTS = (
    "activation_alpha",
    "activation_beta",
    "activation_type",
    "k",
    "normalize_routing_weights",
    "swiglu_fusion",
    "swiglu_limit",
    "use_sparse_mixer",
)

OPERATORS: tuple[Operator, ...] = (
    Operator(
        "QAttention", _MATRIX, quantized_attention_cost, _MS, "gemm_int8", (*_HEADS, "do_rotary", "unidirectional")
    ),
    Operator("DecoderMaskedSelfAttention", _MATRIX, masked_self_attention_cost, _MS, "gemm", (*_HEADS, "do_rotary")),
    Operator("DecoderMaskedMultiHeadAttention", _MATRIX, masked_attention_cost, _MS, "gemm", (*_HEADS, "output_qk")),
    Operator(
        "SparseAttention",
        _MATRIX,
        block_sparse_attention_cost,
        _MS,
        "gemm",
        ("do_rotary", "kv_num_heads", "num_heads", "rotary_interleaved", "scale", "sparse_block_size"),
    ),
    Operator("MatMulFpQ4", _MATRIX, blob_matmul_cost, _MS, "gemm", ("blk_quant_type",), structural=(2,)),
    Operator("MatMulBlockQuantizedFp4Weight", _MATRIX, blob_matmul_cost, _MS, "gemm", ("block_size",)),
    Operator("MatMulBlockQuantizedFp8Weight", _MATRIX, blob_matmul_cost, _MS, "gemm", ("block_size",)),
    Operator(
        "MatMulNBitsQkv",
        _MATRIX,
        packed_projections_cost,
        _MS,
        "gemm",
        ("K", "Nkv", "Nq", "accuracy_level", "bits", "block_size", "epsilon"),
    ),
    Operator(
        "MatMulNBitsMlp",
        _MATRIX,
        packed_projections_cost,
        _MS,
        "gemm",
        ("K", "N", "accuracy_level", "activation", "bits", "block_size", "epsilon"),
    ),
    # Which experts a token takes depends on its values.
    Operator("MoE", FusionClass.OPAQUE, experts_cost, _MS, "gemm", _EXPERTS),
    Operator("QMoE", FusionClass.OPAQUE, experts_cost, _MS, "gemm", (*_EXPERTS, "expert_weight_bits", "quant_type")),
    Operator("GatedRMSNorm", _ROWS, gated_rms_normalization_cost, _MS, "layernorm", ("activation", "epsilon")),
    Operator("BranchwiseRMSNorm", _ROWS, branch_normalization_cost, _MS, "layernorm", ("epsilon", "num_branches")),
    Operator("EngramGate", _ROWS, engram_gate_cost, _MS, "layernorm", ("epsilon",)),
    # One multiply-add per element that is summed over.
    Operator("HyperConnectionPreMix", _ROWS, per_input(2), _MS, "reduce", ("num_branches", "reduction_scale")),
    Operator("HyperConnectionPostMix", _MATRIX, stream_mix_cost, _MS, "gemm", ("num_branches",)),
    Operator("CDist", _MATRIX, distance_cost, _MS, "gemm", ("metric",)),
    Operator("RelativePositionBias", FusionClass.LOOKUP, relative_bias_cost, _MS, "gather", structural=(1, 2)),
    Operator("GatedRelativePositionBias", _MATRIX, gated_bias_cost, _MS, "gemm", ("num_heads",)),
    Operator(
        "WordConvEmbedding",
        FusionClass.LOOKUP,
        word_convolution_cost,
        _MS,
        "conv_plain",
        ("char_embedding_size", "conv_window_size", "embedding_size"),
    ),
    Operator("DynamicTimeWarping", FusionClass.SEQUENTIAL, warping_cost, _MS, "scan"),
    *(
        Operator(
            name,
            _EACH if name == "NGramHashMapping" else FusionClass.OPAQUE,
            hash_cost,
            _MS,
            "div",
            ("max_ngram_size", "n_head_per_ngram", "pad_id", "reset_on_eos"),
        )
        for name in ("NGramHashMapping", "VarlenNGramHashMapping")
    ),
    Operator("QEmbedLayerNormalization", FusionClass.LOOKUP, quantized_embedding_cost, _MS, "layernorm", ("epsilon",)),
    # A search for earlier n-grams: one comparison per token; the scores are copied.
    Operator("NGramRepeatBlock", FusionClass.OPAQUE, per_input(1), _MS, "copy", ("ngram_size",)),
    Operator(
        "BifurcationDetector", FusionClass.OPAQUE, per_input(1), _MS, "copy", ("max_ngram_size", "min_ngram_size")
    ),
    Operator("IsAllFinite", _ROWS, all_finite_cost, _MS, "reduce", ("isinf_only", "isnan_only")),
)
