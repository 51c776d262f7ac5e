"""The head of a masked language model apart from its encoder, whatever the architecture."""

# N positions, D hidden size, V vocabulary

from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from hf_ssl.modeling.blocks.pretrained import SSLConfig, SSLPreTrainedModel


class GivenStates(nn.Module):
    """In an encoder's place: what it is given as embeddings are its hidden states."""

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutput:
        """(1, N, D) to itself."""
        return BaseModelOutput(last_hidden_state=inputs_embeds)


class VocabularyHead(nn.Module):
    """All of a transformers model for masked language modelling but its encoder.

    Args:
        masked_lm (`PreTrainedModel`): changed in place: its encoder is taken out.
    """

    def __init__(self, masked_lm: PreTrainedModel) -> None:
        super().__init__()
        prefix = masked_lm.base_model_prefix
        tied = masked_lm.get_expanded_tied_weights_keys()
        setattr(masked_lm, prefix, GivenStates())
        masked_lm._tied_weights_keys = {
            target: source for target, source in tied.items() if not source.startswith(f"{prefix}.")
        }
        self.masked_lm = masked_lm

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, D) to (N, V)."""
        return self.masked_lm(inputs_embeds=hidden[None]).logits[0]

    @property
    def tied_weights(self) -> dict[str, str]:
        """The weights of the head that are others of its own (BERT's two biases)."""
        tied = self.masked_lm.get_expanded_tied_weights_keys()
        return {f"masked_lm.{target}": f"masked_lm.{source}" for target, source in tied.items()}


def take_head(masked_lm: PreTrainedModel) -> nn.Module:
    """A masked language model's head: hidden states (N, D) to the vocabulary's scores (N, V).

    Args:
        masked_lm (`PreTrainedModel`): one of transformers', which loses its encoder here, or a whole objective of ours
            that predicts tokens (BERT), which has its head apart already.
    """
    return masked_lm.cls.predictions if isinstance(masked_lm, SSLPreTrainedModel) else VocabularyHead(masked_lm)


def fresh_head(checkpoint_config: PreTrainedConfig, encoder_config: PreTrainedConfig) -> nn.Module:
    """The same kind of head as a checkpoint's, freshly initialised, for an encoder of other sizes.

    Args:
        checkpoint_config (`PreTrainedConfig`): of the masked language model whose kind it is.
        encoder_config (`PreTrainedConfig`): of the encoder that it is for.
    """
    if isinstance(checkpoint_config, SSLConfig):
        fields = checkpoint_config.to_dict() | {"encoder_config": encoder_config.to_dict()}
        return take_head(AutoModel.from_config(type(checkpoint_config).from_dict(fields)))
    return take_head(AutoModelForMaskedLM.from_config(encoder_config))


def tied_weights(head: nn.Module, head_name: str, embeddings_name: str) -> dict[str, str]:
    """Which weights of a head are others, if the config ties the token embeddings to the last layer.

    Args:
        head (`nn.Module`): of [`take_head`].
        head_name (`str`): its name in the model.
        embeddings_name (`str`): the name of the token embeddings' weights there.

    Returns:
        `dict[str, str]`: by the name of a weight, that of the one it is, as transformers' `_tied_weights_keys` has it.
    """
    if isinstance(head, VocabularyHead):
        last_layer, own = head.masked_lm.get_output_embeddings(), head.tied_weights
    else:
        last_layer, own = head.decoder, {}
    name = next(name for name, module in head.named_modules() if module is last_layer)
    inside = {f"{head_name}.{target}": f"{head_name}.{source}" for target, source in own.items()}
    return {f"{head_name}.{name}.weight": embeddings_name, **inside}
