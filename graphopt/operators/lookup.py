"""Operators that read (or write) where index values say: gathers, scatters, embeddings.

Convention: a gather reads what it picks plus the indices, not the whole table. Picked rows of a constant table are
parameter bytes.
"""

from graphopt.graph import Node
from graphopt.operators.base import Cost, FusionClass, Operands, Operator
from graphopt.operators.formulas import elements, integer, present, text, traffic
from graphopt.operators.lowering import Picking


def gather_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Picked elements are read and written once, indices read once (ONNX: Gather, GatherElements, GatherND).

    An element that is picked again is not counted again as far as the sizes tell: no more is read than the table holds.
    """
    indices = traffic([None, *inputs[1:]], outputs, 0)
    table, written = present(inputs, 0), indices.bytes_written
    picked = written if table is None else min(written, table.bytes)
    if table is not None and table.tensor.constant:
        return Cost(0, indices.bytes_read, written, indices.parameter_bytes + picked)
    return Cost(0, indices.bytes_read + picked, written, indices.parameter_bytes)


def scatter_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """The data is copied, then the updates are written over it (ONNX: ScatterElements, ScatterND).

    With a ``reduction`` there is one operation per update.
    """
    updates = present(inputs, 2)
    count = 0 if text(node, "reduction", "none") == "none" else elements(inputs, 2)
    whole = traffic(inputs, outputs, count)
    again = updates.bytes if updates is not None else 0
    return Cost(count, whole.bytes_read, whole.bytes_written + again, whole.parameter_bytes)


def cache_update_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """The past cache is copied, then the update written over it (ONNX: TensorScatter; slots: cache, update, where)."""
    whole = traffic(inputs, outputs, 0)
    update = present(inputs, 1)
    again = update.bytes if update is not None else 0
    return Cost(0, whole.bytes_read, whole.bytes_written + again, whole.parameter_bytes)


def one_hot_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One comparison per element written; indices are read once (ONNX: OneHot)."""
    return traffic(inputs, outputs, elements(outputs, 0), host=(1,))


def permute_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Every element is read and written once, the lengths are read once (ONNX: ReverseSequence)."""
    return traffic(inputs, outputs, 0)


def removed_padding_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Rows that are kept are read and written once (onnxruntime: RemovePadding)."""
    kept, rest = present(outputs, 0), traffic([None, *inputs[1:]], outputs, 0)
    picked = kept.bytes if kept is not None else 0
    return Cost(0, rest.bytes_read + picked, rest.bytes_written, rest.parameter_bytes)


def rotary_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Three operations per rotated element: x·cos ± x'·sin (ONNX: RotaryEmbedding).

    The rows of the cos and sin tables that the positions pick are read once; at most the whole table.
    """
    tables = (2, 3) if node.domain == "com.microsoft" else (1, 2)
    source = present(inputs, 0)
    picked = 0 if source is None else source.bytes // 2
    bare = traffic([None if slot in tables else x for slot, x in enumerate(inputs)], outputs, 0)
    read, parameters = bare.bytes_read, bare.parameter_bytes
    for slot in tables:
        table = present(inputs, slot)
        if table is None:
            continue
        if table.tensor.constant:
            parameters += min(table.bytes, picked)
        else:
            read += min(table.bytes, picked)
    return Cost(3 * elements(outputs, 0), read, bare.bytes_written, parameters)


def embed_layer_normalization_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Two or three gathered rows per token, their sum, and a layer normalisation: 7 + 2 operations per element.

    Source: onnxruntime contrib operator EmbedLayerNormalization (ids, segments, three tables, gamma, beta, mask).
    """
    output = present(outputs, 0)
    if output is None:
        return Cost(0, 0, 0, 0)
    rest = traffic([None if slot in (2, 3, 4) else x for slot, x in enumerate(inputs)], outputs, 0)
    tables = [table for slot in (2, 3, 4) if (table := present(inputs, slot)) is not None]
    fixed = sum(min(output.bytes, table.bytes) for table in tables if table.tensor.constant)
    moved = sum(min(output.bytes, table.bytes) for table in tables if not table.tensor.constant)
    flops = (7 + len(tables) - 1) * output.elements
    return Cost(flops, rest.bytes_read + moved, rest.bytes_written, rest.parameter_bytes + fixed)


