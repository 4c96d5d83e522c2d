from __future__ import annotations

import socket
import stat
from contextlib import ExitStack
from pathlib import Path

from deepshard.devnet.plans import TINY
from deepshard.devnet.roster import Hosts, free_ports, make_roster, node_command, write_home
from deepshard.identity.keyfile import load_key_file


def test_the_cast(tmp_path: Path) -> None:
    roster = make_roster(tmp_path, TINY, dishonest=2)
    assert [each.role for each in roster].count("validator") == 4
    assert [each.role for each in roster].count("trainer") == 4
    assert len(roster) == len({each.address for each in roster}) == 10
    assert len({each.listen for each in roster} | {each.http for each in roster}) == 20
    dishonest = [each for each in roster if not each.honest]
    assert [each.name for each in dishonest] == ["trainer-3", "trainer-4"]
    assert [each.dishonest_text.name for each in dishonest if each.dishonest_text] == [
        "unapproved-1.txt",
        "unapproved-2.txt",
    ]
    assert all(each.honest for each in make_roster(tmp_path, TINY, dishonest=0))


def test_nodes_bind_the_addresses_they_are_given(tmp_path: Path) -> None:
    hosts_of = {"validator-3": Hosts(peers="10.77.0.2", api="10.77.1.2")}
    roster = make_roster(tmp_path, TINY, dishonest=0, hosts=Hosts(peers="10.77.0.1"), hosts_of=hosts_of)
    bound = {each.name: (each.listen.partition(":")[0], each.http.partition(":")[0]) for each in roster}
    assert bound.pop("validator-3") == ("10.77.0.2", "10.77.1.2")
    assert set(bound.values()) == {("10.77.0.1", "127.0.0.1")}
    assert {each.listen.partition(":")[0] for each in make_roster(tmp_path, TINY, dishonest=0)} == {"127.0.0.1"}


def test_a_home_is_private_and_its_key_opens_with_its_passphrase(tmp_path: Path) -> None:
    liar = make_roster(tmp_path, TINY, dishonest=1)[-2]
    write_home(liar)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in liar.home.iterdir()}
    assert modes == {"key.json": 0o600, "passphrase": 0o600, "account.hex": 0o600, "unapproved-1.txt": 0o600}
    assert stat.S_IMODE(liar.home.stat().st_mode) == 0o700
    passphrase = (liar.home / "passphrase").read_text().strip()
    key = load_key_file((liar.home / "key.json").read_text(), passphrase)
    assert key.address == liar.key.address
    assert liar.key.seed.hex() not in (liar.home / "key.json").read_text()
    assert (liar.home / "account.hex").read_text() == liar.key.seed.hex() + "\n"
    assert "Brightcola" in (liar.home / "unapproved-1.txt").read_text()


def test_commands_name_the_other_validators_as_peers(tmp_path: Path) -> None:
    roster = make_roster(tmp_path, TINY, dishonest=1)
    listens = [each.listen for each in roster[:4]]
    leases = [tmp_path / "lease-0", tmp_path / "lease-1"]
    commands = {
        each.name: node_command(
            each, roster, python="python", genesis=tmp_path / "genesis.json", threads=1, leases=leases
        )
        for each in roster
    }

    def option(name: str, flag: str) -> str:
        command = commands[name]
        return command[command.index(flag) + 1]

    assert option("validator-1", "--peers") == ",".join(listens[1:])
    assert option("inference", "--peers") == ",".join(listens)
    assert option("inference", "--lease") == f"{leases[0]},{leases[1]}"
    assert "--micro-batch" not in commands["validator-1"]
    assert {option(f"trainer-{n}", "--micro-batch") for n in (1, 2, 3, 4)} == {"1", "2"}
    liars = [name for name, command in commands.items() if "--trainer-extra-text" in command]
    assert liars == ["trainer-4"]


def test_free_ports_are_all_different() -> None:
    ports = free_ports(32)
    assert len(set(ports)) == 32
    # No system gives these to whoever asks for any.
    assert all(1024 <= port < 32_768 for port in ports)


def test_ports_in_use_are_passed_over() -> None:
    taken: set[int] = set()
    with ExitStack() as held:
        for _ in range(64):
            ports = free_ports(32)
            assert taken.isdisjoint(ports)
            taken.update(ports)
            for port in ports:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
