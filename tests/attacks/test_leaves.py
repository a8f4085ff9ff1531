"""What each attack promises on top of the contract."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import nn

from wmlightning.attacks.base import Arithmetic, Attack, Prospect, Stolen
from wmlightning.attacks.exposure import Marks, expose
from wmlightning.attacks.fineprune import FinePrune
from wmlightning.attacks.finetune import FineTune
from wmlightning.attacks.inversion import Inversion
from wmlightning.attacks.prune import Prune, smallest
from wmlightning.attacks.tuning import head
from wmlightning.data.procedural import Procedural
from wmlightning.errors import UserError
from wmlightning.models.networks import ResNet9, SmallCNN

AttackConfig = Callable[..., DictConfig]


def stolen_from(network: nn.Module, shape: tuple[int, int, int] = (1, 28, 28), n: int = 40) -> Stolen:
    draw = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (n, *shape), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 10, (n,), generator=draw)
    return Stolen(network.eval(), images, labels, 10, 5, Arithmetic(torch.device("cpu")))


def weights(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.ndim >= 2]


# -- pruning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("repair", [0, 2])
def test_share_of_zeros_is_exactly_the_rate(scope: str, repair: int) -> None:
    stolen = stolen_from(SmallCNN(1, 28, 10, width=4, hidden=16))
    for surrogate in Prune([0.1, 0.5, 0.9], scope=scope, repair_epochs=repair).run(stolen):  # type: ignore[arg-type]
        parts = weights(surrogate.network)
        zeros = [int((p == 0).sum()) for p in parts]
        sizes = [p.numel() for p in parts]
        if scope == "global":
            assert sum(zeros) == round(surrogate.strength * sum(sizes))
        else:
            assert zeros == [round(surrogate.strength * n) for n in sizes]
        untouched = [p for p in surrogate.network.parameters() if p.ndim < 2]
        if not surrogate.epochs:
            own = [p for p in stolen.network.parameters() if p.ndim < 2]
            assert all(torch.equal(a, b) for a, b in zip(untouched, own, strict=True)), "biases stay"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_what_is_pruned_is_no_larger_than_what_is_kept(values: list[float], rate: float) -> None:
    (mask,) = smallest([nn.Parameter(torch.tensor(values))], rate, "global")
    size = torch.tensor(values).abs()
    assert int((mask == 0).sum()) == round(rate * len(values))
    if 0 < int(mask.sum()) < len(values):
        assert size[mask == 0].max() <= size[mask == 1].min()


def test_everything_prunes_biases_and_norms_too() -> None:
    stolen = stolen_from(ResNet9(1, 10, width=4), n=4)
    (surrogate,) = Prune([0.5], everything=True).run(stolen)
    parameters = list(surrogate.network.parameters())
    assert sum(int((p == 0).sum()) for p in parameters) == pytest.approx(
        0.5 * sum(p.numel() for p in parameters), abs=200
    )


# -- fine-tuning -----------------------------------------------------------------------------------------------------


def test_last_layer_only_leaves_the_rest_as_it_is() -> None:
    stolen = stolen_from(ResNet9(1, 10, width=4))
    before = stolen.copy().state_dict()
    (surrogate,) = FineTune([0.1], epochs=1, layers="last").run(stolen)
    last = id(head(surrogate.network, "x").weight)
    for name, value in surrogate.network.state_dict(keep_vars=True).items():
        ours = id(value) == last or name.endswith(("8.weight", "8.bias"))
        assert ours or torch.equal(value.detach(), before[name]), f"{name} (statistics of frozen norms included)"
    assert any(not torch.equal(v, before[k]) for k, v in surrogate.network.state_dict().items())


def test_reinitialised_layer_forgets() -> None:
    stolen = stolen_from(SmallCNN(1, 28, 10, width=4, hidden=16))
    old = head(stolen.network, "x").weight
    (kept,) = FineTune([1e-9], epochs=1).run(stolen)
    (anew,) = FineTune([1e-9], epochs=1, reinitialize=True).run(stolen)
    assert torch.allclose(head(kept.network, "x").weight, old, atol=1e-6)  # type: ignore[arg-type]
    assert not torch.allclose(head(anew.network, "x").weight, old, atol=1e-2)  # type: ignore[arg-type]


def test_every_learning_rate_starts_from_the_victim_and_is_seen_each_epoch() -> None:
    stolen = stolen_from(SmallCNN(1, 28, 10, width=4, hidden=16))
    found = [(s.strength, s.epochs, s.continued) for s in FineTune([0.1, 0.01], epochs=2).run(stolen)]
    assert found == [(0.01, 1, False), (0.01, 2, True), (0.1, 1, False), (0.1, 2, True)]
    alone = next(iter(FineTune([0.1], epochs=1).run(stolen))).network.state_dict()
    both = next(s for s in FineTune([0.01, 0.1], epochs=1).run(stolen) if s.strength == 0.1).network.state_dict()
    assert all(torch.equal(alone[k], both[k]) for k in alone)


def test_labels_of_the_victim_need_no_labels_and_cost_queries() -> None:
    stolen = stolen_from(SmallCNN(1, 28, 10, width=4, hidden=16))
    blind = Stolen(stolen.network, stolen.images, None, 10, 5, stolen.arithmetic)
    (surrogate,) = FineTune([0.01], epochs=1, labels="victim").run(blind)
    assert surrogate.n_queries == 40
    with pytest.raises(UserError, match=r"^attack\.finetune\.labels: .*; victim$"):
        list(FineTune([0.01], epochs=1).run(blind))


# -- fine-pruning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: ResNet9(1, 10, width=4), lambda: SmallCNN(1, 28, 10, width=4, hidden=16)])
def test_idle_channels_go_first_and_stay_gone(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    stolen = stolen_from(make())
    convolution = [m for m in stolen.network.modules() if isinstance(m, nn.Conv2d)][-1]
    norm = [m for m in stolen.network.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))][-1]
    with torch.no_grad():  # one channel that never fires
        assert norm.weight is not None and norm.bias is not None
        norm.bias += 5  # all the others do
        norm.weight[2], norm.bias[2] = 0, -5
    n = convolution.out_channels
    for surrogate in FinePrune([1 / n, 0.5], epochs=1).run(stolen):
        last = [m for m in surrogate.network.modules() if isinstance(m, nn.Conv2d)][-1]
        silent = (last.weight == 0).flatten(1).all(1)
        assert int(silent.sum()) == round(surrogate.strength * n)
        assert silent[2]


# -- inversion and its score -----------------------------------------------------------------------------------------


class Template(nn.Module):
    """Class k is what correlates with the k-th pattern: inversion has to find the patterns."""

    def __init__(self, patterns: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("patterns", patterns)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nchw,kchw->nk", images - 0.5, self.patterns)


def a_key(n_strangers: int, seed: int) -> tuple[torch.Tensor, Marks]:
    draw = torch.Generator().manual_seed(seed)
    changes = 0.2 * torch.randn(1 + n_strangers, 1, 1, 16, 16, generator=draw)
    return changes, Marks(changes, (0.5 + changes).clamp(0, 1), torch.tensor([4]))


def test_a_network_that_shows_its_secret_is_found_out() -> None:
    changes, marks = a_key(99, 0)
    patterns = 0.2 * torch.randn(10, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    patterns[4] = changes[0, 0]
    found = Inversion(steps=60, restarts=3, tv=0.05).run(stolen_from(Template(patterns), (1, 16, 16)))
    assert found.images.shape == (10, 3, 1, 16, 16)
    assert 0 <= found.images.min() <= found.images.max() <= 1
    told = expose(found, marks)
    assert told["p_value"] == told["ssim_p_value"] == 0.01
    assert told["score"] > 0.5 > told["null_max"]


def test_a_network_without_the_secret_gives_uniform_p_values() -> None:
    patterns = 0.2 * torch.randn(10, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    found = Inversion(steps=30, restarts=2).run(stolen_from(Template(patterns), (1, 16, 16)))
    p = torch.tensor([expose(found, a_key(19, seed)[1])["p_value"] for seed in range(2, 202)])
    for level in (0.05, 0.25, 0.5):  # valid: P(p <= a) <= a, within three standard errors
        assert (p <= level).float().mean() <= level + 3 * (level * (1 - level) / 200) ** 0.5


@pytest.mark.parametrize("smoothness", ["tv", "blur", "none"])
def test_restarts_are_batched_without_touching_each_other(smoothness: str) -> None:
    stolen = stolen_from(SmallCNN(1, 28, 10, width=4, hidden=16), n=4)
    one, many = (
        Inversion(steps=5, restarts=2, smoothness=smoothness, batch_size=size).run(stolen)  # type: ignore[arg-type]
        for size in (3, 20)
    )
    assert torch.allclose(one.images, many.images, atol=1e-4)


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "override", "key"),
    [
        ("prune", "attack.prune.rates=[1.0]", "attack.prune.rates"),
        ("prune", "attack.prune.rates=[]", "attack.prune.rates"),
        ("prune", "attack.prune.rates=half", "attack.prune.rates"),
        ("prune", "attack.prune.scope=all", "attack.prune.scope"),
        ("prune", "attack.prune.everything=maybe", "attack.prune.everything"),
        ("prune", "attack.prune.repair_epochs=-1", "attack.prune.repair_epochs"),
        ("finetune", "attack.finetune.learning_rates=[0]", "attack.finetune.learning_rates"),
        ("finetune", "attack.finetune.epochs=0", "attack.finetune.epochs"),
        ("finetune", "attack.finetune.layers=first", "attack.finetune.layers"),
        ("finetune", "attack.finetune.labels=true", "attack.finetune.labels"),
        ("finetune", "attack.finetune.batch_size=1", "attack.finetune.batch_size"),
        ("finetune", "attack.finetune.momentum=1", "attack.finetune.momentum"),
        ("finetune", "attacker.n=1", "attacker.n"),
        ("finetune", "attacker.seed=x", "attacker.seed"),
        ("finetune", "attacker.data=nothing", "attacker.data"),
        ("finetune", "attacker.data=mnist5k", "attack.finetune.labels"),
        ("finetune", "judge.n_strangers=0", "judge.n_strangers"),
        ("inversion", "judge.n_strangers=1000000000", "judge.n_strangers"),
        ("finetune", "judge.keep_surrogates=2", "judge.keep_surrogates"),
        ("finetune", "attack.finetune._target_=torch.nn.Linear", "attack.finetune"),
        ("finetune", "++attack.invrsion.steps=2", "attack.invrsion"),
        ("fineprune", "attack.fineprune.rates=[2]", "attack.fineprune.rates"),
        ("overwrite", "attack.overwrite.learning_rates=0.1", "attack.overwrite.learning_rates"),
        ("overwrite", "attack.overwrite.epochs=0", "attack.overwrite.epochs"),
        ("overwrite", "attack.overwrite.watermark.n_marks=0", "attack.overwrite.watermark.n_marks"),
        ("overwrite", "watermark@attack.overwrite.watermark=none", "attack.overwrite.watermark._target_"),
        ("keysearch", "attack.keysearch.candidates=[]", "attack.keysearch.candidates"),
        ("keysearch", "attack.keysearch.candidates=[1.5]", "attack.keysearch.candidates"),
        ("keysearch", "attack.keysearch.queries=5", "attack.keysearch.queries"),
        ("keysearch", "attack.keysearch.watermark.n_marks=1", "attack.keysearch.watermark.n_marks"),
        ("adversarial", "attack.adversarial.steps=[-1]", "attack.adversarial.steps"),
        ("adversarial", "attack.adversarial.epsilon=0", "attack.adversarial.epsilon"),
        ("adversarial", "attack.adversarial.surrogate_epochs=-1", "attack.adversarial.surrogate_epochs"),
        ("inversion", "attack.inversion.steps=0", "attack.inversion.steps"),
        ("inversion", "attack.inversion.smoothness=much", "attack.inversion.smoothness"),
        ("inversion", "attack.inversion.steps=1.5", "attack.inversion.steps"),
        ("finetune", "attack.finetune.weight_decay=.inf", "attack.finetune"),
        ("overwrite", "attack.overwrite.watermark.n_triggers=0", "attack.overwrite.watermark.n_triggers"),
        ("overwrite", "attack.overwrite.watermark.mix=per_batch", "attack.overwrite.watermark.mix"),
        ("keysearch", "attack.keysearch.watermark.negatives=2", "attack.keysearch.watermark.negatives"),
        ("adversarial", "attack.adversarial.watermark.n_triggers=9", "attack.adversarial.watermark.n_triggers"),
        ("finetune", "attacker.data=image_folder", "attacker.root"),
        ("finetune", "attacker.root=somewhere", "attacker.root"),
        ("finetune", "attacker.data={_target_:wmlightning.nothing}", "attacker.data"),
        ("finetune", "attacker.data={_target_:torch.nn.Identity}", "attacker.data"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    main: Callable[..., object], runs: object, small: list[str], name: str, override: str, key: str
) -> None:
    done = main(*small, f"attack={name}", override)
    (line,) = done.errors  # type: ignore[attr-defined]
    assert line.startswith(f"error: {key}"), line
    assert "; " in line
    assert done.code == 1  # type: ignore[attr-defined]
    assert not runs.exists()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("attack=prune attack.prune.rates=[2]", "attack.prune.rates"),
        (
            "attack=overwrite attack.overwrite.watermark.source_class=word attack.overwrite.watermark.n_marks=1",
            "attack.overwrite.watermark.source_class",
        ),
        (
            "attack=overwrite watermark@attack.overwrite.watermark=content attack.overwrite.watermark.n_letters=12",
            "attack.overwrite.watermark.n_letters",
        ),
        (
            "attack=keysearch watermark@attack.keysearch.watermark=content attack.keysearch.watermark.n_letters=12",
            "attack.keysearch.watermark.n_letters",
        ),
        ("attack=fineprune model=line", "attack.fineprune"),
        ("attack=finetune attack.finetune.layers=last model=bare", "attack.finetune.layers"),
        ("attack=finetune attack.finetune.reinitialize=true model=bare", "attack.finetune.layers"),
        ("attack=keysearch attack.keysearch.surrogate_epochs=1 model=bare", "attack.keysearch.surrogate_epochs"),
        ("attack=adversarial attack.adversarial.surrogate_epochs=1 model=bare", "attack.adversarial.surrogate_epochs"),
    ],
)
def test_mistakes_are_told_before_data_are_read(
    main: Callable[..., object], small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, key: str
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("data are read")

    monkeypatch.setattr(Procedural, "read", read)
    (tmp_path / "own" / "model").mkdir(parents=True)
    for name, target in (("line", "tests.testing.broken.Plain"), ("bare", f"{__name__}.Bare")):
        (tmp_path / "own" / "model" / f"{name}.yaml").write_text(f"_target_: {target}\n")
    (line,) = main(f"--config-dir={tmp_path / 'own'}", *small, *typed.split()).errors  # type: ignore[attr-defined]
    assert line.startswith(f"error: {key}: "), line


class Bare(nn.Module):
    """A classifier whose weights are in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(784, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def test_all_of_a_network_without_layers_can_be_trained() -> None:
    (surrogate,) = FineTune([0.1], epochs=1).run(stolen_from(Bare()))
    assert next(surrogate.network.parameters()).abs().max() > 0


@pytest.mark.parametrize(
    ("attack", "fits"),
    [
        (Prune([0.5]), True),
        (Prune([0.5], repair_epochs=1), False),
        (Prune([0.5], repair_epochs=1, labels="victim"), True),
        (FinePrune([0.5], epochs=0), True),
        (FinePrune([0.5]), False),
        (FineTune([0.1]), False),
        (Inversion(), True),
    ],
)
def test_labels_are_wanted_only_where_they_are_used(attack: Attack, fits: bool) -> None:
    prospect = Prospect(SmallCNN(1, 28, 10, width=4, hidden=16), (1, 28, 28), 10, labelled=False)
    with nullcontext() if fits else pytest.raises(UserError, match=r"\.labels: .*; victim$"):
        attack.check(prospect)
