"""A picture of the triggers: what the owner should look at once, and nobody else ever."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from wmlightning.config import setting, switch
from wmlightning.data.batches import ImageSet
from wmlightning.data.decoding import visible
from wmlightning.errors import UserError
from wmlightning.files import check_writable, write_bytes


class TriggerGallery(L.Callback):
    """Writes a sheet with each trigger below its clean image, the label given, and a stranger's mark to compare.

    Args:
        path: PNG file to write, readable by its owner alone.
        to_logger: also hand the sheet to W&B or TensorBoard. Off by default: triggers are secret.
        columns: triggers shown.
    """

    def __init__(self, path: str, to_logger: bool = False, columns: int = 8) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise UserError("callbacks.gallery.path", f"{self.path} is a folder", "a PNG file")
        check_writable(self.path.parent, "callbacks.gallery.path", 2**20)
        self.to_logger = switch(to_logger, "callbacks.gallery.to_logger")
        self.columns = setting(columns, "callbacks.gallery.columns", int, 1)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the sheet, once, by the first process."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        triggers = data.watched["test"].get("trigger")
        if triggers is None or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        strangers = data.watched["test"].get("decoy")
        png = sheet(triggers, data.originals, strangers, data.source.classes, self.columns)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, png, private=True)
        if self.to_logger:
            self._hand_over(trainer, png)

    @staticmethod
    def _hand_over(trainer: L.Trainer, png: bytes) -> None:
        image = Image.open(io.BytesIO(png)).convert("RGB")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("triggers", [image])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("triggers", np.asarray(image), dataformats="HWC")


def sheet(
    triggers: ImageSet,
    originals: Tensor | None,
    strangers: ImageSet | None,
    classes: tuple[str, ...],
    columns: int = 8,
) -> bytes:
    """Draws the sheet.

    Args:
        triggers: the trained triggers.
        originals: the same images unmarked, uint8 ``(m, c, h, w)``, or ``None``.
        strangers: decoys, or ``None``.
        classes: class names.
        columns: triggers shown.

    Returns:
        A PNG file.
    """
    columns = min(columns, len(triggers))
    rows: list[tuple[str, Tensor, list[str]]] = []
    if originals is not None:
        rows.append(("clean", originals[:columns], [""] * columns))
    rows.append(("trigger", triggers.images[:columns], [classes[i] for i in triggers.labels[:columns].tolist()]))
    if strangers is not None and len(strangers):
        every = max(1, len(strangers) // columns)
        rows.append(("decoy", strangers.images[::every][:columns], ["true label"] * columns))
        if originals is None:
            rows[-1] = (*rows[-1][:2], ["anything else"] * columns)
    figure = Figure(figsize=(1.15 * columns + 0.8, 1.45 * len(rows)), dpi=110)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, images, captions) in zip(axes, rows, strict=True):
        for axis, image, caption in zip(row, images, captions, strict=False):
            axis.imshow(np.asarray(visible(image).permute(1, 2, 0).expand(-1, -1, 3)), interpolation="nearest")
            axis.set_title(caption, fontsize=8, parse_math=False)
        row[0].set_ylabel(name, fontsize=9)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.tight_layout(pad=0.4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
