from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import many
from tests.report.reading import report_of
from tests.results.cards import leave, prune_card, study, train_card
from wmlightning.report.drawing import BOTTOM, LEFT, RIGHT, TOP, Axis, loss_axis, percent_axis, strength_axis

numbers = st.floats(allow_nan=False, allow_infinity=False)


def labels_fit(axis: Axis) -> bool:
    """In letters of either size: where they are large, crowded ones are left out."""
    for half, ticks in ((3.2, axis.ticks), (4.4, [tick for tick in axis.ticks if tick[0] not in axis.crowded])):
        ends = [(at - half * len(text), at + half * len(text)) for at, text in ticks]
        if not ticks or any(a[1] >= b[0] for a, b in itertools.pairwise(ends)):
            return False
    return True


@many
@given(st.lists(numbers, min_size=1, max_size=30), st.booleans())
def test_strengths_lie_in_their_order_within_the_drawing(values: list[float], log: bool) -> None:
    usable = sorted({abs(value) for value in values if value} | {1.0}) if log else sorted(set(values))
    axis = strength_axis(usable, log, "x")
    places = [axis.at(value) for value in usable]
    assert places == sorted(places)
    assert all(LEFT <= place <= RIGHT for place in places)
    assert labels_fit(axis)
    if log:
        assert axis.at(math.nan) < min(places)
        assert axis.ticks[0][1] == "none"


@many
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_losses_lie_in_their_order_within_the_drawing(values: list[float]) -> None:
    axis = loss_axis(values, "x")
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(LEFT <= place <= RIGHT for place in places)
    assert labels_fit(axis)


@many
@given(st.floats(0, 100), st.floats(0, 100))
def test_an_axis_of_per_cent_holds_what_it_is_made_for(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    axis = percent_axis("%", low, high)
    marks = [float(text) for _, text in axis.ticks]
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 6
    assert axis.at(marks[0]) == BOTTOM and axis.at(marks[-1]) == TOP
    assert TOP <= axis.at(high) <= axis.at(low) <= BOTTOM
    assert [float(text) for _, text in percent_axis("%").ticks] == [0, 25, 50, 75, 100]


def test_lines_differ_in_more_than_colour(tmp_path: Path) -> None:
    study(tmp_path)
    report = report_of(tmp_path)
    assert len(report.looks) == 3
    assert len({(look.shape, look.dash, look.hollow) for look in report.looks.values()}) == 3
    for chart in report.charts:
        for panel in chart.panels:
            first = [line.points[0] for line in panel.lines]
            assert len({x for x, _ in first}) == len(first), "symbols do not hide each other"


def test_the_thief_s_best_is_what_no_other_surrogate_beats(tmp_path: Path) -> None:
    study(tmp_path)
    rounding = 0.1  # of places
    for plot in report_of(tmp_path).plots:
        assert all(point.told.startswith("noise, mean of 2 seeds: ") for point in plot.points)
        for point in plot.points:
            others = [o for o in plot.points if o is not point and o.line == point.line]
            if point.on_front:
                assert not [o for o in others if o.x < point.x - rounding and o.y > point.y + rounding]
            else:
                assert [o for o in others if o.x <= point.x and o.y >= point.y]


def test_the_thief_s_best_is_a_mean_and_no_lucky_seed(tmp_path: Path) -> None:
    for seed, left in enumerate((0.1, 0.9)):
        card = prune_card(train_card(seed=seed), rates=(0.5,))
        card["curve"][0]["metrics"]["attack/trigger_new_acc"] = left
        leave(tmp_path, card)
    (plot,) = report_of(tmp_path).plots
    (best,) = (point for point in plot.points if point.on_front and not point.is_victim)
    assert best.cells == ["noise", "2", "prune", "0.5", "5.00", "50.0"]


def test_many_keys_of_one_watermark_look_different(tmp_path: Path) -> None:
    for i in range(12):
        card = train_card()
        card["config"]["watermark"]["strength"] = i
        leave(tmp_path, {**card, "fingerprint": f"{i}"}, f"{i}")
    looks = report_of(tmp_path).looks
    assert len(looks) == len(set(looks.values())) == 12


@pytest.mark.parametrize("most", [1, 3])
def test_a_crowd_is_thinned_but_its_front_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    for victim in study(tmp_path):
        leave(tmp_path, prune_card(victim, rates=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)))
    whole = report_of(tmp_path).plots
    monkeypatch.setattr("wmlightning.report.pareto._MOST", most)
    for full, thin in zip(whole, report_of(tmp_path).plots, strict=True):
        assert [p for p in full.points if p.on_front] == [p for p in thin.points if p.on_front]
        assert len(thin.points) + thin.left_out == len(full.points)
        assert thin.left_out > 0
