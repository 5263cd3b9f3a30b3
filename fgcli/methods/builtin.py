"""The methods that are built in, through the same hooks as anybody's. Imports no torch."""

from fgcli.extend.entry import Entry
from fgcli.extend.hookspecs import hookimpl
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
    TransposeOptions,
    WeightPerturbationOptions,
)


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
            TransposeOptions,
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
