"""Networks that others wrote, of transformers, peft, timm and torch_geometric, and of torch's own layers, at any size.

Each is made by `size` (1: for tests, in float64; more: for timings) from random weights; nothing is downloaded. The
packages are no dependencies: `missing` says which one a network lacks.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision_stub import torchvision_or_stub

VOCABULARY = 40
CLASSES = 4

Inputs = Callable[[int, int], Any]
"""(samples, size) -> what the model is called with."""


@dataclass(frozen=True)
class PublicNetwork:
    """A network of somebody else's."""

    name: str
    package: str
    make: Callable[[int], nn.Module]
    inputs: Inputs
    norms_in_eval: bool = True
    """Whether BatchNorm layers use their running statistics."""
    channels_first: bool = False
    """Whether the output's classes are on axis 1."""

    def model(self, size: int = 1) -> nn.Module:
        """A model with weights drawn from torch's generator, in train mode but for its BatchNorm layers."""
        model = self.make(size)
        if self.norms_in_eval:
            for one in model.modules():
                if isinstance(one, nn.modules.batchnorm._BatchNorm):
                    one.eval()
                    one.reset_running_stats()
        return model

    @property
    def missing(self) -> str:
        """The package that it needs and this environment lacks; empty if there is none."""
        return next((one for one in self.package.split("+") if importlib.util.find_spec(one) is None), "")

    def targets(self, outputs: Any, seed: int = 0) -> Tensor:
        """Random classes for these outputs; a third of the tokens of a sequence ignored."""
        logits = self._logits(outputs)
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(logits.shape[-1], logits.shape[:-1], generator=generator)
        if y.dim() > 1:
            y[torch.rand(y.shape, generator=generator) < 0.33] = -100
        return y

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The mean cross-entropy over all places that are not ignored."""
        return F.cross_entropy(self._logits(outputs).flatten(0, -2), targets.flatten())

    def _logits(self, outputs: Any) -> Tensor:
        logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
        if logits is None:
            logits = outputs[0] if isinstance(outputs, tuple) else next(iter(outputs.values()))
        return logits.movedim(1, -1) if self.channels_first else logits


NETWORKS: dict[str, PublicNetwork] = {}


def network(name: str, package: str, make: Callable[[int], nn.Module], inputs: Inputs, **more: Any) -> None:
    NETWORKS[name] = PublicNetwork(name, package, make, inputs, **more)


# Inputs.


def tokens(samples: int, size: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(2, VOCABULARY, (samples, 6 if size == 1 else 32))}


def masked_tokens(samples: int, size: int) -> dict[str, Tensor]:
    given = tokens(samples, size)
    mask = torch.ones_like(given["input_ids"])
    mask[1::2, -2:] = 0
    return given | {"attention_mask": mask}


def pairs_of_tokens(samples: int, size: int) -> dict[str, Tensor]:
    given = masked_tokens(samples, size)
    return given | {"decoder_input_ids": tokens(samples, size)["input_ids"][:, :4]}


def images(side: int = 32, channels: int = 3) -> Inputs:
    return lambda samples, _: torch.randn(samples, channels, side, side)


def pixels(side: int = 32) -> Inputs:
    return lambda samples, _: {"pixel_values": torch.randn(samples, 3, side, side)}


def vectors(*shape: int) -> Inputs:
    return lambda samples, _: torch.randn(samples, *shape)


# transformers.


def transformer(model: str, config: str, *, quiet: bool = False, **options: Any) -> Callable[[int], nn.Module]:
    """A class of transformers by name, two layers of width 16 · size."""

    def make(size: int) -> nn.Module:
        import transformers  # pyright: ignore[reportMissingImports]

        given = {key: value(size) if callable(value) else value for key, value in options.items()}
        made = getattr(transformers, model)(getattr(transformers, config)(**given))
        return made.eval() if quiet else made

    return make


def wide(size: int) -> int:
    return 16 * size


def twice(size: int) -> int:
    return 32 * size


CLASSIFIER: dict[str, Any] = {"num_labels": CLASSES}
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": wide, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": twice, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
CAUSAL: dict[str, Any] = TEXT | {"bos_token_id": 1, "eos_token_id": 1, "num_key_value_heads": 2}
bert = transformer("BertForSequenceClassification", "BertConfig", **TEXT, **CLASSIFIER)
gpt2 = transformer(
    "GPT2LMHeadModel", "GPT2Config", vocab_size=VOCABULARY, n_embd=wide, n_layer=2, n_head=2, n_positions=64,
    bos_token_id=1, eos_token_id=1,
)  # fmt: skip
llama = transformer("LlamaForCausalLM", "LlamaConfig", **CAUSAL)

network("BERT", "transformers", bert, tokens)
network("BERT, padding mask", "transformers", bert, masked_tokens)
network(
    "BERT, masked language model", "transformers", transformer("BertForMaskedLM", "BertConfig", **TEXT), masked_tokens
)
network(
    "RoBERTa", "transformers",
    transformer("RobertaForSequenceClassification", "RobertaConfig", **TEXT, **CLASSIFIER), masked_tokens,
)  # fmt: skip
network(
    "DistilBERT", "transformers",
    transformer(
        "DistilBertForSequenceClassification", "DistilBertConfig", vocab_size=VOCABULARY, dim=wide, n_layers=2,
        n_heads=2, hidden_dim=twice, max_position_embeddings=64, **CLASSIFIER,
    ),
    masked_tokens,
)  # fmt: skip
network(
    "ALBERT, shared layers", "transformers",
    transformer("AlbertForSequenceClassification", "AlbertConfig", embedding_size=8, **TEXT, **CLASSIFIER),
    masked_tokens,
)  # fmt: skip
network(
    "ELECTRA", "transformers",
    transformer("ElectraForTokenClassification", "ElectraConfig", embedding_size=8, **TEXT, **CLASSIFIER),
    masked_tokens,
)  # fmt: skip
network(
    "DeBERTa-v2", "transformers",
    transformer(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", relative_attention=True,
        pos_att_type=["p2c", "c2p"], type_vocab_size=0, **TEXT, **CLASSIFIER,
    ),
    masked_tokens,
)  # fmt: skip
network("GPT-2, tied", "transformers", gpt2, tokens)
network("GPT-NeoX", "transformers", transformer("GPTNeoXForCausalLM", "GPTNeoXConfig", bos_token_id=1, **TEXT), tokens)
network(
    "OPT", "transformers",
    transformer(
        "OPTForCausalLM", "OPTConfig", vocab_size=VOCABULARY, hidden_size=wide, word_embed_proj_dim=wide,
        num_hidden_layers=2, num_attention_heads=2, ffn_dim=twice, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=1,
    ),
    masked_tokens,
)  # fmt: skip
network(
    "BLOOM", "transformers",
    transformer(
        "BloomForCausalLM", "BloomConfig", vocab_size=VOCABULARY, hidden_size=wide, n_layer=2, n_head=2,
        bos_token_id=1, eos_token_id=1, pad_token_id=0,
    ),
    masked_tokens,
)  # fmt: skip
network("Llama", "transformers", llama, tokens)
network("Llama, padding mask", "transformers", llama, masked_tokens)
network("Mistral", "transformers", transformer("MistralForCausalLM", "MistralConfig", **CAUSAL), masked_tokens)
network("Qwen2", "transformers", transformer("Qwen2ForCausalLM", "Qwen2Config", **CAUSAL), masked_tokens)
network(
    "Gemma", "transformers",
    transformer("GemmaForCausalLM", "GemmaConfig", head_dim=8, **CAUSAL), masked_tokens,
)  # fmt: skip
network("Phi", "transformers", transformer("PhiForCausalLM", "PhiConfig", **CAUSAL), masked_tokens)
network(
    "Mamba", "transformers",
    transformer(
        "MambaForCausalLM", "MambaConfig", vocab_size=VOCABULARY, hidden_size=wide, num_hidden_layers=2, state_size=4,
        use_cache=False,
    ),
    tokens,
)  # fmt: skip
network(
    "T5", "transformers",
    transformer(
        "T5ForConditionalGeneration", "T5Config", vocab_size=VOCABULARY, d_model=wide, d_kv=8, d_ff=twice,
        num_layers=2, num_heads=2, decoder_start_token_id=0,
    ),
    pairs_of_tokens,
)  # fmt: skip
network(
    "BART", "transformers",
    transformer(
        "BartForConditionalGeneration", "BartConfig", vocab_size=VOCABULARY, d_model=wide, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=twice,
        decoder_ffn_dim=twice, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        decoder_start_token_id=1, forced_eos_token_id=1,
    ),
    pairs_of_tokens,
)  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": wide, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": twice,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
network(
    "ViT (transformers)", "transformers",
    transformer("ViTForImageClassification", "ViTConfig", **VISION, **CLASSIFIER), pixels(),
)  # fmt: skip
network(
    "DeiT (transformers)", "transformers",
    transformer("DeiTForImageClassification", "DeiTConfig", **VISION, **CLASSIFIER), pixels(),
)  # fmt: skip
network(
    "BEiT", "transformers",
    transformer("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True, **VISION, **CLASSIFIER),
    pixels(),
)  # fmt: skip
network(
    "SegFormer", "transformers",
    transformer(
        "SegformerForSemanticSegmentation", "SegformerConfig", num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=lambda size: [8 * size, 16 * size], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=wide, **CLASSIFIER,
    ),
    pixels(), channels_first=True,
)  # fmt: skip
network(
    "Wav2Vec2", "transformers",
    transformer(
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", hidden_size=wide, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=twice, conv_dim=lambda size: (8 * size, 8 * size),
        conv_stride=(4, 2), conv_kernel=(8, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, apply_spec_augment=False, layerdrop=0.0, **CLASSIFIER,
    ),
    lambda samples, _: {"input_values": torch.randn(samples, 400)},
)  # fmt: skip
network(
    "CLIP", "transformers",
    transformer(
        "CLIPModel", "CLIPConfig", projection_dim=wide,
        text_config=lambda size: {
            **{key: value(size) if callable(value) else value for key, value in TEXT.items()},
            "bos_token_id": 1, "eos_token_id": 2,
        },
        vision_config=lambda size: {key: value(size) if callable(value) else value for key, value in VISION.items()},
    ),
    lambda samples, size: masked_tokens(samples, size) | pixels()(samples, size),
)  # fmt: skip


# peft.


def adapted(make: Callable[[int], nn.Module], targets: list[str], **more: Any) -> Callable[[int], nn.Module]:
    """With LoRA on the modules named, everything else frozen but a classifier's head."""

    def adapt(size: int) -> nn.Module:
        import peft  # pyright: ignore[reportMissingImports]

        options = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, lora_dropout=0.1, **more)
        model = peft.get_peft_model(make(size), options)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():  # B starts at 0, where half of all gradients are 0
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        return model

    return adapt


