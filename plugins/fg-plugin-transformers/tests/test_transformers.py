"""`--model hf:FOLDER`, the Trainer's mixin and the Lightning module, on tiny random networks made here."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fgcli import UsageError, load_model
from fgcli.testing import run_fg

# peft's, of what transformers is to remove
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def need(package: str) -> Any:
    """A module, or the reason to skip without it."""
    return pytest.importorskip(package, reason=f"needs {package}, which fg does without", exc_type=ImportError)


SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
FLAGS = ["--dataset=t.jsonl", "--dataset-option=length=16", "--model-option=tokens=8", "--batch-size=8", "--threads=1"]
LORA = "--lora=r=2,targets=query,value"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `bert` with a random network without a tokenizer, and texts in two classes."""
    transformers = need("transformers")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
    network.save_pretrained("bert")
    lines = [{"text": "good film" if n % 2 else "bad", "label": "yes" if n % 2 else "no"} for n in range(40)]
    Path("t.jsonl").write_text("\n".join(map(json.dumps, lines)))


def tokenizer(folder: str, tokens: list[str], **special: str) -> str:
    """A tokenizer of whole words, in a folder; returns the folder."""
    transformers, tokenizers = need("transformers"), need("tokenizers")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({token: n for n, token in enumerate(tokens)}, unk_token=tokens[0])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token=tokens[0], **special).save_pretrained(folder)
    return folder


def train(*flags: str, model: str = "hf:bert") -> Any:
    shared = [one for one in FLAGS if not any(flag.startswith(one.rpartition("=")[0]) for flag in flags)]
    return run_fg("train", f"--model={model}", *shared, "--out=run", "--max-steps=2", *flags)


def test_a_network_is_trained_by_lora_resumed_evaluated_and_used() -> None:
    need("peft")
    words = tokenizer("words", ["[UNK]", "[PAD]", "good", "bad", "film"], pad_token="[PAD]")
    flags = [f"--model-option=tokenizer={words}", LORA, "--method=activation-perturbation", "--feedback=local"]
    done = train(*flags, "--lr=0.03")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert run_fg("train", "--resume=run", "--max-steps=30").exit_code == 0
    whole = run_fg("train", "--model=hf:bert", *FLAGS, *flags, "--lr=0.03", "--max-steps=30", "--out=whole")
    assert whole.exit_code == 0
    results = [json.loads(Path(out, "result.json").read_text()) for out in ("run", "whole")]
    assert results[0]["test_loss"] == results[1]["test_loss"]
    assert results[0]["test_accuracy"] == 1
    trained = [name.split(".")[-1 if "lora" not in name else -3] for name in results[0]["sites"]]
    assert set(trained) <= {"lora_A", "lora_B", "weight", "default", "query", "value", "classifier", "base_layer"}
    assert run_fg("evaluate", "run").stdout.count("accuracy │ 1.0000 │ 1.0000") == 1
    text = torch.full((1, 16), -1.0)
    text[0, :3] = torch.tensor([float(one) for one in b"bad"])
    assert load_model("run")(text).argmax().item() == 0  # "no"


def test_frozen_weights_stay_and_the_seed_decides_the_head() -> None:
    need("peft")
    assert train("--model-option=tokenizer=bytes", LORA).exit_code == 0
    before = torch.nn.Module.state_dict(need("transformers").BertForSequenceClassification.from_pretrained("bert"))
    after = load_model("run").network.state_dict()
    name = "bert.encoder.layer.0.attention.self.query"
    assert torch.equal(after[f"network.base_model.model.{name}.base_layer.weight"], before[f"{name}.weight"])
    moved = after[f"network.base_model.model.{name}.lora_B.default.weight"]
    assert moved.any()


def test_which_methods_train_it_is_said() -> None:
    done = run_fg(
        "check-model", "hf:bert", "--dataset=t.jsonl", "--batch-size=4", "--model-option=tokenizer=bytes",
        "--model-option=tokens=8", "--method=backprop", "--method=activation-perturbation", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(one["method"], one["refusal"]) for one in found["methods"]] == [
        ("backprop", ""), ("activation-perturbation", ""),
    ]  # fmt: skip


def test_random_weights_need_a_configuration_alone() -> None:
    for file in Path("bert").glob("*.safetensors"):
        file.unlink()
    done = train("--model-option=tokenizer=bytes")
    assert "fg: model hf:bert: its weights cannot be read: " in done.stderr
    assert train("--model-option=tokenizer=bytes", "--model-option=weights=random").exit_code == 0


