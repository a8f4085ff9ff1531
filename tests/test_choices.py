"""Choices of options: those that are none are told in one line, and those that there are can be found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wmlightning.config import CONF
from wmlightning.errors import UserError

Command = Callable[..., Any]

#: By what the line names. The options that there are follow where any would be right.
TRAIN = [
    ("logger: null is no option; one of csv, many, none,", "logger=null"),
    ("logger: False is no option; one of csv,", "logger=false"),
    ("logger: '' is no option; one of csv,", "logger="),
    ("watermark: null is no option; one of content,", "watermark=null"),
    ("watermark: null is no option; one of", "watermark@attack.overwrite.watermark=null attack=overwrite"),
    ("watermark: 'base' is no option; one of content, noise, none,", "watermark=base"),
    ("recipe: 'base' is no option; one of cifar10,", "recipe=base"),
    ("callbacks: null is no option; one of default, none", "callbacks=null"),
    ("model: null is no option; one of", "model=null"),
    ("dataset: null is no option; one of cifar10,", "dataset=null"),
    ("dataset: 5 is no option; one of cifar10,", "dataset=5"),
    ("dataset: null is no option; one of cifar10,", "-m dataset=procedural,null"),
    ("dataset: 'nowhere' is no option; one of cifar10,", "-m dataset=choice(procedural,nowhere)"),
    ("experiment: null is no option; one of asiaccs2018/fresh,", "experiment=null"),
    ("experiment: 'paper' is no option; one of asiaccs2018/fresh, asiaccs2018/marks,", "experiment=paper"),
    ("experiment: 'paper' is no option; one of asiaccs2018/fresh,", "experiment=[asiaccs2018/fresh,paper]"),
    ("debug: null is no option; one of fast_dev_run, overfit, or leave it out", "debug=null"),
    ("hydra/launcher: null is no option; one of basic,", "hydra/launcher=null"),
    ("hydra: null is no option; one of", "hydra=null"),
    ("paths: null is no option; one of default", "paths=null"),
    ("attack: null is no option; one of", "attack=null"),
    ("hydra.searchpath: hydra.searchpath must be a list of strings. Got: 3; ", "hydra.searchpath=3 seed=1"),
    ("--config-dir: ", "--config-dir=nowhere model=mine"),
    ("judge: it is no setting", "judge"),
    ("seed=[1: it is no setting", "seed=[1"),
    ("=3: it sets nothing", "=3"),
    ("trainer._target_: None is no Trainer; lightning.pytorch.Trainer", "~trainer"),
    ("logger: None is no set of options; logger=none", "~logger"),
    ("logger.csv: NoneType is no logger of Lightning's; ", "logger.csv=null"),
    ("data_dir: it is left out; give it a value", "~paths"),
    ("runs_dir: it is left out; give it a value", "~runs_dir"),
    ("force: it is left out; give it a value", "~force"),
    ("judge.n_strangers: it is left out; give it a value", "~judge.n_strangers"),
    ("recipe.augment: it is left out; give it a value", "~recipe.augment"),
    ("dataset.mean: it is left out; give it a value", "~dataset.mean"),
    ("watermark.n_marks: it is left out; give it a value", "~watermark.n_marks"),
    ("trainer.max_epoch: there is no such option; trainer.max_epochs\n", "trainer.max_epoch=3"),
    ("max_epochs: there is no such option; trainer.max_epochs\n", "max_epochs=3"),
    ("trainer.lr: there is no such option; recipe.optimizer.lr\n", "experiment=asiaccs2018/fresh trainer.lr=3"),
    ("watermrk: there is no such option; watermark\n", "watermrk.text=A"),
    ("watermark.text: there is no such option; one of n_triggers, ", "watermark.text=A"),
    ("watermark.strength: there is no such option; one of n_triggers, ", "watermark=content watermark.strength=1"),
    ("dataset.a: there is no such option; one of name, source, ", "dataset={a:1}"),
    ("seed.x: there is no such option; seed itself, which holds no options", "seed.x=1"),
    ("hydra.run.dirr: there is no such option; hydra.run.dir\n", "hydra.run.dirr=x"),
    ("lr: there is no such option; recipe.optimizer.lr\n", "-m seed=1,2 lr=3"),
    ("lr: there is no such option; recipe.optimizer.lr\n", "seed=1,2 -m lr=3"),
    ("lr: there is no such option; recipe.optimizer.lr\n", "--cfg job lr=3"),
    ("watermark: noise,content are several values; -m to sweep over them", "watermark=noise,content"),
    ("seed: range(1,3) are several values; -m to sweep over them", "seed=range(1,3)"),
    ("+dataset=mnist: it is there already; dataset=mnist\n", "+dataset=mnist"),
    ("+seed=3: it is there already; seed=3\n", "+seed=3"),
    ("++dataset=mnist: it is there already; dataset=mnist\n", "++dataset=mnist"),
    ("~foo: 'foo' does not exist; leave it out", "~foo"),
    ("~watermark.strength=99: The value of 'watermark.strength' is ", "~watermark.strength=99"),
    ("dataset: glob(zz*) is nothing; at least one value", "-m dataset=glob(zz*)"),
    ("dataset@x=mnist: Could not override 'dataset@x'; ", "dataset@x=mnist"),
    ("seed: Interpolation key 'foo' not found", "seed=${foo}"),
    ("nowhere: Cannot find primary config 'nowhere'. ", "--config-name=nowhere"),
    ("--cfg: --multirun is said too; one of them", "--cfg job -m seed=1,2"),
    ("--resolve: there is nothing to show; --cfg job --resolve", "--resolve"),
]
VERIFY = [
    ("suspect: null is no option; one of callable,", "suspect=null"),
    ("suspect: 'http' is no option; one of callable, json_api,", "suspect=http"),
    ("logger: null is no option; one of csv, many, none,", "logger=null"),
    ("suspect: it is left out; give it a value", "~suspect"),
    ("alpha: it is left out; give it a value", "~alpha"),
    ("aplha: there is no such option; alpha\n", "aplha=0.1"),
    ("suspect.url: there is no such option; one of _target_, path, ", "suspect=network suspect.url=x"),
]
SERVE = [
    ("hydra/job_logging: null is no option; one of", "hydra/job_logging=null"),
    ("port: it is left out; give it a value", "~port"),
    ("prot: there is no such option; port\n", "prot=1"),
]


def told(done: Any, code: int, line: str) -> None:
    assert done.code == code, str(done)
    assert len(done.err.splitlines()) == 1, str(done)
    assert done.err.startswith(f"error: {line}"), str(done)


@pytest.mark.parametrize(("line", "typed"), TRAIN, ids=[typed for _, typed in TRAIN])
def test_training(main: Command, runs: Path, line: str, typed: str) -> None:
    told(main(*typed.split()), 1, line)
    assert not runs.exists()


@pytest.mark.parametrize(("line", "typed"), VERIFY, ids=[typed for _, typed in VERIFY])
def test_verifying(verify: Command, line: str, typed: str) -> None:
    told(verify("key=owner.key", *typed.split()), 3, line)


@pytest.mark.parametrize(("line", "typed"), SERVE, ids=[typed for _, typed in SERVE])
def test_serving(in_process: Command, line: str, typed: str) -> None:
    from wmlightning.ownership.serve import serve

    told(in_process(serve, "run=x", typed), 1, line)


def test_a_watermark_without_a_target_is_none(composed: Command) -> None:
    from wmlightning.job import prepare

    with pytest.raises(UserError, match=r"^watermark: it names no watermark; "):
        prepare(composed("watermark=base", "dataset=procedural"))


def test_choices_of_the_users_own(main: Command, tmp_path: Path, runs: Path) -> None:
    for place in ("mine", "more"):
        (tmp_path / place / "experiment" / "deep").mkdir(parents=True)
        (tmp_path / place / "experiment" / "deep" / f"{place}.yaml").write_text("# @package _global_\nseed: many\n")
    places = ("--config-dir", "mine", f"hydra.searchpath=[file://{tmp_path}/more]")
    for chosen in ("mine", "more"):
        told(main(*places, f"experiment=deep/{chosen}"), 1, "seed: 'many' is out of range")
    told(main(*places, "experiment=deep/none"), 1, "experiment: 'deep/none' is no option; one of asiaccs2018/fresh, ")


@pytest.mark.parametrize("place", ["--config-path={}/whole", "--config-name=mine"])
def test_choices_of_another_main_config(main: Command, tmp_path: Path, place: str) -> None:
    """One that stands in for ours, or names further folders."""
    models = tmp_path / "whole" / "model"
    shutil.copytree(CONF, tmp_path / "whole")
    (models / "mine.yaml").write_text("defaults: [small_cnn]\n")
    (tmp_path / "mine.yaml").write_text(f"defaults: [train]\nhydra: {{searchpath: ['file://{tmp_path}/whole']}}\n")
    told(main("--config-dir=.", place.format(tmp_path), "model=mine", "seed=many"), 1, "seed: 'many' is out of range")
    models.joinpath("mine.yaml").unlink()
    told(main("--config-dir=.", place.format(tmp_path), "model=mine", "seed=many"), 1, "model: 'mine' is no option; ")


def test_what_editors_leave_beside_choices_is_none(main: Command, tmp_path: Path) -> None:
    (models := tmp_path / "model").mkdir()
    (models / "mine.yaml").write_text("defaults: [small_cnn]\n")
    (models / ".#mine.yaml").symlink_to("me@here.123")  # Emacs'
    (models / "._mine.yaml").write_bytes(b"\xff")  # of a Mac
    (models / ".ipynb_checkpoints").mkdir()
    (models / ".ipynb_checkpoints" / "mine-checkpoint.yaml").write_text("")
    (models / "folder.yaml").mkdir()
    offered = "one of mine, mobilenet_v3, resnet18, resnet9, small_cnn, vgg_cnn, or leave it out"
    told(main("--config-dir=.", "model=none"), 1, f"model: 'none' is no option; {offered}")
    told(main("--config-dir=.", "model=mine", "seed=many"), 1, "seed: 'many' is out of range")


def test_flags_may_stand_among_settings(main: Command) -> None:
    done = main("seed=4", "--cfg", "job", "trainer.max_epochs=7", "--resolve", "group=--seed")
    assert done.code == 0, str(done)
    assert {"seed: 4", "group: --seed", "  max_epochs: 7"} <= set(done.out.splitlines())


def test_help_shows_what_can_be_chosen(main: Command) -> None:
    out = main("--help").out
    assert "experiment: asiaccs2018/fresh, asiaccs2018/marks, " in out
    assert "watermark: content, noise, none, unrelated\n" in out
    assert "recipe: cifar10, cifar10_long, " in out
    assert "\nrecipe/part" not in out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("experiment=asiaccs2018/p", "experiment=asiaccs2018/paper"),
        ("exp", "experiment="),
        ("watermark=", "watermark=content watermark=noise watermark=none watermark=unrelated"),
        ("hydra/launcher=j", "hydra/launcher=joblib"),
    ],
)
def test_completion(train: Command, tmp_path: Path, line: str, offered: str) -> None:
    done = train("-sc", "query=bash", runs=tmp_path, cwd=tmp_path, COMP_LINE=f"train.py {line}")
    assert done.out.strip() == offered, str(done)


def test_sweep_over_all_options(main: Command, small: list[str], runs: Path) -> None:
    done = main("-m", *small, "watermark=glob([n*,b*])")
    assert done.code == 0, str(done)
    (plan,) = runs.glob("multirun/*/jobs/plan.json")
    jobs = json.loads(plan.read_text())["jobs"]
    assert [job[-1] for job in jobs] == ["watermark=noise", "watermark=none"]


# -- the home --------------------------------------------------------------------------------------------------------


def test_paths_at_home(main: Command, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed with and without quotes, in the environment and in files: shells resolve none of these."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WML_RUNS_DIR", "~/runs")
    where = ["key=~/owner.key", 'callbacks.gallery.path="~/sheet.png"', "logger.csv.save_dir=~/logs"]
    assert main(*small, *where).code == 0
    assert main("-m", *small, "force=true").code == 0
    assert {path.name for path in (tmp_path / "home").iterdir()} >= {"runs", "owner.key", "sheet.png", "logs"}
    assert list((tmp_path / "home" / "runs").glob("multirun/*/jobs/plan.json"))
    assert not list(tmp_path.glob("**/~"))


@pytest.mark.parametrize(
    ("key", "typed"),
    [
        ("data_dir", "dataset=mnist ++dataset.source.download=false data_dir=~/data"),
        ("dataset.root", "dataset=image_folder dataset.root='~/pictures'"),
        ("watermark.logo", "watermark=content watermark.logo=~/logo.png"),
        ("attacker.root", "attack=prune attacker.data=image_folder attacker.root=~/pictures"),
        ("victim", "victim=~/run attack=prune"),
        ("start", "start=~/run"),
    ],
)
def test_paths_that_are_not_at_home(main: Command, tmp_path: Path, key: str, typed: str) -> None:
    done = main(*typed.split())
    assert done.code == 1, str(done)
    assert done.errors[0].startswith(f"error: {key}: "), str(done)
    assert str(tmp_path) in done.errors[0], "the home"


def test_the_home_of_nobody(main: Command) -> None:
    told(main('runs_dir="~nobody_at_all/runs"', "dataset=procedural"), 1, "runs_dir: '~nobody_at_all/runs' cannot be ")
