"""What a bottleneck adapter is: the published variants and their sizes."""

from dataclasses import dataclass
from typing import Any

from peft import PeftConfig
from peft.utils import PeftType
from transformers.activations import ACT2FN

from hf_ssl.errors import InputError, unknown_name

# variant -> what its paper uses, where the config does not say otherwise
VARIANTS: dict[str, dict[str, Any]] = {
    "houlsby": {"bottleneck_size": 64, "activation": "gelu", "scaling": 1.0},
    "pfeiffer": {"reduction_factor": 16.0, "activation": "relu", "scaling": 1.0},
    "parallel": {"reduction_factor": 2.0, "activation": "relu", "scaling": 4.0},
}


@dataclass
class BottleneckConfig(PeftConfig):
    """The configuration of bottleneck adapters: `s · W_up σ(W_down h)`, added to what a frozen encoder computes.

    * `houlsby` (1902.00751): after the output projections of the attention and of the feed-forward block; 64 units,
      GELU, s = 1; begins near the identity.
    * `pfeiffer` (2005.00052): after the feed-forward block; width / 16 units, ReLU, s = 1; begins near the identity.
    * `parallel` (2110.04366): beside the feed-forward block, whose input it reads; width / 2 units, ReLU, s = 4;
      begins as the identity.

    Fields left `None` are set to the variant's when the config is made.

    Args:
        variant (`str`, defaults to `"houlsby"`): `"houlsby"`, `"pfeiffer"` or `"parallel"`.
        bottleneck_size (`int`, *optional*): units between the two projections; or
        reduction_factor (`float`, *optional*): the width of the hidden states over those units. At most one of both.
        activation (`str`, *optional*): σ, by its name in transformers.
        scaling (`float`, *optional*): s.
        dropout (`float`, defaults to 0.0): on the units of the bottleneck, in training.
        train_layer_norms (`bool`, defaults to `False`): also train the encoder's LayerNorms, as Houlsby et al. do.
            Each adapter gets its own, through `modules_to_save`. Not for `pfeiffer`, which keeps them frozen.
        target_modules (`str` or `list[str]`, *optional*): the modules to follow, as in other configs of PEFT; by
            default [`bottleneck_targets`] of the model.
        exclude_modules (`str` or `list[str]`, *optional*): modules among those to leave out.
        modules_to_save (`list[str]`, *optional*): modules to train whole and to save with the adapter, e.g. a head.
        fused_adapters (`list[str]`, *optional*): names of the adapters of which an AdapterFusion holds frozen copies;
            [`BottleneckModel.fuse_adapters`] sets it.
        fusion_dropout (`float`, defaults to 0.1): on the scores of an AdapterFusion, in training; BERT's attention has
            as much.

    Raises:
        InputError: for an unknown variant or activation, or a size, factor or rate outside its range.
    """

    variant: str = "houlsby"
    bottleneck_size: int | None = None
    reduction_factor: float | None = None
    activation: str | None = None
    scaling: float | None = None
    dropout: float = 0.0
    train_layer_norms: bool = False
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    modules_to_save: list[str] | None = None
    fused_adapters: list[str] | None = None
    fusion_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["BOTTLENECK"]
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if self.variant not in VARIANTS:
            raise unknown_name("variant of bottleneck adapters", self.variant, VARIANTS)
        self._fill_in(**VARIANTS[self.variant])
        self._check()

    def size(self, width: int) -> int:
        """Units of the bottleneck between hidden states of this width."""
        if self.bottleneck_size is not None:
            return self.bottleneck_size
        assert self.reduction_factor is not None
        return max(1, int(width / self.reduction_factor))

    def _fill_in(
        self,
        activation: str,
        scaling: float,
        bottleneck_size: int | None = None,
        reduction_factor: float | None = None,
    ) -> None:
        if self.bottleneck_size is None and self.reduction_factor is None:
            self.bottleneck_size, self.reduction_factor = bottleneck_size, reduction_factor
        self.activation = activation if self.activation is None else self.activation
        self.scaling = scaling if self.scaling is None else self.scaling

    def _check(self) -> None:
        if self.bottleneck_size is not None and self.reduction_factor is not None:
            raise InputError(
                f"bottleneck_size {self.bottleneck_size} and reduction_factor {self.reduction_factor} both say how "
                "wide the bottleneck is; give one of them."
            )
        for name in ("bottleneck_size", "reduction_factor"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}; it has to be greater than 0.")
        for name in ("dropout", "fusion_dropout"):
            rate = getattr(self, name)
            if not 0 <= rate < 1:
                raise InputError(f"{name} is {rate}; it has to be in [0, 1).")
        if self.activation not in ACT2FN:
            raise unknown_name("activation", str(self.activation), ACT2FN)
        if self.train_layer_norms and self.variant == "pfeiffer":
            raise InputError(
                "train_layer_norms is set, but the pfeiffer variant keeps the encoder's LayerNorms frozen; leave it "
                "out, or use the houlsby or the parallel variant."
            )
