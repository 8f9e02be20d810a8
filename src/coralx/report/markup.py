"""HTML from values: everything that comes from data is escaped here, and only here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from coralx.json_values import plain


class Markup(str):
    """Text that is HTML already; `element` puts it in as it is and escapes any other string."""

    __slots__ = ()


def markup(content: Any) -> Markup:
    """Escape a value, unless it is markup."""
    return content if isinstance(content, Markup) else Markup(html.escape(str(content)))


def join(parts: Iterable[Any], between: str = "") -> Markup:
    return Markup(between.join(markup(part) for part in parts))


def element(tag: str, *content: Any, **attributes: Any) -> Markup:
    """`<tag attributes>content</tag>`.

    Attribute names lose a trailing underscore and turn other underscores into hyphens
    (`class_`, `data_action`); one whose value is None is left out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{written}>{join(content)}</{tag}>")


def data_block(value: Any, **attributes: Any) -> Markup:
    """A JSON value for the page's script, in a block that no text inside it can close."""
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return element("script", Markup(text), type="application/json", **attributes)


def plot_text(value: Any) -> str:
    """Text for inside a figure: plotly reads a few HTML tags, so those signs are escaped.

    Quotes stay as they are, because plotly would show their entities literally.
    """
    return html.escape(str(value), quote=False)


def hover(*lines: tuple[str, Any] | str) -> str:
    """A figure's hover text: one line per entry, `(name, value)` or a heading."""
    written = [
        f"<b>{plot_text(line)}</b>"
        if isinstance(line, str)
        else f"{plot_text(line[0])}: {plot_text(line[1])}"
        for line in lines
    ]
    return "<br>".join(written)


def table(
    headings: Sequence[Any], rows: Iterable[Sequence[Any]], *, numeric_from: int = 1
) -> Markup:
    """A table that scrolls by itself on narrow screens; columns from `numeric_from` align right."""

    def cells(tag: str, values: Sequence[Any]) -> Markup:
        return join(
            element(tag, value, class_="n" if place >= numeric_from else None)
            for place, value in enumerate(values)
        )

    head = element("thead", element("tr", cells("th", headings)))
    body = element("tbody", join(element("tr", cells("td", row)) for row in rows))
    return element("div", element("table", head, body), class_="scroll", tabindex="0")


def section(name: str, title: str, caption: Any, *content: Any) -> Markup:
    """One chapter of the page: heading, what one sees (if anything), the thing itself."""
    return element(
        "section",
        element("h2", title),
        element("p", caption, class_="caption") if caption else "",
        *content,
        id=name,
    )


def empty(text: str) -> Markup:
    """What stands where there is nothing to show, and why."""
    return element("p", text, class_="empty")
