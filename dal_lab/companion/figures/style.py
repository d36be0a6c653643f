"""One look for all figures: sizes, names and colours. The colours stay apart for colour-blind readers (Okabe & Ito)."""

import csv
from importlib import resources

COLOURS = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442",
    "blue": "#0072B2", "red": "#D55E00", "purple": "#CC79A7", "grey": "#7F7F7F", "brown": "#7B4B2A",
    # Tol's muted scheme serves where one figure has more than ten lines.
    "indigo": "#332288", "wine": "#882255", "olive": "#999933",
}  # fmt: skip
BLACK, BLUE, GREY, RED = (COLOURS[name] for name in ("black", "blue", "grey", "red"))
CLASS_COLOURS = [COLOURS[name] for name in ("blue", "orange", "green", "purple")]
CLASS_MARKERS = ["o", "s", "^", "D"]
with resources.files("dal_lab.companion.figures").joinpath("looks.csv").open(encoding="utf-8") as _file:
    LOOKS = {
        row["name"]: (row["label"], COLOURS[row["colour"]], row["marker"])
        for row in csv.DictReader(line for line in _file if not line.startswith("#"))
    }
SPARE = [COLOURS[name] for name in ("red", "green", "sky", "purple", "orange", "yellow")]


def look(name: str) -> tuple[str, str, str]:
    """Label, colour and marker of a strategy or method; a name that is not in the table gets a colour of its own."""
    # It is chosen by the name alone, so that it does not change with what else is drawn.
    return LOOKS.get(name, (name, SPARE[sum(name.encode()) % len(SPARE)], "P"))


def label(name: str) -> str:
    """A strategy's or method's name for readers."""
    return look(name)[0]


def short_label(name: object) -> str:
    """A strategy's name where all are known to be compared with an oracle, or are oracles themselves."""
    return label(str(name)).removesuffix(" (oracle)")


def verbatim(text: str) -> str:
    """Text that somebody else chose, for a figure: dollar signs start no formula."""
    return text.replace("$", r"\$")


def use_style() -> None:
    """Set matplotlib's defaults for the project's figures."""
    import matplotlib as mpl
    import seaborn as sns

    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans")
    with resources.as_file(resources.files("dal_lab.companion.figures").joinpath("style.mplstyle")) as path:
        mpl.rcParams.update(mpl.rc_params_from_file(path, use_default_template=False))
