import torch

from hf_ssl.data.seeding import item_generator
from hf_ssl.modeling.blocks.patch_corruption import corrupt, draw_corruption

SHARES = {"mask_token_share": 0.8, "random_patch_share": 0.1}


def drawn(number=500, shares=SHARES):
    return draw_corruption(16, 8, [item_generator(0, 0, index) for index in range(number)], **shares)


def test_shares():
    corrupted = drawn()
    assert corrupted.positions.shape == (500, 8)
    moved = corrupted.sources != torch.arange(16)
    assert not (moved & corrupted.mask).any()
    assert abs(corrupted.mask.sum().item() / 4000 - 0.8) < 0.03
    assert abs(moved.sum().item() / 4000 - 0.1) < 0.03


def test_only_the_predicted_patches_change():
    corrupted = drawn()
    changed = corrupted.mask | (corrupted.sources != torch.arange(16))
    predicted = torch.zeros(500, 16, dtype=torch.bool).scatter(1, corrupted.positions, True)
    assert not (changed & ~predicted).any()
    assert (predicted & ~changed).any()  # those that stay as they are


def test_all_patches_replace_alike():
    corrupted = drawn(2000, {"mask_token_share": 0.0, "random_patch_share": 1.0})
    sources = corrupted.sources.gather(1, corrupted.positions)
    assert (sources != corrupted.positions).all()
    shifts = ((sources - corrupted.positions) % 16).flatten().bincount(minlength=16)[1:]
    torch.testing.assert_close(shifts / shifts.sum(), torch.full((15,), 1 / 15), atol=0.01, rtol=0)


def test_a_row_depends_on_its_generator_only():
    alone, together = draw_corruption(16, 8, [item_generator(0, 0, 3)], **SHARES), drawn(5)
    assert torch.equal(alone.positions[0], together.positions[3])
    assert torch.equal(alone.sources[0], together.sources[3])
    assert torch.equal(alone.mask[0], together.mask[3])


def test_corrupt():
    patches, token = torch.randn(2, 16, 4), torch.randn(4)
    corrupted = drawn(2)
    result = corrupt(patches, corrupted.mask, corrupted.sources, token)
    for row in range(2):
        for patch in range(16):
            own = patches[row, corrupted.sources[row, patch]]
            assert torch.equal(result[row, patch], token if corrupted.mask[row, patch] else own)
