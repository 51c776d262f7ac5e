import pytest
import torch

from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.patch_grid import check_patch_sizes, cut_patches, draw_patch_corners, standardise


def draw(image_size, num_images=4, first=0, **sizes):
    generators = [item_generator(0, 0, first + index) for index in range(num_images)]
    return draw_patch_corners(image_size, generators=generators, **sizes)


# image, patch and jitter of Doersch et al. (96 + a gap of 48, 7 pixels in each direction), of Noroozi & Favaro's paper
# and code, of an image that three does not divide, and of patches without any room
SIZES = [(432, 96, 14), (225, 64, 11), (255, 64, 21), (32, 8, 1), (9, 3, 0)]


@pytest.mark.parametrize(("image_size", "patch_size", "patch_jitter"), SIZES)
def test_each_patch_lies_in_its_own_cell(image_size, patch_size, patch_jitter):
    corners = draw(image_size, num_images=50, patch_size=patch_size, patch_jitter=patch_jitter)
    assert corners.shape == (50, 9, 3, 2)
    cell = image_size // 3
    border, room = (image_size - 3 * cell) // 2, cell - patch_size
    for image in corners.tolist():
        for number, channels in enumerate(image):
            assert channels[0] == channels[1] == channels[2]
            for axis, cells in ((0, number // 3), (1, number % 3)):
                place = channels[0][axis] - border - cells * cell - (room - patch_jitter) // 2
                assert 0 <= place <= patch_jitter
                assert border + cells * cell <= channels[0][axis]
                assert channels[0][axis] + patch_size <= border + (cells + 1) * cell


def test_the_jitter_of_the_papers_is_drawn_from_end_to_end():
    places = draw(432, num_images=200, patch_size=96, patch_jitter=14)[:, 0, 0] - 24
    assert sorted(set(places.flatten().tolist())) == list(range(-7, 8))


def test_channels_beside_their_patch_but_within_the_image():
    plain = draw(27, num_images=100, patch_size=9, patch_jitter=0)
    shifted = draw(27, num_images=100, patch_size=9, patch_jitter=0, channel_jitter=2)
    assert (shifted - plain).abs().max() == 2
    assert (shifted[:, :, 0] != shifted[:, :, 1]).any()
    assert shifted.min() == 0
    assert shifted.max() == 27 - 9


def test_what_is_drawn_for_an_image_does_not_depend_on_the_others():
    sizes = {"patch_size": 64, "patch_jitter": 21, "channel_jitter": 2}
    assert torch.equal(draw(255, num_images=4, **sizes)[2:3], draw(255, num_images=1, first=2, **sizes))


def test_cutting_is_slicing():
    images = torch.randn(4, 3, 32, 32)
    corners = draw(32, patch_size=7, patch_jitter=3, channel_jitter=2)
    patches = cut_patches(images, corners, 7)
    assert patches.shape == (4, 9, 3, 7, 7)
    for b in range(4):
        for p in range(9):
            for c in range(3):
                top, left = corners[b, p, c].tolist()
                assert torch.equal(patches[b, p, c], images[b, c, top : top + 7, left : left + 7])


def test_each_patch_gets_mean_0_and_variance_1():
    patches = 3 + 5 * torch.randn(2, 9, 3, 8, 8)
    patches[0, 4] = 7.0  # a single colour
    standardised = standardise(patches)
    for b in range(2):
        for p in range(9):
            if (b, p) == (0, 4):
                assert standardised[b, p].abs().max() == 0
                continue
            expected = (patches[b, p] - patches[b, p].mean()) / patches[b, p].std(correction=0)
            torch.testing.assert_close(standardised[b, p], expected, rtol=1e-4, atol=1e-4)


def test_patches_that_do_not_fit():
    with pytest.raises(InputError, match=r"patch of 64 pixels and a jitter of 22 .* third .* 255 .* 258"):
        draw(255, patch_size=64, patch_jitter=22)


def test_sizes_out_of_range():
    check_patch_sizes(1, patch_jitter=0)
    with pytest.raises(InputError, match="patch_size is 0"):
        check_patch_sizes(0)
    with pytest.raises(InputError, match="patch_jitter is -1"):
        check_patch_sizes(8, patch_jitter=-1)