def gather_block_quantized_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Picked rows of a quantized table, dequantized: two operations per element written.

    Source: onnxruntime contrib operator GatherBlockQuantized (data, indices, scales, zero points).
    """
    output, data = present(outputs, 0), present(inputs, 0)
    if output is None or data is None:
        return Cost(0, 0, 0, 0)
    bits, block = integer(node, "bits", 4), integer(node, "block_size", 128)
    picked = output.elements * bits // 8 + output.elements // max(1, block) * 4
    indices = traffic([present(inputs, 1)], outputs, 0)
    flops = 2 * output.elements
    if data.tensor.constant:
        return Cost(flops, indices.bytes_read, indices.bytes_written, indices.parameter_bytes + picked)
    return Cost(flops, indices.bytes_read + picked, indices.bytes_written, indices.parameter_bytes)


_LOOKUP = FusionClass.LOOKUP
GATHER = Picking(lambda node: integer(node, "axis", 0))

OPERATORS: tuple[Operator, ...] = (
    Operator("Gather", _LOOKUP, gather_cost, rate_class="gather", attributes=("axis",), lowering=GATHER),
    Operator("GatherElements", _LOOKUP, gather_cost, rate_class="gather_element", attributes=("axis",)),
    Operator("GatherND", _LOOKUP, gather_cost, rate_class="gather", attributes=("batch_dims",)),
    Operator("GatherND", _LOOKUP, gather_cost, "com.microsoft", rate_class="gather"),
    Operator(
        "GatherBlockQuantized",
        _LOOKUP,
        gather_block_quantized_cost,
        "com.microsoft",
        rate_class="gather",
        attributes=("gather_axis", "quantize_axis", "block_size", "bits"),
    ),
    Operator("ScatterElements", _LOOKUP, scatter_cost, rate_class="scatter", attributes=("axis", "reduction")),
    Operator("Scatter", _LOOKUP, scatter_cost, rate_class="scatter", attributes=("axis",)),
    Operator("ScatterND", _LOOKUP, scatter_cost, rate_class="scatter", attributes=("reduction",)),
    Operator("TensorScatter", _LOOKUP, cache_update_cost, rate_class="scatter", attributes=("axis", "mode")),
    Operator("OneHot", _LOOKUP, one_hot_cost, rate_class="gather", attributes=("axis",), structural=(1,)),
    Operator("ReverseSequence", _LOOKUP, permute_cost, rate_class="gather", attributes=("batch_axis", "time_axis")),
    Operator(
        "RotaryEmbedding",
        _LOOKUP,
        rotary_cost,
        rate_class="mul",
        attributes=("interleaved", "num_heads", "rotary_embedding_dim"),
    ),
    Operator(
        "RotaryEmbedding",
        _LOOKUP,
        rotary_cost,
        "com.microsoft",
        rate_class="mul",
        attributes=("interleaved", "num_heads", "rotary_embedding_dim", "scale", "is_packed_batching"),
    ),
    Operator(
        "MRotaryEmbedding",
        _LOOKUP,
        rotary_cost,
        "com.microsoft",
        rate_class="mul",
        attributes=("interleaved", "mrope_layout", "mrope_section", "num_heads", "rotary_embedding_dim", "scale"),
    ),
    Operator("TorchEmbedding", _LOOKUP, gather_cost, "com.microsoft", rate_class="gather", structural=(2, 3)),
    # Rows that are not padding are picked; or put back, between rows of zeros.
    Operator("RemovePadding", FusionClass.OPAQUE, removed_padding_cost, "com.microsoft", rate_class="gather"),
    Operator("RestorePadding", _LOOKUP, permute_cost, "com.microsoft", rate_class="scatter"),
    Operator(
        "EmbedLayerNormalization",
        _LOOKUP,
        embed_layer_normalization_cost,
        "com.microsoft",
        rate_class="layernorm",
        attributes=("epsilon", "mask_index_type"),
    ),
)
