"""Sites whose gradient feedback has no prediction for."""

from collections.abc import Collection, Iterator

from fgcli.gradient.sites import Network


def without_prediction(network: Network, places: Collection[str]) -> Iterator[str]:
    """Sites from which another is reached whose input belongs to no sample, so that nothing is predicted there."""
    found = {*places, *(name for name, site in network.sites.items() if site.is_output)}
    for site in network.guessed:
        for name in site.reaches:
            if name not in found:
                why = network.mixes or "it has one output for the whole batch"
                yield (
                    f"site '{name}', which '{site.name}' leads to, has no sample's own input ({why}), so that feedback "
                    "predicts nothing there: set correction=1, or leave feedback out"
                )
