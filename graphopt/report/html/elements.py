"""Elements of HTML and SVG."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str
Attribute = str | int | float | bool


def element(tag: str, *children: Child, **attributes: Attribute) -> Element:
    """An element with its children.

    Args:
        tag: its name.
        children: elements and texts in their order.
        attributes: ``class_`` stands for ``class``, ``data_share`` for ``data-share``; True is an attribute without a
            value of its own, False leaves it out. Numbers keep at most two decimals.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not False:
            made.set(name.rstrip("_").replace("_", "-"), _text(name, value))
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif last is None:
            made.text = (made.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return made


def _text(name: str, value: Attribute) -> str:
    if value is True:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if not name.startswith("data_") else repr(value)
    return str(value)


def text(root: Element) -> str:
    """The page of an ``html`` element.

    Characters that HTML cannot hold (controls) are shown as replacement characters.
    """
    for part in root.iter():
        part.text = part.text and _printable(part.text)
        part.tail = part.tail and _printable(part.tail)
        for key, value in part.attrib.items():
            part.set(key, _printable(value))
    return f"<!doctype html>\n{ElementTree.tostring(root, encoding='unicode', method='html')}\n"


def _printable(value: str) -> str:
    return value if value.isprintable() else "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in value)
