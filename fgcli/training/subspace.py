"""Updates kept within the top-k subspace of the Hessian, or off it (Song et al. 2025, arXiv:2405.16002).

A control against taking overlap for progress: most of a gradient lies in the dominant subspace, and yet it may be the
small rest of it, the bulk, that lowers the loss. What is projected is the update, whatever optimiser made it. The
Hessian is that of the mean loss over the whole training set; it is had by reverse mode.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fgcli.diagnostics.curvature import top_eigenspace
from fgcli.errors import UsageError
from fgcli.gradient.estimator import Batch, Loss
from fgcli.training.faults import finite_samples


class SubspaceUpdates:
    """Hooks itself into `optimizer.step`: projects what a step changes. Parameters that need no grad are left out.

    The k eigenvectors are computed before every `every`-th update, from those before.
    """

    def __init__(
        self,
        kind: Literal["dominant", "bulk"],
        k: int,
        every: int,
        model: nn.Module,
        loss: Loss,
        batch: Batch,
        optimizer: torch.optim.Optimizer,
        *,
        skips: bool = False,
    ) -> None:
        """`skips`: leave out samples whose loss is not finite."""
        self.kind, self.k, self.every = kind, k, every
        self.model, self.loss, self.batch = model, loss, batch
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if k > (weights := sum(one.numel() for one in self.parameters.values())):
            raise UsageError(f"--subspace-k is {k}; it must be at most {weights}, the number of trained weights")
        self.skips = skips
        self._updates = 0
        self._vectors: Tensor | None = None
        """[parameters, k], orthonormal."""
        self._before = torch.empty(0)
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._project)

    def _remember(self, *_: Any) -> None:
        if self._vectors is None or self._updates % self.every == 0:
            start = None if self._vectors is None else self._vectors.sum(1)
            batch = finite_samples(self.model, self.loss, self.batch) if self.skips else self.batch
            space = top_eigenspace(self.model, self.loss, batch, list(self.parameters), self.k, "hessian", start)
            self._vectors = space.vectors.contiguous()
        self._before = self._flat()

    @torch.no_grad()
    def _project(self, *_: Any) -> None:
        assert self._vectors is not None
        update = self._flat() - self._before
        dominant = self._vectors @ (self._vectors.T @ update)
        after = self._before + (dominant if self.kind == "dominant" else update - dominant)
        sizes = [parameter.numel() for parameter in self.parameters.values()]
        for parameter, values in zip(self.parameters.values(), after.split(sizes), strict=True):
            parameter.copy_(values.view_as(parameter))
        self._updates += 1

    def _flat(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters.values()])

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the number of updates. Checkpointed."""
        return {} if self._vectors is None else {"vectors": self._vectors}

    def load_state(self, state: dict[str, Tensor], updates: int) -> None:
        """Take up the state that another instance had after `updates`."""
        self._vectors = state["vectors"].to(self._flat()) if state else None
        self._updates = updates
