"""What a prefix is made of."""

from dataclasses import dataclass, field

from peft import PeftConfig
from peft.utils import PeftType

from hf_ssl.errors import InputError


@dataclass
class PrefixConfig(PeftConfig):
    """Prefix tuning: learned keys and values before those of the tokens, in every attention of an encoder.

    Li & Liang 2021, arXiv:2101.00190; without the re-parametrisation and with a head, P-tuning v2 (Liu et al. 2021,
    arXiv:2110.07602). Keys and values are all that is learned: the prefix has no positions, those of the tokens do not
    move, and the output is as long as the input.

    A fresh prefix changes the output of the model, unlike a fresh LoRA or adapter: no keys and values, zeros included,
    leave the weights of the attention to the tokens as they were. Few tokens change it least. It starts
    from keys and values drawn from N(0, 0.02^2), or from the re-parametrisation with `torch`'s own initialisation.

    Args:
        num_tokens (`int`): the length of the prefix. Li & Liang's best for generating from tables is 10 (section 7.1);
            P-tuning v2 takes fewer than 20 for classification, and about 100 for tagging.
        reparametrisation (`int`, *optional*): the width of the hidden layer of the MLP that makes the keys and values
            of all layers from one embedding of each prefix token (section 4.3 of Li & Liang, whose code has 512 or
            800 units and tanh); by default they are themselves the parameters. The MLP is there while training, and
            checkpoints hold it for an exact resume: `drop_reparametrisation` replaces it by what it makes.
        dropout (`float`): in [0, 1), of the keys and values of the prefix.
        target_modules (`str` or list of `str`, *optional*): the attention modules; by default all of the encoder.
        modules_to_save (list of `str`, *optional*): what is trained in full and saved beside, such as a head.

    Raises:
        InputError: for a number out of its range.
    """

    num_tokens: int = 10
    reparametrisation: int | None = None
    dropout: float = 0.0
    target_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["ENCODER_PREFIX"]
        if self.num_tokens < 1:
            raise InputError(f"num_tokens is {self.num_tokens}, but a prefix has at least 1 token.")
        if self.reparametrisation is not None and self.reparametrisation < 1:
            raise InputError(
                f"reparametrisation is {self.reparametrisation}; give the width of its hidden layer, at least 1, or "
                "nothing to learn the keys and values themselves."
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; give a probability in [0, 1).")
