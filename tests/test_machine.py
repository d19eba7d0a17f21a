"""Machine files: the built-in ones, and one clear line for every way a file can be wrong."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from graphopt import machine
from graphopt.calibrate.machine_text import machine_text
from graphopt.errors import GraphoptError

NUMBER = {"value": 1e10, "unit": "flop/s", "kind": "spec", "scope": "core", "source": "s"}
SPEED = NUMBER | {"unit": "byte/s"}
SMALLEST: dict[str, Any] = {
    "schema_version": 1,
    "name": "small",
    "description": "a machine for tests",
    "scope": "core",
    "sources": {"s": "made up"},
    "peak": {"float32": NUMBER},
    "memory": [
        {"name": "cache", "capacity": NUMBER | {"value": 1000, "unit": "byte", "scope": "socket"}, "bandwidth": SPEED},
        {"name": "DRAM", "bandwidth": SPEED | {"value": 1e9}},
    ],
}


def small(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(SMALLEST) | changes


@pytest.mark.parametrize("name", machine.names())
def test_built_in_machines_are_valid(name: str) -> None:
    found = machine.load(name)
    assert found.name == name
    assert found.scope in machine.SCOPES
    assert found.memory[-1].capacity is None
    speeds = [level.bandwidth.value for level in found.memory]
    assert speeds == sorted(speeds, reverse=True)
    for quantity in (*found.peak.values(), *found.rates.values(), *found.kernel_rates.values()):
        assert quantity.value > 0
        assert quantity.source


def test_the_default_and_the_papers_machine_are_built_in() -> None:
    assert {machine.DEFAULT, "xeon-e5-2680-v4"} <= set(machine.names())
    assert machine.load().name == machine.DEFAULT


def test_the_papers_machine_follows_from_its_specification() -> None:
    xeon = machine.load("xeon-e5-2680-v4")
    assert xeon.peak_of("float32") == pytest.approx(14 * 2.4e9 * 32)
    assert xeon.memory[-1].bandwidth.value == pytest.approx(4 * 2400e6 * 8)
    assert xeon.level(30e6).name == "L3"
    assert xeon.level(40e6).name == "DRAM"


def test_a_built_in_machine_is_loaded_once() -> None:
    assert machine.load(machine.DEFAULT) is machine.load(machine.DEFAULT)


def test_a_machine_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    source = Path(machine.load().source).read_text(encoding="utf-8")
    path.write_text(source.replace('name = "xeon-avx512"', 'name = "mine"', 1), encoding="utf-8")
    assert machine.load(path).name == "mine"
    assert machine.load(str(path)).rates.keys() == machine.load().rates.keys()


def test_a_working_set_finds_its_level() -> None:
    found = machine.parse(small(), "file")
    assert found.level(1000).name == "cache"
    assert found.level(1001).name == "DRAM"
    assert found.seconds_to_move(500) == pytest.approx(500 / 1e10)
    assert found.seconds_to_move(500, working_set=2000) == pytest.approx(500 / 1e9)


def test_what_is_written_may_take_longer_than_what_is_read() -> None:
    document = small()
    document["memory"][0]["writing"] = {**document["memory"][0]["bandwidth"], "value": 2e9}
    found = machine.parse(document, "file")
    assert found.seconds_to_move(300, 200) == pytest.approx(300 / 1e10 + 200 / 2e9)
    assert found.seconds_to_move(300, 200, 2000) == pytest.approx(500 / 1e9)
    again = machine.parse(tomllib.loads(machine_text(found)), "again")
    assert again.memory[0].writing == found.memory[0].writing


def test_what_nobody_states_is_left_out() -> None:
    found = machine.parse(small(), "file")
    assert found.node_seconds == 0
    assert found.rate(["Exp", "exp"]) is None
    assert found.peak_of("float16") == found.peak_of("float32")


def test_an_operators_name_goes_before_its_class() -> None:
    rates = {"exp": NUMBER, "Mish": NUMBER | {"value": 5.0}}
    found = machine.parse(small(rates=rates, kernel_rates={"exp": NUMBER | {"value": 7.0}}), "file")
    mish = found.rate(["Mish", "exp"])
    assert mish is not None
    assert mish.value == 5.0
    # In a kernel, the class goes before the runtime's own operator of that name.
    inside = found.kernel_rate(["Mish", "exp"], "Mish")
    assert inside is not None
    assert inside.value == 7.0


WRONG = [
    ("schema_version", small(schema_version=2)),
    ("name", small(name="Two Words")),
    ("name", {k: v for k, v in SMALLEST.items() if k != "name"}),
    ("description", small(description="")),
    ("scope", small(scope="rack")),
    ("speed", small(speed=1)),
    ("peak", small(peak={})),
    ("peak.float32", small(peak={"float32": 5})),
    ("peak.float32.value", small(peak={"float32": NUMBER | {"value": -1}})),
    ("peak.float32.value", small(peak={"float32": NUMBER | {"value": True}})),
    ("peak.float32.value", small(peak={"float32": NUMBER | {"value": float("nan")}})),
    ("peak.float32.value", small(peak={"float32": NUMBER | {"value": float("inf")}})),
    ("peak.float32.unit", small(peak={"float32": NUMBER | {"unit": "GHz"}})),
    ("peak.float32.kind", small(peak={"float32": NUMBER | {"kind": "guess"}})),
    ("peak.float32.scope", small(peak={"float32": NUMBER | {"scope": "socket"}})),
    ("peak.float32.source", small(peak={"float32": NUMBER | {"source": "nowhere"}})),
    ("peak.float32.source", small(peak={"float32": {k: v for k, v in NUMBER.items() if k != "source"}})),
    ("peak.float32.note", small(peak={"float32": NUMBER | {"note": "x"}})),
    ("rates.exp.unit", small(rates={"exp": SPEED})),
    ("piece_rates.exp.unit", small(piece_rates={"exp": NUMBER})),
    ("overhead.per_node.unit", small(overhead={"per_node": NUMBER})),
    ("overhead.per_day", small(overhead={"per_day": NUMBER | {"unit": "s"}})),
    ("memory", small(memory=[])),
    ("memory[0].bandwidth", small(memory=[{"name": "DRAM"}])),
    ("memory[0].capacity", small(memory=[{"name": "L1", "bandwidth": SPEED}, *SMALLEST["memory"]])),
    ("memory[1].capacity", small(memory=[SMALLEST["memory"][0], SMALLEST["memory"][0]])),
    ("memory[0].name", small(memory=[{"bandwidth": SPEED}])),
    ("memory[0].speed", small(memory=[{"name": "DRAM", "bandwidth": SPEED, "speed": 1}])),
    (
        "memory",
        small(
            memory=[
                {**SMALLEST["memory"][0], "capacity": NUMBER | {"value": 5000, "unit": "byte"}},
                *SMALLEST["memory"],
            ]
        ),
    ),
]


@pytest.mark.parametrize(("field", "document"), WRONG)
def test_a_wrong_field_is_named(field: str, document: dict[str, Any]) -> None:
    with pytest.raises(GraphoptError) as caught:
        machine.parse(document, "bad.toml")
    message = str(caught.value)
    assert message.startswith(f"bad.toml: {field}: ")
    assert "\n" not in message


def test_an_unknown_machine_is_one_line_with_the_known_ones() -> None:
    with pytest.raises(GraphoptError, match="no machine named cray-1") as caught:
        machine.load("cray-1")
    assert machine.DEFAULT in str(caught.value)


def test_a_missing_a_broken_and_a_binary_file_are_one_line(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("name = ", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.toml", broken, binary, tmp_path):
        with pytest.raises(GraphoptError) as caught:
            machine.load(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_every_built_in_number_states_its_source() -> None:
    for name in machine.names():
        document = tomllib.loads(Path(machine.load(name).source).read_text(encoding="utf-8"))
        for key, text in document["sources"].items():
            assert len(text) > 20, f"{name}: source {key} says too little"


def test_a_dtype_without_a_peak_has_that_of_float32_or_of_the_slowest() -> None:
    both = machine.parse(small(peak={"float32": NUMBER, "int8": NUMBER | {"value": 4e10}}), "m.toml")
    assert (both.peak_of("int8"), both.peak_of("float16")) == (4e10, 1e10)
    integers = machine.parse(
        small(peak={"int8": NUMBER | {"value": 4e10}, "int16": NUMBER | {"value": 2e10}}), "m.toml"
    )
    assert integers.peak_of("float32") == 2e10


def test_the_capacity_of_the_first_level_can_be_chosen() -> None:
    name = "xeon-e5-2680-v4"
    chosen = machine.load(f"{name}@1MB")
    assert chosen.name == f"{name}@1MB"
    assert chosen.memory[0].bytes == 1e6
    assert chosen.memory[1:] == machine.load(name).memory[1:]
    assert machine.load(f"{name}@0KB").memory == machine.load(name).memory[1:]
    assert machine.load(f"{name}@1KiB").memory[0].bytes == 1024
    for wrong in (f"{name}@", f"{name}@12", f"{name}@x MB", f"{name}@900MB", "cray-1@1MB"):
        with pytest.raises(GraphoptError):
            machine.load(wrong)
    with pytest.raises(GraphoptError, match="no memory level in front of DRAM"):
        machine.load("t4@64MB")
