"""One look for all figures: sizes, names and colours. The colours stay apart for colour-blind readers (Okabe & Ito)."""

import contextlib
import tomllib
from collections.abc import Iterator
from importlib import resources

TABLES = tomllib.loads(resources.files("dal_lab.companion.figures").joinpath("looks.toml").read_text("utf-8"))
COLOURS = TABLES["colours"]
BLACK, BLUE, GREY, RED = (COLOURS[name] for name in ("black", "blue", "grey", "red"))
CLASS_COLOURS = [COLOURS[name] for name in ("blue", "orange", "green", "purple")]
CLASS_MARKERS = ["o", "s", "^", "D"]
LOOKS = {name: (text, COLOURS[colour], marker) for name, (text, colour, marker) in TABLES["looks"].items()}
STROKES: dict[str, str] = TABLES["strokes"]
SPARE = [COLOURS[name] for name in ("red", "green", "sky", "purple", "orange", "yellow")]


def look(name: str) -> tuple[str, str, str]:
    """Return label, colour and marker of a strategy or method; a name that the table lacks gets a colour of its own."""
    # It is chosen by the name alone, so that it does not change with what else is drawn.
    return LOOKS.get(name, (name, SPARE[sum(name.encode()) % len(SPARE)], "P"))


def label(name: str) -> str:
    """Return a strategy's or method's name for readers."""
    return look(name)[0]


def short_label(name: object) -> str:
    """Return a strategy's name where all are known to be compared with an oracle, or are oracles themselves."""
    return label(str(name)).removesuffix(" (oracle)")


def verbatim(text: str) -> str:
    """Return a text for a figure as it is: its dollar signs start no formula."""
    return text.replace("$", r"\$")


def use_style() -> None:
    """Set matplotlib's defaults for the project's figures, whatever a matplotlibrc or a style has set before."""
    import matplotlib as mpl
    import seaborn as sns

    mpl.rcdefaults()
    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans")
    with resources.as_file(resources.files("dal_lab.companion.figures").joinpath("style.mplstyle")) as path:
        mpl.rcParams.update(mpl.rc_params_from_file(path, use_default_template=False))


@contextlib.contextmanager
def in_style() -> Iterator[None]:
    """Draw and save in the project's look within the block, and leave the caller's defaults as they were."""
    import matplotlib as mpl

    with mpl.rc_context():
        use_style()
        yield
