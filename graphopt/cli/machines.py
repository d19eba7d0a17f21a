"""``graphopt machines``: the roofline machines, built in or from a file."""

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit

EXAMPLES = (
    "graphopt machines list",
    "graphopt machines show xeon-e5-2680-v4",
    "graphopt machines validate my-machine.toml",
)


@options.command("machines", *EXAMPLES)
@click.argument("action", type=click.Choice(["list", "show", "validate"]), default="list")
@click.argument("machine", metavar="[NAME|FILE]", required=False)
@options.as_json
@options.pass_environment
def command(environment: Environment, action: str, machine: str | None, as_json: bool) -> Exit:
    """List the machines, show one, or validate a machine file.

    A machine describes hardware for the roofline: peak arithmetic, bandwidth and capacity by memory level, rates by
    operator class, the time that any node takes. Every number has a unit, a kind (spec, derived or measured) and a
    source.
    """
    from graphopt import machine as machines
    from graphopt.report import machines as reports

    if (machine is None) != (action == "list"):
        raise click.UsageError(f"'graphopt machines {action}' takes {'no' if action == 'list' else 'a'} machine")
    if machine is None:
        found = [machines.load(name) for name in machines.names()]
        if as_json:
            output.show_json(found)
        else:
            output.show(environment, reports.overview(found, machines.DEFAULT))
        return Exit.DONE
    loaded = machines.load(machine)
    if action == "validate":
        click.echo(f"{machine}: valid; machine {loaded.name}")
    elif as_json:
        output.show_json(loaded)
    else:
        output.show(environment, reports.document(loaded))
    return Exit.DONE
