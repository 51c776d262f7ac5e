import pytest
import torch

from hf_ssl.modeling.blocks.decorrelation import diagonal_of_product, off_diagonal_squares


@pytest.mark.parametrize("num_rows", [1, 3, 4, 9])  # of 8 dimensions: fewer than, as many as and more than half
def test_off_diagonal_squares_with_their_gradient(num_rows):
    left, right = (torch.randn(num_rows, 8, requires_grad=True) for _ in range(2))
    expected = torch.zeros(())
    for i in range(8):
        for j in range(8):
            if i != j:
                expected = expected + sum(left[n, i] * right[n, j] for n in range(num_rows)) ** 2
    total = off_diagonal_squares(left, right)
    torch.testing.assert_close(total, expected)
    inputs = [left, right]
    torch.testing.assert_close(torch.autograd.grad(total, inputs), torch.autograd.grad(expected, inputs))


def test_of_a_tensor_with_itself_the_gradient_is_of_both_sides():
    rows = torch.randn(2, 8, requires_grad=True)
    matrix = rows.T @ rows
    expected = matrix.square().sum() - matrix.diagonal().square().sum()
    total = off_diagonal_squares(rows, rows)
    torch.testing.assert_close(torch.autograd.grad(total, rows), torch.autograd.grad(expected, rows))


def test_few_rows_are_as_exact_as_many():
    rows = torch.randn(256, 1024)
    rows = (rows - rows.mean(0)) / rows.std(0) / 16
    exact = (rows.double().T @ rows.double()).square().fill_diagonal_(0).sum()
    assert off_diagonal_squares(rows, rows).item() == pytest.approx(exact.item(), rel=1e-6)


def test_a_diagonal_matrix_has_none():
    assert off_diagonal_squares(100 * torch.eye(300), 100 * torch.eye(300)).item() == 0


def test_diagonal_by_hand():
    left, right = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[5.0, 6], [7, 8]])
    assert diagonal_of_product(left, right).tolist() == [1 * 5 + 3 * 7, 2 * 6 + 4 * 8]
