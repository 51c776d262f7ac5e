"""What Barlow Twins and VICReg make small: the correlation of different dimensions."""

# N rows, D dimensions

from torch import Tensor


def off_diagonal_squares(left: Tensor, right: Tensor) -> Tensor:
    """The sum `Σ_{i ≠ j} c_ij²` (scalar) of `C = leftᵀ right`.

    Where rows are few, it comes from products of rows, `Σ_ij c_ij² = Σ_nm (left leftᵀ)_nm (right rightᵀ)_nm`, and no
    matrix of D x D exists. Taking the diagonal's part from that loses no digits that matter: C has at most the rank N,
    so that with even diagonal entries the sum is at least D/N times the diagonal's, here twice.

    Args:
        left (`Tensor` of shape `(N, D)`): fp32.
        right (`Tensor` of shape `(N, D)`): in the same order.
    """
    num_rows, size = left.shape
    if 2 * num_rows > size:
        # without the diagonal from the start: the difference of two sums would be rounding errors
        after_each_diagonal_entry = (left.T @ right).flatten()[1:].view(size - 1, size + 1)
        return after_each_diagonal_entry[:, :-1].square().sum()
    total = ((left @ left.T) * (right @ right.T)).sum()
    return total - diagonal_of_product(left, right).square().sum()


def diagonal_of_product(left: Tensor, right: Tensor) -> Tensor:
    """The diagonal (D,) of `leftᵀ right`, of two tensors (N, D)."""
    return (left * right).sum(dim=0)
