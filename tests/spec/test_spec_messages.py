"""The catalogue in chapter 6 is the one in the code."""

from __future__ import annotations

from spec_text import parse_fields, rows, shape_of_fields

from deepshard.wire.messages import CATALOGUE, Message

HEADER = ("kind", "name", "class", "attachment", "fields")


def described() -> dict[int, dict[str, str]]:
    return {int(row["kind"]): row for row in rows("06-messages", *HEADER)}


def test_every_kind_is_described_and_every_described_kind_exists() -> None:
    assert {kind: row["name"] for kind, row in described().items()} == {
        kind: message.__name__ for kind, message in CATALOGUE.items()
    }


def test_class_and_attachment_are_those_of_the_code() -> None:
    for kind, row in described().items():
        message: type[Message] = CATALOGUE[kind]
        assert row["class"] == message.PRIORITY.name.lower(), message.__name__
        assert row["attachment"] == ("yes" if message.ATTACHES else "no"), message.__name__


def test_fields_and_their_bounds_are_those_of_the_code() -> None:
    for kind, row in described().items():
        message: type[Message] = CATALOGUE[kind]
        assert parse_fields(row["fields"]) == shape_of_fields(message), message.__name__