network("BERT, LoRA", "transformers+peft", adapted(bert, ["query", "value"], task_type="SEQ_CLS"), masked_tokens)
network("GPT-2, LoRA", "transformers+peft", adapted(gpt2, ["c_attn"], fan_in_fan_out=True), tokens)
network("Llama, LoRA", "transformers+peft", adapted(llama, ["q_proj", "v_proj", "down_proj"]), masked_tokens)


# timm.


def vision(name: str, **options: Any) -> Callable[[int], nn.Module]:
    """A model of timm by name; options that are functions are given the size."""

    def make(size: int) -> nn.Module:
        with torchvision_or_stub():
            import timm  # pyright: ignore[reportMissingImports]

        given = {key: value(size) if callable(value) else value for key, value in options.items()}
        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **given)

    return make


def mixer(parts: Callable[[Any], dict[str, Any]] = lambda _: {}) -> Callable[[int], nn.Module]:
    """An MlpMixer of timm, of which `parts` gives the arguments that are classes of its module."""

    def make(size: int) -> nn.Module:
        with torchvision_or_stub():
            from timm.models import mlp_mixer  # pyright: ignore[reportMissingImports]

        return mlp_mixer.MlpMixer(CLASSES, 32, patch_size=8, num_blocks=2, embed_dim=wide(size), **parts(mlp_mixer))

    return make


