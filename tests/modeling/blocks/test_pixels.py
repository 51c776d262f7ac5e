import pytest
import torch

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.pixels import check_pixel_scale, colours_of

MEAN, SCALE = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 6)])
def test_colours(shape):
    colours = torch.rand(shape)
    normalised = torch.stack([(colours[:, c] - MEAN[c]) / SCALE[c] for c in range(3)], dim=1)
    torch.testing.assert_close(colours_of(normalised, MEAN, SCALE), colours)


@pytest.mark.parametrize(("mean", "scale"), [(MEAN, [0.0, 0.3, 0.4]), (MEAN[:2], SCALE), (MEAN, SCALE[:2])])
def test_values_that_do_not_fit(mean, scale):
    with pytest.raises(InputError, match="give three numbers each"):
        check_pixel_scale(mean, scale)
