"""fairseq describes the layers of its CNN by a Python expression, which it evaluates; here it is parsed."""

import ast

from hf_ssl.errors import InputError

MAX_LAYERS = 64

ConvLayer = tuple[int, int, int]
"""Channels, kernel and stride (samples, then frames)."""


def parse_conv_layers(expression: str) -> list[ConvLayer]:
    """The layers that `[(512, 10, 5)] + [(512, 3, 2)] * 4` describes: lists of triples, added and repeated.

    Raises:
        InputError: for any other expression; nothing of it is evaluated.
    """
    try:
        layers = _layers(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            f"conv_feature_layers is {expression!r}, which is not a sum of lists of (channels, kernel, stride), each "
            "repeated or not; write it as [(512, 10, 5)] + [(512, 3, 2)] * 4."
        ) from error
    if not layers:
        raise InputError("conv_feature_layers is empty; the CNN needs a layer.")
    return layers


def format_conv_layers(layers: list[ConvLayer]) -> str:
    """The expression for some layers, as fairseq's settings have it."""
    return str(layers)


def _layers(node: ast.expr) -> list[ConvLayer]:
    match node:
        case ast.List(elts=elements):
            layers = [_triple(ast.literal_eval(element)) for element in elements]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            layers = _layers(left) + _layers(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if 0 <= times <= MAX_LAYERS:
            layers = _layers(left) * times
        case _:
            raise ValueError(f"{ast.unparse(node)} is no list of layers")
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"more than {MAX_LAYERS} layers")
    return layers


def _triple(value: object) -> ConvLayer:
    if not isinstance(value, tuple | list) or len(value) != 3 or not all(type(n) is int and n > 0 for n in value):
        raise ValueError(f"{value} is no (channels, kernel, stride)")
    return (value[0], value[1], value[2])
