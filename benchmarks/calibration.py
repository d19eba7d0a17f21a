#!/usr/bin/env python3
"""Calibrate this machine and print every number beside that of a built-in machine, as a Markdown table.

    python benchmarks/calibration.py [--machine xeon-avx512] [--threads 1]

It shows how long a calibration takes, how well its passes agree, and what another processor does differently.
"""

import argparse
import time
from collections.abc import Iterator, Mapping

from graphopt import machine
from graphopt.calibrate import BUSY, DISTURBED_SHARE, calibrate
from graphopt.machine import Machine, Quantity


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default=machine.DEFAULT, help="machine to compare with")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    other = machine.load(arguments.machine)
    start = time.perf_counter()
    found = calibrate("measured", threads=arguments.threads)
    seconds = time.perf_counter() - start
    print(f"| number | unit | measured | {other.name} | ratio |")
    print("|---|---|---|---|---|")
    known = dict(numbers(other))
    for name, quantity in numbers(found.machine):
        before = known.get(name)
        cells = "| |" if before is None else f"| {before.value:.3g} | {quantity.value / before.value:.2f} |"
        print(f"| {name} | {quantity.unit} | {quantity.value:.3g} {cells}")
    print(f"\n{seconds:.0f} s; middle spread of the passes {found.spread:.1%} (busy above {BUSY:.0%}); ", end="")
    print(f"{found.disturbed:.0%} of the cases always disturbed (busy above {DISTURBED_SHARE:.0%})", end="")
    print("".join(f"\nnot measured: {line}" for line in found.left_out))


def numbers(described: Machine) -> Iterator[tuple[str, Quantity]]:
    """Every number of a machine with a name."""
    tables: dict[str, Mapping[str, Quantity]] = {
        "peak": described.peak,
        "rate": described.rates,
        "pieces": described.piece_rates,
        "kernel rate": described.kernel_rates,
        "kernel pieces": described.kernel_piece_rates,
    }
    for title, table in tables.items():
        yield from ((f"{title} {key}", quantity) for key, quantity in table.items())
    for level in described.memory:
        if level.capacity is not None:
            yield f"{level.name} capacity", level.capacity
        yield f"{level.name} bandwidth", level.bandwidth
        if level.writing is not None:
            yield f"{level.name} writing", level.writing
    prices = {
        "node": described.per_node,
        "kernel": described.per_kernel,
        "step": described.per_step,
        "call": described.per_call,
    }
    yield from ((f"price of a {name}", price) for name, price in prices.items() if price is not None)


if __name__ == "__main__":
    main()
