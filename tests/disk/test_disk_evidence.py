"""A folder of evidence: whole files or none, one for each piece, and no more than a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepshard.ballots import Vote, VoteKind
from deepshard.consensus.forensics import decode_accusation
from deepshard.disk import evidence as evidence_module
from deepshard.disk.evidence import EvidenceFolder
from deepshard.errors import LocalError
from deepshard.evidence import DuplicateVote, duplicate_vote
from deepshard.identity import SecretKey
from deepshard.primitives import content_digest

KEY = SecretKey(content_digest(b"accused"))


def piece(height: int) -> DuplicateVote:
    one, other = (
        Vote(VoteKind.PREVOTE, height, 0, -1, content_digest(name), KEY.address, bytes(64)) for name in (b"a", b"b")
    )
    return duplicate_vote(KEY.public, one, other)


def test_a_piece_is_read_back_as_it_was_and_kept_once(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path / "evidence")
    path = folder.save(piece(7))
    assert path == folder.path_of(piece(7))
    assert path is not None
    assert path.name.startswith("duplicate-vote-7-")
    assert decode_accusation(path.read_bytes()) == piece(7)
    assert folder.save(piece(7)) == path
    assert folder.save(piece(8)) != path
    assert len(list(folder.folder.iterdir())) == 2


def test_the_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence_module, "FILES_MAX", 2)
    folder = EvidenceFolder(tmp_path / "evidence")
    assert [folder.save(piece(height)) is None for height in (1, 2, 3)] == [False, False, True]
    assert folder.save(piece(1)) == folder.path_of(piece(1))


def test_a_disk_that_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("a file, where the folder should be")
    with pytest.raises(LocalError, match="cannot keep evidence"):
        EvidenceFolder(tmp_path / "evidence").save(piece(1))
