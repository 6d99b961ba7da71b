"""HTML from Python's strings: all text that is not markup is escaped, so that no name can break a page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

VOID = ("img", "meta", "input")  # elements without an end
INK = "#123456"  # of axes and text in a plot, replaced by the colour that the page's scheme asks for
PLOT_STYLE = (
    b"<style>svg{color:#1b1b1f}text{font-family:sans-serif}"
    b"@media(prefers-color-scheme:dark){svg{color:#e6e6ea}}</style>"
)


class Markup(str):
    """Text that is HTML."""


def tag(name: str, /, *children: str, **attributes: str) -> Markup:
    """Return an element; `class_` is the attribute "class", `aria_label` "aria-label"; children are escaped if text."""
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


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Markup:
    """Return a table with a header cell in each line; it scrolls if the page is too narrow."""
    head = [tag("thead", tag("tr", *(tag("th", name, scope="col") for name in header)))] if header else []
    body = [tag("tr", tag("th", line[0], scope="row"), *(tag("td", cell) for cell in line[1:])) for line in lines]
    return tag("div", tag("table", *head, tag("tbody", *body)), class_="wide")


def unfolding(summary: str, *children: str) -> Markup:
    """Return contents that are hidden until a reader asks for them."""
    return tag("details", tag("summary", summary), *children)


def data_uri(content: bytes, kind: str) -> str:
    """Return the bytes of a file of some type, such as "image/webp", as an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(content: bytes, caption: str, *, kind: str = "webp") -> Markup:
    """Return a figure with the bytes of an image file; its alternative text is the caption."""
    return tag("figure", tag("img", src=data_uri(content, f"image/{kind}"), alt=caption), tag("figcaption", caption))


def plot(figure: Figure, caption: str) -> Markup:
    """Return a figure as SVG without a ground, whose axes and text follow the page into dark mode."""
    for axis in figure.axes:
        axis.tick_params(colors=INK, which="both")
        for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
            text.set_color(INK)
        for spine in axis.spines.values():
            spine.set_edgecolor(INK)
        axis.set_facecolor("none")
        if legend := axis.get_legend():
            legend.get_frame().set_alpha(0)
            for text in legend.get_texts():
                text.set_color(INK)
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "plot"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().replace(INK.encode(), b"currentColor")
    return picture(svg.replace(b"<defs>", PLOT_STYLE + b"<defs>", 1), caption, kind="svg+xml")


def embedded(data: Any) -> Markup:
    """Return data for a script: JSON in which nothing can end the element."""
    return Markup(json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))


def page(title: str, *body: str) -> str:
    """Return a whole HTML document, with its style and script."""
    folder = Path(__file__).parent
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup((folder / "page.css").read_text(encoding="utf-8"))),
    )
    script = tag("script", Markup((folder / "viewer.js").read_text(encoding="utf-8")))
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", *body, script), lang="en") + "\n"
