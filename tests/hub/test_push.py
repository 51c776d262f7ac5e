"""Pushing a run over real HTTP: what arrives, and what happens when the Hub or the way there fails."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from hf_ssl.errors import InputError
from hf_ssl.hub.environment import save_environment
from hf_ssl.hub.push import push_run
from tests.hub_server import HubServer
from tests.hub_store import READER, STRANGER, WRITER

REPO = "tester/simclr"


def test_what_arrives(client: HubServer, run_dir: Path) -> None:
    pushed = push_run(run_dir, REPO)
    repository = client.model(REPO)
    assert repository.private
    assert [commit.title for commit in repository.history()] == ["Push with hf_ssl", "initial commit"]
    assert pushed.commit == repository.head.sha
    assert pushed.url == f"{client.url}/{REPO}"
    assert set(repository.head.files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "environment.json",
        "metrics.json",
        "model.safetensors",
        "preprocessor_config.json",
        "pretraining/config.json",
        "pretraining/model.safetensors",
        "pretraining/preprocessor_config.json",
        "run.yaml",
    }
    for sent, local in [("model.safetensors", "encoder/model.safetensors"), ("pretraining/model.safetensors",) * 2]:
        assert repository.head.files[sent].data == (run_dir / local).read_bytes()
    card = repository.head.files["README.md"].data.decode()
    assert f'AutoModel.from_pretrained("{REPO}")' in card
    assert f'SimCLRForPreTraining.from_pretrained("{REPO}", subfolder="pretraining")' in card


def test_the_own_card_is_sent_and_its_own_folder_named(client: HubServer, run_dir: Path) -> None:
    (run_dir / "README.md").write_text('Mine.\n\nencoder = AutoModel.from_pretrained("encoder")\n', encoding="utf-8")
    push_run(run_dir, REPO)
    card = client.model(REPO).head.files["README.md"].data.decode()
    assert card == f'Mine.\n\nencoder = AutoModel.from_pretrained("{REPO}")\n'


def test_pushing_again_changes_what_changed_and_removes_what_is_gone(client: HubServer, run_dir: Path) -> None:
    push_run(run_dir, REPO)
    first = client.model(REPO).head
    assert push_run(run_dir, REPO).commit == first.sha, "nothing changed, so there is no new commit"
    shutil.move(run_dir / "pretraining" / "model.safetensors", run_dir / "pretraining" / "model-00001.safetensors")
    push_run(run_dir, REPO, commit_message="in shards")
    last = client.model(REPO).head
    assert last.parent == first.sha
    assert set(first.files) - set(last.files) == {"pretraining/model.safetensors"}
    assert set(last.files) - set(first.files) == {"pretraining/model-00001.safetensors"}


def test_public_only_when_asked(client: HubServer, run_dir: Path) -> None:
    push_run(run_dir, "tester/seen", private=False)
    assert not client.model("tester/seen").private
    with pytest.raises(InputError, match="exists and is public"):
        push_run(run_dir, "tester/seen")
    push_run(run_dir, "tester/hidden")
    with pytest.raises(InputError, match="exists and is private"):
        push_run(run_dir, "tester/hidden", private=False)


@pytest.mark.parametrize("name", ["encoder/pytorch_model.bin", "pretraining/head.pt", "encoder/scaler.pkl"])
def test_pickles_are_refused(client: HubServer, run_dir: Path, name: str) -> None:
    (run_dir / name).write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match=f"{Path(name).name} can run code when it is loaded"):
        push_run(run_dir, REPO)
    assert client.requests == []


@pytest.mark.parametrize("token", [WRITER, "hf_" + "aB3" * 12])
def test_tokens_in_files_are_refused(client: HubServer, run_dir: Path, token: str) -> None:
    with (run_dir / "run.yaml").open("a", encoding="utf-8") as file:
        file.write(f"hub_token: {token}\n")
    with pytest.raises(InputError, match=r"run\.yaml contains an access token") as error:
        push_run(run_dir, REPO)
    assert token not in str(error.value)
    assert client.requests == []


def test_folders_that_are_no_run(client: HubServer, run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        push_run(tmp_path / "missing", REPO)
    with pytest.raises(InputError, match=r"holds neither encoder/config\.json nor"):
        push_run(tmp_path, REPO)
    (run_dir / "encoder" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        push_run(run_dir, REPO)
    for name in ("simclr", "a/b/c", "tester/--"):
        with pytest.raises(InputError, match=name):
            push_run(run_dir, name)
    assert client.requests == []


FAULTS = {
    "no answer to the first question": ("GET", "/api/models/", {"status": 500}, "is in trouble: it answers 500"),
    "creation refused": ("POST", "/api/repos/create", {"status": 403}, "may not write tester/simclr"),
    "creation arrives, its answer does not": ("POST", "/api/repos/create", {"drop": "response"}, "broke off"),
    "card refused": ("POST", "/api/validate-yaml", {"status": 400}, "Invalid metadata"),
    "preupload in trouble": ("POST", "/preupload/", {"status": 503, "times": 99}, "it answers 503"),
    "repository vanishes": ("POST", "/preupload/", {"status": 404}, "does not find tester/simclr"),
    "upload cut off": ("PUT", "/_lfs/", {"drop": "request", "times": 99}, "broke off"),
    "second upload cut off": ("PUT", "/_lfs/", {"drop": "request", "skip": 1, "times": 99}, "broke off"),
    "upload in trouble": ("PUT", "/_lfs/", {"status": 500, "times": 99}, "it answers 500"),
    "token expires before the commit": ("POST", "/commit/", {"status": 401}, "refused the token"),
    "commit cut off": ("POST", "/commit/", {"drop": "request"}, "broke off"),
    "commit in trouble": ("POST", "/commit/", {"status": 500}, "it answers 500"),
    "somebody else was quicker": ("POST", "/commit/", {"status": 412}, "changed by someone else"),
}


# A repository that exists is not created.
CASES = [(name, exists) for name in FAULTS for exists in (False, True) if not (exists and "create" in FAULTS[name][1])]


@pytest.mark.parametrize(("fault", "exists"), CASES)
def test_a_failed_push_leaves_the_hub_as_it_was(client: HubServer, run_dir: Path, fault: str, exists: bool) -> None:
    method, path, what, message = FAULTS[fault]
    (run_dir / "README.md").write_text("A card.", encoding="utf-8")
    if exists:
        push_run(run_dir, REPO)
        for name in ("encoder", "pretraining"):  # so that there is something to upload
            with (run_dir / name / "model.safetensors").open("ab") as weights:
                weights.write(bytes(8))
    before = heads(client)
    client.fault(method, path, **what)
    with pytest.raises(InputError, match=message) as error:
        push_run(run_dir, REPO)
    assert heads(client) == before
    ends = ("is as it was.",) if exists else ("was removed again.", "was not created.")
    assert str(error.value).endswith((*ends, "Nothing was sent.")), error.value
    assert WRITER not in str(error.value)


def heads(hub: HubServer) -> dict[tuple[str, str], str]:
    """The last commit of every repository."""
    return {name: repository.head.sha for name, repository in hub.store.repositories.items()}


def test_an_upload_that_breaks_off_once_is_taken_up_again(client: HubServer, run_dir: Path) -> None:
    client.fault("PUT", "/_lfs/", drop="request")
    client.fault("PUT", "/_lfs/", status=503)
    push_run(run_dir, REPO)
    assert "model.safetensors" in client.model(REPO).head.files


def test_a_commit_whose_answer_is_lost_is_not_taken_back(client: HubServer, run_dir: Path) -> None:
    client.fault("POST", "/commit/", drop="response")
    with pytest.raises(InputError, match="has a commit that it did not have before"):
        push_run(run_dir, REPO)
    arrived = client.model(REPO).head
    assert "model.safetensors" in arrived.files
    assert push_run(run_dir, REPO).commit == arrived.sha, "pushing again is safe"


def test_a_commit_of_somebody_else_is_not_written_over(
    client: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_run(run_dir, REPO)
    seen = client.model(REPO).head.sha
    (run_dir / "metrics.json").write_text("{}", encoding="utf-8")
    theirs = push_run(run_dir, REPO).commit
    monkeypatch.setattr("hf_ssl.hub.push.find_head", lambda api, repo_id, kind, private: seen)
    (run_dir / "metrics.json").write_text('{"train_loss": 1.0}', encoding="utf-8")
    with pytest.raises(InputError, match=r"changed by someone else .* has a commit that it did not have before"):
        push_run(run_dir, REPO)
    assert client.model(REPO).head.sha == theirs


def test_a_hub_that_goes_away_in_the_middle(client: HubServer, run_dir: Path) -> None:
    client.fault("PUT", "/_lfs/", drop="request", times=99)
    client.fault("GET", "/commits/", drop="request", times=99)
    with pytest.raises(InputError, match=f"{REPO} was created for this push and may be left empty"):
        push_run(run_dir, REPO)


def test_a_repository_that_somebody_else_creates_meanwhile_is_theirs(
    client: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HfApi(token=WRITER).create_repo(REPO)
    monkeypatch.setattr("hf_ssl.hub.push.find_head", lambda api, repo_id, kind, private: None)
    with pytest.raises(InputError, match="already"):
        push_run(run_dir, REPO)
    assert [name for _, name in client.store.repositories] == [REPO]


def test_an_interrupted_push_leaves_nothing(client: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        push_run(run_dir, REPO)
    assert heads(client) == {}


def test_another_kind_of_weights_is_not_removed(client: HubServer, run_dir: Path, adapter: Path) -> None:
    push_run(run_dir, REPO)
    before = heads(client)
    with pytest.raises(InputError, match=f"{REPO} holds an encoder with its pretraining, which a push of an adapter"):
        push_run(adapter, REPO, encoder=REPO)
    assert heads(client) == before


def test_a_pretraining_checkpoint_alone_is_refused(client: HubServer, run_dir: Path) -> None:
    with pytest.raises(InputError, match=r"is a pretraining checkpoint \(simclr\).* give the run's output folder"):
        push_run(run_dir / "pretraining", REPO)
    assert client.requests == []


TOKENS = {
    "none": (None, "refused the token, or there is none"),
    "unknown": ("hf_unknown", "refused the token, or there is none"),
    "read only": (READER, "may not write tester/simclr"),
    "of another account": (STRANGER, "may not write tester/simclr"),
}


@pytest.mark.parametrize("whose", TOKENS)
def test_tokens_that_may_not(client: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    token, message = TOKENS[whose]
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=message) as error:
        push_run(run_dir, REPO)
    assert heads(client) == {}
    assert str(token) not in str(error.value)


def test_a_hub_that_is_away(client: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        push_run(run_dir, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9 failed or broke off .* Nothing was sent\."):
        push_run(run_dir, REPO)
    assert client.requests == []


def test_an_adapter_names_the_repository_of_its_encoder(client: HubServer, run_dir: Path, adapter: Path) -> None:
    with pytest.raises(InputError, match=r"stands on the local encoder .* --encoder user/name"):
        push_run(adapter, "tester/adapter")
    assert client.requests == []
    push_run(adapter, "tester/adapter", encoder=REPO)
    files = client.model("tester/adapter").head.files
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "preprocessor_config.json",
    }
    assert json.loads(files["adapter_config.json"].data)["base_model_name_or_path"] == REPO
    card = files["README.md"].data.decode()
    assert "More Information Needed" not in card, "PEFT's form is not sent"
    assert not [name for name in files if str(run_dir).encode() in files[name].data], "no path of this machine"
    for said in (
        f"base_model: {REPO}",
        "LORA, rank 8, alpha 8",
        "Classes: cat, dog, owl.",
        "Nothing has been measured",
    ):
        assert said in card


def test_the_card_of_a_finetuned_model_says_what_was_trained_and_scored(client: HubServer, adapter: Path) -> None:
    metrics = {"num_trained_parameters": 5, "num_parameters": 100, "test": {"loss": 1.5, "accuracy": 0.25}}
    (adapter / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (adapter / "run.yaml").write_text("data: {path: 'sample:speech', train_split: train}", encoding="utf-8")
    save_environment(adapter, "hf-ssl finetune emoji_lora")
    push_run(adapter, "tester/adapter", encoder=REPO)
    files = client.model("tester/adapter").head.files
    assert {"metrics.json", "run.yaml", "environment.json"} <= set(files)
    card = files["README.md"].data.decode()
    for said in (
        "license: cc-by-3.0",
        "pipeline_tag: image-classification",
        "5 of 100 parameters (5.00%) were trained.",
        "Copyright 2012 Carlo Flora",
        "hf-ssl finetune emoji_lora",
        "| test | accuracy | 0.25 |",
        "without a spread over seeds",
    ):
        assert said in card, said


def test_a_whole_model_is_pushed_without_its_checkpoints(client: HubServer, run_dir: Path) -> None:
    model = run_dir / "encoder"
    (model / "checkpoint-4").mkdir()
    (model / "checkpoint-4" / "optimizer.pt").write_bytes(b"pickle")
    pushed = push_run(model, "tester/whole")
    assert set(client.model("tester/whole").head.files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    card = client.model("tester/whole").head.files["README.md"].data.decode()
    assert "A transformers checkpoint (ViTModel), pushed as it lay in its folder." in card
    assert "head of its task" not in card
    assert pushed.loading_lines == (
        'from transformers import ViTModel\nmodel = ViTModel.from_pretrained("tester/whole")'
    )
