"""``python -m graphopt.observe [--corpus URL] [--sample SECONDS] app.py …``: run a program and record its sessions.

The program is not changed. ``graphopt.observe`` is the function of that name; this module is only run.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from graphopt.errors import GraphoptError

_BAD_INPUT = 3


def main(words: Sequence[str] | None = None) -> int:
    """Run a program, with every onnxruntime session that it creates observed; returns when the program does."""
    parser = argparse.ArgumentParser(
        prog="python -m graphopt.observe",
        description="Run a Python program and record what its onnxruntime sessions execute.",
        epilog="Example: python -m graphopt.observe --corpus s3://bucket/fleet -m uvicorn service:app --port 8000",
    )
    parser.add_argument(
        "--corpus",
        metavar="DIR|URL",
        help="where captures go; $GRAPHOPT_CORPUS or ~/.local/state/graphopt/corpus when not given",
    )
    parser.add_argument("--sample", type=float, metavar="SECONDS", help="also sample operator times, this far apart")
    parser.add_argument("--flush", type=float, default=60.0, metavar="SECONDS", help="between two flushes; 60")
    parser.add_argument("--redact", action="store_true", help="store no names")
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module, as for python -m")
    parser.add_argument("program", help="file or module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the program is called with")
    chosen = parser.parse_args(words)
    from graphopt.observers import observe_all

    try:
        observe_all(chosen.corpus, sample=chosen.sample, flush_seconds=chosen.flush, redact=chosen.redact)
    except GraphoptError as error:
        print(f"graphopt: error: {error}", file=sys.stderr)
        return _BAD_INPUT
    sys.argv = [chosen.program, *chosen.arguments]
    if chosen.module:
        sys.path[0] = os.getcwd()  # noqa: PTH109  # a string, as Python itself puts there
        runpy.run_module(chosen.program, run_name="__main__", alter_sys=True)
        return 0
    if not Path(chosen.program).is_file():
        print(f"graphopt: error: {chosen.program}: no such file", file=sys.stderr)
        return _BAD_INPUT
    sys.path[0] = str(Path(chosen.program).resolve().parent)
    runpy.run_path(chosen.program, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
