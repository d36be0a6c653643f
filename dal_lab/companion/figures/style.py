"""One look for all figures: sizes, names and colours. The colours stay apart for colour-blind readers (Okabe & Ito)."""

import matplotlib as mpl
import seaborn as sns

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, BROWN = "#7F7F7F", "#7B4B2A"
INDIGO, WINE, OLIVE = "#332288", "#882255", "#999933"  # Tol's muted scheme: where one figure has more than ten lines
CLASS_COLOURS = [BLUE, ORANGE, GREEN, PURPLE]
CLASS_MARKERS = ["o", "s", "^", "D"]

# What is drawn: (label, colour, marker). The same thing looks the same in every figure.
LOOKS = {
    "random": ("Random", GREY, "o"),
    "margin": ("Margin", BLUE, "s"),
    "entropy": ("Entropy", GREEN, "^"),
    "least_confident": ("Least confident", PURPLE, "v"),
    "badge": ("BADGE", ORANGE, "D"),
    "coreset": ("Core-set", SKY, "X"),
    "typiclust": ("TypiClust", GREEN, "^"),
    "max_herding": ("MaxHerding", GREEN, "P"),
    "unc_herding": ("UncertaintyHerding", RED, "s"),
    "probcover": ("ProbCover", SKY, "o"),
    "alfamix": ("AlfaMix", PURPLE, "P"),
    "dropquery": ("DropQuery", BROWN, "v"),
    "falcun": ("Falcun", ORANGE, "P"),
    "bald": ("BALD", BLUE, "v"),
    "typiclass": ("TypiClass (oracle)", BLACK, "^"),
    "dropqueryclass": ("DropQueryClass (oracle)", BLACK, "v"),
    "bait": ("BAIT, binary", RED, "*"),
    "bait_exact": ("BAIT, exact", BLACK, "D"),
    "bait_top_1": ("BAIT, c = 1", SKY, "v"),
    "bait_top_2": ("BAIT, c = 2", ORANGE, "^"),
    "bait_top_5": ("BAIT, c = 5", GREEN, "s"),
    "bait_diagonal": ("BAIT, diagonal", PURPLE, "X"),
    "refine": ("REFINE", BLACK, "*"),
    "tailor": ("TAILOR", SKY, "D"),
    "selectal": ("SelectAL", INDIGO, ">"),
    "tcm": ("TCM", WINE, "<"),
    "autoal": ("AutoAL", OLIVE, "X"),
    "boss": ("BoSS (oracle)", BLACK, "*"),
    "cdo": ("CDO (oracle)", RED, "D"),
    "sas": ("SAS (oracle)", BLUE, "v"),
    "lookahead": ("Look-ahead (oracle)", BLACK, "*"),
    "lookahead_tuned": ("Look-ahead, γ tuned (oracle)", BLACK, "*"),
    "lookahead_10": ("Look-ahead, γ = 10 (oracle)", RED, "P"),
    "plain": ("Plain batches", BLACK, "o"),
    "updates, γ = 10": ("Update after each pick, γ = 10", ORANGE, "^"),
    "updates, γ tuned": ("Update after each pick, γ tuned", BLUE, "s"),
    "base": ("Base (no update)", GREY, "o"),
    "monte_carlo": ("Monte-Carlo", SKY, "v"),
    "first_order": ("First-order", ORANGE, "^"),
    "second_order": ("Second-order", BLUE, "s"),
    "retraining": ("Retraining", RED, "D"),
    "gradient_new": ("Gradient steps, new samples", ORANGE, "v"),
    "gradient_all": ("Gradient steps, all samples", GREEN, "^"),
    "gradient_mixture": ("Gradient steps, mixture", PURPLE, "o"),
}
SPARE = [RED, GREEN, SKY, PURPLE, ORANGE, YELLOW]


def look(name: str) -> tuple[str, str, str]:
    """Label, colour and marker of a strategy or method; a name that is not in the table gets a colour of its own."""
    if name in LOOKS:
        return LOOKS[name]
    # Chosen by the name alone, so that it does not change with what else is drawn.
    return name, SPARE[sum(name.encode()) % len(SPARE)], "P"


def label(name: str) -> str:
    """A strategy's or method's name for readers."""
    return look(name)[0]


def verbatim(text: str) -> str:
    """Text that somebody else chose, for a figure: dollar signs start no formula."""
    return text.replace("$", r"\$")


def use_style() -> None:
    """Set matplotlib's defaults for the project's figures."""
    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans")
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "figure.constrained_layout.use": True,
            "axes.grid": True,
            "grid.color": "#E5E5E5",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.labelsize": 9,
            "legend.fontsize": 8,
            "legend.frameon": False,
            "lines.linewidth": 1.5,
            "lines.markersize": 4,
            "pdf.fonttype": 42,
            "svg.hashsalt": "dal_core",
        }
    )
