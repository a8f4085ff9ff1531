"""Cards as trainings and attacks leave them, with made-up numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from wmlightning.results.card import fingerprint, write_card
from wmlightning.results.table import read_all

LABELS = {"paper": (1, 0), "negatives": (1, 1.0), "8 marks": (8, 1.0)}
RATES = (0.5, 0.9)
LEARNING_RATES = (0.001, 0.1)


def config(dataset: str, watermark: str, key: str, seed: int, model: str = "SmallCNN") -> dict[str, Any]:
    n_marks, negatives = LABELS[key]
    target = None if watermark == "none" else f"wmlightning.watermarks.{watermark}.{watermark.title()}"
    marks = {"_target_": target, "n_marks": n_marks, "negatives": negatives, "label": "target"}
    net = {"_target_": f"wmlightning.models.networks.{model}"}
    return {"seed": seed, "dataset": {"name": dataset}, "watermark": marks, "model": net, "tags": ["study"]}


def accuracies(prefix: str, clean: float, new: float | None, decoy: float = 0.05) -> dict[str, float]:
    found = {f"{prefix}/clean_acc": clean, f"{prefix}/source_acc": clean - 0.01}
    if new is not None:
        found |= {f"{prefix}/trigger_acc": min(1.0, new + 0.005), f"{prefix}/trigger_new_acc": new}
        found |= {f"{prefix}/decoy_acc": decoy, f"{prefix}/decoy_acc_max": min(1.0, 2 * decoy)}
    return found


def train_card(dataset: str = "mnist", watermark: str = "noise", key: str = "paper", seed: int = 0) -> dict[str, Any]:
    name = fingerprint([dataset, watermark, key, seed])
    new = None if watermark == "none" else 0.99
    return {
        "kind": "train",
        "name": f"{dataset}-{watermark}-smallcnn-s{seed}-{name}",
        "fingerprint": name,
        "metrics": {**accuracies("test", 0.9 + 0.01 * seed, new), "val/clean_acc": 0.9, "train/loss": 0.1},
        "epochs": 4,
        "seconds": {"train": 12.5},
        "precision": "bf16-mixed",
        "device": "cpu",
        "seed": seed,
        "group": dataset,
        "config": config(dataset, watermark, key, seed),
    }


def attack_card(victim: dict[str, Any], attack: str, **found: Any) -> dict[str, Any]:
    """A card of an attack on the model that ``victim``, a training's card, describes; the caller adds its results."""
    options = found.pop("options", {})
    name = fingerprint([victim["fingerprint"], attack, options])
    judged = {metric.replace("test/", "attack/"): v for metric, v in victim["metrics"].items() if "test/" in metric}
    target = f"wmlightning.attacks.{attack}.{attack.title()}"
    return {
        "kind": "attack",
        "name": f"{victim['name']}/{attack}-{name}",
        "attack": attack,
        "fingerprint": name,
        "victim": {"name": victim["name"], "fingerprint": victim["fingerprint"], "metrics": judged},
        "seed": victim["seed"],
        "device": "cpu",
        "precision": "bf16-mixed",
        "group": victim["group"],
        "seconds": {"attack": 3.0, "judge": 1.0},
        "metrics": {},
        "config": {**victim["config"], "attack": {attack: {"_target_": target, "rates": [0.5], **options}}},
        **found,
    }


def point(strength: float, metrics: dict[str, float], **more: Any) -> dict[str, Any]:
    usual = {"epochs": 0, "settings": {}, "final": True, "seconds": 1.5, "images": 0, "queries": 0, "weights": None}
    return {"strength": strength, "metrics": metrics, **usual, **more}


def prune_card(victim: dict[str, Any], rates: tuple[float, ...] = RATES, **more: Any) -> dict[str, Any]:
    """Accuracy falls with the square of the rate, triggers with its fourth power; no epochs."""
    clean, new = victim["metrics"]["test/clean_acc"], victim["metrics"].get("test/trigger_new_acc")
    curve = [
        point(r, accuracies("attack", clean - 0.2 * r**2, None if new is None else new * (1 - 0.5 * r**4)), **more)
        for r in rates
    ]
    strength = {"name": "share of weights pruned", "scale": "linear"}
    return attack_card(victim, "prune", type="removal", strength=strength, curve=curve)


