import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, BertConfig, SwinConfig

import hf_ssl  # noqa: F401 - registers the classes
from hf_ssl.errors import InputError
from hf_ssl.modeling.early_exit.config import EarlyExitConfig

BERT = BertConfig(num_hidden_layers=4)


def test_the_last_layer_is_an_exit_whether_or_not_it_is_named():
    assert EarlyExitConfig(encoder_config=BERT).exits == [1, 2, 3, 4]
    assert EarlyExitConfig(encoder_config=BERT, exit_layers=[2]).exits == [2, 4]
    assert EarlyExitConfig(encoder_config=BERT, exit_layers=[2, 4]).exits == [2, 4]
    assert EarlyExitConfig(encoder_config=BERT, exit_layers=[]).exits == [4]
    assert EarlyExitConfig(encoder_config=SwinConfig(depths=[1, 1, 2, 1])).exits == [1, 2, 3, 4]


def test_weights_of_the_exits():
    config = EarlyExitConfig(encoder_config=BERT, exit_layers=[1, 2])
    assert config.weights == [1 / 3] * 3
    config.exit_weights = "depth"
    assert config.weights == [1 / 7, 2 / 7, 4 / 7]
    config.exit_weights = "last"
    assert config.weights == [0, 0, 1]


def test_thresholds_of_the_exits_before_the_last():
    config = EarlyExitConfig(encoder_config=BERT, exit_policy="entropy", exit_threshold=0.5)
    assert config.thresholds == [0.5, 0.5, 0.5]
    config.exit_threshold = [0.1, 1, 0]
    assert config.thresholds == [0.1, 1, 0]
    config.exit_policy, config.exit_patience = "patience", 2
    assert config.thresholds == [1, 1, 1]


def test_saved_and_loaded(tmp_path):
    config = EarlyExitConfig(
        encoder_config=BERT,
        exit_layers=[1, 3],
        exit_policy="margin",
        exit_threshold=[0.25, 0.5],
        exit_guarantee={"risk": "accuracy loss", "level": 0.01, "confidence": 0.95, "split": "validation"},
        id2label={0: "no", 1: "yes", 2: "perhaps"},
    )
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is EarlyExitConfig
    assert again.exits == [1, 3, 4]
    assert again.to_diff_dict() == config.to_diff_dict()
    assert isinstance(again.encoder_config, BertConfig)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exit_layers": [2, 5]}, "no layer 5 for an exit; the encoder has layers 1 to 4"),
        ({"exit_layers": [0]}, "no layer 0"),
        ({"exit_layers": [2, 2]}, "name each layer once, in rising order"),
        ({"exit_layers": [3, 1]}, "rising order"),
        ({"exit_policy": "entropi"}, "did you mean 'entropy'"),
        ({"exit_head": "poolr"}, "did you mean 'pooler'"),
        ({"exit_weights": "uniforn"}, "did you mean 'uniform'"),
        ({"pooling": "clss"}, "did you mean 'cls'"),
        ({"exit_threshold": 1.5}, "exit_threshold is 1.5; give a number from 0 to 1"),
        ({"exit_threshold": [0.5, -0.1, 0.5]}, "exit_threshold is -0.1"),
        ({"exit_threshold": float("nan")}, "exit_threshold is nan"),
        ({"exit_threshold": [0.5]}, "exit_threshold has 1 numbers; give one for each of the 3 exits before the last"),
        ({"exit_patience": 0}, "exit_patience is 0"),
        ({"exit_policy": "learned"}, "train with learn_to_exit"),
        (
            {"exit_policy": "entropy", "num_labels": 1},
            "the task is regression with 1 labels; set exit_policy to 'never'",
        ),
        ({"learn_to_exit": True, "num_labels": 1}, "leave learn_to_exit out"),
        ({"exit_policy": "margin", "problem_type": "multi_label_classification"}, "multi_label_classification"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=message) as raised:
        EarlyExitConfig(encoder_config=BERT, **fields)
    assert isinstance(raised.value.__cause__, InputError)


def test_what_has_been_set_later_is_refused_when_it_is_used():
    config = EarlyExitConfig(encoder_config=BERT)
    config.exit_threshold = 2.0
    with pytest.raises(InputError, match="exit_threshold is 2.0"):
        config.check_policy()
