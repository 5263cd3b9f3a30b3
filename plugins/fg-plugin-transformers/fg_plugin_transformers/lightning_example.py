"""An example for Lightning: a module that trains itself by forward passes. Copy it and put your model in.

lightning.Trainer(max_epochs=3, accelerator="cpu").fit(ForwardModule(model), loader)
"""

from collections.abc import Mapping
from typing import Any

import lightning  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor, nn

from fgcli import ForwardGradient


class ForwardModule(lightning.LightningModule):
    """A model of transformers, whose batches hold `labels`.

    Args:
        model: gives its own loss.
        method: as of `fgcli.ForwardGradient`.
        lr: of AdamW.
        options: the method's.
    """

    def __init__(self, model: nn.Module, method: str = "activation-perturbation", lr: float = 1e-3, **options: Any):
        super().__init__()
        self.model, self.lr = model, lr
        self.gradient = ForwardGradient(model, method, **options)
        self.automatic_optimization = False  # Lightning would call backward

    def training_step(self, batch: Mapping[str, Tensor], batch_index: int) -> Tensor:
        """One update.

        Args:
            batch: the model's keyword arguments.
            batch_index: unused.

        Returns:
            The loss.
        """
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.gradient.step(batch)
        optimizer.step()
        self.log("train_loss", loss, batch_size=len(batch["labels"]))
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the method needs to go on.

        Args:
            checkpoint: Lightning's.
        """
        checkpoint["gradient"] = self.gradient.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again.

        Args:
            checkpoint: Lightning's.
        """
        self.gradient.load_state_dict(checkpoint["gradient"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW of what is trained.

        Returns:
            The optimiser.
        """
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)