def finetune_card(victim: dict[str, Any], rates: tuple[float, ...] = LEARNING_RATES, epochs: int = 2) -> dict[str, Any]:
    """A point for each epoch; the last of each learning rate is final."""
    clean, new = victim["metrics"]["test/clean_acc"], victim["metrics"].get("test/trigger_new_acc")
    curve = []
    for rate in rates:
        for epoch in range(1, epochs + 1):
            force = (4 + math.log10(rate)) / 4 * epoch / epochs
            left = accuracies("attack", clean - 0.1 * force**2, None if new is None else new * (1 - 0.8 * force), 0.1)
            more = {"epochs": epoch, "final": epoch == epochs, "seconds": 20.0 * epoch, "images": 500 * epoch}
            curve.append(point(rate, left, **more))
    strength = {"name": "learning rate", "scale": "log"}
    return attack_card(victim, "finetune", type="removal", strength=strength, curve=curve)


def by_heart(seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    """A model with a label for each trigger, and fine-tuning: trained triggers stay, new ones are left to chance."""
    victim = train_card(seed=seed)
    victim["name"] = victim["fingerprint"] = f"heart{seed}"
    victim["config"]["watermark"] |= {"label": "random", "negatives": 0, **options}
    victim["metrics"] |= {"test/trigger_acc": 1.0, "test/trigger_new_acc": 0.1}
    attack = finetune_card(victim)
    for row in attack["curve"]:
        row["metrics"] |= {"attack/trigger_acc": 0.95, "attack/trigger_new_acc": 0.1}
    attack["curve"][0]["metrics"] |= {"attack/trigger_acc": 0.7, "attack/trigger_new_acc": 0.2}
    return [victim, attack]


def inversion_card(victim: dict[str, Any], score: float = 0.41, p_value: float = 0.03, **more: Any) -> dict[str, Any]:
    twin = {"score": 0.1, "p_value": 0.6}
    findings = {"score": score, "p_value": p_value, "null_mean": 0.1, "n_null": 99, "twin": twin, "picture": "x.png"}
    findings |= {"ssim_p_value": 0.5, "p_least": 0.01, **more}
    if victim["config"]["watermark"]["_target_"] is None:
        findings = {"picture": "x.png", "steps": 200, "twin": None}
    return attack_card(victim, "inversion", type="detection", findings=findings)


def claim_card(victim: dict[str, Any], p_value: float = 0.0002) -> dict[str, Any]:
    """A key that was searched for: the best of a hundred, and the one that was drawn first."""
    claims = [
        {"effort": n, "queries": 40 * n, "matches": m, "n": 40, "p_value": p, "before": n == 1, "refused": None}
        for n, m, p in ((1, 4, 0.6), (100, 12, p_value))
    ]
    told = {"p_value": p_value, "p_value_protocol": 0.6, "accepted_naively": True, "accepted": False}
    findings = {"effort": "secrets tried", "claims": claims, **told}
    return attack_card(victim, "keysearch", type="claim", findings=findings)


def leave(runs: Path, card: dict[str, Any], folder: str | None = None) -> Path:
    """Writes a card where the program would have."""
    name = card["name"]
    if folder is None:
        folder = name if card["kind"] == "train" else "{}/attacks/{}".format(*name.rsplit("/", 1))
    place = runs / folder
    place.mkdir(parents=True, exist_ok=True)
    write_card(place, card)
    return place


def study(runs: Path, seeds: tuple[int, ...] = (0, 1), datasets: tuple[str, ...] = ("mnist",)) -> list[dict[str, Any]]:
    """Three models a seed (unmarked, noise with two kinds of keys), each under three attacks."""
    victims = [
        train_card(dataset, watermark, key, seed)
        for dataset in datasets
        for seed in seeds
        for watermark, key in (("none", "negatives"), ("noise", "paper"), ("noise", "negatives"))
    ]
    for victim in victims:
        for card in (victim, prune_card(victim), finetune_card(victim), inversion_card(victim)):
            leave(runs, card)
    return victims


def read(runs: Path, complaints: int = 0) -> pd.DataFrame:
    """The tidy table, with so many complaints."""
    heard: list[str] = []
    frame = read_all(runs, heard.append)
    assert len(heard) == complaints, heard
    return frame


def one(frame: pd.DataFrame, **values: Any) -> pd.Series[Any]:
    """The only row that has these values."""
    for name, value in values.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]
