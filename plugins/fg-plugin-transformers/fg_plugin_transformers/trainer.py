"""transformers' Trainer trained by forward passes: a mixin that takes the place of `backward`.

class ForwardTrainer(ForwardGradientMixin, transformers.Trainer):
    pass

ForwardTrainer(model, arguments, train_dataset=texts, method="activation-perturbation").train()
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fgcli import ForwardGradient, RunError, UsageError

STATE, KEPT = "forward_gradient.json", "forward_gradient.safetensors"


class _Collator:
    """The Trainer's, which says what is wrong with sequences of unequal length."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        try:
            return self.collate(samples)
        except (ValueError, RuntimeError, TypeError) as error:
            lengths = [len(one["input_ids"]) for one in samples if isinstance(one, dict) and "input_ids" in one]
            if len(set(lengths)) < 2:
                raise
            raise UsageError(
                f"a batch has sequences of {min(lengths)} to {max(lengths)} tokens without padding; give the Trainer "
                "data_collator=transformers.DataCollatorWithPadding(tokenizer)"
            ) from error


class ForwardGradientMixin:
    """Stands before `transformers.Trainer` among the bases of a class. The model gives its own loss, from `labels`.

    Args:
        method: as of `fgcli.ForwardGradient`.
        method_options: its options, by name.
        arguments: those of the Trainer.
        keywords: those of the Trainer.
    """

    model: Any
    args: Any
    state: Any
    data_collator: Any

    def __init__(
        self,
        *arguments: Any,
        method: str = "wperp",
        method_options: dict[str, Any] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        if (parts := self.args.gradient_accumulation_steps) > 1:
            raise UsageError(
                f"gradient_accumulation_steps is {parts}; forward gradients are made of whole batches: set it to 1, "
                "and per_device_train_batch_size to more"
            )
        if self.args.fp16 or self.args.bf16:
            raise UsageError("fp16 or bf16 is set; the mixin trains in float32: leave it out")
        if getattr(self, "compute_loss_func", None) is not None or getattr(self, "label_smoother", None) is not None:
            raise UsageError(
                "compute_loss_func or label_smoothing_factor is given; the mixin takes the model's loss: leave it out"
            )
        self.data_collator = _Collator(self.data_collator)
        self.gradient = ForwardGradient(self.model, method, seed=self.args.seed, **(method_options or {}))

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One estimate, added to `.grad`; the Trainer does the rest.

        Args:
            model: the Trainer's.
            inputs: of a batch, `labels` among them.
            num_items_in_batch: unused: the loss is the model's mean over the batch.

        Returns:
            The loss.

        Raises:
            UsageError: without labels.
        """
        if inputs.get("labels") is None:
            given = ", ".join(inputs)
            raise UsageError(f"a batch has {given}, and no labels; every text needs one, in the column labels or label")
        model.train()
        return self.gradient.step(self._prepare_inputs(inputs))  # pyright: ignore[reportAttributeAccessIssue]

    def train(self, resume_from_checkpoint: Any = None, *arguments: Any, **keywords: Any) -> Any:
        """As of the Trainer; a resumed training draws and guesses as an uninterrupted one.

        Args:
            resume_from_checkpoint: a checkpoint's folder, or True for the newest.
            arguments: those of the Trainer.
            keywords: those of the Trainer.

        Returns:
            What the Trainer gives.

        Raises:
            RunError: where the checkpoint is not of this mixin.
        """
        folder = resume_from_checkpoint
        if folder is True:
            from transformers.trainer_utils import get_last_checkpoint  # pyright: ignore[reportMissingImports]

            folder = get_last_checkpoint(self.args.output_dir)
        if folder:
            self._load_gradient(Path(folder))
        parent: Any = super()
        return parent.train(resume_from_checkpoint, *arguments, **keywords)

    def _save_checkpoint(self, *arguments: Any, **keywords: Any) -> None:
        parent: Any = super()
        parent._save_checkpoint(*arguments, **keywords)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        state = self.gradient.state_dict()
        safetensors.torch.save_file({name: one.contiguous() for name, one in state.pop("kept").items()}, folder / KEPT)
        (folder / STATE).write_text(json.dumps(state))

    def _load_gradient(self, folder: Path) -> None:
        try:
            state = json.loads((folder / STATE).read_text())
            kept = safetensors.torch.load_file(folder / KEPT)
        except (OSError, ValueError) as error:
            raise RunError(f"{folder} holds no state of a forward gradient: {error}") from error
        self.gradient.load_state_dict({**state, "kept": kept})
