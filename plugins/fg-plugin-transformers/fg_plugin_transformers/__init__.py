"""fg-plugin-transformers: models of texts, `--model hf:NAME_OR_FOLDER`. Imports no torch, as fg loads this module for
every command. `fg_plugin_transformers.trainer` has the mixin for transformers' Trainer."""

from typing import Literal

from pydantic import Field

from fgcli import Entry, Options, hookimpl

FG_CONTRACT = 2


class HuggingFaceOptions(Options):
    """Options of a sequence classifier of transformers."""

    lora: str | None = Field(
        default=None,
        description="Train the head and low-rank updates alone, by peft: `r=8,targets=query,value`; also `alpha=`, by "
        "default twice r. Without targets, peft's own for the architecture.",
    )
    tokens: int = Field(
        default=64, ge=3, description="Tokens of a text: longer texts are cut, shorter ones padded and masked."
    )
    tokenizer: str = Field(
        default="own",
        description="`own`: the model's; `bytes`: the bytes themselves are the tokens; or another NAME_OR_FOLDER.",
    )
    padding: str | None = Field(default=None, description="The padding token, where the tokenizer names none.")
    weights: Literal["pretrained", "random"] = Field(
        default="pretrained", description="`random`: only the configuration is read, and weights are drawn by the seed."
    )
    output: str = Field(default="logits", description="Key of the model's output that holds the logits.")
    download: bool = Field(
        default=False, description="Fetch what is not on this machine from the hub; else nothing is downloaded."
    )


@hookimpl
def fg_models() -> list[Entry]:
    return [
        Entry(
            "hf",
            "fg_plugin_transformers.classifier:classifier",
            "A sequence classifier of transformers, for texts: --model hf:NAME_OR_FOLDER.",
            HuggingFaceOptions,
            prefix="hf",
        )
    ]
