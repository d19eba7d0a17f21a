"""Operators that never become part of a kernel: control flow, sorting, random numbers, data-dependent sizes, sequences.

Their costs count the traffic of operands and results. What the bodies of If, Loop and Scan do is no part of the
operator graph: their time is unknown (see roofline), and the costs here are lower bounds.
"""

from dataclasses import replace

from graphopt.graph import Node
from graphopt.operators.base import Cost, CostFormula, FusionClass, Operands, Operator, no_cost
from graphopt.operators.formulas import elements, integer, per_input, per_output, present, traffic

CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
"""Operators with bodies, whose time the operator graph cannot tell."""


def top_k_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Take n * log2(k) comparisons, as a heap of k elements needs (ONNX: TopK; k in slot 1)."""
    values, best = present(inputs, 0), present(outputs, 0)
    if values is None or best is None:
        return Cost(0, 0, 0, 0)
    kept = best.shape[integer(node, "axis", -1)] if best.shape else 1
    return traffic(inputs, outputs, values.elements * max(1, (max(1, kept) - 1).bit_length()), host=(1,))


def sort_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Take n * log2(n) comparisons (ONNX: Unique)."""
    count = elements(inputs, 0)
    return traffic(inputs, outputs, count * max(1, (count - 1).bit_length()))


def suppression_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Sorting the scores and comparing each kept box with each box: 10 operations per pair.

    Source: ONNX operator NonMaxSuppression (boxes [batch, n, 4], scores [batch, classes, n]; result [kept, 3]).
    """
    scores, kept = present(inputs, 1), present(outputs, 0)
    if scores is None or kept is None or not kept.shape or not scores.shape:
        return Cost(0, 0, 0, 0)
    boxes = scores.shape[-1]
    flops = scores.elements * max(1, boxes.bit_length()) + 10 * kept.shape[0] * boxes
    return traffic(inputs, outputs, flops, host=(2, 3, 4))


def determinant_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """2/3 n^3 operations per n * n matrix, by elimination (ONNX: Det; onnxruntime: Inverse takes 2 n^3)."""
    matrices = present(inputs, 0)
    size = matrices.shape[-1] if matrices is not None and matrices.shape else 0
    each = 2 * size * size * (3 if node.op_type == "Inverse" else 1) // 3
    return traffic(inputs, outputs, each * elements(inputs, 0) // max(1, size))


def answer_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """A number about a sequence or optional: only it is written (ONNX: SequenceLength, OptionalHasElement)."""
    return traffic([], outputs, 0)


def split_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """Every element is read and written once, into the tensors of a sequence (ONNX: SplitToSequence)."""
    whole = traffic(inputs[:1], [], 0)
    return replace(whole, bytes_written=whole.bytes_read + whole.parameter_bytes)


def joined_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """The tensors of a sequence are read and written once: as much as the result holds (ONNX: ConcatFromSequence)."""
    whole = traffic([], outputs, 0)
    return replace(whole, bytes_read=whole.bytes_written)


def _row(
    op_type: str,
    cost: CostFormula,
    rate_class: str = "copy",
    attributes: tuple[str, ...] = (),
    domain: str = "",
    structural: tuple[int, ...] = (),
) -> Operator:
    return Operator(op_type, FusionClass.OPAQUE, cost, domain, rate_class, attributes, structural=structural)


_MOVE = per_input(0)
_MS = "com.microsoft"
_NORMAL = ("dtype", "mean", "scale", "seed")
_UNIFORM = ("dtype", "high", "low", "seed")

OPERATORS: tuple[Operator, ...] = (
    # Control flow.
    _row("If", _MOVE, "control", ("then_branch", "else_branch")),
    _row("Loop", _MOVE, "control", ("body",)),
    _row("Scan", _MOVE, "control", ("body", "num_scan_inputs", "scan_input_axes", "scan_output_axes")),
    _row("SequenceMap", _MOVE, "control", ("body",)),
    # Sorting.
    _row("TopK", top_k_cost, "sort", ("axis", "k", "largest", "sorted"), structural=(1,)),
    _row("Unique", sort_cost, "sort", ("axis", "sorted")),
    _row("Unique", sort_cost, "sort", (), _MS),
    _row("NonMaxSuppression", suppression_cost, "sort", ("center_point_box",), structural=(2, 3, 4)),
    # Sizes that depend on data.
    _row("NonZero", per_input(1), "select"),
    _row("Compress", per_input(1), "select", ("axis",)),
    # Random numbers: 10 operations each for a generator, twice that for a normal one.
    _row("RandomNormal", per_output(20), "random", (*_NORMAL, "shape")),
    _row("RandomNormalLike", per_output(20, host=(0,)), "random", _NORMAL),
    _row("RandomUniform", per_output(10), "random", (*_UNIFORM, "shape")),
    _row("RandomUniformLike", per_output(10, host=(0,)), "random", _UNIFORM),
    _row("Bernoulli", per_output(11), "random", ("dtype", "seed")),
    _row("Multinomial", per_input(3), "random", ("dtype", "sample_size", "seed")),
    # Linear algebra without a data-parallel form here.
    _row("Det", determinant_cost, "scan"),
    _row("Inverse", determinant_cost, "scan", (), _MS),
    # Sequences and optionals: tensors change hands, nothing moves.
    *(
        replace(_row(name, no_cost, "view"), shapeless=True)
        for name in (
            "SequenceConstruct",
            "SequenceAt",
            "SequenceErase",
            "SequenceInsert",
            "Optional",
            "OptionalGetElement",
        )
    ),
    replace(_row("SequenceEmpty", no_cost, "view", ("dtype",)), shapeless=True),
    replace(_row("SequenceLength", answer_cost, "view"), shapeless=True),
    replace(_row("OptionalHasElement", answer_cost, "view"), shapeless=True),
    replace(_row("SplitToSequence", split_cost, "split", ("axis", "keepdims"), structural=(1,)), shapeless=True),
    replace(_row("ConcatFromSequence", joined_cost, "concat", ("axis", "new_axis")), shapeless=True),
    # Text and files.
    _row("StringConcat", per_output(1), "text"),
    _row("StringNormalizer", per_input(1), "text", ("case_change_action", "is_case_sensitive", "locale", "stopwords")),
    _row("StringSplit", per_input(1), "text", ("delimiter", "maxsplit")),
    _row("RegexFullMatch", per_input(1), "text", ("pattern",)),
    _row("TfIdfVectorizer", per_input(1), "text", ("max_gram_length", "max_skip_count", "min_gram_length", "mode")),
    _row("ImageDecoder", _MOVE, "text", ("pixel_format",)),
    _row("Tokenizer", per_input(1), "text", (), _MS),
    _row("MurmurHash3", per_input(10), "text", ("positive", "seed"), _MS),
    # Whole decoding loops.
    _row("BeamSearch", _MOVE, "control", (), _MS),
    _row("GreedySearch", _MOVE, "control", (), _MS),
    _row("Sampling", _MOVE, "control", (), _MS),
    _row("WhisperBeamSearch", _MOVE, "control", (), _MS),
)
