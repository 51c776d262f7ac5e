"""Sends what a run left behind to the Hub, in one commit."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_ssl.errors import InputError
from hf_ssl.hub.card import make_card, name_repository
from hf_ssl.hub.contents import ADAPTER_CONFIG, Contents, check_no_token, contents
from hf_ssl.hub.failures import HubFailure, explain
from hf_ssl.hub.finetuned_card import make_finetuned_card
from hf_ssl.hub.loading import finetuned_loading_lines, loading_lines
from hf_ssl.hub.sources import is_hub_name

logger = logging.getLogger(__name__)

REPLACED = re.compile(r"pretraining/.*|[^/]*\.safetensors(\.index\.json)?|adapter_config\.json")
"""What a push removes from the repository where it does not write it anew, lest the weights of two runs be mixed."""

KINDS = {"encoder": "an encoder with its pretraining", "adapter": "an adapter", "model": "a whole model"}

UNFILLED = "[More Information Needed]"
"""In PEFT's own card, a form to fill in; a card that is written in its place."""


@dataclass(frozen=True)
class Pushed:
    """A push that arrived.

    Args:
        url (`str`): the repository's page.
        commit (`str`): the commit's id.
        loading_lines (`str`): lines of Python that load what was pushed.
    """

    url: str
    commit: str
    loading_lines: str


def push_run(
    run_dir: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    commit_message: str = "Push with hf_ssl",
    encoder: str | None = None,
) -> Pushed:
    """Send a run to the Hub: all of it in one commit, or nothing.

    Of a pretraining run, the plain encoder with its preprocessor goes to the root of the repository, so that
    `AutoModel.from_pretrained(repo_id)` works where hf_ssl is not installed; the whole pretraining model goes to
    `pretraining/`, and the run file, the metrics and the model card with them. Of a fine-tuning run goes the adapter
    with its head and label map, or the whole model. Of weights only safetensors are sent, of code only what the config
    of an encoder names that transformers does not have, and no checkpoint to resume from.

    Args:
        run_dir (`str` or `Path`): output folder of `hf-ssl pretrain` or `hf-ssl finetune`, or a PEFT adapter's folder.
        repo_id (`str`): `user/name`; it is created where it does not exist.
        private (`bool`): whether only the account sees the repository. One that exists must already be what is asked
            for.
        token (`str`, *optional*): by default the one of `HF_TOKEN` or of `hf auth login`.
        commit_message (`str`): title of the commit.
        encoder (`str`, *optional*): for an adapter that was trained on a local encoder: the repository that this
            encoder was pushed to.

    Returns:
        [`Pushed`]: where it is, and how it is loaded from there.

    Raises:
        InputError: for a folder that cannot be pushed and for each failure of the Hub or of the way there. The
            repository is then as it was: one that was created for this push is removed again.
    """
    check_repo_id(repo_id)
    sent = contents(Path(run_dir))
    adapter = adapter_config(sent, encoder) if sent.kind == "adapter" else None
    files: dict[str, bytes | Path] = {**sent.files, **rewritten(sent, repo_id, adapter)}
    token = token or get_token()
    check_no_token(files, token)
    commit = send(HfApi(token=token, library_name="hf_ssl"), repo_id, files, sent.kind, private, commit_message)
    if sent.kind == "encoder":
        lines = loading_lines(sent.folder / "encoder", repo_id)
    else:
        lines = finetuned_loading_lines(sent.folder, repo_id, adapter)
    return Pushed(url=str(commit.repo_url), commit=commit.oid, loading_lines=lines)


def send(
    api: HfApi, repo_id: str, files: Mapping[str, bytes | Path], kind: str, private: bool, commit_message: str
) -> CommitInfo:
    """Create the repository if need be and commit the files to it, or leave the Hub as it was."""
    head, created = find_head(api, repo_id, kind, private), False
    try:
        if head is None:
            # Until there is an answer, it may have been created; an answer that is an error says that it was not.
            created = True
            try:
                api.create_repo(repo_id, private=private)
            except HfHubHTTPError:
                created = False
                raise
            head = api.model_info(repo_id).sha
        stale = [name for name in api.list_repo_files(repo_id) if REPLACED.fullmatch(name) and name not in files]
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        return api.create_commit(repo_id, operations, commit_message=commit_message, parent_commit=head)
    except HubFailure as error:
        raise InputError(f"{explain(error, repo_id, api.endpoint)} {undo(api, repo_id, head, created)}") from error
    except KeyboardInterrupt:
        logger.warning("Interrupted. %s", undo(api, repo_id, head, created))
        raise


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be a repository's name, before anything is read or sent."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} cannot be a repository's name: {error}") from error
    if "/" not in repo_id:
        raise InputError(
            f"{repo_id!r} does not say whose repository it is; give user/{repo_id} or organisation/{repo_id}."
        )


