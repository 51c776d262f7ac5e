"""data2vec's teacher in fairseq's state dict, for an encoder that has none yet."""

from hf_ssl.hub.conversion.architectures import Weights

EMA = "_ema"
"""Key under which a state dict of data2vec holds another one: its teacher's Transformer."""

STUDENT = "encoder."


def has_teacher(weights: Weights) -> bool:
    """Whether a teacher is among weights by fairseq's names."""
    return any(name.startswith(f"{EMA}.") for name in weights)


def copied_teacher(weights: Weights) -> Weights:
    """A teacher that is a copy of the student, in fp32: what fairseq makes before the first update."""
    return {
        f"{EMA}.{name.removeprefix(STUDENT)}": weight.float()
        for name, weight in weights.items()
        if name.startswith(STUDENT)
    }
