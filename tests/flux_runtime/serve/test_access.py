"""Tokens, and what may not be open to other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_core.errors import UsageError
from flux_runtime.serve.access import Tokens, check_exposure, read_tokens, resolve

TOKEN, OTHER = "correct-horse-battery", "another-token-of-a-lab"


@pytest.mark.parametrize("scheme", ["Api-Key", "Bearer", "bearer", "API-KEY"])
def test_a_token_is_found_under_both_schemes(scheme: str) -> None:
    assert Tokens([OTHER, TOKEN]).find(f"{scheme} {TOKEN}") == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer ☃",
        f"Bearer {TOKEN}\udcff",
    ],
)
def test_anything_else_is_refused(header: str) -> None:
    assert Tokens([TOKEN]).find(header) is None


def test_tokens_are_not_kept() -> None:
    assert TOKEN not in repr(vars(Tokens([TOKEN])))


def test_a_file_has_a_token_per_line_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# the left arm\n{TOKEN}\n\n  {OTHER}  \n")
    file.chmod(0o600)
    tokens, warnings = read_tokens(file, {})
    assert tokens is not None and len(tokens) == 2 and not warnings
    assert tokens.find(f"Bearer {OTHER}") == 1


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    file.chmod(0o644)
    _, warnings = read_tokens(file, {})
    assert warnings == [
        f"{file}: other users of this machine can read the tokens. Run: chmod 600 {file}"
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "got 0"),
        ("# none\n", "got 0"),
        ("short\n", "line 1: expected a token of at least 16 characters, got 5"),
        (f"{TOKEN}\nwith a space inside\n", "line 2: expected a token of printable ASCII"),
    ],
)
def test_a_file_without_a_usable_token_is_refused_without_showing_it(
    tmp_path: Path, content: str, found: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(UsageError) as error:
        read_tokens(file, {})
    assert found in str(error.value) and "secrets.token_urlsafe" in str(error.value)
    assert "short" not in str(error.value) and "with a space" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(UsageError, match="expected a text file"):
        read_tokens(file, {})


def test_the_variable_holds_a_token_and_is_removed() -> None:
    environment = {"FLUX_TOKEN": TOKEN}
    tokens, _ = read_tokens(None, environment)
    assert tokens is not None and tokens.find(f"Bearer {TOKEN}") == 0
    assert environment == {}
    assert read_tokens(None, environment) == (None, [])


def test_an_empty_variable_is_no_open_door() -> None:
    with pytest.raises(UsageError, match="FLUX_TOKEN: expected a token of at least 16"):
        read_tokens(None, {"FLUX_TOKEN": ""})


def test_the_file_comes_before_the_variable_which_is_said(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    file.chmod(0o600)
    tokens, warnings = read_tokens(file, {"FLUX_TOKEN": OTHER})
    assert tokens is not None and tokens.find(f"Bearer {OTHER}") is None
    assert warnings == [f"FLUX_TOKEN: not used, because --token-file {file} is given"]


@pytest.mark.parametrize(
    ("listen", "host", "text", "is_loopback"),
    [
        ("127.0.0.1:8000", "127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.9:1", "127.0.0.9", "127.0.0.9:1", True),
        ("localhost:8000", "127.0.0.1", "127.0.0.1:8000", True),
        ("[::1]:8000", "::1", "[::1]:8000", True),
        ("0.0.0.0:8000", "0.0.0.0", "0.0.0.0:8000", False),
        ("[::]:8000", "::", "[::]:8000", False),
        ("10.1.2.3:0", "10.1.2.3", "10.1.2.3:0", False),
        ("[::ffff:10.1.2.3]:8", "::ffff:10.1.2.3", "[::ffff:10.1.2.3]:8", False),
    ],
)
def test_an_address_is_loopback_or_not(
    listen: str, host: str, text: str, is_loopback: bool
) -> None:
    address = resolve(listen)
    assert (address.host, address.text(), address.is_loopback) == (host, text, is_loopback)


@pytest.mark.parametrize("listen", ["8000", ":8000", "127.0.0.1", "127.0.0.1:http", "[::1]:70000"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(UsageError, match="--listen: expected HOST:PORT"):
        resolve(listen)


def test_a_host_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="--listen: expected an address of this machine"):
        resolve("no-such-host.invalid:8000")


def test_beyond_this_machine_both_a_token_and_tls_are_needed() -> None:
    address = resolve("0.0.0.0:8000")
    both = {"has_token": True, "has_tls": True}
    assert check_exposure(address, **both, is_insecure=False) == []
    for missing, option in (("has_token", "--token-file"), ("has_tls", "--tls-cert")):
        with pytest.raises(UsageError) as error:
            check_exposure(address, **{**both, missing: False}, is_insecure=False)
        assert option in str(error.value) and "--insecure" in str(error.value)


def test_insecure_says_loudly_what_is_open() -> None:
    lines = check_exposure(
        resolve("0.0.0.0:8000"), has_token=False, has_tls=False, is_insecure=True
    )
    assert len(lines) == 2 and all(line.startswith("INSECURE: ") for line in lines)


def test_this_machine_alone_needs_neither() -> None:
    address = resolve("127.0.0.1:8000")
    assert check_exposure(address, has_token=False, has_tls=False, is_insecure=False) == []
