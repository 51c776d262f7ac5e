import pytest
import torch

from hf_ssl.modeling.blocks.patch_degradation import drop_colours, grayscale, pixelate, project_colours


@pytest.fixture
def patches():
    return torch.randn(2, 9, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_grey_where_asked_for():
    images = torch.rand(3, 3, 5, 5)
    result = grayscale(images, torch.tensor([True, False, True]))
    assert torch.equal(result[1], images[1])
    for index in (0, 2):
        red, green, blue = images[index]
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        for channel in result[index]:
            torch.testing.assert_close(channel, luma)


def test_grey_commutes_with_a_normalisation_that_is_the_same_for_all_channels():
    images, gray = torch.rand(1, 3, 5, 5), torch.tensor([True])
    torch.testing.assert_close(grayscale((images - 0.5) / 0.5, gray), (grayscale(images, gray) - 0.5) / 0.5)


def test_projection_takes_the_green_magenta_part_of_each_pixel(patches):
    a = torch.tensor([[-1.0, 2.0, -1.0]])
    b = torch.eye(3) - a.T @ a / (a @ a.T)  # section 3.2 of arXiv:1505.05192
    result = project_colours(patches)
    for image in range(2):
        for patch in range(9):
            for y in range(6):
                for x in range(6):
                    pixel = patches[image, patch, :, y, x]
                    torch.testing.assert_close(result[image, patch, :, y, x], b @ pixel)
    torch.testing.assert_close(torch.einsum("c,bpchw->bphw", a[0], result), torch.zeros(2, 9, 6, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(project_colours(result), result)
    gray = patches[:, :, :1].expand_as(patches)
    torch.testing.assert_close(project_colours(gray), gray)  # grey is orthogonal to the axis


def test_two_channels_are_noise_of_a_hundredth(patches):
    kept = torch.randint(3, (2, 9), generator=torch.Generator().manual_seed(1))
    noise = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    assert set(kept.flatten().tolist()) == {0, 1, 2}
    result = drop_colours(patches, kept, noise)
    for image in range(2):
        for patch in range(9):
            left = patches[image, patch, kept[image, patch]]
            for channel in range(3):
                if channel == kept[image, patch]:
                    expected = left - left.mean()
                else:
                    expected = noise[image, channel] * left.std(correction=0) / 100
                torch.testing.assert_close(result[image, patch, channel], expected)


def test_pixelation_is_the_mean_over_blocks(patches):
    sides = torch.tensor([6, 3, 2, 1, 6, 3, 2, 1, 6]).expand(2, 9)
    result = pixelate(patches, sides)
    for patch, side in enumerate(sides[0].tolist()):
        block = 6 // side
        for y in range(side):
            for x in range(side):
                inside = (..., slice(y * block, (y + 1) * block), slice(x * block, (x + 1) * block))
                mean = patches[:, patch][inside].mean(dim=(-2, -1), keepdim=True)
                torch.testing.assert_close(result[:, patch][inside], mean.expand(2, 3, block, block))
    torch.testing.assert_close(result[:, 0], patches[:, 0])


def test_blocks_that_do_not_divide_a_patch_have_nearly_equal_sizes():
    ramp = torch.arange(5.0).expand(1, 1, 1, 5, 5)
    row = pixelate(ramp, torch.tensor([[2]]))[0, 0, 0, 0]
    assert row.tolist() == [1.0, 1.0, 1.0, 3.5, 3.5]
