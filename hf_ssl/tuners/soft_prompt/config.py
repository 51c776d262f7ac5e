"""What a soft prompt is, and what it starts from."""

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.utils import PeftType

from hf_ssl.errors import InputError, unknown_name

STARTS = ("random", "vocabulary", "kmeans", "words", "classes")


@dataclass
class SoftPromptConfig(PeftConfig):
    """Soft prompts: learned vectors before the tokens, patches or frames, in the layers of an encoder.

    Shallow prompts enter before the first layer and are cut off after the last: VPT-shallow (Jia et al. 2022,
    arXiv:2203.12119, section 3.2) for images, prompt tuning (Lester et al. 2021, arXiv:2104.08691) for text. Deep
    prompts are others before every layer, which replace what the layer before made of its own: VPT-deep. The output is
    as long as it is without them, and so are the hidden states; only attention weights have rows and columns for the
    prompts, which come first. Prompts have no positions and need none of those that the encoder has, so the longest
    input stays as long.

    Shallow prompts go on from layer to layer beside the tokens, so they need the encoder's own forward pass; layers
    that are run one by one, as inference with early exits does, need deep ones.

    Args:
        num_tokens (`int`): how many. VPT tries 1 to 200 for each task (appendix A); Lester et al. find little gain
            beyond 20 (section 3.2).
        deep (`bool`): whether every layer has prompts of its own.
        dropout (`float`): in [0, 1), of the prompts. It is not in the papers; the authors' code of VPT has it, 0 by
            default and 0.1 in its demo.
        init (`str`): what the prompts start from. `"random"`: the uniform distribution of VPT's code. For text
            alone: `"vocabulary"`, tokens drawn from it (Lester et al., section 3.2); `"kmeans"`, the centres of
            `num_tokens` clusters of its embeddings; `"words"`, those of `init_words`; `"classes"`, the names in the
            model's `id2label`. A word is the mean of its tokens' embeddings, and where there are fewer words than
            prompts, drawn tokens make up the number. Prompts start from what each layer receives for these, each alone
            at the first position.
        init_words (list of `str`, *optional*): at most `num_tokens`.
        tokenizer (`str`, *optional*): a name or folder, for `"words"` and `"classes"`; by default the model's.
        target_modules (`str` or list of `str`, *optional*): layers of the encoder; by default all.
        modules_to_save (list of `str`, *optional*): what is trained in full and saved beside, such as a head.
        initialised (`bool`): for files. What is loaded is not made anew, and needs no tokenizer.

    Raises:
        InputError: for a number out of its range, an unknown start, or words without or against `init="words"`.
    """

    num_tokens: int = 20
    deep: bool = False
    dropout: float = 0.0
    init: str = "random"
    init_words: list[str] | None = None
    tokenizer: str | None = None
    target_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)
    initialised: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["SOFT_PROMPT"]
        if self.num_tokens < 1:
            raise InputError(f"num_tokens is {self.num_tokens}, but a soft prompt has at least 1 token.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; give a probability in [0, 1).")
        if self.init not in STARTS:
            raise unknown_name("start of a soft prompt (init)", self.init, STARTS)
        if (self.init == "words") != bool(self.init_words):
            raise InputError(
                f"init is {self.init!r} and init_words is {self.init_words}; give words with init='words' alone."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields for a file; the prompts that lie beside it have their values."""
        return super().to_dict() | {"initialised": True}
