"""From the bytes that fg's datasets of texts hold to what a transformer takes."""

from typing import Any

import torch
from torch import Tensor

from fgcli import UsageError


class Bytes:
    """The bytes of a text as its tokens.

    Args:
        rows: of the model's embedding, 256 at least.
        length: tokens of a text.
        called: what messages begin with.
    """

    def __init__(self, rows: int, length: int, called: str) -> None:
        if rows < 256:
            raise UsageError(f"{called}: the model knows {rows} tokens; tokenizer=bytes needs 256")
        self.length = length

    def __call__(self, given: Tensor) -> dict[str, Tensor]:
        """Ids and mask [batch, length] of bytes [batch, any length]."""
        kept = given[:, : self.length]
        return {"input_ids": kept.clamp(min=0), "attention_mask": (kept >= 0).long()}


class Tokenized:
    """A tokenizer of transformers.

    Args:
        tokenizer: the tokenizer.
        rows: of the model's embedding.
        length: tokens of a text.
        padding: the padding token, where the tokenizer names none.
        called: what messages begin with.
    """

    def __init__(self, tokenizer: Any, rows: int, length: int, padding: str | None, called: str) -> None:
        vocabulary = tokenizer.get_vocab()
        if len(vocabulary) <= len(tokenizer.all_special_tokens):  # what transformers makes where there is no file of it
            mend = "name one: --model-option tokenizer=NAME_OR_FOLDER, or bytes"
            raise UsageError(f"{called} comes without a tokenizer; {mend}")
        if padding is not None:
            if padding not in vocabulary:
                raise UsageError(f"{called}: padding is {padding!r}, which is no token of its tokenizer")
            tokenizer.pad_token = padding
        if tokenizer.pad_token is None:
            end = tokenizer.eos_token
            mend = f"--model-option padding={end!r}" if end else "--model-option padding=TOKEN"
            raise UsageError(
                f"{called}: texts are of unequal length, and its tokenizer has no padding token; name one: {mend}"
            )
        largest = max(vocabulary.values())
        if largest >= rows:
            raise UsageError(
                f"{called}: its tokenizer gives tokens up to {largest}, and the model knows {rows}; use the tokenizer "
                "that it was trained with: --model-option tokenizer=NAME_OR_FOLDER"
            )
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, given: Tensor) -> dict[str, Tensor]:
        """Ids and mask [batch, length] of bytes [batch, any length]."""
        # A text that was cut within a character loses that character.
        texts = [bytes(one for one in row if one >= 0).decode(errors="ignore") for row in given.tolist()]
        made = self.tokenizer(texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        return {name: one.to(given.device) for name, one in made.items() if isinstance(one, torch.Tensor)}
