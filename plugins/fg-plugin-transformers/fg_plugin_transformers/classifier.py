"""A sequence classifier of transformers as a model of fg: bytes of texts to logits."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fg_plugin_transformers import HuggingFaceOptions
from fg_plugin_transformers.lora import with_lora
from fg_plugin_transformers.texts import Bytes, Tokenized
from fgcli import UsageError


class TextClassifier(nn.Module):
    """[batch, bytes] of texts, -1 behind their ends, to logits [batch, classes].

    Args:
        network: gives an output with a key `output`.
        encode: from bytes to the network's keyword arguments.
        output: the key.
        called: what messages begin with.
    """

    def __init__(
        self, network: nn.Module, encode: Callable[[Tensor], Mapping[str, Tensor]], output: str, called: str
    ) -> None:
        super().__init__()
        self.network = network
        self.encode, self.output, self.called = encode, output, called

    def forward(self, texts: Tensor) -> Tensor:
        """Logits.

        Args:
            texts: int64 [batch, bytes].

        Returns:
            [batch, classes].
        """
        if texts.is_floating_point():
            raise UsageError(f"{self.called} takes texts, and the inputs are numbers: use a dataset of texts")
        outputs = self.network(**self.encode(texts))
        try:
            return outputs[self.output]
        except (KeyError, TypeError):
            keys = ", ".join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise UsageError(f"{self.called} gives {keys}; it has no output {self.output!r}") from None


def classifier(
    options: HuggingFaceOptions, name: str, input_shape: tuple[int, ...], classes: int, generator: torch.Generator
) -> nn.Module:
    """The classifier that `hf:NAME_OR_FOLDER` names, in float32.

    Args:
        options: its options.
        name: a folder, or a name on the hub of what is in the cache on this machine.
        input_shape: of the data.
        classes: of the data.
        generator: unused: fg seeds torch's own generator, from which the head is drawn.

    Returns:
        A model that takes bytes of texts.

    Raises:
        UsageError: without transformers, and for what cannot be read or does not fit together.
    """
    called = f"model hf:{name}"
    if len(input_shape) != 1:
        raise UsageError(f"{called} takes texts, and the data's inputs have shape {list(input_shape)}")
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        install = "pip install 'fg-plugin-transformers[transformers]'"
        raise UsageError(f"{called} needs transformers, which cannot be imported here ({error}): {install}") from error

    place = {"local_files_only": not options.download}
    with _quietly(transformers), _told(called, options):
        config = transformers.AutoConfig.from_pretrained(name, **place)
        heads, config.num_labels = config.num_labels, classes
    with _quietly(transformers), _told(f"{called}: its weights", options):
        kind = transformers.AutoModelForSequenceClassification
        if options.weights == "random":
            network = kind.from_config(config)
        else:  # safetensors alone: nothing is unpickled
            read: dict[str, Any] = {"config": config, "use_safetensors": True, "dtype": torch.float32, **place}
            network = kind.from_pretrained(name, **read, ignore_mismatched_sizes=heads != classes)  # then a new head
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and options.tokens > most:
        raise UsageError(f"--model-option tokens is {options.tokens}; {called} takes {most} at most")
    rows = network.get_input_embeddings().weight.shape[0]
    if options.tokenizer == "bytes":
        encode: Any = Bytes(rows, min(options.tokens, input_shape[0]), called)
    else:
        source = name if options.tokenizer == "own" else options.tokenizer
        with _quietly(transformers), _told(f"{called}: the tokenizer of {source}", options):
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **place)
        encode = Tokenized(tokenizer, rows, options.tokens, options.padding, called)
        network.config.pad_token_id = tokenizer.pad_token_id
    network = network.to(torch.float32)
    if options.lora is not None:
        network = with_lora(network, options.lora)
    return TextClassifier(network.train(), encode, options.output, called)


@contextmanager
def _told(what: str, options: HuggingFaceOptions) -> Iterator[None]:
    """Turn what transformers raises for a file that is not there, or not its own, into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        more = "" if options.download else "; nothing is downloaded unless --model-option download=true"
        raise UsageError(f"{what} cannot be read: {lines[0][:300]}{more}") from error


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Without progress bars, and without the report that the head is new."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
