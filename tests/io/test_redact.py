"""Secrets in every form in which a server may send them back, and text of others that steers a terminal."""

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from no_time_to_train.io.redact import printable, redact, remember_link, remember_secret


def test_a_secret_is_masked_in_every_form() -> None:
    secret = "oNe/Two+three==é"
    remember_secret(secret)
    for form in (
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote(secret, safe="").lower().replace("one", "oNe").replace("two", "Two"),
        json.dumps(secret)[1:-1],
        secret.replace("/", "\\/"),
    ):
        assert redact(f"told: {form}.") == "told: ....", form


def test_values_of_a_links_query_are_secrets_and_its_settings_are_not() -> None:
    remember_link(
        "https://host.example/a/model.safetensors?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=3600&download=true"
        "&X-Amz-Credential=AKIAQ%2F2026&sig=s1gn&X-Amz-SignedHeaders=host&file=model.safetensors&plainlySecret#frag-ment"
    )
    said = redact("s1gn AKIAQ/2026 AKIAQ%2f2026 plainlySecret frag-ment")
    assert said == "... ... ... ... ..."
    kept = '{"path": "/x/model.safetensors", "was_there": true, "size": 3600, "host": "AWS4-HMAC-SHA256"}'
    assert redact(kept) == kept


@pytest.mark.parametrize("address", ["https://me:pass%20word9@host/x", "https://me:pass%20word9@host"])
def test_user_parts_are_secrets(address: str) -> None:
    remember_link(address)
    basic = base64.b64encode(b"me:pass word9").decode()
    assert (
        redact(f"{address} | pass word9 | Basic {basic}")
        == f"{address.replace('me:pass%20word9', '...')} | ... | Basic ..."
    )


def test_a_token_alone_and_a_password_with_a_slash() -> None:
    remember_link("https://tok-5512@host/x")
    remember_link("https://me:sl/ash77@host/x")
    assert redact("tok-5512 and sl/ash77") == "... and ..."


@pytest.mark.parametrize("text", ["dinov3_small", "/data/a?b=c.jpg", "images/@home/b", "https://host:80/@me/x", "a@b"])
def test_ordinary_arguments_are_no_secrets(text: str) -> None:
    remember_link(text)
    assert redact(f"{text} host:80/ images/ home") == f"{text} host:80/ images/ home"


def test_what_the_environment_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_inTheEnvironment")
    monkeypatch.setenv("HF_ENDPOINT", "https://user:endpointPassword@host")
    monkeypatch.setenv("http_proxy", "me:proxyPassword@:::x")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_inTheFile\n")
    said = "hf_inTheEnvironment endpointPassword proxyPassword hf_inTheFile"
    assert redact(said) == "... ... ... ..."
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert redact("hf_another") == "..."
    (tmp_path / "token").write_bytes(b"\xff" * 100_000)
    assert redact("fine") == "fine"


def test_links_that_a_server_names_are_forgotten_in_the_end_and_the_users_are_not() -> None:
    remember_link("https://host/x?Signature=theUsersOwn")
    for count in range(3000):
        remember_link(f"https://host/x?Signature=ofAServer{count}", lasting=False)
    assert redact("theUsersOwn ofAServer2999") == "... ..."


def test_what_steers_a_terminal_is_escaped() -> None:
    assert printable("a\x1b]0;x\x07b\x9b2J\rc\x00") == r"a\x1b]0;x\x07b\x9b2J\rc\x00"
    assert printable("\u202egnp.exe \udcff\u2028") == r"\u202egnp.exe \udcff\u2028"
    for text in ("ü 日本　語 é\tb\n", "Ωmega"):
        assert printable(text) == text
