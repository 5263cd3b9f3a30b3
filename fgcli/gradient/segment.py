"""The upstream Jacobian of a site in a network of any shape: from its output to what is reached next.

Seen as a function of the outputs of sites alone, a network is a graph: s_j depends directly on those s_i from which a
path leads to s_j without passing another site, and the loss on the model's outputs. The segment of site i is all such
paths from s_i: they end at the outputs of the next sites (each inclusive: its own layer is the last operation), and at
the model's output where a path gets there past all sites. What comes from other sites is held fixed. W̃_i is the
Jacobian of all these ends together, one above the other, with respect to s_i.

The chain rule is then g_i = Σ_j (∂s_j/∂s_i)ᵀ g_j + (∂output/∂s_i)ᵀ ∂L/∂output = W̃_iᵀ (g_j, ..., ∂L/∂output), so that
g_i lies in Im(W̃_iᵀ) exactly, whatever branches and skips the network has. In a chain the segment is the activation and
the next layer, and W̃_i the paper's. On a residual stream it reaches past every block: the first projection of each
later block is a next site, and W̃_i has a block of rows for each. With n blocks that is of order n² layers in all.

A site from which only the model's output is reached is an output layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.trace import Traced
from fgcli.gradient.upstream import SegmentUpstream

DETACHING = {("call_method", "detach"), ("call_function", torch.detach)}


@dataclass(frozen=True)
class GraphSegment:
    """The operations between s_i and the ends of its segment, in their order."""

    traced: Traced
    site: fx.Node
    ends: tuple[fx.Node, ...]
    operations: tuple[fx.Node, ...]
    fixed: tuple[fx.Node, ...]
    """What they use that does not depend on s_i directly: other sites' outputs, also those that are ends, among it."""
    reason: str
    """Why this is no elementwise activation and linear layer: completes «site 'x' ...»."""


def graph_segment(traced: Traced, name: str, reason: str) -> GraphSegment | None:
    """The segment of a site; None for an output layer."""
    site = traced.site_nodes[name]
    reached = _reached(traced, site)
    output = next(node for node in traced.graph.nodes if node.op == "output")
    sites = [node for node in reached if traced.is_site(node)]
    if not sites:
        return None
    # An output that is the output of a next site is reached through that site alone.
    past_all = {site, *reached} - set(sites)
    ends = [*sites, *(node for node in output.all_input_nodes if node in past_all)]
    needed = _leading_to(ends, {site, *reached})
    operations = tuple(node for node in traced.graph.nodes if node in needed and node is not site)
    used = {argument for node in operations for argument in node.all_input_nodes}
    fixed = (used - needed | used.intersection(sites)) - {site}
    return GraphSegment(traced, site, tuple(ends), operations, tuple(fixed), reason)


def _reached(traced: Traced, site: fx.Node) -> list[fx.Node]:
    """What depends on the site directly, the next sites inclusive, in the order of the graph."""
    seen: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node.op == "output" or (node.op, node.target) in DETACHING:  # neither passes a derivative on
            continue
        if any(
            argument is site or (argument in seen and not traced.is_site(argument)) for argument in node.all_input_nodes
        ):
            seen.add(node)
    return [node for node in traced.graph.nodes if node in seen]


def _leading_to(ends: list[fx.Node], within: set[fx.Node]) -> set[fx.Node]:
    needed: set[fx.Node] = set()
    ahead = list(ends)
    while ahead:
        node = ahead.pop()
        if node in within and node not in needed:
            needed.add(node)
            ahead.extend(node.all_input_nodes)
    return needed


class Lookahead:
    """Upstream Jacobians of a batch, before the pass that needs them.

    At a site the dual pass knows s_i, but not yet what else its segment uses (the keys that a query meets, say): a
    plain forward pass ahead of it does.
    """

    def __init__(self, segments: dict[str, GraphSegment]) -> None:
        self.segments = segments
        self.traced = next(iter(segments.values())).traced
        self._kept = {node for segment in segments.values() for node in (segment.site, *segment.fixed)}

    def __call__(self, inputs: Tensor) -> Iterator[tuple[str, Tensor, SegmentUpstream]]:
        """For each site that has a segment: its name, s_i [batch, ...], and W̃_i at these inputs [batch, ...]."""
        values = self.traced.run(inputs, self._kept)
        for name, segment in self.segments.items():
            fixed = {node: values[node] for node in segment.fixed}

            def function(s: Tensor, segment: GraphSegment = segment, fixed: dict[fx.Node, Tensor] = fixed) -> Tensor:
                found = self.traced.evaluate(segment.operations, {**fixed, segment.site: s})
                return torch.cat([found[node].flatten(1) for node in segment.ends], 1)

            s = values[segment.site]
            yield name, s, SegmentUpstream(function, s)

    def refuse_unusable(self, example: Tensor) -> None:
        """Raises ModelRefused, naming the site, where a Jacobian cannot be applied to several vectors at once."""
        for name, s, upstream in self(example[:2]):
            try:
                image = upstream.apply(torch.zeros_like(s).flatten(1).unsqueeze(-1))
                upstream.apply_transpose(torch.zeros_like(image))
            except (NotImplementedError, RuntimeError) as cause:
                reason = str(cause).splitlines()[0]
                raise ModelRefused(
                    f"site '{name}' is followed by an operation whose Jacobian cannot be applied to many vectors at "
                    f"once ({reason}); use another operation, or activation-perturbation"
                ) from cause
