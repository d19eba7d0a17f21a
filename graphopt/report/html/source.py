"""C source as highlighted HTML."""

from xml.etree.ElementTree import Element

from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Number, String, Token, _TokenType

from graphopt.report.html.elements import element

CLASSES: tuple[tuple[_TokenType, str], ...] = (
    (Comment.Preproc, "k"),
    (Comment, "c"),
    (Keyword, "k"),
    (Number, "n"),
    (String, "s"),
)
"""Kinds of tokens and the style class that each is shown in; the first that fits."""


def highlighted(source: str) -> Element:
    """The source in a ``pre``: comments, keywords, numbers and strings have a class each."""
    parts: list[Element | str] = []
    for kind, value in get_lexer_by_name("c").get_tokens(source):
        name = next((name for known, name in CLASSES if known in kind.split() or known is kind), None)
        parts.append(value if name is None or kind is Token.Text else element("span", value, class_=name))
    return element("pre", element("code", *parts))
