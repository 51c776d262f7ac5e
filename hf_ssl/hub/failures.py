"""What went wrong between here and the Hub, in one sentence that says what to do."""

from json import JSONDecodeError

from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

HubFailure = (HTTPError, OfflineModeIsEnabled, OSError, RuntimeError, ValueError)
"""What `huggingface_hub` raises: an answer that is an error, a connection that breaks, offline mode, a file that could
not be read or uploaded, an answer that is not the Hub's."""


def explain(error: Exception, repo_id: str, endpoint: str) -> str:
    """Say what a failure means and what to do about it.

    Args:
        error (`Exception`): one of [`HubFailure`].
        repo_id (`str`): the repository that was to be written.
        endpoint (`str`): the Hub's address.

    Returns:
        `str`: one sentence. It never holds a token, since no header of the request is quoted.
    """
    if isinstance(error, RuntimeError) and isinstance(
        error.__cause__, Exception
    ):  # raised around the upload of a file
        return explain(error.__cause__, repo_id, endpoint)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub cannot be reached; unset it and push again."
    if isinstance(error, HfHubHTTPError):
        return explain_status(error.response.status_code, error.server_message, repo_id, endpoint)
    if isinstance(error, HTTPError):
        name = type(error).__name__
        return f"The connection to {endpoint} failed or broke off ({name}); check the network and push again."
    if isinstance(error, JSONDecodeError):
        return f"What answers at {endpoint} is not a Hub; check HF_ENDPOINT and proxies and push again."
    return f"The upload to {endpoint} failed ({error}); push again."


def explain_status(status: int, server_message: str | None, repo_id: str, endpoint: str) -> str:
    """Say what an answer with an error status means for a push."""
    said = f" (it says: {server_message})" if server_message else ""
    if status == 401:
        return (
            f"{endpoint} refused the token, or there is none{said}; make one with write access in the account's "
            "settings and give it by `hf auth login` or in the environment variable HF_TOKEN."
        )
    if status == 403:
        return (
            f"The token may not write {repo_id}{said}; use a token with write access, and a name whose first part is "
            "your user or an organisation that you may write to."
        )
    if status == 404:
        return f"{endpoint} does not find {repo_id}{said}; check the name and that the token's account may see it."
    if status in (409, 412):
        return f"{repo_id} was changed by someone else at the same moment{said}; look at it and push again."
    if status == 429:
        return f"{endpoint} asks to wait, too many requests were sent{said}; push again later."
    if status >= 500:
        return f"{endpoint} is in trouble: it answers {status}{said}; push again later."
    return f"{endpoint} refused the push of {repo_id}: it answers {status}{said}."
