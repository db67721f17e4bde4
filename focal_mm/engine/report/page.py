"""One self-contained HTML page: a skeleton that any report fills."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        kind: Class of its style: ``number``, ``up``, ``down``, ``muted``, or none.
        hint: Shown when pointed at.
    """

    text: str
    kind: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table under a heading.

    Attributes:
        title: The heading.
        columns: Heads of the columns.
        rows: Cells, row by row.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """Something to look at closer: a plot, and lines below it.

    Attributes:
        title: The heading.
        subtitle: Beside it.
        png: The plot.
        alt: The plot in words.
        lines: Name and text of each line; a text may have several lines.
    """

    title: str
    subtitle: str = ""
    png: bytes | None = None
    alt: str = ""
    lines: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: Its name.
        intro: What it is, in a sentence or two.
        warning: What a reader must know first, if anything.
        facts: Numbers at its head: text and what it counts.
        sheets: Tables.
        overview: A section before the tables.
        sections: Sections after the tables.
    """

    title: str
    intro: str
    warning: str = ""
    facts: Sequence[tuple[str, str]] = ()
    overview: Section | None = None
    sheets: Sequence[Sheet] = ()
    sections: Sequence[Section] = field(default=())


def render(page: Page) -> str:
    """A page as HTML that needs no other file and no network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["inlined"] = _inlined
    return environment.get_template("page.html.j2").render(page=page)


def _inlined(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
