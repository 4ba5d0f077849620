"""The command: what it refuses before it opens anything, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from PIL import Image

from flux_runtime.cli import build_parser, main
from flux_runtime.serve.options import serve_options_from
from flux_runtime.wire import pack

from ...serving import SHIPPED, observation, start_server
from .conftest import openpi, wait_until

UNIT = Path(__file__).resolve().parents[3] / "deploy" / "flux-serve.service"


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLUX_TOKEN", raising=False)


def _error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(["serve", str(SHIPPED), *arguments])
    found = capsys.readouterr().err.strip().splitlines()
    assert code in (1, 2) and len(found) == 1, (code, found)
    return found[0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--listen", "0.0.0.0:0"], "expected a token and TLS"),
        (["--listen", "[::]:0"], "expected a token and TLS"),
        (["--listen", "nowhere"], "expected HOST:PORT"),
        (["--tls-cert", "x.crt"], "expected --tls-cert and --tls-key together"),
        (["--tls-cert", "x.crt", "--tls-key", "x.key"], "x.crt: No such file"),
        (["--token-file", "none"], "none: No such file"),
        (["--keys", "none.json", "--listen", "127.0.0.1:0"], "--keys: none.json: cannot be read"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert text in _error(capsys, *arguments)


def test_a_token_alone_or_in_the_environment_is_not_enough(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_TOKEN", "a-token-of-this-lab")
    line = _error(capsys, "--listen", "0.0.0.0:0")
    assert "expected TLS" in line and "a-token-of-this-lab" not in line


def test_a_port_in_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        assert "expected a free address" in _error(capsys, "--listen", f"127.0.0.1:{port}")
        line = _error(capsys, "--listen", "127.0.0.1:0", "--metrics-port", str(port))
        assert "--metrics-port: expected a free port" in line


def test_no_bundle_is_needed_to_make_a_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["serve", "--make-cert", "gpu.lab", "10.0.0.7", "--cert-dir", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["names"][:2] == ["gpu.lab", "10.0.0.7"] and len(made["fingerprint"]) == 64
    assert Path(made["key"]).read_text().startswith("-----BEGIN PRIVATE KEY")
    assert main(arguments) == 2  # it replaces none
    assert "replaces none" in capsys.readouterr().err


def test_sigterm_answers_what_was_asked_and_ends_well(tmp_path: Path) -> None:
    served = start_server(tmp_path, "--drain-for", 60)
    taken = 'flux_serve_requests_total{protocol="openpi"}'
    # Large pictures take longer than it takes to ask how many requests have come.
    file = io.BytesIO()
    Image.new("RGB", (1920, 1080), "red").save(file, format="png")
    message = pack({**observation(0), "images": {"cam_high": file.getvalue()}})
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(openpi(served)) for _ in range(6)]
        for one in clients:
            one.connection.send(message)
        wait_until(lambda: served.metrics().get(taken) == len(clients), "no requests")
        code: list[int] = []
        thread = threading.Thread(target=lambda: code.append(served.stop()))
        thread.start()
        for one in clients:
            assert isinstance(one.answer(), dict)
            with pytest.raises(Exception, match="1001.*the server is shutting down"):
                one.answer()
        thread.join()
    assert code == [0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port), timeout=30)
    assert [line.split()[1] for line in served.events()][-1] == "stopped"
    assert "Traceback" not in served.log.read_text()


def test_insecure_is_loud_and_open_and_ctrl_c_ends_it_while_a_client_does_nothing(
    tmp_path: Path,
) -> None:
    insecure = ("--listen", "0.0.0.0:0", "--insecure")
    served = start_server(tmp_path, *insecure, "--drain-for", 1, "--handshake-timeout", 600)
    assert not served.report["only_this_machine"]
    assert len([line for line in served.events() if "INSECURE" in line]) == 2
    with socket.create_connection(("127.0.0.1", served.port)):
        assert served.stop(signal.SIGINT) == 0


# The unit of systemd.


def _command_of_the_unit() -> list[str]:
    text = UNIT.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return shlex.split(line)


def test_the_unit_starts_the_command_with_options_that_exist() -> None:
    program, *arguments = _command_of_the_unit()
    assert Path(program).name == "flux-runtime"
    options = serve_options_from(build_parser().parse_args(arguments))
    assert options.token_file and options.tls_cert and options.tls_key
    assert not options.insecure


def test_the_unit_is_hardened_and_gives_the_drain_its_time() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    for name, value in {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "Restart": "on-failure",
        "KillSignal": "SIGTERM",
    }.items():
        assert settings[name] == value
    assert "LoadCredential" in settings
    options = serve_options_from(build_parser().parse_args(_command_of_the_unit()[1:]))
    assert float(settings["TimeoutStopSec"]) > options.drain_for_s


def test_systemd_understands_the_unit() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed; the other tests read the unit's options")
    done = subprocess.run([analyze, "verify", UNIT], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert not complaints
