"""Moments of a forward gradient in closed form, for guesses y_i = A_i z_i, independent between sites and samples.

With C_i = A_i A_iᵀ, h = (A_1ᵀg_1, A_2ᵀg_2, …) and δ = ⟨h, z⟩ over ALL sites of a sample, E[δ y_i] = C_i g_i, however
many tangents there are. Second moments, with S = ‖h‖² = Σ_j g_jᵀ C_j g_j, so that the variance at one site depends on
the others, are

    E ĝ_i ĝ_iᵀ = own · C_i g_i (C_i g_i)ᵀ + cross · S C_i + fourth · A_i diag(h_i)² A_iᵀ

one Gaussian z        own 2, cross 1 (Isserlis' theorem)
one of random signs   the same, and fourth -2, as E z⁴ is 1 instead of 3
mean of K             an average of K independent ones: own 1 + 1/K, cross 1/K, fourth 1/K of the above
orthogonal, and       ĝ = (n/K) A P h for a uniform projector P of rank K in n = length of z dimensions, whose moments
                      are E (Ph)(Ph)ᵀ = a ‖h‖² I + b hhᵀ with n a + b = K/n (the trace) and a + b =
                      K(K + 2) / (n(n + 2)), as (hᵀPh)/‖h‖² ~ Beta(K/2, (n - K)/2). K = n: own 1, cross 0. With
                      `sitewise` n, h and S are those of one site
"""

from dataclasses import dataclass

from fgcli.gradient.tangents import Tangents


@dataclass(frozen=True)
class SecondMoments:
    """The three factors above."""

    own: float = 2.0
    cross: float = 1.0
    fourth: float = 0.0


def second_moments(tangents: Tangents, n: int) -> SecondMoments | None:
    """Of an estimate whose z has n dimensions, over all sites. None where they have no closed form (projection)."""
    if tangents.combine == "projection":
        return None
    k = tangents.number
    if tangents.are_orthogonal:
        if n == k:
            return SecondMoments(1.0, 0.0)
        a = k * (n - k) / (n * (n + 2) * (n - 1))
        b = k / n - n * a
        return SecondMoments(b * (n / k) ** 2, a * (n / k) ** 2)
    independent = k // 2 if tangents.draws == "antithetic" else k
    fourth = -2 / independent if tangents.draws == "rademacher" else 0.0
    return SecondMoments(1 + 1 / independent, 1 / independent, fourth)
