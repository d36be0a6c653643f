"""A page of controls in a live notebook: frames of one choice at a time, stepped through with a slider.

Where nobody can move a slider (papermill, nbconvert, GitHub, a script) there is no page: notebooks have a figure with
some of the frames side by side as well.
"""

import base64
import functools
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display

from dal_lab.companion.description import describe
from dal_lab.companion.figures.style import in_style
from dal_lab.runs.progress import notebook_is_live

Choices = Mapping[str, Sequence[Any] | Mapping[str, Any]]
INTERVAL = 1200  # milliseconds a frame, when it plays


class Page:
    """Controls to choose what to look at and to step through its frames; what was computed or drawn once is kept.

    Args:
        choices: what can be chosen, e.g. {"strategy": ["margin", "badge"]}; the first option of each is shown first. A
            mapping in place of a list gives the options texts of their own, {text: option}.
        frames: computes the frames of one option of each choice, named as in `choices`; at least one. A frame (a
            `maps.View`) has `where` it stands in the run, `draw()`, called when it is first shown, and the `reason`.
    """

    def __init__(self, choices: Choices, frames: Callable[..., Sequence[Any]]) -> None:
        import ipywidgets as widgets  # beside notebooks nobody needs it

        self._frames = functools.cache(lambda *options: frames(**dict(zip(choices, options, strict=True))))
        self._pictures = functools.cache(lambda position, *options: picture(self._frames(*options)[position]))
        self.dropdowns = {
            name: widgets.Dropdown(
                options=list(options.items() if isinstance(options, Mapping) else options),
                description=name.capitalize(),
            )
            for name, options in choices.items()
        }
        self.slider = widgets.IntSlider(description="Step", readout=False, tooltip="arrow keys move it")
        self.play = widgets.Play(interval=INTERVAL, description="Play")
        self.where, self.shown = widgets.Label(), widgets.HTML()
        row = functools.partial(widgets.HBox, layout=widgets.Layout(flex_flow="row wrap"))
        controls = row(list(self.dropdowns.values())), row([self.play, self.slider, self.where])
        self.box = widgets.VBox([*controls, self.shown])
        widgets.link((self.play, "value"), (self.slider, "value"))
        for control in (*self.dropdowns.values(), self.slider):
            control.observe(lambda _: self._show(), names="value")
        self._show()

    def _show(self) -> None:
        options = [dropdown.value for dropdown in self.dropdowns.values()]
        frames = self._frames(*options)
        # A value above the maximum is cut, which moves the slider and shows that frame.
        self.slider.max = self.play.max = len(frames) - 1
        position = self.slider.value
        self.where.value = f"{position + 1} of {len(frames)}: {frames[position].where}"
        self.shown.value = self._pictures(position, *options)


def picture(frame: Any) -> str:
    """A frame as HTML: its figure, with what it shows in words, and the reason below it."""
    with in_style():
        figure, content = frame.draw(), io.BytesIO()
        figure.savefig(content, format="png", dpi=figure.dpi)
    words = html.escape(f"{frame.where}: {describe(figure)}", quote=True)
    plt.close(figure)
    source = base64.b64encode(content.getvalue()).decode()
    return (
        f'<figure style="margin: 0"><img alt="{words}" src="data:image/png;base64,{source}" '
        'style="max-width: 100%; background: white">'
        f'<figcaption role="status" style="max-width: 60em; line-height: 1.4">{html.escape(frame.reason)}</figcaption>'
        "</figure>"
    )


def show(choices: Choices, frames: Callable[..., Sequence[Any]]) -> None:
    """Display a page where a person has a notebook open, and nothing elsewhere."""
    if notebook_is_live():
        display(Page(choices, frames).box)
