"""Charts: whatever the numbers, the drawing is well-formed, inside its frame, and says in words what it shows."""

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preferent.pictures import (
    STYLE,
    Axis,
    Bar,
    Mark,
    Point,
    Reliable,
    Series,
    bars,
    binned,
    heatmap,
    histogram,
    lines,
    reliability,
    scatter,
)
from preferent.pictures.lines import LINE, NEAR, apart
from preferent.pictures.scales import Scale, number, percentage, ticks
from preferent.pictures.style import DARK, LIGHT

NUMBERS = st.floats(-1e9, 1e9, allow_subnormal=False)
ODD = st.one_of(NUMBERS, st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e-300]))
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=40)
POINTS = st.builds(Point, ODD, ODD) | st.builds(
    lambda x, y, d: Point(x, y, y - d, y + d), NUMBERS, NUMBERS, st.floats(0, 9)
)
GEOMETRY = ("d", "x", "y", "cx", "cy", "width", "height")
X, Y = Axis("step"), Axis("reward")


def drawn(picture):
    """The figure as a tree; not well-formed raises."""
    return ET.fromstring(str(picture))  # noqa: S314  (our own markup)


def places(picture):
    """Every number in the drawing's geometry."""
    shapes = [node for node in drawn(picture).find("svg").iter() if node.tag in ("path", "rect", "circle", "text")]
    said = [value for node in shapes for name, value in node.attrib.items() if name in GEOMETRY]
    return " ".join(said)


# --- laws -------------------------------------------------------------------------------------------


@given(st.lists(st.builds(Series, NAMES, st.lists(POINTS, max_size=8)), max_size=4), st.sampled_from([lines, scatter]))
def test_any_numbers_and_any_names_make_a_well_formed_drawing(series, draw):
    picture = draw(series, X, Y, title="<b>&", note="\"'")
    assert drawn(picture).find("figcaption/strong").text == "<b>&"
    assert not re.search(r"nan|inf", places(picture))


@given(st.lists(st.builds(Bar, NAMES, ODD, st.none(), st.none(), st.integers(0, 40)), max_size=8))
def test_any_bars_make_a_well_formed_drawing(rows):
    assert not re.search(r"nan|inf", places(bars(rows, Axis("share"), title="t")))


@given(st.lists(st.lists(ODD, max_size=30), min_size=1, max_size=3), st.integers(1, 30))
def test_a_histogram_counts_every_finite_value_once(series, bins):
    counted = binned(series, bins)
    finite = [sum(map(math.isfinite, values)) for values in series]
    assert [sum(each.counts[i] for each in counted) for i in range(len(series))] == finite or not any(finite)
    assert not re.search(
        r"nan|inf", places(histogram(counted, X, title="t", names=[str(i) for i in range(len(series))]))
    )


@given(st.lists(st.lists(st.none() | ODD, min_size=2, max_size=2), max_size=5))
def test_any_values_make_a_well_formed_heat_map(values):
    picture = heatmap([f"r{i}" for i in range(len(values))], ["a", "b"], values, Axis("v"), title="t")
    assert all(0 <= float(cell.get("fill-opacity")) <= 0.55 for cell in drawn(picture).iter("rect"))


@given(NUMBERS, st.floats(1e-6, 1e9))
def test_ticks_reach_around_the_numbers_in_even_round_steps(low, width):
    high = low + width
    if high == low or width < abs(low) * 1e-9:
        return
    found = ticks(low, high)
    steps = [b - a for a, b in pairwise(found)]
    room = 1e-6 * width + 1e-9 * abs(low)
    assert found[0] <= low + room
    assert found[-1] >= high - room
    assert 2 <= len(found) <= 8
    assert max(steps) - min(steps) <= room


@given(st.lists(st.tuples(st.just("label"), st.floats(0, 400), st.floats(0, 250)), max_size=8))
def test_no_label_is_written_over_another(labels):
    moved = apart(labels)
    assert len(moved) == len(labels)
    for i, (_, x, y) in enumerate(moved):
        assert all(abs(x - a) >= NEAR or abs(y - b) >= LINE for _, a, b in moved[:i])


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_what_is_drawn_lies_inside_the_frame(pairs):
    picture = scatter([Series("a", [Point(x, y) for x, y in pairs])], X, Y, title="t")
    for node in drawn(picture).find("svg").iter("path"):
        if "marker" in node.get("class", ""):
            x, y = re.match(r"M([\d.-]+) ([\d.-]+)", node.get("d")).groups()
            assert -5 <= float(x) <= 425
            assert 15 <= float(y) <= 220


# --- what it says in words --------------------------------------------------------------------------


