"""``graphopt report``."""

from graphopt.cli import options
from graphopt.cli.environment import Environment, Exit


@options.command("report")
@options.pass_environment
def command(environment: Environment) -> Exit:
    """To be written."""
    return Exit.DONE
