import pytest
import torch
from transformers import set_seed

from hf_ssl.errors import InputError
from hf_ssl.trainers import load_finetuned
from hf_ssl.trainers.fine_tuning_arguments import FineTuningModelArguments
from hf_ssl.trainers.fine_tuning_trainer import FineTuningTrainer
from hf_ssl.trainers.task_data import prepare_task
from hf_ssl.trainers.task_model import make_task_model
from tests.trainers.fine_tuning_cases import Cases, training


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("cases"))


def make_trainer(cases, folder, settings, **changes) -> FineTuningTrainer:
    arguments = FineTuningModelArguments(
        encoder=cases.encoder("text-classification"),
        task="text-classification",
        tuner="adalora",
        tuner_config={"init_r": 6, "target_r": 2, **settings},
    )
    data = prepare_task(arguments, cases.data("text-classification"))
    set_seed(0)
    model = make_task_model(arguments, data.config_updates)
    return FineTuningTrainer(model, training(folder, **changes), arguments.task, data)


def ranks(model) -> int:
    """Singular values that are not 0."""
    return sum(int((p != 0).sum()) for name, p in model.named_parameters() if "lora_E" in name)


@pytest.mark.parametrize("changes", [{}, {"freeze_encoder_steps": 2}])
def test_ranks_go_to_the_budget_and_what_is_saved_is_what_was_trained(cases, tmp_path, changes):
    """Four layers, of 6 ranks each in the beginning and 2 on average in the end."""
    trainer = make_trainer(cases, tmp_path, {"tinit": 2, "tfinal": 3, "deltaT": 1}, max_steps=12, **changes)
    trainer.train()
    assert trainer.model.peft_config["default"].total_step == 12
    assert ranks(trainer.model) == 4 * 2
    trainer.model.save_pretrained(tmp_path / "out")
    trainer.processing_class.save_pretrained(tmp_path / "out")
    inputs = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    restored, _ = load_finetuned(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(restored(**inputs).logits, trainer.model.eval()(**inputs).logits)


def test_a_budget_without_steps(cases, tmp_path):
    trainer = make_trainer(cases, tmp_path, {"tinit": 5, "tfinal": 5}, max_steps=10)
    with pytest.raises(InputError, match="tinit 5 and tfinal 5 leave none of the 10 steps"):
        trainer.train()