def rewritten(sent: Contents, repo_id: str, adapter: dict[str, Any] | None) -> dict[str, bytes]:
    """The files that are not sent as they lie in the folder: the card, and the config of an adapter."""
    own_card = sent.folder / "README.md"
    card = own_card.read_text("utf-8") if own_card.is_file() else UNFILLED
    if UNFILLED in card:
        card = str(make_card(sent.folder) if sent.kind == "encoder" else make_finetuned_card(sent, repo_id, adapter))
    files = {"README.md": name_repository(card, repo_id).encode()}
    if adapter is not None:
        files[ADAPTER_CONFIG] = (json.dumps(adapter, indent=2) + "\n").encode()
    return files


def adapter_config(sent: Contents, encoder: str | None) -> dict[str, Any]:
    """The config of an adapter, with the name under which others find its encoder."""
    config = json.loads(sent.files[ADAPTER_CONFIG].read_text("utf-8"))
    config["base_model_name_or_path"] = base = encoder or config["base_model_name_or_path"]
    if not is_hub_name(base):
        raise InputError(
            f"The adapter {sent.folder} stands on the local encoder {base}, which nobody else has; push that first "
            "and name its repository with --encoder user/name (encoder=...)."
        )
    return config


def find_head(api: HfApi, repo_id: str, kind: str, private: bool) -> str | None:
    """The last commit of a repository; `None` where it does not exist yet.

    Raises:
        InputError: if it is visible to others than asked, if it holds another kind of weights than is to be pushed,
            which would be removed, or if the Hub does not answer.
    """
    try:
        info = api.model_info(repo_id)
    except HubFailure as error:
        if isinstance(error, RepositoryNotFoundError) and error.response.status_code == 404:
            return None
        raise InputError(f"{explain(error, repo_id, api.endpoint)} Nothing was sent.") from error
    there = kind_of([file.rfilename for file in info.siblings or []])
    if there not in (None, kind):
        raise InputError(
            f"{repo_id} holds {KINDS[there]}, which a push of {KINDS[kind]} would remove; choose another name."
        )
    if private and not info.private:
        raise InputError(
            f"{repo_id} exists and is public, so the push would be published; say --public (private=False) if it "
            "shall be, or choose another name."
        )
    if info.private and not private:
        raise InputError(
            f"{repo_id} exists and is private; make it public in its settings, or push it without --public."
        )
    return info.sha


def kind_of(files: Sequence[str]) -> str | None:
    """Which of [`KINDS`] the files of a repository are; `None` where it has no weights."""
    if ADAPTER_CONFIG in files:
        return "adapter"
    if not any(name.endswith(".safetensors") for name in files):
        return None
    return "encoder" if any(name.startswith("pretraining/") for name in files) else "model"


def undo(api: HfApi, repo_id: str, head: str | None, created: bool) -> str:
    """Leave the repository as it was before a push that failed, and say in a sentence how it is now.

    A commit is made by the Hub as a whole or not at all, so all there can be to remove is the repository created for
    it, with nothing in it but what the Hub puts there.
    """
    try:
        if created:
            files = set(api.list_repo_files(repo_id))
            untouched = files <= {".gitattributes"} and len(api.list_repo_commits(repo_id)) == 1
        else:
            untouched = api.model_info(repo_id).sha == head
        if not untouched:
            return f"{repo_id} has a commit that it did not have before: look at it before you push again."
        if created:
            api.delete_repo(repo_id)
            return f"{repo_id}, which was created for this push, was removed again."
        return f"{repo_id} is as it was."
    except RepositoryNotFoundError:
        return f"{repo_id} was not created."
    except HubFailure:
        state = "was created for this push and may be left empty" if created else "did not answer whether it changed"
        return f"{repo_id} {state}: look at it before you push again."
