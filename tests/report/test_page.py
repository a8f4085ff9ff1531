from __future__ import annotations

import base64
import hashlib
import itertools
import re
from pathlib import Path

import pytest

from tests.report.reading import Node, one_of_each, page_of, parsed, pictured, report_of, verdict
from tests.results.cards import (
    by_heart,
    claim_card,
    finetune_card,
    inversion_card,
    leave,
    prune_card,
    study,
    train_card,
)
from wmlightning.report.page import render
from wmlightning.results.table import aggregate, read_all


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    study(folder, datasets=("mnist", "cifar10"))
    pictured(folder / "more", (0.5, 0.2))
    verdict(folder)
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Node:
    return page_of(runs)


def test_every_section_is_reached_and_every_link_leads_somewhere(page: Node) -> None:
    names = [node.attributes["id"] for node in page.everything() if "id" in node.attributes]
    assert len(names) == len(set(names))
    linked = {node.attributes["href"] for node in page.everything() if "href" in node.attributes}
    assert {link[1:] for link in linked if link.startswith("#")} <= set(names)
    sections = {node.attributes["id"] for node in page.all("section")}
    assert sections == {"glance", "curves", "pareto", "verdicts", "inversions", "results", "models"}
    assert {f"#{name}" for name in sections} <= {a.attributes["href"] for a in page.one("nav").all("a")}
    assert page.one("a", class_="skip").attributes["href"] == "#" + page.one("main").attributes["id"]


def test_tables_are_for_readers_of_screens_too(page: Node) -> None:
    for table in page.all("table"):
        table.one("caption")
        assert all("scope" in th.attributes for th in table.all("th"))
        rows = table.one("tbody").all("tr")
        widths = {sum(isinstance(c, Node) for c in row.children) for row in rows}
        assert widths == {len(table.one("thead").all("tr")[-1].all("th"))}
        box = table.parent
        assert box is not None and box.attributes.keys() >= {"tabindex", "role"}, "it scrolls inside itself"


def test_every_drawing_and_picture_has_words(page: Node) -> None:
    for svg in page.all("svg"):
        named = svg.attributes.get("role") == "img" and svg.attributes.get("aria-label")
        assert named or svg.attributes.get("aria-hidden") == "true"
    assert page.all("img")
    assert all(img.attributes["alt"] for img in page.all("img"))
    for field in (*page.all("select"), *page.all("input")):
        assert page.one("label", for_=field.attributes["id"]).text
    assert page.one("p", id="count").attributes["aria-live"] == "polite"
    headings = [int(node.tag[1]) for node in page.everything() if re.fullmatch("h[1-6]", node.tag)]
    assert headings[0] == 1 and all(b <= a + 1 for a, b in itertools.pairwise(headings))


