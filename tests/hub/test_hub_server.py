"""The test Hub does what the real one does, as far as `huggingface_hub` can tell."""

from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from tests.hub_server import HubServer
from tests.hub_store import READER, STRANGER, WRITER

REPO = "tester/x"


@pytest.fixture
def api(client: HubServer) -> HfApi:
    api = HfApi(token=WRITER)
    api.create_repo(REPO, private=True)
    api.upload_file(path_or_fileobj=b"x" * 20_000, path_in_repo="sub/weights.safetensors", repo_id=REPO)
    api.upload_file(path_or_fileobj=b"hello", path_in_repo="a.txt", repo_id=REPO)
    return api


def test_reading(api: HfApi, client: HubServer) -> None:
    assert api.whoami()["name"] == "tester"
    assert [branch.target_commit for branch in api.list_repo_refs(REPO).branches] == [client.model(REPO).head.sha]
    assert [entry.path for entry in api.list_repo_tree(REPO)] == ["sub", ".gitattributes", "a.txt"]
    assert api.list_repo_files(REPO) == [".gitattributes", "a.txt", "sub/weights.safetensors"]
    [weights] = api.get_paths_info(REPO, ["sub/weights.safetensors", "absent"])
    assert weights.lfs.size == 20_000
    assert len(api.list_repo_commits(REPO)) == 3
    with open(api.hf_hub_download(REPO, "a.txt"), "rb") as file:
        assert file.read() == b"hello"
    header = {"Authorization": f"Bearer {get_token()}", "Range": "bytes=1-"}
    with urlopen(Request(f"{client.url}/{REPO}/resolve/main/a.txt", headers=header)) as part:
        assert (part.status, part.read(), part.headers["Content-Range"]) == (206, b"ello", "bytes 1-4/5")


def test_changing(api: HfApi, client: HubServer) -> None:
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    api.delete_file("a.txt", REPO)
    api.delete_folder("sub", REPO)
    assert set(client.model(REPO).head.files) == {".gitattributes"}
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)


def test_who_may(api: HfApi) -> None:
    assert HfApi(token=READER).model_info(REPO).private
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token=READER).delete_file("a.txt", REPO)
    for token, status in [(STRANGER, 404), (False, 401)]:
        with pytest.raises(RepositoryNotFoundError) as missing:
            HfApi(token=token).model_info(REPO)
        assert missing.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(token="hf_unknown").model_info(REPO)


def test_content_that_is_not_what_was_announced(client: HubServer) -> None:
    request = Request(f"{client.url}/_lfs/{'0' * 64}", data=b"something else", method="PUT")
    with pytest.raises(HTTPError, match="400"):
        urlopen(request)
    assert client.store.objects == {}
