"""Reductions along axes, and softmax with its kin: one output element, or row, from a slice of the input."""

from graphopt.operators.base import CostFormula, FusionClass, Operator
from graphopt.operators.formulas import per_input
from graphopt.operators.lowering import Rowwise, call
from graphopt.operators.rowwise import log_softmax, log_sum_exp, plain, position, reduce, softmax, square, total

_SOFTMAX = per_input(5)  # maximum, subtract it, exp, sum, divide: ONNX operator Softmax
_LOG_SOFTMAX = per_input(5)  # maximum, subtract it, exp, sum, subtract log(sum): ONNX operator LogSoftmax
_HARDMAX = per_input(2)  # maximum, compare with its position: ONNX operator Hardmax


def _reduce(
    op_type: str, flops_per_element: int, rate_class: str, *, domain: str = "", lowering: Rowwise | None = None
) -> Operator:
    """A row for ONNX's Reduce family: so many operations per element of the input; the axes are read by the host.

    Axes are an attribute in older opsets and operand 1 in newer ones.
    """
    cost: CostFormula = per_input(flops_per_element, host=(1,))
    return Operator(
        op_type,
        FusionClass.REDUCTION,
        cost,
        domain,
        rate_class=rate_class,
        attributes=("axes", "keepdims", "noop_with_empty_axes"),
        structural=(1,),
        labelled=(1,),
        lowering=lowering,
    )


def _row(
    op_type: str,
    cost: CostFormula,
    rate_class: str,
    attributes: tuple[str, ...],
    domain: str = "",
    changed: tuple[int, ...] = (),
    lowering: Rowwise | None = None,
) -> Operator:
    return Operator(
        op_type,
        FusionClass.REDUCTION,
        cost,
        domain,
        rate_class=rate_class,
        attributes=attributes,
        changed=changed,
        lowering=lowering,
    )


OPERATORS: tuple[Operator, ...] = (
    _reduce("ReduceSum", 1, "reduce", lowering=reduce(plain("sum"))),
    _reduce("ReduceMean", 1, "reduce", lowering=reduce(plain("mean"))),
    _reduce("ReduceMax", 1, "reduce", lowering=reduce(plain("maximum"))),
    _reduce("ReduceMin", 1, "reduce", lowering=reduce(plain("minimum"))),
    _reduce("ReduceProd", 1, "reduce", lowering=reduce(plain("product"))),
    _reduce("ReduceL1", 2, "reduce", lowering=reduce(total(lambda x: call("absolute", x)))),  # absolute value, add
    _reduce(
        "ReduceL2", 2, "reduce", lowering=reduce(total(square, "sqrt"))
    ),  # multiply-add; the root of each sum is left out
    _reduce("ReduceSumSquare", 2, "reduce", lowering=reduce(total(square))),  # multiply-add
    _reduce("ReduceLogSum", 1, "reduce", lowering=reduce(total(lambda x: x, "log"))),
    _reduce("ReduceLogSumExp", 4, "exp", lowering=reduce(log_sum_exp, 16)),  # maximum, subtract it, exp, add
    _reduce("ReduceSumInteger", 1, "reduce", domain="com.microsoft"),
    _row("ArgMax", per_input(1), "argmax", ("axis", "keepdims", "select_last_index"), lowering=position("greatest")),
    _row("ArgMin", per_input(1), "argmax", ("axis", "keepdims", "select_last_index"), lowering=position("least")),
    # Before opset 13 the default axis was 1, and the axes from it on were one.
    _row("Softmax", _SOFTMAX, "softmax", ("axis",), changed=(13,), lowering=Rowwise(softmax, 16)),
    _row("LogSoftmax", _LOG_SOFTMAX, "softmax", ("axis",), changed=(13,), lowering=Rowwise(log_softmax, 16)),
    _row("Hardmax", _HARDMAX, "reduce", ("axis",), changed=(13,)),
    # Adding the bias (a mask) comes first: onnxruntime contrib operator BiasSoftmax.
    _row("BiasSoftmax", per_input(6), "softmax", ("axis", "is_inner_broadcast"), "com.microsoft"),
    # Cross entropy: log-softmax, one picked element per row, their mean; LogSoftmax is all but the whole of it.
    _row("SoftmaxCrossEntropyLoss", _LOG_SOFTMAX, "softmax", ("ignore_index", "reduction")),
    _row("NegativeLogLikelihoodLoss", per_input(0), "gather", ("ignore_index", "reduction")),
    # A running sum needs the sum before it: one addition per element (ONNX: CumSum, CumProd).
    *(
        Operator(
            name,
            FusionClass.SEQUENTIAL,
            per_input(1, host=(1,)),
            rate_class="scan",
            attributes=("exclusive", "reverse"),
            structural=(1,),
            labelled=(1,),
        )
        for name in ("CumSum", "CumProd")
    ),
)
