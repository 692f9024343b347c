"""What a report is made of, as plain values: a game's evaluation returns such sections, the report places them."""

from dataclasses import dataclass

__all__ = ["Chart", "Section", "Table"]

Table = tuple[list[str], list[list[str]]]  # header, rows


@dataclass(frozen=True)
class Chart:
    """A picture of numbers."""

    title: str
    svg: str  # markup, placed in the page as it is; colours are the page's CSS variables


@dataclass(frozen=True)
class Section:
    """A section of the report; one that shows nothing is left out."""

    title: str
    text: str = ""  # plain, above the rest
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
