"""The losses of a distillation by their names."""

from hf_ssl.modeling.distillation.distilbert import Cosine, MaskedTokens, SoftTargets
from hf_ssl.modeling.distillation.distilhubert import LayerPrediction
from hf_ssl.modeling.distillation.minilm import AttentionDistribution, Relations, ValueRelation
from hf_ssl.modeling.distillation.term import Term
from hf_ssl.modeling.distillation.tinybert import AttentionScores, Embeddings, HiddenStates

LOSSES: dict[str, type[Term]] = {
    "logits": SoftTargets,
    "mlm": MaskedTokens,
    "cosine": Cosine,
    "layer_prediction": LayerPrediction,
    "attention": AttentionDistribution,
    "value_relation": ValueRelation,
    "relations": Relations,
    "hidden_states": HiddenStates,
    "attention_scores": AttentionScores,
    "embeddings": Embeddings,
}
