import pytest
import torch

from hf_ssl.data.augmentation import AUGMENTATIONS, NUM_DRAWS, Square, augmentation, draw_views
from hf_ssl.data.seeding import item_generator
from hf_ssl.errors import InputError

NO_JITTER = (0.0, 0.0, 0.0, 0.0)


def test_draws_of_an_item_do_not_depend_on_its_batch():
    together = draw_views(2, [item_generator(3, 1, index) for index in (5, 6, 7)])
    alone = draw_views(2, [item_generator(3, 1, 6)])
    assert all(torch.equal(together[name][1:2], alone[name]) for name in alone)
    assert sum(draw.shape[-1] for draw in alone.values()) == NUM_DRAWS


def figures(view):
    """As the tables have them: crop, flip, jitter and its probability, grey, blur, solarize."""
    colours = (view.jitter, view.jitter_probability, view.gray_probability)
    return (view.crop_area, view.flip_probability, *colours, view.blur_probability, view.solarize_probability)


def test_two_view_presets_hold_the_published_figures():
    """Grey .2 and flip .5 in all of them."""
    byol = ((0.08, 1.0), 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2)
    expected = {
        "simclr": [((0.08, 1.0), 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0.0)] * 2,
        "simclr_small": [((0.08, 1.0), 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0)] * 2,
        "moco_v1": [((0.2, 1.0), 0.5, (0.4, 0.4, 0.4, 0.4), 1.0, 0.2, 0.0, 0.0)] * 2,
        "moco_v2": [((0.2, 1.0), 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0.0)] * 2,
        "byol": [(*byol, 1.0, 0.0), (*byol, 0.1, 0.2)],
        "byol_small": [(*byol, 0.0, 0.0), (*byol, 0.0, 0.2)],
    }
    assert {name: [figures(view) for view in AUGMENTATIONS[name]] for name in expected} == expected
    assert not any(view.is_local for name in expected for view in AUGMENTATIONS[name])


def test_multi_crop_presets_hold_the_published_figures():
    strong, weak, small = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.2, 0.1), (0.4, 0.4, 0.4, 0.1)
    expected = {
        "swav": [((0.14, 1.0), 0.5, strong, 0.8, 0.2, 0.5, 0.0)] * 2
        + [((0.05, 0.14), 0.5, strong, 0.8, 0.2, 0.5, 0.0)] * 6,
        "swav_small": [((0.2, 1.0), 0.5, small, 0.8, 0.2, 0.0, 0.0)] * 2
        + [((0.08, 0.5), 0.5, small, 0.8, 0.2, 0.0, 0.0)] * 4,
        "dino": [((0.4, 1.0), 0.5, weak, 0.8, 0.2, 1.0, 0.0), ((0.4, 1.0), 0.5, weak, 0.8, 0.2, 0.1, 0.2)]
        + [((0.05, 0.4), 0.5, weak, 0.8, 0.2, 0.5, 0.0)] * 8,
        "dino_small": [((0.4, 1.0), 0.5, weak, 0.8, 0.2, 0.0, 0.0), ((0.4, 1.0), 0.5, weak, 0.8, 0.2, 0.0, 0.2)]
        + [((0.05, 0.4), 0.5, weak, 0.8, 0.2, 0.0, 0.0)] * 4,
        "ibot": [((0.25, 1.0), 0.5, weak, 0.8, 0.2, 1.0, 0.0), ((0.25, 1.0), 0.5, weak, 0.8, 0.2, 0.1, 0.2)]
        + [((0.05, 0.25), 0.5, weak, 0.8, 0.2, 0.5, 0.0)] * 10,
    }
    assert {name: [figures(view) for view in AUGMENTATIONS[name]] for name in expected} == expected
    for name, views in expected.items():
        assert [view.is_local for view in AUGMENTATIONS[name]] == [False] * 2 + [True] * (len(views) - 2)


def test_presets_of_one_view_hold_the_published_figures():
    unchanged = (NO_JITTER, 0.0, 0.0, 0.0, 0.0)
    expected = {
        "crop_flip": ((0.2, 1.0), 0.5, *unchanged),
        "simmim": ((0.67, 1.0), 0.5, *unchanged),
        "beit": ((0.08, 1.0), 0.5, (0.4, 0.4, 0.4, 0.0), 1.0, 0.0, 0.0, 0.0),
        "crop": ((0.3, 1.0), 0.0, *unchanged),
        "deepcluster": ((0.08, 1.0), 0.5, *unchanged),
        "random_crop": ((0.08, 1.0), 0.5, *unchanged),
    }
    squares = {"rotnet": Square(side=1.0, padding=4 / 32), "whole": Square(side=255 / 292)}
    single = {name: views for name, views in AUGMENTATIONS.items() if len(views) == 1}
    assert single.keys() == expected.keys() | squares.keys()
    for name, values in expected.items():
        assert figures(single[name][0]) == values
        assert single[name][0].square is None
    for name, square in squares.items():
        assert single[name][0].square == square
        assert figures(single[name][0])[1:] == (0.5, *unchanged)
    assert [name for name, (view,) in single.items() if view.is_photometric] == ["beit"]


def test_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'simclr'"):
        augmentation("simcrl")
