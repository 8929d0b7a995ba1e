"""The door: who comes in, and how the token is kept."""

from __future__ import annotations

import asyncio
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from psedge.protocol.address import Address, join_line, parse_join
from psedge.protocol.door import Door, load_or_make_token
from psedge.protocol.errors import ConfigError, RefusedError
from psedge.protocol.ports import Reply


class Knock:
    """A request that fails the test if anyone reads its body."""

    peer = "127.0.0.1"
    length = 3

    def __init__(self, path, token=""):
        self.path = path
        self.token = token

    async def read_into(self, buffer):
        raise AssertionError("read before the door was passed")


async def hello(incoming):
    return Reply((b"hello",))


def enter(door, path="/hello", token=""):
    return asyncio.run(door(Knock(path, token)))


def test_the_right_token_opens():
    assert enter(Door({"/hello": hello}, token="abc"), token="abc").parts == (b"hello",)


@pytest.mark.parametrize("token", ["", "ab", "abcd", "ABC", "äbc", "abc\udc80"])
@pytest.mark.parametrize("path", ["/hello", "/unknown"])
def test_any_other_token_is_forbidden_everywhere(token, path):
    with pytest.raises(RefusedError, match="use the join line that the server printed") as caught:
        enter(Door({"/hello": hello}, token="abc"), path, token)
    assert caught.value.code == "forbidden"


def test_an_open_door_ignores_tokens():
    assert enter(Door({"/hello": hello}, token=None), token="whatever").parts == (b"hello",)


def test_an_unknown_path_is_not_found():
    with pytest.raises(RefusedError, match="/hallo") as caught:
        enter(Door({"/hello": hello}, token=None), "/hallo")
    assert caught.value.code == "not-found"


def test_an_empty_token_is_no_token():
    with pytest.raises(ValueError, match="empty token"):
        Door({}, token="")


def test_routes_may_come_later():
    routes = {}
    door = Door(routes, token=None)
    routes["/hello"] = hello
    assert enter(door).parts == (b"hello",)


def test_the_token_is_made_once_and_only_its_owner_reads_it(tmp_path):
    folder = tmp_path / "state" / "psedge"
    token = load_or_make_token(folder)
    assert load_or_make_token(folder) == token
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == [folder / "token"]
    address = Address("http://pc:7700", token)
    assert parse_join(join_line(address)) == address


def test_two_machines_have_two_tokens(tmp_path):
    assert load_or_make_token(tmp_path / "a") != load_or_make_token(tmp_path / "b")


def test_processes_that_start_together_agree(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: load_or_make_token(tmp_path / "a"), range(16)))
    assert len(tokens) == 1
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "token"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    load_or_make_token(tmp_path)
    (tmp_path / "token").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_make_token(tmp_path)


@pytest.mark.parametrize("content", ["", "short\n", "spaces are not allowed here\n", "\0" * 30])
def test_a_damaged_file_is_refused(tmp_path, content):
    load_or_make_token(tmp_path)
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigError, match="holds no token"):
        load_or_make_token(tmp_path)


def test_a_link_or_folder_in_its_place_is_refused(tmp_path):
    (tmp_path / "elsewhere").write_text("0123456789abcdefgh")
    (tmp_path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        load_or_make_token(tmp_path)
    (tmp_path / "token").unlink()
    (tmp_path / "token").mkdir(mode=0o700)
    with pytest.raises(ConfigError):
        load_or_make_token(tmp_path)
