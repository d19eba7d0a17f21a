"""``graphopt passes``: what ``--passes`` can name."""

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit


@options.command("passes", "graphopt passes", "graphopt passes --json")
@options.as_json
@options.pass_environment
def command(environment: Environment, as_json: bool) -> Exit:
    """List the passes of 'apply' with their options."""
    from graphopt.passes import pipeline
    from graphopt.report import passes

    listing = pipeline.listing()
    if as_json:
        output.show_json(listing)
    else:
        output.show(environment, passes.document(listing))
    return Exit.DONE
