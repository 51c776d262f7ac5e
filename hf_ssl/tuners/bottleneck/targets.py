"""Where bottleneck adapters stand in an encoder: found by how transformers names the parts of its layers."""

import re
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.layer_stack import layer_stack_name

# Regular expressions of names within a layer. A family needs no entry of its own unless it has a name of its own.
ATTENTION_OUTPUTS = (
    r"attention\.o_proj",
    r"attention\.out_proj",
    r"attention\.output\.dense",
    r"attention\.dense",
    r"attention\.out_lin",
    r"attention\.attn\.o",
    r"attn\.Wo",
    r"self_attn\.linear_out",
    r"self_attn\.out_proj",
)
# output projection of the feed-forward block -> name of the projection that reads the block's input
FEED_FORWARDS = {
    r"mlp\.fc2": "mlp.fc1",
    r"mlp\.Wo": "mlp.Wi",
    r"mlp\.weights_out": "mlp.weights_in",
    r"mlp\.down_proj": "mlp.up_proj",
    r"(?<!attention\.)output\.dense": "intermediate.dense",
    r"feed_forward\.output_dense": "feed_forward.intermediate_dense",
    r"ffn2\.output_dense": "ffn2.intermediate_dense",  # the later one of a Conformer's two half-steps
    r"ffn\.lin2": "ffn.lin1",
    r"ffn_output": "ffn",
    r"pwconv2": "pwconv1",
}
# LayerNorms of the sum of a feed-forward block and its residual
OUTPUT_NORMS = (
    r"(?<!attention\.)output\.LayerNorm",
    r"full_layer_layer_norm",
    r"output_layer_norm",
    r"final_layer_norm",
)


def bottleneck_targets(model: PreTrainedModel, variant: str) -> str:
    """The `target_modules` of a [`BottleneckConfig`] that names none.

    * houlsby: the output projections of the attention and of the feed-forward block. WavLM hands the weights of its
      attention's projections over without calling them; there the adapter follows the attention as a whole.
    * pfeiffer: the LayerNorm after the feed-forward block, which the adapter reads and whose input it adds to; where
      a layer normalises before its blocks (ViT), the output projection of the feed-forward block.
    * parallel: the output projection of the feed-forward block.

    Args:
        model (`PreTrainedModel`): an encoder, or a model with an encoder under its `base_model_prefix`. Only what lies
            in the encoder's layers is matched: never a head, a pooler or a teacher's copy of the encoder.
        variant (`str`): `"houlsby"`, `"pfeiffer"` or `"parallel"`.

    Returns:
        `str`: a regular expression that the full names of those modules match.

    Raises:
        InputError: for an encoder whose layers have no such part.
    """
    encoder = model.base_model
    family = encoder.config.model_type
    prefix = "" if encoder is model else f"{model.base_model_prefix}."
    layers = re.escape(f"{prefix}{layer_stack_name(encoder)}.") + r"\d+\."

    def found(names: Iterable[str]) -> str | None:
        targets = rf"{layers}(.*\.)?({'|'.join(names)})"
        return targets if any(re.fullmatch(targets, name) for name, _ in model.named_modules()) else None

    feed_forward = found(FEED_FORWARDS)
    if feed_forward is None:
        raise InputError(
            f"The layers of a {family} encoder have no feed-forward block that bottleneck adapters could follow; use "
            "another method, such as LoRA, or name linear layers in target_modules."
        )
    if variant == "parallel":
        return feed_forward
    if variant == "pfeiffer":
        # The wav2vec 2.0 family keeps the norm's name when it stands before the block.
        before = encoder.config.to_dict().get("do_stable_layer_norm", False)
        return (None if before else found(OUTPUT_NORMS)) or feed_forward
    attention = found(("attention",) if family == "wavlm" else ATTENTION_OUTPUTS)
    if attention is None:
        raise InputError(
            f"The layers of a {family} encoder have no attention that the houlsby variant could follow; use the "
            "pfeiffer or the parallel variant."
        )
    return f"{attention}|{feed_forward}"


def feed_forward_input(model: nn.Module, output_projection: str) -> nn.Module:
    """The module that reads the input of the feed-forward block which ends in this projection.

    Raises:
        InputError: for a projection that no feed-forward block ends in.
    """
    for pattern, reads_input in FEED_FORWARDS.items():
        if block := re.fullmatch(rf"((?:.*\.)?){pattern}", output_projection):
            return model.get_submodule(block[1] + reads_input)
    raise InputError(
        f"{output_projection} is not the output projection of a feed-forward block, beside which the parallel variant "
        "stands; leave target_modules out, or use the houlsby variant."
    )