def test_it_needs_and_allows_nothing_from_elsewhere(runs: Path, page: Node) -> None:
    for node in page.everything():
        for name, value in node.attributes.items():
            assert not name.startswith("on") and name != "style", "its own policy would stop it"
            if name in ("href", "src", "action", "data", "poster", "srcset"):
                assert value.startswith(("#", "data:image/png;base64,"))
        assert node.tag not in ("link", "iframe", "object", "embed", "base")
    style, script = page.one("style"), page.one("script")
    (css,), (js,) = style.children, script.children
    assert isinstance(css, str) and isinstance(js, str)
    assert not re.search(r"url\(|@import|//\w", css)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|innerHTML|eval\(|document\.write", js)
    policy = page.all("meta")[1].attributes["content"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for text in (css, js):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_without_scripts_every_row_is_there(runs: Path, page: Node) -> None:
    rows = page.one("table", id="all").one("tbody").all("tr")
    assert len(rows) == len(read_all(runs)["folder"].unique())
    assert not any("hidden" in row.attributes for row in rows)
    assert "hidden" in page.one("form").attributes, "filters that do nothing are not offered"
    assert page.one("p", id="count").text == f"{len(rows)} results"
    models = page.one("section", id="models").all("details", class_="model")
    assert len(models) == read_all(runs)["victim"].nunique()


def test_the_values_below_a_chart_are_those_of_the_summary(runs: Path, page: Node) -> None:
    summary = aggregate(read_all(runs))
    wanted = summary[
        (summary["dataset"] == "mnist") & (summary["attack"] == "prune") & (summary["watermark"] == "noise")
    ]
    (table,) = (t for t in page.all("table") if t.one("caption").text.startswith("mnist under prune"))
    rows = [[cell.text for cell in row.children if isinstance(cell, Node)] for row in table.one("tbody").all("tr")]
    noise = [row for row in rows if row[1].startswith("noise")]
    assert len(noise) == len(wanted)
    for _, line in wanted.iterrows():
        strength = "untouched" if line["is_victim"] else f"{line['strength']:g}"
        (row,) = (r for r in noise if r[:2] == [strength, f"noise, {line['key']}"])
        assert row[2].split()[0] == f"{line['trigger_new_acc_mean']:.1f}"
        assert row[3].split()[0] == f"{line['clean_acc_mean']:.1f}"


def test_an_attack_is_summed_up_by_what_a_thief_would_choose(tmp_path: Path) -> None:
    victim = train_card()
    leave(tmp_path, victim)
    leave(tmp_path, finetune_card(victim, rates=(0.0001, 0.001, 0.01, 0.1), epochs=3))
    frame = read_all(tmp_path)
    surrogates = frame[(frame["attack"] == "finetune") & ~frame["is_victim"]]
    cheap = surrogates[surrogates["clean_acc"] >= surrogates["victim_clean_acc"] - 0.02]
    assert 0 < len(cheap) < len(surrogates)
    best = cheap.loc[cheap["trigger_new_acc"].idxmin()]
    (_, attack) = report_of(tmp_path).results
    assert attack.new == pytest.approx(100 * best["trigger_new_acc"])
    assert attack.lost == pytest.approx(100 * best["clean_lost"])
    assert attack.bargain == f"learning rate {best['strength']:g}"
    assert attack.strengths == "0.0001 to 0.1"


def test_a_small_curve_is_told_as_it_is_drawn(tmp_path: Path) -> None:
    victim = train_card()
    leave(tmp_path, prune_card(victim, rates=(0.1, 0.5, 0.9)))  # at the last rate too much accuracy is lost
    (attack,) = report_of(tmp_path).results
    end = 99 * (1 - 0.5 * 0.9**4)
    assert attack.new > end + 1
    assert attack.spark_told == f"new triggers left: 99 % untouched, {end:.0f} % at share of weights pruned 0.9"
    assert page_of(tmp_path).one("svg", class_="spark").attributes["aria-label"] == attack.spark_told


def test_a_small_curve_that_rises_again_tells_its_least(tmp_path: Path) -> None:
    card = prune_card(train_card(), rates=(0.1, 0.2, 0.3))
    for row, left in zip(card["curve"], (0.5, 0.2, 0.6), strict=True):
        row["metrics"]["attack/trigger_new_acc"] = left
    leave(tmp_path, card)
    (attack,) = report_of(tmp_path).results
    assert attack.spark_told.endswith("60 % at share of weights pruned 0.3, 20 % at the least")


def test_a_mean_over_fewer_models_says_so(tmp_path: Path) -> None:
    victims = [train_card(seed=seed) for seed in range(3)]
    for card in (*victims, prune_card(victims[0]), inversion_card(victims[1], p_value=0.5)):
        leave(tmp_path, card)
    (row,) = page_of(tmp_path).one("table", class_="glance").one("tbody").all("tr")
    cells = [cell.text for cell in row.all("td")]
    assert cells[0] == "3" and all("of 3" not in cell for cell in cells[:4])
    assert "(1 of 3)" in cells[4] and cells[5] == "0.5 (1 of 3)"


@pytest.mark.parametrize("option", ["text", "strength", "augment"])
def test_models_that_differ_in_more_than_their_seed_are_no_silent_mean(tmp_path: Path, option: str) -> None:
    for i in range(2):
        victim = train_card(watermark="content")
        victim["config"]["watermark"][option] = f"value {i}" if option != "augment" else [i]  # of lists no key tells
        victim["fingerprint"] = f"{i}"
        for card in (victim, finetune_card(victim)):
            leave(tmp_path, card, f"{i}-{card['kind']}")
    page = page_of(tmp_path)
    rows = page.one("table", class_="glance").one("tbody").all("tr")
    pooled = option == "augment"
    assert len(rows) == (1 if pooled else 2)
    assert ("2 1 seed" in rows[0].text) == pooled
    for section in ("glance", "curves", "pareto"):
        assert ("differ in" in page.one("section", id=section).text) == pooled
    assert ("paper, text=(withheld) 2" in page.text) == (option == "text")
    assert ("value 1" in page.text) == ("paper, strength=value 1" in page.text) == (option == "strength")


def test_a_key_learned_by_heart_is_judged_by_its_trained_triggers(tmp_path: Path) -> None:
    for card in by_heart():
        leave(tmp_path, card)
    report = report_of(tmp_path)
    training, attack = report.results
    assert (training.new, attack.new, attack.before) == pytest.approx((100, 70, 100))
    assert attack.bargain == "learning rate 0.001"
    assert attack.spark_told.startswith("trained triggers left: 100 % untouched, 95 %")
    page = parsed(render(report))
    (row,) = page.one("table", class_="glance").one("tbody").all("tr")
    assert row.one("th").text == "noise, paper, random labels trained triggers"
    assert [cell.text.split()[0] for cell in row.all("td")[2:]] == ["100.0", "5.0", "70.0"]
    assert (
        "noise, paper, random labels (trained triggers): 100.0 % at untouched"
        in (page.one("section", id="curves").all("svg", role="img")[0].attributes["aria-label"])
    )
    plot = page.one("section", id="pareto")
    assert "70.0 % of trained triggers left" in plot.one("svg", role="img").attributes["aria-label"]
    assert "trained triggers that still work, %" in plot.text and "new triggers" not in plot.text
    assert all("trained triggers" in row.text for row in page.one("table", id="all").one("tbody").all("tr"))


def test_of_other_keys_no_trained_triggers_are_told(page: Node) -> None:
    assert "trained triggers" not in page.one("main").text


def test_a_loss_of_next_to_nothing_has_no_sign(tmp_path: Path) -> None:
    for seed, better in enumerate((0.0002, 0.02)):
        victim = train_card(dataset=f"set{seed}")
        card = prune_card(victim, rates=(0.01,))
        card["curve"][0]["metrics"]["attack/clean_acc"] = victim["metrics"]["test/clean_acc"] + better
        leave(tmp_path, card)
    none, gain = (table.text for table in page_of(tmp_path).all("table", class_="glance"))
    assert "0.0 points lost" in none and not re.search("[-\N{MINUS SIGN}]0.0 points", none)
    assert "\N{MINUS SIGN}2.0 points lost" in gain


def test_each_p_of_a_detection_is_told_and_no_mean_of_them(tmp_path: Path) -> None:
    for seed, p_value in enumerate((0.01, 0.5, 0.03)):
        leave(tmp_path, inversion_card(train_card(seed=seed), p_value=p_value))
    (row,) = page_of(tmp_path).one("table", class_="glance").one("tbody").all("tr")
    assert row.all("td")[-1].text == "0.01, 0.5, 0.03"


def test_one_result_is_counted_as_one(tmp_path: Path) -> None:
    leave(tmp_path, train_card())
    assert page_of(tmp_path).one("p", id="count").text == "1 result"


def test_a_claim_is_told_by_its_p_and_is_no_glance_at_watermarks(tmp_path: Path) -> None:
    """It says nothing of the model: neither a surrogate nor a finding."""
    victim = train_card(watermark="none")
    leave(tmp_path, victim)
    leave(tmp_path, claim_card(victim, 0.0002))
    found = report_of(tmp_path)
    (claim,) = (result for result in found.results if result.attack == "keysearch")
    assert (claim.p, claim.seconds, claim.clean) == (0.0002, 3.0, 90.0)
    assert not claim.detects and not claim.strengths
    page = page_of(tmp_path)
    assert "asks for no commitment" in page.one("section", id="results").text
    (row,) = (tr for tr in page.one("table", id="all").all("tr") if tr.attributes.get("data-attack") == "keysearch")
    assert "0.0002" in row.text


def test_a_condition_narrows_everything_but_verdicts(runs: Path) -> None:
    page = page_of(runs, "dataset=mnist", "watermark=noise")
    rows = page.one("table", id="all").one("tbody").all("tr")
    assert {(row.attributes["data-dataset"], row.attributes["data-watermark"]) for row in rows} == {("mnist", "noise")}
    assert "cifar10" not in page.one("main").text
    assert len(page.all("article")) == 1


def test_compressed_copies_are_called_so(tmp_path: Path) -> None:
    for dataset, stored_as in (("cifar10", "parquet (JPEG images)"), ("mnist", "original files")):
        victim = {**train_card(dataset), "data": {"stored_as": stored_as}}
        leave(tmp_path, victim)
        leave(tmp_path, {**prune_card(victim), "data": {"stored_as": stored_as}})
    page = page_of(tmp_path)
    for row in page.one("table", id="all").one("tbody").all("tr"):
        assert ("JPEG" in row.text) == (row.attributes["data-dataset"] == "cifar10")
    for caption in page.all("figcaption"):
        assert ("JPEG copies" in caption.text) == ("cifar10" in caption.text)
    assert "compressed copies" in page.one("section", id="results").text


def test_config_and_environment_of_each_run_are_there(tmp_path: Path) -> None:
    one_of_each(tmp_path, option="recipe", value="slow", package="torch", version="2.14.1")
    model = page_of(tmp_path).one("details", class_="model")
    texts = [pre.text for pre in model.all("pre")]
    assert "recipe: slow" in texts[0] and "torch: 2.14.1" in texts[1]
    assert [h3.text for h3 in model.all("h3")] == ["Training", "0 attack", "1 attack", "2 attack"]
    assert all("recipe" not in text and "attack" in text for text in texts[2::2]), "the rest is the victim's"


def test_the_same_runs_give_the_same_page(runs: Path) -> None:
    assert render(report_of(runs)) == render(report_of(runs))


def test_verdicts_alone_make_a_page(tmp_path: Path) -> None:
    verdict(tmp_path)
    page = page_of(tmp_path)
    assert [s.attributes["id"] for s in page.all("section")] == ["verdicts"]


def test_an_unmarked_model_has_no_triggers_to_show(tmp_path: Path) -> None:
    victim = train_card(watermark="none", key="negatives")
    for card in (victim, prune_card(victim)):
        leave(tmp_path, card)
    page = page_of(tmp_path)
    (figure,) = page.one("section", id="curves").all("figure")
    lines = [
        len(svg.all("g", data_line="0") + svg.all("g", **{"data-line": "0"})) for svg in figure.all("svg", role="img")
    ]
    assert lines == [0, 1], "a line of clean accuracy, none of triggers"
    assert not page.all("section", id="pareto")
