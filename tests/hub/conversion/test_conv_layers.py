"""The CNN's description is parsed, never evaluated."""

from pathlib import Path

import pytest

from hf_ssl.errors import InputError
from hf_ssl.hub.conversion.conv_layers import format_conv_layers, parse_conv_layers


@pytest.mark.parametrize(
    "expression",
    [
        "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
        "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        "[(512, 10, 5), (512, 8, 4)] + [(512, 4, 2)] * 3 + [(512, 1, 1)]",
        " [[1, 2, 3]]\n",
        "([(1, 2, 3)] + [(4, 5, 6)] * 2) * 3",
        "[(1, 2, 3)] * 0 + [(4, 5, 6)]",
    ],
)
def test_is_what_python_makes_of_it(expression: str) -> None:
    expected = [tuple(layer) for layer in eval(expression.strip())]
    assert parse_conv_layers(expression) == expected
    assert parse_conv_layers(format_conv_layers(expected)) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "512",
        "[(512, 10)]",
        "[(512, 10, 5.0)]",
        "[(512, 10, 0)]",
        "[(512, 10, -5)]",
        "[(512, True, 5)]",
        "[(512, 10, 5)] - [(512, 3, 2)]",
        "[(512, 10, 5)] * -1",
        "[(512, 10, 5)] * 1000000000",
        "([(512, 10, 5)] * 64) * 64",
        "[(512, 10, 5)] * n",
        "[x for x in ()]",
        "[(512, 10, 5)] if True else []",
        "[(512, 10, 5)",
        "(" * 5000,
        "[(1, 2, 3)]" + " + [(1, 2, 3)]" * 100,
    ],
)
def test_anything_else_is_refused(expression: str) -> None:
    with pytest.raises(InputError, match="conv_feature_layers is"):
        parse_conv_layers(expression)


def test_nothing_runs(tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    for call in (f"open({str(victim)!r}, 'w')", f"__import__('os').system('touch {victim}')"):
        with pytest.raises(InputError, match="conv_feature_layers"):
            parse_conv_layers(f"[(512, 10, 5)] + {call}")
        with pytest.raises(InputError, match="conv_feature_layers"):
            parse_conv_layers(f"[(512, 10, {call})]")
    assert not victim.exists()


def test_no_layers() -> None:
    with pytest.raises(InputError, match="conv_feature_layers is empty"):
        parse_conv_layers("[]")
