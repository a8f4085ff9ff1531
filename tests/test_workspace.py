"""The W&B workspace as code: what it names is what was logged; and the sweep that W&B's agent runs."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from tests.conftest import REPO
from tests.helpers import few
from tests.wandb_files import Logged, runs_below
from wmlightning.attacks.base import DetectionAttack, RemovalAttack
from wmlightning.errors import UserError
from wmlightning.workspace import attacks_in, build, main

OURS = attacks_in([REPO / "conf"])
KINDS = {"line": "Run History Line Plot", "scatter": "Scatter Plot", "bar": "Bar Chart", "table": "Weave"}
KINDS["custom"] = "Vega2"


def view(**options: Any) -> dict[str, Any]:
    return build("lab/wmlightning", **options)._spec


def sections(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {s["name"]: s["panels"] for s in spec["spec"]["section"]["panelBankConfig"]["sections"]}


def panels(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    found = [p for panels in sections(spec).values() for p in panels if p["viewType"] == KINDS[kind]]
    return [panel["config"] for panel in found]


def columns(spec: dict[str, Any]) -> list[str]:
    return list(spec["spec"]["section"]["runSets"][0]["runFeed"]["columnOrder"])


def key_of(table: dict[str, Any]) -> str:
    return str(table["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"])


def test_a_section_for_each_attack_that_draws_a_curve() -> None:
    found = sections(view())
    assert set(OURS) >= {"prune", "finetune", "inversion"}
    for name, attack in OURS.items():
        assert (f"Attack: {name}" in found) == issubclass(attack, RemovalAttack)
    curves = [panel["config"] for panel in found["Attack: finetune"]]
    assert len(curves) == 4
    assert {curve["xAxis"] for curve in curves} == {"attack/finetune/strength"}
    assert all(curve["xLogScale"] and curve["xAxisTitle"] == "learning rate" for curve in curves)
    assert all(curve["groupBy"] == "about.value.label" for curve in curves)
    assert not any(panel["config"]["xLogScale"] for panel in found["Attack: prune"])


def test_every_surrogate_is_a_point() -> None:
    (chart,) = panels(view(), "custom")
    assert (chart["panelDefId"], chart["fieldSettings"]) == (
        "wandb/scatter/v0",
        {"x": "clean_lost", "y": "kept"},
    )
    assert '"attack/surrogates"' in json.dumps(chart["userQuery"])


def test_a_study_with_several_seeds_has_room() -> None:
    assert '"maxRuns": 1000' in json.dumps(view())


def test_an_attack_of_ones_own_gets_a_section(tmp_path: Path) -> None:
    (tmp_path / "attack").mkdir()
    yaml_file = tmp_path / "attack" / "grind.yaml"
    yaml_file.write_text("# @package attack.grind\n_target_: wmlightning.attacks.prune.Prune\nrates: [0.5]\n")
    assert "Attack: grind" in sections(view(configs=[tmp_path]))
    yaml_file.write_text("_target_: nowhere.Grind\n")
    with pytest.raises(UserError, match=r"^attack\.grind: there is no nowhere\.Grind"):
        view(configs=[tmp_path])


def test_the_group_is_filtered_for_and_named() -> None:
    filters = view(group="sweep-2026-11-23_12-00-00-000001")["spec"]["section"]["runSets"][0]["filters"]["filters"]
    assert [(f["key"], f["op"], f["value"]) for f in filters] == [
        ({"section": "run", "name": "group"}, "=", "sweep-2026-11-23_12-00-00-000001")
    ]
    assert view(group="robbery")["displayName"] == "wmlightning robbery"
    assert view(group="robbery", name="court")["displayName"] == "court"
    assert not view()["spec"]["section"]["runSets"][0]["filters"]["filters"]


@few
@given(group=st.text("ab=<>'\"\\ ()/-é\0\n", min_size=1, max_size=8))
def test_a_group_is_filtered_for_as_it_is_or_refused(group: str) -> None:
    try:
        filters = view(group=group, name="view")["spec"]["section"]["runSets"][0]["filters"]["filters"]
    except UserError as error:
        assert str(error).startswith("group: ")
        assert set(group) & set("=<>'\"\\\0\n"), "plain text is no mistake"
    else:
        assert [item["value"] for item in filters] == [group]


@pytest.mark.parametrize("project", ["", "lab", "lab/", "/wmlightning", "lab/a/b"])
def test_a_project_has_an_entity(project: str) -> None:
    with pytest.raises(UserError, match=r"^project: .* is none; ENTITY/PROJECT"):
        build(project)


def test_dry_run_prints_what_would_be_saved(capsys: pytest.CaptureFixture[str], no_account: None) -> None:
    assert main(["lab/wmlightning", "--group", "robbery", "--dry-run"]) == 0
    spec = json.loads(capsys.readouterr().out)
    assert (spec["entity"], spec["project"]) == ("lab", "wmlightning")
    assert list(sections(spec)) == list(sections(view()))


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_saving_needs_an_account(capsys: pytest.CaptureFixture[str], no_account: None) -> None:
    assert (
        error_of(capsys, "lab/wmlightning") == "error: WANDB_API_KEY: there is none; `wandb login` first, or --dry-run"
    )


def test_without_the_library_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "wmlightning.panels", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb_workspaces"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    line = error_of(capsys, "lab/wmlightning", "--dry-run")
    assert line == "error: workspace: wandb_workspaces is not installed; pip install 'wmlightning[wandb]'"


def test_saves_what_it_built_and_tells_in_a_line_what_w_and_b_has_against_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb_workspaces.workspaces.interface as library

    sent = []

    def take(saved: Any) -> dict[str, Any]:
        sent.append(saved)
        return {"upsertView": {"view": {"name": "nw-abc-v", "id": "abc"}}}

    def refuse(_: Any) -> dict[str, Any]:
        raise wandb.errors.CommError("entity lab not found")

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(library.wandb, "Api", lambda: None)
    monkeypatch.setattr(library, "get_app_url", lambda _: "https://example.org")
    monkeypatch.setattr(library.internal, "upsert_view2", take)
    assert main(["lab/wmlightning", "--name", "court"]) == 0
    assert [(saved.entity, saved.project, saved.display_name) for saved in sent] == [("lab", "wmlightning", "court")]
    capsys.readouterr()
    monkeypatch.setattr(library.internal, "upsert_view2", refuse)
    assert "project: W&B does not take the workspace (entity lab not found)" in error_of(capsys, "lab/wmlightning")


# -- what it names is what was logged --------------------------------------------------------------------------------

#: Of our attacks; what is logged of the others goes the same way, under their names.
DONE = ("finetune", "inversion", "prune")
SHORT = [
    f"attack=[{','.join(DONE)}]",
    "attack.prune.rates=[0.3,0.9]",
    "attack.finetune.learning_rates=[0.001,0.1]",
    "attack.finetune.epochs=1",
    "attack.inversion.steps=5",
    "attack.inversion.restarts=1",
    "judge.n_strangers=5",
    "judge.unmarked=false",
    "judge.keep_surrogates=false",
]
MARKS = ["watermark.n_marks=4", "watermark.n_triggers=60", "watermark.n_decoys=2"]


@pytest.fixture(scope="module")
def logged(
    train: Callable[..., Any], small: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Logged]]:
    """A training, three attacks and a verification of two suspects, logged by W&B on a machine without an account."""
    cwd = tmp_path_factory.mktemp("logged")
    wandb_on = ["logger=wandb", "group=robbery"]
    where: dict[str, Any] = {"runs": cwd / "runs", "cwd": cwd, "HOME": str(cwd)}
    done = train(*small, *SHORT, *MARKS, *wandb_on, "callbacks=none", "key=owner.key", **where)
    assert done.code == 0, str(done)
    (run,) = (path.parent for path in (cwd / "runs").glob("*/card.json"))
    weights = load_file(run / "model.safetensors")  # of another model: the same weights are the same suspect
    save_file({name: 0.5 * values for name, values in weights.items()}, run / "other.safetensors")
    suspects = f"suspects=[{{path: {run}}}, {{path: {run / 'other.safetensors'}}}]"
    program = (sys.executable, str(REPO / "verify.py"))
    done = train("key=owner.key", suspects, "queries=8", "out=asked", *wandb_on, program=program, **where)
    assert done.code in (0, 1, 2), str(done)
    assert not done.errors
    yield runs_below(cwd)


@pytest.mark.slow
def test_every_metric_that_a_panel_names_was_logged(logged: list[Logged]) -> None:
    spec = view(group="robbery")
    lines = panels(spec, "line")
    removals = {name for name, attack in OURS.items() if issubclass(attack, RemovalAttack)}
    assert len(lines) == 3 + 4 * len(removals)
    for line in lines:
        (metric,) = line["metrics"]
        if metric.split("/")[1] in removals - set(DONE):
            continue
        places = [run for run in logged for row in run.history if {line["xAxis"], metric} <= set(row)]
        assert len(places) >= (2 if metric.startswith("attack/") else 1), line
        told = {run.config["about"]["label"].split(";")[0] for run in places}
        assert told == {"procedural smallcnn: noise, 4 marks, n_decoys=2, n_triggers=60"}
    (scatter,) = panels(spec, "scatter")
    axes = [scatter["xAxis"].removeprefix("summary:"), scatter["yAxis"].removeprefix("summary:")]
    assert sum(set(axes) <= set(run.summary) for run in logged) == 2, "a point for each removal attack"
    (chart,) = panels(spec, "custom")
    for run in (run for run in logged if "attack/surrogates" in run.summary):
        assert set(chart["fieldSettings"].values()) <= set(run.table("attack/surrogates")["columns"])
    for bar in panels(spec, "bar"):
        assert any(metric in run.summary for metric in bar["metrics"] for run in logged), bar
    for table in panels(spec, "table"):
        assert any(run.table(key_of(table))["data"] for run in logged if key_of(table) in run.summary), table


@pytest.mark.slow
def test_every_column_of_the_run_table_was_logged(logged: list[Logged]) -> None:
    own = [name for name in columns(view()) if not name.startswith("run:")]
    assert len(own) > 12
    for name in own:
        section, path = name.split(":")
        if section == "summary":
            assert any(path in run.summary for run in logged), name
        else:
            head, value, *rest = path.split(".")
            assert value == "value"
            assert any("/".join(rest) in run.config.get(head, {}) for run in logged), name


@pytest.mark.slow
def test_each_piece_of_work_is_a_run_of_the_group(logged: list[Logged]) -> None:
    assert {run.group for run in logged} == {"robbery"}
    assert sorted(run.job_type for run in logged) == [*["attack"] * 3, "train", *["verify"] * 2]
    attacks = [run for run in logged if run.job_type == "attack"]
    assert {run.config["about"]["attack"] for run in attacks} == set(DONE)
    for run in attacks:
        name = run.config["about"]["attack"]
        if issubclass(OURS[name], DetectionAttack):
            assert "attack/score" in run.summary
        else:
            drawn_over = run.steps[f"attack/{name}/*"]
            assert [row[drawn_over] for row in run.history if drawn_over in row] == [
                pytest.approx(value) for value in {"finetune": (0.001, 0.1)}.get(name, (0.3, 0.9))
            ]


@pytest.mark.slow
def test_command_lines_stay_at_home(logged: list[Logged]) -> None:
    assert not [run.name for run in logged if b"owner.key" in run.uploaded()]


# -- the sweep -------------------------------------------------------------------------------------------------------


def test_the_sweep_calls_the_program_as_hydra_wants_it(repo: Path, composed: Callable[..., DictConfig]) -> None:
    sweep = yaml.safe_load((repo / "experiments" / "sweep.yaml").read_text())
    assert (repo / sweep["program"]).is_file()
    assert sweep["command"] == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    assert sweep["metric"]["name"] in columns_of_summary()
    choices = {name: node.get("values", [node.get("value")]) for name, node in sweep["parameters"].items()}
    jobs = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    assert len(jobs) > 8
    for job in (jobs[0], jobs[-1]):
        typed = create_sweep_command_args({"args": {name: {"value": value} for name, value in job.items()}})
        cfg = composed(*typed["args_no_hyphens"])
        assert cfg.dataset.name == job["dataset"]
        assert list(cfg.attack) == [job["attack"]]
        assert list(cfg.logger) == ["wandb"]
        assert (cfg.seed, cfg.group) == (job["seed"], job["group"])
        assert cfg.watermark._target_.split(".")[-2] == job["watermark"]


@pytest.mark.slow
def test_under_an_agent_a_job_logs_to_the_sweeps_run(
    train: Callable[..., Any], small: list[str], tmp_path: Path
) -> None:
    """The agent fixes what it chose in the run's config; names to group by stay whole."""
    chosen = {"watermark": "noise", "dataset": "procedural", "attack": "prune"}
    (tmp_path / "chosen.yaml").write_text(
        yaml.safe_dump({"wandb_version": 1, **{name: {"value": value} for name, value in chosen.items()}})
    )
    agent = {"WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "first", "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "chosen.yaml")}
    typed = [*small, "watermark=noise", "attack=prune", "attack.prune.rates=[0.5]", "callbacks=none", "logger=wandb"]
    where: dict[str, Any] = {"runs": tmp_path / "runs", "cwd": tmp_path, "HOME": str(tmp_path)}
    done = train(*typed, **where, **agent, WANDB_MODE="offline")
    assert done.code == 0, str(done)
    runs = runs_below(tmp_path)
    assert [(run.id, run.sweep) for run in runs] == [("first", "abc")] * 2
    assert all(run.config["watermark"] == "noise" for run in runs)
    assert {run.config["about"]["label"].split(";")[0] for run in runs} == {"procedural smallcnn: noise, negatives"}
    (attack,) = (run for run in runs if run.job_type == "attack")
    assert "attack/trigger_new_acc" in attack.summary


def columns_of_summary() -> set[str]:
    return {name.removeprefix("summary:") for name in columns(view())}
