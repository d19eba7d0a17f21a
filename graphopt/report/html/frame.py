"""What every page has: its head, with the style in it, and the policy that nothing is loaded."""

from importlib.resources import files

from graphopt.report.html.elements import Child, element, text

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a page may load: nothing but what stands in it."""


def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return files("graphopt.report.html").joinpath(name).read_text("utf-8")


def page(title: str, *body: Child) -> str:
    """A whole page.

    Args:
        title: its title.
        body: what it shows.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", name="generator", content="graphopt"),
        element("title", f"graphopt: {title}"),
        element("style", asset("page.css")),
    )
    return text(element("html", head, element("body", *body), lang="en"))
