"""LoRA by peft, as `--lora` says it."""

from typing import Any

from torch import nn

from fgcli import UsageError


def with_lora(model: nn.Module, text: str) -> nn.Module:
    """The model in peft's, with its head and low-rank updates trained and all else frozen.

    Args:
        model: a sequence classifier of transformers.
        text: `r=8,targets=query,value`.

    Returns:
        peft's model.

    Raises:
        UsageError: what `text` says cannot be, or targets match nothing.
    """
    try:
        import peft  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(f"--lora needs peft, which cannot be imported here ({error}): pip install peft") from error

    given = _parsed(text)
    targets = given.get("targets")
    named = dict(model.named_modules())
    kinds = sorted({name.rpartition(".")[2] for name, one in named.items() if _takes_lora(one)})
    for target in targets or ():
        matched = [one for name, one in named.items() if name == target or name.endswith(f".{target}")]
        if not any(map(_takes_lora, matched)):
            raise UsageError(f"--lora targets: no linear layer is called {target!r}; the model has {', '.join(kinds)}")
    r = given["r"]
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=r, lora_alpha=given.get("alpha", 2 * r), target_modules=targets, lora_dropout=0.0
    )
    try:
        return peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        if targets is not None:
            raise
        mend = f"name some: --lora r={r},targets=NAME,NAME of {', '.join(kinds)}"
        raise UsageError(f"--lora has no targets, and peft knows none for this architecture; {mend}") from error


def _takes_lora(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _parsed(text: str) -> dict[str, Any]:
    """`r`, `alpha` and `targets` by name; a part without `=` is one more target."""
    found: dict[str, Any] = {}
    wanted = "it must be like r=8,targets=query,value, with alpha=16 where you want it"
    for part in text.split(","):
        key, equals, value = (one.strip() for one in part.partition("="))
        if not equals and "targets" in found and list(found)[-1] == "targets" and key:
            found["targets"].append(key)
        elif key in ("r", "alpha") and key not in found and value.isdecimal() and int(value) > 0:
            found[key] = int(value)
        elif key == "targets" and key not in found and value:
            found[key] = [value]
        else:
            raise UsageError(f"--lora is {text!r}; {wanted}")
    if "r" not in found:
        raise UsageError(f"--lora is {text!r}, without r, the rank; {wanted}")
    return found