def convmixer(size: int) -> nn.Module:
    with torchvision_or_stub():
        from timm.models.convmixer import ConvMixer  # pyright: ignore[reportMissingImports]

    return ConvMixer(wide(size), 2, kernel_size=3, patch_size=4, num_classes=CLASSES)


def by_groups(_: int) -> Callable[[int], nn.Module]:
    return lambda channels, **_: nn.GroupNorm(4, channels)


SMALL_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": wide, "depth": 2, "num_heads": 2}
FOUR_STAGES: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "dims": lambda size: tuple(8 * size * times for times in (1, 2, 2, 4)),
}
network("ResNet-18, GroupNorm", "timm", vision("resnet18", norm_layer=by_groups), images())
network("ResNet-18, BatchNorm in eval", "timm", vision("resnet18"), images())
network("ResNet-18, BatchNorm in train", "timm", vision("resnet18"), images(), norms_in_eval=False)
network("ConvNeXt", "timm", vision("convnext_atto", **FOUR_STAGES), images())
network("MLP-Mixer", "timm", mixer(), images())
network(
    "ResMLP", "timm", mixer(lambda m: {"mlp_ratio": 4, "block_layer": m.ResBlock, "norm_layer": m.Affine}), images()
)
network(
    "gMLP",
    "timm",
    mixer(lambda m: {"mlp_ratio": 6, "block_layer": m.SpatialGatingBlock, "mlp_layer": m.GatedMlp}),
    images(),
)
network("MobileNetV3", "timm", vision("mobilenetv3_small_050"), images())
network("EfficientNet", "timm", vision("efficientnet_lite0"), images())
network("RegNet", "timm", vision("regnetx_002"), images())
network("DenseNet", "timm", vision("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)), images())
network(
    "Swin", "timm",
    vision(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=4, window_size=4, embed_dim=wide, depths=(2, 2),
        num_heads=(2, 2),
    ),
    images(),
)  # fmt: skip
network("ViT (timm)", "timm", vision("vit_tiny_patch16_224", **SMALL_VIT), images())
network("DeiT, distilled (timm)", "timm", vision("deit_tiny_distilled_patch16_224", **SMALL_VIT), images())
network("CaiT", "timm", vision("cait_xxs24_224", **SMALL_VIT), images())
network("XCiT", "timm", vision("xcit_nano_12_p16_224", **SMALL_VIT | {"patch_size": 16}), images())
network("ConvMixer", "timm", convmixer, images())
network(
    "PVT v2", "timm",
    vision(
        "pvt_v2_b0", depths=(1, 1), embed_dims=lambda size: (8 * size, 16 * size), num_heads=(1, 2), sr_ratios=(4, 2),
        mlp_ratios=(2, 2),
    ),
    images(),
)  # fmt: skip
network("GhostNet", "timm", vision("ghostnet_050"), images())
network("RepVGG", "timm", vision("repvgg_a0"), images())
network("EdgeNeXt", "timm", vision("edgenext_xx_small"), images(64))
