"""Charts from plain numbers: inline SVG without scripts, whose colours are the page's CSS variables.

Each function gives a ``Picture``: a figure with a title, a description for those who cannot see it, a legend, and the
numbers as a table behind a fold. A template that escapes takes it as it is (``__html__``). ``STYLE`` is what a page
needs once, in light, in dark and in print.
"""

from preferent.pictures.bars import Bar, Bin, bars, binned, histogram
from preferent.pictures.figure import Picture
from preferent.pictures.heat import heatmap
from preferent.pictures.lines import Mark, Point, Reliable, Series, lines, reliability, scatter
from preferent.pictures.scales import Axis
from preferent.pictures.style import STYLE

__all__ = [
    "STYLE",
    "Axis",
    "Bar",
    "Bin",
    "Mark",
    "Picture",
    "Point",
    "Reliable",
    "Series",
    "bars",
    "binned",
    "heatmap",
    "histogram",
    "lines",
    "reliability",
    "scatter",
]
