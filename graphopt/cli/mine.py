"""``graphopt mine``."""

from graphopt.cli import options
from graphopt.cli.environment import Environment, Exit


@options.command("mine")
@options.pass_environment
def command(environment: Environment) -> Exit:
    """To be written."""
    return Exit.DONE
