"""The map that can be zoomed and lassoed: jupyter-scatter, given numbers and colours only.

No text of the base reaches it: classes are numbers, its own legend and tooltips stay off (the legend is made of nodes, what
lies under the pointer too). It is used through its public methods; its script comes from its package.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import traitlets

from oraculo_kit.widgets.picture import MARK
from oraculo_kit.widgets.scripted import Scripted, script

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.widgets.colouring import Colouring

__all__ = ["ScatterView", "load_scatter"]

_BUTTONS = ["pan_zoom", "lasso", "full_screen", "reset"]
_SIZES = ((2_000, 6), (20_000, 4), (200_000, 3))
_LEAST_SIZE = 2
_RING = np.linspace(0, 2 * np.pi, 13)


def load_scatter() -> Any:
    """Import jupyter-scatter, which takes 2 seconds; None where the extra is not installed."""
    try:
        return importlib.import_module("jscatter")
    except ImportError:
        return None


class _Backdrop(Scripted):
    _esm = script("backdrop.js")
    rgb: Any = traitlets.List(None, allow_none=True).tag(sync=True)


class ScatterView(ipywidgets.VBox):
    """A map in WebGL.

    Parameters
    ----------
    jscatter : module
    xy : numpy.ndarray
        float32, shape (n, 2), from -1 to 1.
    colouring : Colouring
    on_select, on_hover : callable
        Told the places of the points that were chosen (int64), and the one under the pointer, or None.
    """

    def __init__(
        self,
        jscatter: Any,
        xy: NDArray[np.float32],
        colouring: Colouring,
        on_select: Callable[[NDArray[np.int64]], object],
        on_hover: Callable[[int | None], object],
    ) -> None:
        import pandas as pd

        self._jscatter = jscatter
        self._frame = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "code": _classes(colouring)})
        size = next((size for most, size in _SIZES if len(xy) <= most), _LEAST_SIZE)
        self._scatter = jscatter.Scatter(
            data=self._frame,
            x="x",
            y="y",
            x_scale=(-1.12, 1.12),
            y_scale=(-1.12, 1.12),
            color_by="code",
            color_map=list(colouring.colours),
            size=size,
            height=400,
            axes=False,
            legend=False,
            tooltip=False,
            reticle=False,
        )
        self._plot = self._scatter.widget
        self._plot.toolbar_buttons = list(_BUTTONS)
        self._plot.observe(lambda change: on_select(np.asarray(change["new"], np.int64)), "selection")
        self._plot.observe(lambda change: on_hover(change["new"]), "hovering")
        self._backdrop = _Backdrop(self._plot)
        self._backdrop.observe(lambda change: self._set_backdrop(change["new"]), "rgb")
        super().__init__([self._plot, self._backdrop])
        self.add_class("oraculo-map")

    def _set_backdrop(self, rgb: Sequence[float] | None) -> None:
        if rgb:
            # Not by `Scatter.background`: that turns axes and legend on again.
            self._plot.background_color = [each / 255 for each in rgb] + [1.0]

    @property
    def payload(self) -> int:
        """Bytes that showing it sends to the browser: the points and the script."""
        return 4 * int(self._plot.points.size) + len(str(self._plot._esm).encode())

    def colour(self, colouring: Colouring) -> None:
        """Colour the points anew."""
        self._frame["code"] = _classes(colouring)
        self._scatter.data(self._frame)
        self._scatter.color(by="code", map=list(colouring.colours))

    def select(self, places: NDArray[np.int64]) -> None:
        """Mark points as chosen, without telling `on_select` of anything new."""
        self._scatter.selection(places)

    def mark(self, question: NDArray[np.float32] | None, neighbours: NDArray[np.float32]) -> None:
        """Show where a question lies, with lines to its neighbours; None takes it away.

        Parameters
        ----------
        question : numpy.ndarray, optional
            Shape (2,).
        neighbours : numpy.ndarray
            Shape (k, 2).
        """
        if question is None:
            self._scatter.annotations(None)
            return
        line = self._jscatter.Line
        x, y = (float(each) for each in question)
        strong = {"line_color": MARK, "line_width": 3}
        made = [
            line([(x, y), (float(one), float(other))], line_color=MARK, line_width=1)
            for one, other in neighbours
        ]
        made += [
            line(_ring(float(one), float(other), 0.014), line_color=MARK, line_width=2)
            for one, other in neighbours
        ]
        made += [
            line([(x - 0.04, y), (x + 0.04, y)], **strong),
            line([(x, y - 0.04), (x, y + 0.04)], **strong),
        ]
        self._scatter.annotations(made)

    def close(self) -> None:
        """Take it off the screen."""
        self._plot.close()
        self._backdrop.close()
        super().close()


def _ring(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    return [(x + radius * float(np.cos(each)), y + radius * float(np.sin(each))) for each in _RING]


def _classes(colouring: Colouring) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(
        colouring.codes.astype(np.int16), categories=pd.Index(range(len(colouring.colours)))
    )
