"""Model files as they are deployed: their captured shapes, their kernels, and weights that were dropped."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import weights
from graphopt.errors import GraphoptError
from graphopt.runtime import deployment
from tests.test_cli_models import hard_swish

LISTING = """schema_version = 1
[[capture]]
model = "model.onnx"
executions = 3
[capture.shapes]
x = [2, 16]
[[capture]]
model = "model.onnx"
executions = 9
[capture.shapes]
x = [5, 16]
[capture.ranges]
x = [1, 2]
[[capture]]
model = "other.onnx"
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(hard_swish(), path)
    return path


def test_shapes_come_from_the_captures_beside_the_model(model: Path) -> None:
    assert deployment.captured(model).shapes == ({},)
    (model.parent / "captures.toml").write_text(LISTING)
    found = deployment.captured(model)
    assert found.shapes == ({"x": (2, 16)}, {"x": (5, 16)})
    assert found.executions == (3, 9)
    assert found.usual == {"x": (5, 16)}
    assert found.ranges == {"x": (1, 2)}
    given = deployment.captured(model, {"x": (7, 16)}, {"x": (0.0, 0.5)})
    assert given.shapes == ({"x": (7, 16)},)
    assert given.ranges == {"x": (0.0, 0.5)}


def test_a_broken_listing_is_an_error(model: Path) -> None:
    (model.parent / "captures.toml").write_text("nonsense")
    with pytest.raises(GraphoptError, match=r"captures\.toml"):
        deployment.captured(model)


def test_runs_use_the_usual_shapes(model: Path) -> None:
    (model.parent / "captures.toml").write_text(LISTING)
    assert deployment.run_file(model).shapes == {"x": (5, 16)}
    assert deployment.bench_files(model, model, seconds=0.01).shapes == {"x": (5, 16)}
    cases = deployment.verify_files(model, model, batches=[1]).verification.cases
    assert [dict(case.shapes) for case in cases] == [{"x": (2, 16)}, {"x": (5, 16)}, {"x": (1, 16)}]


def test_both_runtimes_agree(model: Path) -> None:
    shapes = {"x": (4, 16)}
    one = deployment.run_file(model, shapes)
    other = deployment.run_file(model, shapes, runtime="reference")
    np.testing.assert_allclose(one.outputs["y"], other.outputs["y"], rtol=1e-5, atol=1e-6)
    assert sum(other.executed.values()) == 5


def test_dropped_weights_are_the_same_in_every_run(tmp_path: Path) -> None:
    light = hard_swish()
    rng = np.random.default_rng(1)
    light.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(rng.standard_normal((16, 32)).astype(np.float32), "weights")
    )
    path = tmp_path / "light.onnx"
    onnx.save(weights.drop_weights(light), path)
    assert deployment.ready(path).filled
    verification = deployment.verify_files(path, path, {"x": (4, 16)}).verification
    assert verification.verdict == "equal"
    once, again = (deployment.run_file(path, {"x": (4, 16)}).outputs["y"] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert float(np.abs(once).max()) > 0
