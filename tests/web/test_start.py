"""If these fail, the page does not start, or the operator does not learn who can reach it."""

import socket
import sys
from pathlib import Path

import pytest

from seemore_jax.command_line import main
from seemore_jax.data.images import MAX_PIXELS
from seemore_jax.system.errors import InputError
from seemore_jax.web import start
from seemore_jax.web.address import Address
from seemore_jax.web.start import PASSWORD, describe_limits, install_command, limits_by_memory, read_password
from tests.web.support import free_port

ROOT = Path(__file__).parents[2]


def test_what_keeps_the_page_from_starting_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for variable in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(variable, "")  # the command sets it; the test restores it
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        for arguments, reason in [
            (["--port", port], "Address already in use"),
            (["--port", "70000"], "not 1 to 65535"),
            (["--port", "0"], "not 1 to 65535"),
            (["--host", "192.0.2.1"], "192.0.2.1"),
            (["--password", ""], "--password: the password is empty"),
            (["--password", "@/no/such/file"], "/no/such/file: the password cannot be read"),
            (["--max_pixels", "0"], "--max_pixels is 0"),
            (["--port", str(free_port())], "-m pip install -e "),
        ]:
            assert main(["web", *arguments]) == 2
            complaint = capsys.readouterr().err
            assert complaint.startswith("error: ")
            assert complaint.count("\n") == 1
            assert reason in complaint


def test_the_command_for_gradio_works_from_where_the_package_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert install_command() == f"{sys.executable} -m pip install -e '{ROOT}[web]'"
    installed = tmp_path / "site-packages" / "seemore_jax" / "web" / "start.py"
    monkeypatch.setattr(start, "__file__", str(installed))
    monkeypatch.setattr(sys, "executable", "/a b/python")
    assert install_command() == "'/a b/python' -m pip install 'seemore-jax[web]'"


def test_the_password_comes_from_a_word_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    assert read_password(None) is None
    assert read_password("word") == "word"
    (tmp_path / "password").write_text("from the file\nsecond line\n")
    assert read_password(f"@{tmp_path / 'password'}") == "from the file"
    monkeypatch.setenv(PASSWORD, "from the environment")
    assert read_password(None) == "from the environment"
    assert read_password("word") == "word"
    monkeypatch.setenv(PASSWORD, "@sign")
    assert read_password(None) == "@sign"
    monkeypatch.setenv(PASSWORD, " ")
    with pytest.raises(InputError, match=rf"\${PASSWORD}: the password is empty"):
        read_password(None)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_others_reach_the_page_only_on_other_addresses(host: str, local: bool) -> None:
    assert Address(host, 1).is_local() == local


@pytest.mark.parametrize(("password", "note"), [(None, "--password"), ("word", "not encrypted")])
def test_the_operator_learns_that_others_reach_the_page(
    password: str | None, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start.say_where(Address("0.0.0.0", 7860), password)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("note: ")
    assert note in first
    assert second == "http://0.0.0.0:7860/  (Ctrl-C ends it)"
    start.say_where(Address("::1", 7860), password)
    assert capsys.readouterr().out == "http://[::1]:7860/  (Ctrl-C ends it)\n"


def test_limits_depend_on_the_free_memory_and_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "free_memory", lambda: 8 * 10**9)
    limits = limits_by_memory({4, 2})
    assert list(limits) == [2, 4]
    assert limits[4] > 12 * 10**6  # a camera's picture
    assert limits[2] == pytest.approx(4 * limits[4], abs=4)
    monkeypatch.setattr(start, "free_memory", lambda: 10**12)
    assert limits_by_memory({4}) == {4: MAX_PIXELS}
    monkeypatch.setattr(start, "free_memory", lambda: 0)
    assert limits_by_memory({4}) == {4: 1}


def test_limits_in_words() -> None:
    assert describe_limits({2: 120_000_000, 4: 30_000_000}) == "up to 120 megapixels at ×2, 30 at ×4"
    assert describe_limits({2: 2000, 3: 2000, 4: 2000}) == "up to 2000 pixels"
