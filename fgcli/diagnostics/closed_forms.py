"""Moments of a forward gradient in closed form, for Gaussian guesses that are independent between sites and samples.

With C_i = Cov(y_i) and δ = Σ_j ⟨g_j, y_j⟩ over ALL sites of a sample: E[δ y_i] = C_i g_i, and
E[δ² y_i y_iᵀ] = 2 C_i g_i (C_i g_i)ᵀ + S C_i with S = E δ² = Σ_j g_jᵀ C_j g_j (Isserlis' theorem). So the variance at
one site depends on the others.
"""

from torch import Tensor


def mean_square(along: Tensor, diagonal: Tensor, delta_square: Tensor) -> Tensor:
    """E (δ y)∘²: of C g [batch, d], the diagonal of C [batch, d] and S = E δ² [batch] -> [batch, d]."""
    return 2 * along.square() + diagonal * delta_square.unsqueeze(1)


def mean_square_error(gradient: Tensor, along: Tensor, diagonal: Tensor, delta_square: Tensor) -> Tensor:
    """E (δ y - g)∘² -> [batch, d]; `gradient` is g [batch, d], the rest as in `mean_square`."""
    return mean_square(along, diagonal, delta_square) - 2 * gradient * along + gradient.square()


def relative_mse_of_subspace(k: int, share: float) -> float:
    """E‖δ y - g‖² / ‖g‖² of one site alone with y = V z, z ~ N(0, I_k), V orthonormal: 1 + k ρ, ρ = ‖Vᵀg‖²/‖g‖².

    ρ = 1 and k = n is the isotropic guess: n + 1.
    """
    return 1 + k * share


def cosine_squared_of_subspace(k: int, share: float) -> float:
    """E cos²(δ y, g) for y = V z as above: ρ / k. δ, and with it the other sites, drops out."""
    return share / k
