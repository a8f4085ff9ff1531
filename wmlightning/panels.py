"""What a W&B workspace shows of trainings, attacks and verdicts: the run table's columns, and sections of panels.

Every metric that is named here is one that :mod:`wmlightning.loggers` or the training logs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.reports.v2 import interface as wr

from wmlightning.attacks.base import Attack, RemovalAttack
from wmlightning.errors import UserError

#: What results are told apart by, and what came out, in the order of the table's columns: of a training, of an
#: attack (the thief's best bargain, or how much of the secret was found), of a verification.
ABOUT = ("dataset", "model", "watermark", "key", "attack")
SUMMARY = {
    "train": ("test/clean_acc", "test/source_acc", "test/trigger_acc", "test/trigger_new_acc", "test/decoy_acc"),
    "attack": (
        *("attack/strength", "attack/clean_acc", "attack/kept", "attack/trigger_new_acc", "attack/decoy_acc"),
        *("attack/score", "attack/p_value"),
    ),
    "verify": ("verify/decision", "verify/p_value", "verify/p_adjusted", "verify/queries"),
}
_TRAINING = ("train/loss", "val/clean_acc", "val/trigger_acc")
_CURVES = {
    "trigger_new_acc": "new triggers that still work",
    "clean_acc": "clean accuracy",
    "trigger_acc": "trained triggers that still work",
    "decoy_acc": "decoys",
}
_KEPT = "new triggers that still work (trained ones, where each has a label of its own)"
_LABEL = wr.Config("about.label")
_MOST_RUNS = 1000  # three seeds of a study are hundreds


def workspace(
    entity: str, project: str, group: str | None, name: str, attacks: Mapping[str, type[Attack]]
) -> ws.Workspace:
    """The workspace; see :func:`wmlightning.workspace.build`."""
    runs = ws.RunsetSettings(
        filters=expr.And(expr.Metric("Group") == group) if group else "",
        order=[expr.Ordering(expr.Metric("JobType")), expr.Ordering(expr.Metric("CreatedTimestamp"), ascending=False)],
        pinned_columns=[
            *("run:displayName", "run:jobType", "run:group"),
            *(f"config:about.value.{column}" for column in ABOUT),
            *(f"summary:{column}" for columns in SUMMARY.values() for column in columns),
        ],
    )
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=_sections(attacks),
        settings=ws.WorkspaceSettings(max_runs=_MOST_RUNS),
        runset_settings=runs,
    )
    if group:
        _check_filter(made, group)
    return made


def _check_filter(made: ws.Workspace, group: str) -> None:
    """The library turns filters into Python and back, which not every text survives."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it turns into what
            items = made._spec["spec"]["section"]["runSets"][0]["filters"]["filters"]
    except (SyntaxError, ValueError):
        items = []
    if [item.get("value") for item in items] != [group]:
        raise UserError("group", f"W&B cannot filter for {group!r}", "a group without = < >, quotes and backslashes")


def _sections(attacks: Mapping[str, type[Attack]]) -> list[ws.Section]:
    removals = {name: attack for name, attack in attacks.items() if issubclass(attack, RemovalAttack)}
    training: list[wr.PanelTypes] = [_line(name, "epoch", name) for name in _TRAINING]
    return [
        _table("Verdicts", "verify/verdicts"),
        ws.Section(name="Trained models", panels=_bars(*SUMMARY["train"]), is_open=True),
        ws.Section(name="Training", panels=training),
        *(_curves(name, attack) for name, attack in removals.items()),
        ws.Section(name="What a thief pays", panels=[_surrogates(), _bargains()], is_open=True),
        _table("Surrogates", "attack/surrogates"),
        *([_detection()] if len(removals) < len(attacks) else []),
    ]


def _curves(name: str, attack: type[RemovalAttack]) -> ws.Section:
    """What each strength of an attack leaves."""
    panels: list[wr.PanelTypes] = []
    for metric, title in _CURVES.items():
        line = _line(title, f"attack/{name}/strength", f"attack/{name}/{metric}")
        line.title_x, line.log_x = attack.strength_name, attack.strength_scale == "log"
        if metric != "clean_acc":  # differences there are small
            line.range_y = (0, 1)
        panels.append(line)
    return ws.Section(name=f"Attack: {name}", panels=panels, is_open=True, layout_settings=_layout(2, 2))


def _line(title: str, x: str, y: str) -> wr.LinePlot:
    """Mean and range over the runs of one label: over seeds."""
    return wr.LinePlot(title=title, x=x, y=[y], groupby=_LABEL, groupby_aggfunc="mean", groupby_rangefunc="minmax")


def _bars(*metrics: str) -> list[wr.PanelTypes]:
    """The same of single numbers."""
    return [
        wr.BarPlot(title=name, metrics=[name], groupby=_LABEL, groupby_aggfunc="mean", groupby_rangefunc="minmax")
        for name in metrics
    ]


def _surrogates() -> wr.CustomChart:
    """A point for each row of the runs' tables of surrogates: what it costs the thief, and what it leaves."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": "attack/surrogates"}},
        chart_name="wandb/scatter/v0",
        chart_fields={"x": "clean_lost", "y": "kept"},
        chart_strings={"title": f"clean accuracy lost against {_KEPT}, all surrogates"},
    )


def _bargains() -> wr.ScatterPlot:
    """A point for each attack: what the thief's best bargain leaves of accuracy and watermark."""
    clean, left = wr.SummaryMetric("attack/clean_acc"), wr.SummaryMetric("attack/kept")
    return wr.ScatterPlot(title=f"clean accuracy against {_KEPT}, best bargains", x=clean, y=left)


def _detection() -> ws.Section:
    panels = _bars("attack/score", "attack/p_value")
    return ws.Section(name="Recovered images that look like the secret", panels=panels)


def _table(title: str, table: str) -> ws.Section:
    """The rows of all runs' tables in one."""
    panels: list[wr.PanelTypes] = [wr.WeavePanelSummaryTable(table_name=table)]
    return ws.Section(name=title, panels=panels, is_open=True, layout_settings=_layout(1, 1))


def _layout(columns: int, rows: int) -> ws.SectionLayoutSettings:
    return ws.SectionLayoutSettings(columns=columns, rows=rows)
