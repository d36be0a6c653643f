"""A figure in words, for readers who do not see it: what is drawn against what, in which panels, with which names."""

from collections.abc import Iterable

from matplotlib.figure import Figure


def describe(figure: Figure) -> str:
    """Return what a figure's axes, legends and labels say, in one line; "a drawing" when they say nothing."""
    panels = figure.axes
    drawn: dict[str, list[str]] = {}  # each value once, with all that it is drawn against
    for axes in panels:
        x, y = _plain(axes.get_xlabel()), _plain(axes.get_ylabel())
        drawn.setdefault(y or x, []).append(x if y else "")
    against = {value: ", ".join(_distinct(others)) for value, others in drawn.items() if value}
    # Lines, bars and rows are named in legends, at ticks, or in the plot itself.
    legends = [*figure.legends, *(legend for axes in panels if (legend := axes.get_legend()) is not None)]
    texts = [text for legend in legends for text in legend.get_texts()]
    texts += [text for axes in panels for text in (*axes.get_yticklabels(), *axes.get_xticklabels())]
    texts += [text for axes in panels for text in axes.texts]
    names = [text for text in _distinct(text.get_text() for text in texts) if any(map(str.isalpha, text))]
    titles = _distinct(axes.get_title() for axes in panels)
    parts = [f"{value} against {others}" if others else value for value, others in against.items()]
    parts += _distinct(text.get_text() for text in figure.texts)
    parts += [f"{'Panel' if len(titles) == 1 else 'Panels'}: {'; '.join(titles)}"] if titles else []
    parts += [f"Shown: {'; '.join(names)}"] if names else []
    return ". ".join(parts) or "a drawing"


def _plain(text: str) -> str:
    """Return the text without line breaks and matplotlib's mathematics, e.g. powers of ten at logarithmic axes."""
    return "" if "$" in text else " ".join(text.split())


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, map(_plain, texts))))
