"""The figure of overlaps: Fig. 1 of the W̃⊥ paper, for any runs and bases."""

from pathlib import Path
from typing import TYPE_CHECKING

from fgcli.report.figure_file import library_defaults, plain_text, save_figure

if TYPE_CHECKING:
    from fgcli.commands.states import State
    from fgcli.diagnostics.overlap import LayerOverlap


@library_defaults()
def draw(found: "list[tuple[State, str, list[LayerOverlap]]]", path: Path) -> None:
    """A panel for each state and basis: overlap against k, one line a layer, its standard error shaded.

    √(k/d), what a random subspace of the layer's d dimensions gives, is dashed.
    """
    from matplotlib.figure import Figure

    bases = len({basis for _, basis, _ in found})
    columns = bases if bases > 1 else min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axis, (state, basis, layers) in zip(axes, found, strict=False):
        for color, layer in enumerate(layers):
            k = range(1, len(layer.overlap) + 1)
            means = [one.mean for one in layer.overlap]
            axis.plot(
                k, means, color=f"C{color}", label=plain_text(layer.layer), marker="." if len(means) < 15 else None
            )
            errors = [one.error or 0.0 for one in layer.overlap]
            low, high = ([m + sign * e for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
            axis.fill_between(k, low, high, color=f"C{color}", alpha=0.2, linewidth=0)
        longest = max(layers, key=lambda layer: len(layer.overlap), default=None)
        if longest is not None:
            k = range(1, len(longest.overlap) + 1)
            expected = [(one / longest.dimension) ** 0.5 for one in k]
            axis.plot(k, expected, color="0.5", linestyle="--", linewidth=1, label="random: √(k/d)")
        recipe = state.assembly.recipe
        axis.set_title(plain_text(f"{recipe.method}, width {recipe.width}, epoch {state.epoch:g}: {basis}"))
        axis.title.set_fontsize("small")
        axis.set_xlabel("k")
        axis.set_ylim(0, 1.02)
        axis.legend(fontsize="x-small", loc="lower right")
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("overlap")
    save_figure(figure, path)