BAD: dict[str, tuple[list[str], str]] = {
    "nowhere": (["--model=hf:nowhere"], "model hf:nowhere cannot be read: "),
    "no name": (["--model=hf"], "fg: --model: model 'hf' needs a name or a folder: hf:NAME_OR_FOLDER"),
    "no tokenizer": ([], "model hf:bert comes without a tokenizer; name one: --model-option tokenizer=NAME_OR_FOLDER"),
    "too many tokens": (
        ["--model-option=tokenizer=large"],
        "model hf:bert: its tokenizer gives tokens up to 400, and the model knows 300; use the tokenizer that it was",
    ),
    "unequal lengths": (
        ["--model-option=tokenizer=unpadded"],
        "texts are of unequal length, and its tokenizer has no padding token; name one: --model-option padding='end'",
    ),
    "padding": (["--model-option=tokenizer=unpadded", "--model-option=padding=x"], "padding is 'x', which is no token"),
    "targets": (
        ["--model-option=tokenizer=bytes", "--lora=r=2,targets=query,q_proj"],
        "fg: --lora targets: no linear layer is called 'q_proj'; the model has classifier, dense, key, query, value",
    ),
    "rank": (["--model-option=tokenizer=bytes", "--lora=r=0"], "fg: --lora is 'r=0'; it must be like r=8,targets="),
    "no rank": (["--model-option=tokenizer=bytes", "--lora=targets=query"], "without r, the rank; it must be like"),
    "key": (
        ["--model-option=tokenizer=bytes", "--model-option=output=scores"],
        "model hf:bert gives logits; it has no output 'scores'",
    ),
    "length": (["--model-option=tokenizer=bytes", "--model-option=tokens=33"], "tokens is 33; model hf:bert takes 32"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_in_a_line(case: str) -> None:
    if case in ("targets", "rank", "no rank"):
        need("peft")
    if case == "too many tokens":
        tokenizer("large", [f"w{n}" for n in range(401)], pad_token="w1")
    if case in ("unequal lengths", "padding"):
        tokenizer("unpadded", ["[UNK]", "end", "good"], eos_token="end")
    flags, said = BAD[case]
    done = train(*flags)
    assert (done.exit_code, done.stdout, Path("run").exists()) == (2, "", False), done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_numbers_are_no_texts() -> None:
    flags = ["--model-option=tokenizer=bytes", "--model-option=tokens=8"]
    done = run_fg("train", "--model=hf:bert", *flags, "--out=run")
    assert (done.exit_code, "hf:bert takes texts, and the inputs are numbers" in done.stderr) == (2, True), done.stderr


class Texts(torch.utils.data.Dataset):
    """Sixteen texts whose class is their first token."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.tensor([index % 2 + 1, 5, 6, 7])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": index % 2}


def network() -> Any:
    transformers = need("transformers")
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))


def trainer(folder: str, steps: int, data: Any = None, **more: Any) -> Any:
    transformers = need("transformers")
    need("accelerate")
    from fg_plugin_transformers.trainer import ForwardGradientMixin

    class ForwardTrainer(ForwardGradientMixin, transformers.Trainer):
        pass

    arguments = transformers.TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=8, learning_rate=0.01, save_steps=10, report_to=[],
        use_cpu=True, disable_tqdm=True, lr_scheduler_type="constant", logging_strategy="no", **more,
    )  # fmt: skip
    options = {"feedback": "local"}
    return ForwardTrainer(
        network(), arguments, train_dataset=data or Texts(), method="activation-perturbation", method_options=options
    )


def test_the_trainer_learns_and_goes_on_as_if_never_stopped() -> None:
    whole = trainer("whole", 20)
    batch = torch.utils.data.default_collate([Texts()[n] for n in range(16)])
    before = whole.model.eval()(**batch).loss.item()
    whole.train()
    after = whole.model.eval()(**batch).loss.item()
    assert after < 0.2 < before
    trainer("stopped", 10).train()
    again = trainer("stopped", 20)
    again.train(resume_from_checkpoint=True)
    assert again.gradient.steps == 20
    for (name, one), other in zip(again.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other), name


class Unlabelled(Texts):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": torch.tensor([1, 2])}


class Unequal(Texts):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": torch.ones(index + 1).long(), "labels": 0}


def test_what_the_trainer_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match="gradient_accumulation_steps is 2; forward gradients are made of whole"):
        trainer("run", 1, gradient_accumulation_steps=2)
    with pytest.raises(UsageError, match="a batch has input_ids, and no labels; every text needs one"):
        trainer("run", 1, Unlabelled()).train()
    with pytest.raises(
        UsageError, match=r"a batch has sequences of \d to 1\d tokens without padding; give the Trainer"
    ):
        trainer("run", 1, Unequal()).train()


@pytest.mark.filterwarnings("ignore")  # Lightning's, of loaders without workers and of this machine's SLURM
def test_lightning_trains_by_forward_passes() -> None:
    lightning = need("lightning")
    from fg_plugin_transformers.lightning_example import ForwardModule

    loader = torch.utils.data.DataLoader(Texts(), batch_size=8)
    module = ForwardModule(network(), lr=0.01, feedback="local")
    fitted = lightning.Trainer(
        max_epochs=10, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    fitted.fit(module, loader)
    losses = [module.model.eval()(**batch).loss.item() for batch in loader]
    assert max(losses) < 0.2
    assert module.gradient.steps == 20


def test_the_plugin_imports_nothing_heavy() -> None:
    spec = importlib.util.find_spec("fg_plugin_transformers")
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text()
    assert "import torch" not in text
    assert "import transformers" not in text
