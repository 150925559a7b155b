from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.environment import ignored_proxies, load_env_file
from pipeline.errors import SpecError

SECRET = "s3cr3t"


def env_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / ".env"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=plain", "plain"),
        ("export KEY=plain", "plain"),
        ("  KEY = spaced out  ", "spaced out"),
        ("KEY=", ""),
        ("KEY=value # a comment", "value"),
        ("KEY=# nothing but a comment", ""),
        ("KEY=a#b", "a#b"),
        ("KEY='single # $HOME \\n'  # a comment", "single # $HOME \\n"),
        ('KEY="double # \\"quoted\\"\\n"', 'double # "quoted"\n'),
        ("KEY=$HOME and ${HOME}", "$HOME and ${HOME}"),
        ("KEY=a=b==", "a=b=="),
        ("KEY=first\nKEY=last", "last"),
        ("# KEY=no\n\nKEY=yes", "yes"),
        ("\ufeffKEY=marked", "marked"),
        ("KEY=windows\r\n", "windows"),
    ],
)
def test_lines_are_read_as_a_shell_would_and_nothing_is_expanded(tmp_path: Path, line: str, value: str) -> None:
    environ: dict[str, str] = {}
    load_env_file(env_file(tmp_path, line), environ)
    assert environ == {"KEY": value}


def test_a_variable_that_is_set_already_wins(tmp_path: Path) -> None:
    environ = {"KEY": "from outside", "EMPTY": ""}
    load_env_file(env_file(tmp_path, "KEY=from the file\nEMPTY=from the file\nOTHER=new\n"), environ)
    assert environ == {"KEY": "from outside", "EMPTY": "", "OTHER": "new"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_can_open_is_refused_with_its_cure(tmp_path: Path, mode: int) -> None:
    environ: dict[str, str] = {}
    with pytest.raises(SpecError, match=r"chmod 600 \S+env") as caught:
        load_env_file(env_file(tmp_path, f"KEY={SECRET}", mode), environ)
    assert caught.value.exit_code == 2
    assert environ == {}


@pytest.mark.parametrize(
    "line", [SECRET, f"KEY='{SECRET}", f'KEY="{SECRET}', f"2KEY={SECRET}", f"K Y={SECRET}", f"K=\0{SECRET}"]
)
def test_what_cannot_be_read_is_told_by_its_line_and_never_shown(tmp_path: Path, line: str) -> None:
    with pytest.raises(SpecError, match="line 2") as caught:
        load_env_file(env_file(tmp_path, f"FINE=1\n{line}\n"), {})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__context__)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        load_env_file(str(tmp_path / "nowhere"), {})
    with pytest.raises(SpecError, match="--env-file"):
        load_env_file(str(tmp_path), {})
    path = env_file(tmp_path, "")
    Path(path).write_bytes(b"KEY=\xff\xfe")
    with pytest.raises(SpecError, match="UTF-8"):
        load_env_file(path, {})
    os.unlink(path)
    os.mkfifo(path, 0o600)
    load_env_file(path, {})  # and is not waited for


def test_a_proxy_that_is_ignored_is_named_without_its_password() -> None:
    environ = {
        "HTTPS_PROXY": "http://user:s3cr3t@proxy.example:3128/x?s3cr3t",
        "all_proxy": "user:s3cr3t@proxy.example",
        "http_proxy": "http://[s3cr3t",
        "HTTP_PROXY": "",
        "NO_PROXY": "s3cr3t",
    }
    found = ignored_proxies(environ, None)
    assert found == {
        "HTTPS_PROXY": "proxy.example:3128",
        "all_proxy": "proxy.example",
        "http_proxy": "an address that cannot be read",
    }
    assert ignored_proxies(environ, "http://proxy.example:3128") == {}
