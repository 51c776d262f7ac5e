"""What became of a checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Conversion:
    """What was converted, and what was not.

    Args:
        path (`Path`): what was written.
        kind (`str`): what that is, e.g. "a HubertModel".
        set_aside (`list[str]`): weights that the class has no place for, kept beside it for the way back.
        left_out (`list[str]`): parts of the checkpoint that were not converted, such as the optimiser's state.
        made_up (`list[str]`): weights that the source did not have.
        lacking (`list[str]`): modules that fairseq's model has and the source had not.
        assumed (`list[str]`): settings that the source does not say, with the values that they were given.
    """

    path: Path
    kind: str
    set_aside: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    made_up: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
