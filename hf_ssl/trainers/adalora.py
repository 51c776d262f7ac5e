"""AdaLoRA's budget follows the steps of the trainer."""

import logging
from typing import Any

from peft import AdaLoraConfig, AdaLoraModel
from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_ssl.errors import InputError
from hf_ssl.trainers.fine_tuning_arguments import FineTuningArguments

logger = logging.getLogger(__name__)


class AdaLoraBudget(TrainerCallback):
    """Takes ranks away from the layers that need them least, step by step (Zhang et al. 2023, arXiv:2303.10512).

    The running averages of the importance are not in checkpoints: a run that is resumed starts them anew.

    Args:
        model (`AdaLoraModel`): the tuner, whose config gets the number of steps.
    """

    def __init__(self, model: AdaLoraModel) -> None:
        self.model = model

    @property
    def config(self) -> AdaLoraConfig:
        """Of the adapter that is trained."""
        return self.model.peft_config[self.model.trainable_adapter_name]

    def on_train_begin(
        self, args: FineTuningArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The number of steps is known.

        Raises:
            InputError: if `tinit` and `tfinal` leave no step in which ranks are taken away.
        """
        self.model.rankallocator.set_total_step(state.max_steps)
        if self.config.tinit + self.config.tfinal >= state.max_steps:
            raise InputError(
                f"model.tuner_config.tinit {self.config.tinit} and tfinal {self.config.tfinal} leave none of the "
                f"{state.max_steps} steps to take ranks away in; give less."
            )
        if state.global_step:
            logger.warning("AdaLoRA's averages of the importance of its ranks start anew at a resumed step.")

    def on_optimizer_step(
        self, args: FineTuningArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the step, while its gradients are there; there are none while the encoder is frozen."""
        if state.global_step >= args.freeze_encoder_steps:
            self.model.update_and_allocate(state.global_step + 1)
