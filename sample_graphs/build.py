"""Export the sample fleet: write each network as an ONNX file without its weights.

    python sample_graphs/build.py [--out DIR] [NAME ...]

Needs the extra "samples" (torch, onnxscript).
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
# Run as a script, this folder comes first on the path; the package is beside it.
sys.path.insert(1, str(FOLDER.parent))

from cleaning import clean  # noqa: E402
from samples import SAMPLES, Sample  # noqa: E402

from graphopt.weights import drop_weights  # noqa: E402


def randomize(network: nn.Module) -> None:
    """Give every parameter its own values.

    Exporters share equal initializers, so untrained biases and scales (all zeros or ones) would become one tensor.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.uniform_(-0.1, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)


def export_traced(sample: Sample, network: nn.Module, inputs: dict[str, Tensor]) -> onnx.ModelProto:
    """Export by tracing (the exporter of older fleets)."""
    mode = torch.onnx.TrainingMode.PRESERVE if sample.keep_normalization else torch.onnx.TrainingMode.EVAL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=list(sample.outputs),
            dynamic_axes={name: dict(axes) for name, axes in sample.axes.items()},
            opset_version=sample.opset,
            training=mode,
            dynamo=False,
        )
        return onnx.load(path)


def export_program(sample: Sample, network: nn.Module, inputs: dict[str, Tensor]) -> onnx.ModelProto:
    """Export through torch.export (the current exporter)."""
    dimensions = {name: torch.export.Dim(name) for axes in sample.axes.values() for name in axes.values()}
    shapes = [{axis: dimensions[label] for axis, label in sample.axes.get(name, {}).items()} for name in inputs]
    program = torch.onnx.export(
        network,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(sample.outputs),
        dynamic_shapes=shapes_of_arguments(network, shapes),
        opset_version=sample.opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def shapes_of_arguments(network: nn.Module, shapes: list[dict[int, torch.export.Dim]]) -> tuple[object, ...]:
    """Group the shapes of inputs that the network takes as one variable-length argument."""
    code = network.forward.__code__
    if not code.co_flags & 0x04:
        return tuple(shapes)
    named = code.co_argcount - 1
    return (*shapes[:named], tuple(shapes[named:]))


def build(sample: Sample) -> onnx.ModelProto:
    """Export one sample, tidy it and drop its weights."""
    torch.manual_seed(0)
    network = sample.network().eval()
    randomize(network)
    inputs = sample.inputs()
    export = export_traced if sample.exporter == "trace" else export_program
    model = export(sample, network, inputs)
    model = drop_weights(clean(model, sample.name, sample.axes))
    onnx.checker.check_model(model)
    return model


def main() -> None:
    """Command line entry."""
    names = [sample.name for sample in SAMPLES]
    parser = argparse.ArgumentParser(
        description="Export the sample networks as ONNX files without weights.",
        epilog="Graphs: " + ", ".join(names),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="graphs to build (default: all)")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="output folder (default: %(default)s)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names))
    if unknown:
        parser.error(f"unknown graph: {', '.join(unknown)} (choose from {', '.join(names)})")
    chosen = [sample for sample in SAMPLES if not arguments.names or sample.name in arguments.names]

    # One thread makes floating-point results, and so the stored bytes, repeatable.
    torch.set_num_threads(1)
    # Tracing warns of every shape read as a number, which the samples do on purpose.
    warnings.filterwarnings("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for position, sample in enumerate(chosen, start=1):
        started = time.perf_counter()
        model = build(sample)
        path = arguments.out / f"{sample.name}.onnx"
        content = model.SerializeToString(deterministic=True)
        path.write_bytes(content)
        print(
            f"[{position}/{len(chosen)}] {path.name}: {len(model.graph.node)} nodes, "
            f"{len(content) / 1024:.0f} KiB, {time.perf_counter() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
