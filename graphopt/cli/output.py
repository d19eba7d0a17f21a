"""Printing: data goes to stdout, as a drawn document or as JSON."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from graphopt.cli.environment import Environment

if TYPE_CHECKING:
    from graphopt.report.document import Document


def show(environment: Environment, document: "Document") -> None:
    """Draw a report's document as the terminal, file or pipe behind stdout takes it."""
    from graphopt.report import terminal

    terminal.write(document, environment.stdout, width=environment.width, colour=environment.terminal)


def show_json(value: object) -> None:
    """Print a result as JSON."""
    from graphopt.report import json

    click.echo(json.text(value), nl=False)


def result(
    environment: Environment,
    data: Mapping[str, Any],
    document: "Callable[[Mapping[str, Any]], Document]",
    *,
    as_json: bool,
) -> None:
    """Print a result's JSON, or the document that a report makes of it."""
    if as_json:
        show_json(data)
    else:
        show(environment, document(data))
