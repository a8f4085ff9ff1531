from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from tests.helpers import many
from tests.results.cards import by_heart, finetune_card, inversion_card, leave, prune_card, read, study, train_card
from wmlightning.results.canvas import COLOURS, png
from wmlightning.results.curves import curves
from wmlightning.results.figures import write_figures
from wmlightning.results.front import pareto_front
from wmlightning.results.pareto import pareto
from wmlightning.results.table import aggregate

NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, float("nan")]) | st.floats(-10, 100)


def labels(figure: Figure) -> list[str]:
    return [text.get_text().strip() for text in figure.legends[0].get_texts()]


# -- the front -------------------------------------------------------------------------------------------------------


@many
@given(points=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    front = pareto_front([lost for lost, _ in points], [left for _, left in points])
    whole = [point for point in points if not np.isnan(point).any()]
    expected = [point in whole and not any(beats(other, point) for other in whole) for point in points]
    assert front.tolist() == expected


def test_a_front_by_hand() -> None:
    lost, left = [0, 1, 2, 2, 3, 0, -1], [90, 50, 50, 10, 20, 90, float("nan")]
    assert pareto_front(lost, left).tolist() == [True, True, False, True, False, True, False]


# -- curves ----------------------------------------------------------------------------------------------------------


def test_one_figure_an_attack_and_one_panel_a_watermark_and_data_set(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0, 1), datasets=("mnist", "cifar10"))
    found = curves(aggregate(read(tmp_path)))
    assert sorted(found) == ["finetune", "prune"]
    for figure in found.values():
        assert len(figure.axes) == 2 * 2
        assert [axes.get_title() for axes in figure.axes[:2]] == ["no watermark", "noise"]
        assert all(axes.get_ylim()[0] <= 0 and axes.get_ylim()[1] >= 100 for axes in figure.axes)
        assert {"no watermark", "paper", "negatives", "new triggers", "clean images", "decoys"} <= set(labels(figure))
    assert {axes.get_xscale() for axes in found["finetune"].axes} == {"log"}
    assert {axes.get_xscale() for axes in found["prune"].axes} == {"linear"}
    assert found["prune"].axes[-1].get_xlabel() == "share of weights pruned"
    assert found["prune"].axes[0].get_ylabel() == "cifar10\naccuracy (%)"


def test_lines_are_the_means_from_the_untouched_model_on(tmp_path: Path) -> None:
    for seed in (0, 1):
        leave(tmp_path, prune_card(train_card(seed=seed), rates=(0.9, 0.5)))
    (axes,) = curves(aggregate(read(tmp_path)))["prune"].axes
    triggers, clean, _ = axes.get_lines()
    assert list(triggers.get_xdata()) == [0, 0.5, 0.9]
    assert list(triggers.get_ydata()) == pytest.approx([99, 99 * (1 - 0.5**5), 99 * (1 - 0.5 * 0.9**4)])
    assert list(clean.get_ydata()) == pytest.approx([90.5, 90.5 - 5, 90.5 - 16.2])
    band = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((90 - 16.2, 91))


def test_the_untouched_model_is_a_mark_on_a_logarithmic_axis(tmp_path: Path) -> None:
    leave(tmp_path, finetune_card(train_card()))
    figure = curves(aggregate(read(tmp_path)))["finetune"]
    marks = [line for line in figure.axes[0].get_lines() if line.get_marker() == "<"]
    assert [float(line.get_ydata()[0]) for line in marks] == pytest.approx([99, 90, 5])
    assert "the untouched model" in labels(figure)


@pytest.mark.parametrize("spoilt", ["metrics", "strengths", "both"])
def test_a_logarithmic_axis_with_nothing_on_it_stops_no_other_figure(tmp_path: Path, spoilt: str) -> None:
    leave(tmp_path / "runs", prune_card(train_card()))
    card = finetune_card(train_card())
    for row in card["curve"]:
        row["metrics"] = row["metrics"] if spoilt == "strengths" else dict.fromkeys(row["metrics"])
        row["strength"] *= 1 if spoilt == "metrics" else -1
    leave(tmp_path / "runs", card)
    out = tmp_path / "out"
    out.mkdir()
    written = write_figures(read(tmp_path / "runs"), out)
    assert sorted(path.name for path in written) == ["curve-finetune.png", "curve-prune.png", "pareto.png"]
    (axes,) = curves(aggregate(read(tmp_path / "runs")))["finetune"].axes
    assert axes.get_xscale() == "log" and 0 < axes.get_xlim()[0] < axes.get_xlim()[1]


def test_trained_triggers_are_drawn_and_named_where_they_count(tmp_path: Path) -> None:
    for card in by_heart():
        leave(tmp_path, card)
    figure = curves(aggregate(read(tmp_path)))["finetune"]
    assert max(figure.axes[0].get_lines()[0].get_ydata()) == pytest.approx(95)
    assert "new triggers; with random labels: trained triggers" in labels(figure)
    figure = pareto(aggregate(read(tmp_path), every_epoch=True))["pareto"]
    assert figure.axes[0].get_title() == "key: paper, random labels\n(trained triggers)"
    assert figure.axes[0].get_lines()[0].get_ydata().min() == pytest.approx(70)


def test_settings_have_figures_of_their_own(tmp_path: Path) -> None:
    card = prune_card(train_card())
    low, high = (prune_card(train_card(), settings={"lr": lr})["curve"] for lr in (0.1, 0.2))
    leave(tmp_path, {**card, "curve": low + high})
    found = curves(aggregate(read(tmp_path)))
    assert sorted(found) == ["prune-lr=0.1", "prune-lr=0.2"]
    for figure in found.values():
        assert len(figure.axes[0].get_lines()[0].get_xdata()) == 3  # both from the same untouched model


