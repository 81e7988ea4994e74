"""Which error a refusing answer becomes, and what it tells the user to do."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from no_time_to_train.errors import (
    AccessPendingError,
    AccessRejectedError,
    AuthenticationError,
    NetworkError,
    NoTimeToTrainError,
    ProxyRefusedError,
    RepositoryNotFoundError,
    WeightsNotFoundError,
)
from no_time_to_train.weights.http.errors import (
    Answer,
    Target,
    error_from_response,
    expiry_of,
    retry_after,
    server_message,
)

REPOSITORY = Target("someone/it", "https://hub/someone/it", "hub/someone/it")
LINK = Target("it.pth", "https://host/it.pth?Signature=verysecret")


def answer(status: int, body: str = "", **headers: str) -> Answer:
    return Answer(
        status, httpx2.Headers({name.replace("_", "-"): text for name, text in headers.items()}), body.encode()
    )


@pytest.mark.parametrize(
    ("target", "given", "kind", "message", "remedy"),
    [
        (REPOSITORY, answer(401), AuthenticationError, "valid token for someone/it (401)", "set HF_TOKEN"),
        (REPOSITORY, answer(401, "who?"), AuthenticationError, "(401: who?)", "set HF_TOKEN"),
        (REPOSITORY, answer(401, X_Error_Code="RepoNotFound"), RepositoryNotFoundError, "or it is private", "the name"),
        (REPOSITORY, answer(403, "awaiting a review"), AccessPendingError, "not granted yet", "wait for the mail"),
        (REPOSITORY, answer(403, "rejected"), AccessRejectedError, "was refused", "ungated copy"),
        (REPOSITORY, answer(403, "no permission"), AccessRejectedError, "token may not read", "read token"),
        (REPOSITORY, answer(403), AccessPendingError, "not granted to the token's account", "accept the licence"),
        (REPOSITORY, answer(404, X_Error_Code="RevisionNotFound"), RepositoryNotFoundError, "no such revision", "tag"),
        (REPOSITORY, answer(404, X_Error_Code="EntryNotFound"), WeightsNotFoundError, "is not in", "another revision"),
        (REPOSITORY, answer(404), RepositoryNotFoundError, "no someone/it (404) or it is private", "check the name"),
        (REPOSITORY, answer(410), RepositoryNotFoundError, "no someone/it (410)", "check the name"),
        (REPOSITORY, answer(407), ProxyRefusedError, "wants credentials (407)", "NO_PROXY"),
        (REPOSITORY, answer(429), NetworkError, "asks to wait (429)", "run it again later"),
        (REPOSITORY, answer(500, "oh"), NetworkError, "answered 500: oh", "run it again later"),
        (REPOSITORY, answer(418), NetworkError, "answered 418", "run it again later"),
        (LINK, answer(401), AccessRejectedError, "link to it.pth is refused: it has expired or", "ask for a new one"),
        (LINK, answer(403, "no"), AccessRejectedError, "it has expired or is not whole: no", "in quotes"),
        (LINK, answer(404), RepositoryNotFoundError, "there is no it.pth (404)", "ask for a new one"),
        (LINK, answer(404, X_Error_Code="EntryNotFound"), RepositoryNotFoundError, "there is no it.pth", "new one"),
    ],
)
def test_errors_by_status(
    target: Target, given: Answer, kind: type[NoTimeToTrainError], message: str, remedy: str
) -> None:
    error = error_from_response(given, target)
    assert type(error) is kind
    assert message in error.message
    assert remedy in error.remedy
    assert "verysecret" not in str(error)


def test_a_link_is_not_private() -> None:
    assert error_from_response(answer(404), LINK).message == "there is no it.pth (404)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (answer(500, "<p>no\nluck</p>"), "no luck"),
        (answer(500, '{"error": "no luck"}'), "no luck"),
        (answer(500, '{"other": "no luck"}'), ""),
        (answer(500, '["no luck"]'), '["no luck"]'),
        (answer(500, "body", X_Error_Message="header"), "header"),
        (answer(500, "x" * 300), "x" * 200),
    ],
)
def test_what_a_server_says_in_one_line(given: Answer, said: str) -> None:
    assert server_message(given) == said


def test_how_long_to_wait() -> None:
    assert retry_after(answer(429)) is None
    assert retry_after(answer(429, Retry_After="2.5")) == 2.5
    assert retry_after(answer(429, Retry_After="inf")) is None
    assert retry_after(answer(429, Retry_After="soon")) is None
    seconds = retry_after(answer(429, Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=100))))
    assert seconds is not None
    # A date has whole seconds.
    assert 90 < seconds <= 100


@pytest.mark.parametrize(
    ("query", "until"),
    [
        ("Expires=1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("X-Amz-Date=20231114T221000Z&X-Amz-Expires=200", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("X-Amz-Date=20231114&X-Amz-Expires=200", None),
        ("X-Amz-Date=20231114T221000Z", None),
        ("Expires=soon", None),
        ("Policy=e30_", None),  # {}
        ("Policy=x", None),
        ("", None),
    ],
)
def test_until_when_a_link_holds(query: str, until: datetime | None) -> None:
    assert expiry_of(f"https://host/it.pth?{query}") == until
