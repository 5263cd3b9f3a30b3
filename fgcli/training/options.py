"""Options of the built-in optimisers and learning-rate schedules: PyTorch's names and defaults. Imports no torch."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from fgcli.extend.options import Options

Decay = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AdamOptions(Options):
    """Adam (https://arxiv.org/abs/1412.6980)."""

    betas: tuple[Decay, Decay] = Field(
        default=(0.9, 0.999), description="Decay of the running means of the gradient and of its square."
    )
    eps: NonNegative = Field(default=1e-8, description="Added to the denominator.")
    weight_decay: NonNegative = Field(default=0.0, description="L2 penalty, added to the gradient.")
    amsgrad: bool = Field(default=False, description="Divide by the largest running mean so far (AMSGrad).")


class AdamWOptions(AdamOptions):
    """AdamW (https://arxiv.org/abs/1711.05101): Adam with the weight decay outside the gradient."""

    weight_decay: NonNegative = Field(default=0.01, description="Weight decay, times the learning rate, of each step.")


class SGDOptions(Options):
    """Stochastic gradient descent, with momentum if asked for."""

    momentum: NonNegative = Field(default=0.0, description="Share of the last update that is carried on.")
    dampening: float = Field(
        default=0.0, allow_inf_nan=False, description="Share of the gradient that momentum leaves out."
    )
    weight_decay: NonNegative = Field(default=0.0, description="L2 penalty, added to the gradient.")
    nesterov: bool = Field(default=False, description="Nesterov's momentum; needs momentum above 0 and no dampening.")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"nesterov is set with momentum {self.momentum} and dampening {self.dampening}; "
                "momentum must be above 0 and dampening 0"
            )
        return self


class CosineOptions(Options):
    """Cosine annealing (https://arxiv.org/abs/1608.03983), without restarts."""

    min_lr: NonNegative = Field(default=0.0, description="Learning rate at the end of the run.")


class StepOptions(Options):
    """A learning rate that drops in steps."""

    step_size: int = Field(ge=1, description="Epochs between two drops.")
    gamma: Annotated[float, Field(gt=0)] = Field(default=0.1, description="Factor of each drop.")


class LinearWarmupOptions(Options):
    """A learning rate that rises from a share of its own to the whole."""

    steps: int = Field(ge=1, description="Updates until the learning rate is whole; the first has lr / steps.")
