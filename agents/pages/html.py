"""HTML from Python's strings: all text that is not markup is escaped, so that no name can break a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

VOID = ("img", "meta")  # elements without an end


class Markup(str):
    """Text that is HTML."""


def tag(name: str, /, *children: str, **attributes: str) -> Markup:
    """Return an element; `class_` is the attribute "class", and `aria_label` "aria-label".

    Args:
        name: of the element.
        children: `Markup`, or text, which is escaped.
        attributes: escaped.
    """
    begin = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    if name in VOID:
        assert not children
        return Markup(f"<{begin}>")
    return Markup(f"<{begin}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Join children; those that are not `Markup` are escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, row_headers: int = 1) -> Markup:
    """Return a table whose first cells of each row are headers too; it scrolls if the page is too narrow.

    Args:
        header: of the columns; may be empty.
        rows: of equal length.
        row_headers: number of header cells in a row.
    """
    head = [tag("thead", tag("tr", *(tag("th", name, scope="col") for name in header)))] if header else []
    body = [
        tag(
            "tr",
            *(tag("th", cell, scope="row") for cell in row[:row_headers]),
            *(tag("td", cell) for cell in row[row_headers:]),
        )
        for row in rows
    ]
    return tag("div", tag("table", *head, tag("tbody", *body)), class_="wide")


def picture(content: bytes, caption: str, *, kind: str = "png", alt: str | None = None) -> Markup:
    """Return a figure with the bytes of an image file; its alternative text is the caption by default."""
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return tag("figure", tag("img", src=source, alt=alt or caption), tag("figcaption", caption))


def page(title: str, style: str, *body: str) -> str:
    """Return a whole HTML document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n"
