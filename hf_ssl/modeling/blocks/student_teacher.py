"""What the objectives have in common whose teacher follows their student."""

from typing import Any, Self

from torch import nn

from hf_ssl.modeling.blocks.pretrained import SSLPreTrainedModel
from hf_ssl.modeling.blocks.teacher import copy_weights, freeze


class StudentTeacherPreTrainedModel(SSLPreTrainedModel):
    """Base of the objectives with a teacher: a frozen copy of the encoder, or of a part of it, that follows it.

    How it follows is for the objective to say, in `after_optimizer_step`.
    """

    teacher: Any

    @property
    def student(self) -> nn.Module:
        """What the teacher follows."""
        return self.encoder

    def train(self, mode: bool = True) -> Self:
        """The teacher drops nothing out and takes no gradient."""
        super().train(mode)
        freeze(self.teacher)
        return self

    def synchronise_teacher(self) -> None:
        """Make the teacher a copy of the student."""
        copy_weights(self.teacher, self.student)


class MomentumEncoderPreTrainedModel(StudentTeacherPreTrainedModel):
    """Base of the objectives whose teacher has a projection head of its own: a momentum encoder, `teacher["encoder"]`
    with `teacher["projection_head"]`.
    """

    projection_head: Any

    @property
    def student(self) -> nn.ModuleDict:
        """What the teacher follows: the encoder and its projection head."""
        return nn.ModuleDict({"encoder": self.encoder, "projection_head": self.projection_head})

    def train(self, mode: bool = True) -> Self:
        """In training the teacher's batch norms, too, normalise by the batch that they are given."""
        super().train(mode)
        freeze(self.teacher, batch_statistics=mode)
        return self
