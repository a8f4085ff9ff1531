"""What all watermarks have in common: how many triggers, whose images, which labels, which marks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from wmlightning.config import switch
from wmlightning.data.batches import Mix
from wmlightning.data.source import Source
from wmlightning.errors import UserError
from wmlightning.secret import Secret

ClassName = str | int

#: Values of source_class and target_class that are no class names.
AUTO, SECRET, ANY = "auto", "secret", "any"
_MOST = 2**31  # of anything: beyond, what is counted fits neither float nor memory


@dataclass(frozen=True)
class Scheme:
    """The options every watermark understands. Each is a config key ``watermark.<name>``.

    Attributes:
        n_triggers: trained triggers, all marks together: a number (int) or a share of the clean training images
            (float in (0, 1]); 0 only without a watermark.
        n_new: new triggers, made from the judge's half of the test images; ``None``: as many as there are source
            images, at most ``n_triggers``.
        n_marks: marks in the key, each with its own label.
        source_class: whose images are marked: a class, ``any``, ``secret`` (drawn from the key), or ``auto``: the data
            set's own source class for one mark, ``any`` for several or for random labels.
        target_class: the label of the one mark: a class, ``secret``, or ``auto``: the data set's own. Several marks
            draw theirs from the key.
        label: ``target`` (a label for each mark) or ``random`` (an independent key-drawn label for each trigger, never
            the true one).
        negatives: strangers' marks trained to keep the true label, relative to ``n_triggers``; the paper has 0.
        mix: ``concat`` or ``per_batch``: see :class:`wmlightning.data.batches.TrainPlan`.
        per_batch: triggers in each batch, with ``mix=per_batch``; negatives come besides, ``negatives`` times as many.
        augment: whether marked images are augmented like clean ones.
        n_decoys: strangers whose marks are tested in ``test/decoy_acc``.
    """

    n_triggers: int | float = 0.01
    n_new: int | None = None
    n_marks: int = 1
    source_class: ClassName = AUTO
    target_class: ClassName = AUTO
    label: Literal["target", "random"] = "target"
    negatives: float = 1.0
    mix: Mix = "concat"
    per_batch: int = 4
    augment: bool = False
    n_decoys: int = 20

    def __post_init__(self) -> None:
        for name in ("n_marks", "per_batch", "n_decoys"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= _MOST:
                _refuse(name, f"{value!r} is out of range", f"a whole number from 1 to {_MOST}")
        share = self.n_triggers
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= _MOST:
            _refuse("n_triggers", f"{share!r} is no number of triggers", "a number or a share in (0, 1]")
        if isinstance(share, float) and not 0 < share <= 1:
            _refuse("n_triggers", f"the share {share} is out of range", "a share in (0, 1] or a whole number")
        if self.n_new is not None and (type(self.n_new) is not int or not 1 <= self.n_new <= _MOST):
            _refuse("n_new", f"{self.n_new!r} new triggers", f"a whole number from 1 to {_MOST}, or null")
        if self.label not in ("target", "random"):
            _refuse("label", f"{self.label!r} is no label policy", "target or random")
        if type(self.negatives) not in (int, float) or not 0 <= self.negatives <= _MOST:
            _refuse("negatives", f"{self.negatives!r} is out of range", f"0 to {_MOST}, relative to the triggers")
        if self.mix not in ("concat", "per_batch"):
            _refuse("mix", f"{self.mix!r} is no way of mixing", "concat or per_batch")
        switch(self.augment, "watermark.augment")
        several = self.n_marks > 1 or self.label == "random"
        if several and self.target_class not in (AUTO, SECRET):
            why = f"{self.target_class!r} with n_marks={self.n_marks}, label={self.label}"
            _refuse("target_class", why, "leave it auto: several labels are drawn from the key")

    @property
    def several_labels(self) -> bool:
        """Whether the key has more than one label."""
        return self.n_marks > 1 or self.label == "random"

    @property
    def negatives_per_batch(self) -> int:
        """Negatives in each batch, with ``mix=per_batch``: at least one, if any are wanted."""
        return max(1, round(self.per_batch * self.negatives)) if self.negatives else 0


@dataclass(frozen=True)
class Labels:
    """Whose images are marked, and what the marks are called.

    Attributes:
        sources: classes whose images are marked.
        measured: classes on which ``test/source_acc`` is measured.
        of_marks: int64 ``(n_marks,)``, the label of each mark, as long as they follow from the secret alone: see
            :attr:`wmlightning.watermarks.triggers.TriggerMaker.labels`.
        pool: classes that labels of several marks are drawn from.
    """

    sources: tuple[int, ...]
    measured: tuple[int, ...]
    of_marks: Tensor
    pool: tuple[int, ...] = ()

    def redrawn(self, secret: Secret) -> Labels:
        """With the labels of several marks drawn from this secret."""
        return replace(self, of_marks=_of_marks(self.pool, len(self.of_marks), secret))


def choose_labels(
    scheme: Scheme,
    secret: Secret,
    source: Source,
    own_source: ClassName,
    own_target: ClassName,
    marks_task: bool,
) -> Labels:
    """Settles source classes and labels; needs no data.

    Labels of several marks are uniform and independent of everything else in the key: over all classes, or, with
    one source class, over all others. The ownership test that re-draws them rests on this.

    Args:
        scheme: the options.
        secret: the owner's.
        source: the task's data.
        own_source: the data set's ``source_class``.
        own_target: the data set's ``target_class``.
        marks_task: whether images of the task are marked (``unrelated`` brings its own).

    Raises:
        UserError: for classes that do not exist or are equal.
    """
    n = len(source.classes)
    auto_source = source.class_number(own_source, "dataset.source_class")
    drawn = [int(number) for number in secret.stream("labels").sample(n, 2)]
    target: int | None = None  # of the one mark, where the secret does not draw it
    if not scheme.several_labels and scheme.target_class == AUTO:
        target = source.class_number(own_target, "dataset.target_class")
        if target == auto_source and (own_source, own_target) == (0, 1):  # of classes 1, 2, 3 the one is a name
            auto_source, target = 0, 1
    elif not scheme.several_labels and scheme.target_class != SECRET:
        target = source.class_number(scheme.target_class, "watermark.target_class")
    wanted = scheme.source_class
    if wanted == ANY or (wanted == AUTO and scheme.several_labels):
        sources = tuple(range(n))
    elif wanted == AUTO:
        sources = (auto_source,)
    elif wanted == SECRET:
        sources = (next(number for number in drawn if number != target),)
    else:
        sources = (source.class_number(wanted, "watermark.source_class"),)
    single = sources[0] if len(sources) == 1 else None
    measured = (auto_source,) if single is None else sources
    if scheme.several_labels:
        pool = tuple(c for c in range(n) if c != single or not marks_task)
        return Labels(sources, measured, _of_marks(pool, scheme.n_marks, secret), pool)
    if target is None:
        target = next(number for number in drawn[::-1] if number != single)
    if target == single:
        option = "source_class" if scheme.target_class == AUTO else "target_class"
        _refuse(option, f"{source.classes[target]!r} is source and target class", "two different classes")
    return Labels(sources, measured, torch.tensor([target]))


def _of_marks(pool: tuple[int, ...], n_marks: int, secret: Secret) -> Tensor:
    return torch.tensor(pool)[torch.from_numpy(secret.stream("labels of marks").integers(n_marks, len(pool)))]


def _refuse(option: str, wrong: str, right: str) -> None:
    raise UserError(f"watermark.{option}", wrong, right)
