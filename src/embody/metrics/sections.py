"""The parts of a report as plain values: a game's evaluation returns sections, and the report lays them out."""

from dataclasses import dataclass

__all__ = ["Chart", "Section", "Table"]

Table = tuple[list[str], list[list[str]]]  # header, rows


@dataclass(frozen=True)
class Chart:
    """A chart and its title."""

    title: str
    svg: str  # markup, placed in the page as it is; colours are the page's CSS variables


@dataclass(frozen=True)
class Section:
    """A section of the report: its charts stand among the pictures, its tables among the tables."""

    title: str
    text: str = ""  # says what is measured; stands above charts and tables
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()  # words of the charts and tables, each with its meaning
