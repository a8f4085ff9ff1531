"""The commands."""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from wmlightning.config import CONF
from wmlightning.errors import UserError


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def train(cfg: DictConfig) -> float | None:
    """Trains a watermarked classifier, or shows the finished run of the same fingerprint.

    Returns:
        The metric that a hyperparameter search optimises.
    """
    from wmlightning.pipeline import run  # late: --help, --cfg and completion need not wait for torch

    try:
        card = run(cfg)
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # Hydra goes on with the next job and tells at the end
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    metric = cfg.get("optimized_metric")
    return card["metrics"].get(metric) if metric else None