def test_a_figure_of_some_settings_leaves_out_models_that_had_others(tmp_path: Path) -> None:
    for dataset, lr in (("mnist", 0.1), ("cifar10", 0.2)):
        leave(tmp_path, prune_card(train_card(dataset), settings={"lr": lr}))
    found = curves(aggregate(read(tmp_path)))
    assert {name: [axes.get_ylabel() for axes in figure.axes] for name, figure in found.items()} == {
        "prune-lr=0.1": ["mnist\naccuracy (%)"],
        "prune-lr=0.2": ["cifar10\naccuracy (%)"],
    }


def test_a_large_study_has_several_pages(tmp_path: Path) -> None:
    for i in range(8):
        leave(tmp_path, prune_card(train_card(f"set{i}")))
    found = curves(aggregate(read(tmp_path)))
    assert {name: len(figure.axes) for name, figure in found.items()} == {"prune": 6, "prune-2": 2}


def test_keys_keep_their_colours(tmp_path: Path) -> None:
    for key in ("paper", "negatives"):
        leave(tmp_path, prune_card(train_card(key=key)))
    leave(tmp_path, finetune_card(train_card(key="negatives")))
    found = curves(aggregate(read(tmp_path)))
    both = [line.get_color() for line in found["prune"].axes[0].get_lines()]
    alone = [line.get_color() for line in found["finetune"].axes[0].get_lines()]
    assert set(both) == set(COLOURS[:2])
    assert set(alone) == {COLOURS[1]}


# -- the bargain -----------------------------------------------------------------------------------------------------


def test_one_panel_a_key_and_one_point_a_surrogate(tmp_path: Path) -> None:
    study(tmp_path, seeds=(0, 1))
    figure = pareto(aggregate(read(tmp_path), every_epoch=True))["pareto"]
    assert [axes.get_title() for axes in figure.axes] == ["key: paper", "key: negatives"]
    for axes in figure.axes:
        assert sum(len(dots.get_offsets()) for dots in axes.collections) == 2 + 4  # of two attacks, after every epoch
        front = axes.get_lines()[0]
        assert front.get_xdata().min() == 0  # doing nothing costs nothing
        assert list(front.get_ydata()) == sorted(front.get_ydata(), reverse=True)
    assert {"noise", "finetune", "prune", "best for the thief", "untouched model"} <= set(labels(figure))


def test_longer_attacks_are_larger_points(tmp_path: Path) -> None:
    leave(tmp_path, prune_card(train_card(), seconds=1.0))
    leave(tmp_path, finetune_card(train_card()))
    (axes,) = pareto(aggregate(read(tmp_path), every_epoch=True))["pareto"].axes
    longer, shorter = (dots.get_sizes().max() for dots in axes.collections)
    assert longer > shorter


def test_no_bargain_without_a_watermark(tmp_path: Path) -> None:
    leave(tmp_path, prune_card(train_card(watermark="none")))
    assert pareto(aggregate(read(tmp_path), every_epoch=True)) == {}


# -- files -----------------------------------------------------------------------------------------------------------


def test_figures_are_pictures(tmp_path: Path) -> None:
    study(tmp_path / "runs", seeds=(0, 1))
    out = tmp_path / "out"
    out.mkdir()
    written = write_figures(read(tmp_path / "runs"), out)
    assert sorted(path.name for path in written) == ["curve-finetune.png", "curve-prune.png", "pareto.png"]
    assert sorted(out.iterdir()) == sorted(written)
    for path in written:
        with Image.open(path) as picture:
            assert picture.width > 600 and picture.height > 400
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


def test_names_that_mean_something_elsewhere(tmp_path: Path) -> None:
    names = ["../../up", "a/b", "a?b", "$x_1$ \\frac{1", "_hidden", "A" * 200]
    for i, name in enumerate(names):
        victim = train_card()
        victim["config"]["watermark"]["_target_"] = f"x.{name}"
        leave(tmp_path / "runs", {**prune_card(victim), "attack": name, "fingerprint": f"{i}"}, f"{i}")
    out = tmp_path / "out"
    out.mkdir()
    written = write_figures(read(tmp_path / "runs"), out)
    assert len({path.name for path in written}) == len(written) == len(names) + 1
    assert sorted(out.iterdir()) == sorted(written)
    assert all(len(path.name) < 100 for path in written)


def test_a_hidden_name_is_in_the_legend(tmp_path: Path) -> None:
    victim = train_card()
    victim["config"]["watermark"]["_target_"] = "_ghost"
    leave(tmp_path, prune_card(victim))
    assert "_ghost" in labels(pareto(aggregate(read(tmp_path), every_epoch=True))["pareto"])


def test_the_legend_fits(tmp_path: Path) -> None:
    for marks in range(1, 10):
        victim = train_card()
        victim["config"]["watermark"]["n_marks"] = marks
        leave(tmp_path, {**prune_card(victim), "fingerprint": f"{marks}"}, f"{marks}")
    figure = curves(aggregate(read(tmp_path)))["prune"]
    width, _ = Image.open(io.BytesIO(png(figure))).size
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0


def test_a_thief_may_stop_after_any_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, finetune_card(train_card(), rates=(0.1,), epochs=3))
    drawn = []

    def noted(summary: pd.DataFrame) -> dict[str, Figure]:
        drawn.append(summary)
        return pareto(summary)

    monkeypatch.setattr("wmlightning.results.figures.pareto", noted)
    write_figures(read(tmp_path), tmp_path)
    assert [sum(~summary["is_victim"]) for summary in drawn] == [3]


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert write_figures(read(tmp_path), tmp_path) == []
    leave(tmp_path, inversion_card(train_card()))
    assert write_figures(read(tmp_path), tmp_path) == []