def test_a_picture_has_a_title_a_description_and_its_numbers_as_a_table():
    points = [Point(1, 0.5, 0.25, 0.75), Point(2, 1.5, 1.0, 2.0)]
    root = drawn(lines([Series("ppo", points), Series("grpo", [])], X, Y, title="Reward", marks=[Mark(2, 1.5, "here")]))
    svg = root.find("svg")
    assert svg.get("role") == "img"
    assert svg.find("title").text == "Reward"
    said = svg.find("desc").text
    assert "ppo: from 0.5 at 1 to 1.5 at 2." in said
    assert "grpo: no values." in said
    assert "Marked: here at step 2." in said
    rows = [[cell.text for cell in row] for row in root.findall("details//tbody/tr")]
    assert rows == [["ppo", "1", "0.5", "0.25 – 0.75"], ["ppo", "2", "1.5", "1 – 2"]]


def test_values_that_are_no_numbers_break_the_line_and_are_counted():
    points = [Point(1, 1), Point(2, math.nan), Point(3, 2), Point(4, 3)]
    picture = lines([Series("a", points)], X, Y, title="t")
    strokes = [node.get("d") for node in drawn(picture).find("svg").iter("path") if "line" in node.get("class").split()]
    assert [path.count("L") for path in strokes] == [0, 1]
    assert picture.note == "1 of the values are not finite numbers."


def test_a_series_keeps_its_colour_and_its_name_when_it_stands_alone():
    root = drawn(lines([Series("grpo", [Point(0, 1), Point(1, 2)], place=2)], X, Y, title="t"))
    assert root.find("ul/li/span").text == "grpo"
    assert any(node.get("class") == "line c2 d2" for node in root.find("svg").iter("path"))


def test_a_script_in_a_name_is_text():
    bad = "<script>alert(1)</script>"
    for picture in (
        lines([Series(bad, [Point(0, 1)]), Series("b", [])], Axis(bad), Axis(bad), title=bad, note=bad),
        bars([Bar(bad, 1.0)], Axis(bad), title=bad, names=(bad, bad)),
        heatmap([bad], [bad], [[1.0]], Axis(bad), title=bad),
    ):
        assert "<script" not in str(picture)
        assert "&lt;script" in str(picture)


def test_the_reliability_diagram_says_what_was_promised_and_what_came():
    bins = [Reliable(0.6, 0.55, 0.5, 0.6, 100), Reliable(0.9, 0.7, 0.6, 0.8, 50)]
    root = drawn(reliability(bins, title="Calibration", low=0.5))
    rows = [[cell.text for cell in row] for row in root.findall("details//tbody/tr")]
    assert rows == [["60 %", "55 %", "50 % – 60 %", "100"], ["90 %", "70 %", "60 % – 80 %", "50"]]
    assert "predicted 90 %, observed 70 %" in root.find("svg/desc").text


def test_a_heat_map_wants_a_value_for_each_cell():
    with pytest.raises(ValueError, match="expected 1 rows of 2 values"):
        heatmap(["a"], ["x", "y"], [[1.0]], Axis("v"), title="t")


# --- numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (-2.5, "−2.5"),
        (19.96, "20"),
        (1e-7, "1e-07"),
    ],
)
def test_numbers_are_written_with_three_digits_that_count(value, said):
    assert number(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0 %"), (0.5, "50 %"), (0.004, "0.4 %"), (0.996, "99.6 %"), (1.0, "100 %"), (-0.2, "−20 %")],
)
def test_shares_are_written_as_percentages(value, said):
    assert percentage(value) == said


def test_a_scale_takes_its_ends_to_its_ends():
    scale = Scale(10, 20, 100, 300)
    assert [scale(10), scale(15), scale(20)] == [100, 200, 300]


# --- style ------------------------------------------------------------------------------------------


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_white_on_black_has_the_contrast_that_the_standard_says():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_told_from_the_paper_and_text_can_be_read(theme):
    """4.5:1 for text, colours of series among it (names stand in them); WCAG 2.2, 1.4.3."""
    colour = dict(re.findall(r"--(\w+): (#\w{6})", theme))
    text = ["ink", "soft", *(f"c{i}" for i in range(8))]
    weak = {
        (a, b): contrast(colour[a], colour[b]) for a in text for b in ("paper",) if contrast(colour[a], colour[b]) < 4.5
    }
    weak |= {(a, "raised"): 0.0 for a in ("ink", "soft") if contrast(colour[a], colour["raised"]) < 4.5}
    assert weak == {}


def test_the_style_loads_nothing():
    assert not re.search(r"url\(|@import|https?:", STYLE)
