"""``python -m graphopt``: the command line without an installed script."""

import sys

from graphopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
