"""fg-plugin-singhal: the other guesses of "How to guess a gradient". Imports no torch."""

from pydantic import Field

from fgcli import Entry, GuessOptions, hookimpl

FG_CONTRACT = 2


class DownstreamOptions(GuessOptions):
    """Options of layer-downstream."""

    layers: int = Field(
        default=2, ge=1, description="Layers that the noise is sent back through; at most those there are. 1 is `wt`."
    )


@hookimpl
def fg_guess_methods() -> list[Entry]:
    return [
        Entry(
            "activation-mixing",
            "fg_plugin_singhal.mixing:ActivationMixing",
            "A random mixture of the batch's activations, masked by the layer's ReLU; biased.",
            GuessOptions,
        )
    ]


@hookimpl
def fg_estimators() -> list[Entry]:
    return [
        Entry(
            "layer-downstream",
            "fg_plugin_singhal.downstream:LayerDownstream",
            "Noise sent back through several layers' Jacobians, at the price of a second forward pass; biased.",
            DownstreamOptions,
        )
    ]
