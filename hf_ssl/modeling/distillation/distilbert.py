"""The losses of DistilBERT: Sanh, Debut, Chaumond, Wolf 2019, https://arxiv.org/abs/1910.01108, section 3."""

# N real positions of the batch, V vocabulary, B rows, T positions, D hidden size

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from hf_ssl.errors import InputError
from hf_ssl.modeling.blocks.frames import IGNORED
from hf_ssl.modeling.blocks.pooling import hidden_size_of
from hf_ssl.modeling.distillation.positions import Positions
from hf_ssl.modeling.distillation.states import States
from hf_ssl.modeling.distillation.term import Term, over_positions

if TYPE_CHECKING:
    from hf_ssl.modeling.distillation.config import DistillationConfig


class SoftTargets(Term):
    """`L_ce = T² Σ_i Σ_v t_iv log(t_iv / s_iv)`, with `p = softmax(z / T)` of teacher (t) and student (s).

    The paper writes the cross entropy −Σ t log s, which differs by the teacher's entropy alone; as in the authors'
    code it is the divergence, and times T², so that its gradient does not shrink with the temperature T (Hinton et al.
    2015, section 2). A mean over all tokens but padding, masked or not.
    """

    reads_logits = True

    def __init__(self, config: "DistillationConfig") -> None:
        super().__init__(config)
        self.temperature = config.temperature

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """Texts of one vocabulary only."""
        ours, theirs = config.encoder_config.vocab_size, config.teacher_encoder_config.vocab_size  # type: ignore[union-attr]
        if ours != theirs:
            raise InputError(
                f"The loss logits compares scores of tokens, but the student has {ours} of them and the teacher "
                f"{theirs}; leave vocab_size out of model.student."
            )

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        assert student.logits is not None
        assert teacher.logits is not None
        ours = (student.logits.float() / self.temperature).log_softmax(dim=-1)
        theirs = (teacher.logits.float() / self.temperature).log_softmax(dim=-1)
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) * self.temperature**2


class MaskedTokens(Term):
    """`L_mlm = −Σ_{masked i} log s_i(x_i)`: the student's own masked language modelling, a mean over masked tokens."""

    reads_logits = True

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """There must be masked tokens."""
        if config.mlm_probability == 0:
            raise InputError("The loss mlm predicts masked tokens, but model.mlm_probability is 0; give .15, say.")

    def count(self, positions: Positions, labels: Tensor | None) -> Tensor:
        """Masked tokens."""
        assert labels is not None
        return (labels != IGNORED).sum().float()

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        assert student.logits is not None
        assert labels is not None
        real = positions.weights(labels.shape[1]).bool().to(labels.device)
        return F.cross_entropy(student.logits.float(), labels[real], ignore_index=IGNORED, reduction="sum")


class Cosine(Term):
    """`L_cos = Σ_i (1 − cos(h_i^S, h_i^T))` of the last hidden states: their directions shall agree."""

    @classmethod
    def check(cls, config: "DistillationConfig") -> None:
        """Both must have the same dimensions."""
        ours, theirs = hidden_size_of(config.encoder_config), hidden_size_of(config.teacher_encoder_config)
        if ours != theirs:
            raise InputError(
                f"The loss cosine compares states of {ours} dimensions with the teacher's of {theirs}; give the "
                "student the same hidden_size, or take a loss that learns a projection (layer_prediction, "
                "hidden_states)."
            )

    def forward(self, student: States, teacher: States, positions: Positions, labels: Tensor | None) -> Tensor:
        """See the class."""
        return over_positions(1 - F.cosine_similarity(student.last.float(), teacher.last.float(), dim=-1), positions)
