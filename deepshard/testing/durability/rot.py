"""Part "rot": every bit of rot in a validator's databases is repaired, refused or harmless.

One byte of one file is damaged, by a flipped bit, or the file is cut off there. The files are then opened as a node
opens them and asked everything; the chain service is started on them where an answer is missing, and they are written
to, as the next blocks would, and asked again.

Of damage to a WAL or a rollback journal that leads to the same answers and the same other files, one case is started
and written to: what SQLite ignores of such a file from then on makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from deepshard.disk.chain import ChainStore
from deepshard.disk.home import CHAIN_NAME, JOURNAL_NAME
from deepshard.disk.journal import Journal
from deepshard.errors import LocalError, UsageError
from deepshard.primitives import content_digest
from deepshard.testing.durability.answers import (
    REPORTS,
    Answers,
    ask,
    disk_of,
    equal_but_for_refusals,
    hearing,
    opened,
    start,
    write_on,
)
from deepshard.testing.durability.homes import FOLDER, HEIGHT, Home, homes
from deepshard.testing.durability.outcomes import Damage, Outcome, Verdict, damages
from deepshard.testing.fault_disk import FaultDisk

HEADER_BYTES: Final = 100
"""Header of an SQLite file; those of its journals are shorter."""
_LEAVE: Final = {CHAIN_NAME: "chain.missing", JOURNAL_NAME: "journal.missing"}
"""What is reported where a file is gone that a node can do without."""
_SIDES: Final = ("-wal", "-journal")
_OF_CHAIN: Final = ("height", "base", "receipts", *(f"block {height}" for height in range(1, HEIGHT + 1)))


class _Subject:
    """A home with the answers of its undamaged files: now, and at the operations around it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.versions: list[Answers] = []
        """Those of now first."""
        self.known: dict[bytes, Verdict] = {}
        """Verdicts on what damage to a WAL or rollback journal led to."""
        self._later: dict[int, Answers] = {}
        for image in (home.image, *home.near):
            with opened(home, disk_of(image)) as files:
                self.versions.append(ask(home, *files))

    def later(self, place: int) -> Answers:
        """Answers of the undamaged files of a version after more was written."""
        if place not in self._later:
            disk = disk_of((self.home.image, *self.home.near)[place])
            with opened(self.home, disk) as files:
                write_on(*files)
            with opened(self.home, disk) as files:
                self._later[place] = ask(self.home, *files)
        return self._later[place]

    def matching(self, answers: Answers) -> list[int]:
        """Places of the versions whose facts these are, refused ones left out."""
        versions = enumerate(self.versions)
        return [place for place, version in versions if not equal_but_for_refusals(answers.facts, version.facts)]


@cache
def _subject(seed: int, name: str) -> _Subject:
    return _Subject(homes(seed)[name])


def damages_of(home: Home, *, sample: int | None = None) -> list[Damage]:
    """Every damage to a home's files, or about `sample` of each kind to each."""
    found: list[Damage] = []
    for name in home.damaged:
        size = len(home.image[FOLDER / name])
        found += damages(home.name, name, size, sample=sample, header=HEADER_BYTES)
        found.append(Damage(home.name, name, "gone", 0))
    return found


def inflict(seed: int, damage: Damage) -> Verdict:
    """Damage a home, and see what becomes of it."""
    reports: list[str] = []
    with hearing(reports):
        try:
            return _judge(seed, damage, reports)
        except (LocalError, UsageError) as error:
            return _refused(error, "at the start")
        except Exception as error:  # noqa: BLE001  # what has no type of ours is a violation, and shown
            return Verdict(Outcome.VIOLATION, f"{type(error).__name__}: {error}")


def _refused(error: Exception | str, when: str) -> Verdict:
    text = str(error)
    if "\n" in text or str(FOLDER) not in text:
        return Verdict(Outcome.VIOLATION, f"refused {when}, but not in one line that names the file: {text!r}")
    return Verdict(Outcome.REFUSED, f"{when}: {text}")


def _judge(seed: int, damage: Damage, reports: list[str]) -> Verdict:
    subject = _subject(seed, damage.home)
    home = subject.home
    path = FOLDER / damage.file
    disk = disk_of(home.image)
    if damage.kind == "flip":
        disk.flip(path, damage.point, (damage.point + seed) % 8)
    elif damage.kind == "cut":
        disk.truncate(path, damage.point)
    else:
        disk.remove(path)
    with opened(home, disk) as files:
        answers = ask(home, *files)
        if _LEAVE.get(damage.file) in reports:
            start(home, files[1])
            return _begun_anew(damage.file, answers, subject.versions[0])
        if not damage.file.endswith(_SIDES):
            return _use(subject, answers, disk, files, reports)
        others = b"".join(data for name, data in disk.files().items() if name != path)
        alike = content_digest(repr((answers, reports)).encode() + others)
        if alike not in subject.known:
            subject.known[alike] = _use(subject, answers, disk, files, reports)
        return subject.known[alike]


def _use(
    subject: _Subject, answers: Answers, disk: FaultDisk, files: tuple[Journal, ChainStore], reports: list[str]
) -> Verdict:
    """Judge the answers, start the node where one is missing, and write."""
    home = subject.home
    verdict = _compare(subject, answers)
    is_whole = verdict.outcome is Outcome.HARMLESS and answers.spares == subject.versions[0].spares
    if not is_whole and verdict.outcome is not Outcome.VIOLATION:
        start(home, files[1])
        verdict = _after_start(answers, subject, verdict, reports)
    if verdict.outcome is Outcome.VIOLATION:
        return verdict
    try:
        write_on(*files)
    except (LocalError, UsageError) as error:
        return _refused(error, "when written to")
    for file in files:
        file.close()
    with opened(home, disk) as again:
        later = ask(home, *again).facts
    wrong: list[str] = []
    for place in subject.matching(answers):
        wrong = equal_but_for_refusals(later, subject.later(place).facts)
        if not wrong:
            return verdict
    return Verdict(Outcome.VIOLATION, f"after more was written, wrong: {', '.join(wrong)}")


def _begun_anew(file: str, answers: Answers, version: Answers) -> Verdict:
    """A file that is gone takes with it what it alone knew, and nothing else."""
    changed = {name for name, value in answers.facts.items() if value != version.facts[name]}
    is_empty = answers.facts["height"] == 0 if file == CHAIN_NAME else answers.facts["in flight"] is None
    known_by_others = {"safety", "signed", *(("in flight", "promise") if file == CHAIN_NAME else _OF_CHAIN)}
    if is_empty and not changed & known_by_others:
        return Verdict(Outcome.ANEW)
    return Verdict(Outcome.VIOLATION, f"gone, and changed: {', '.join(sorted(changed))}")


def _compare(subject: _Subject, answers: Answers) -> Verdict:
    """Whether the answers are those of one moment, refused ones left out."""
    now, matching = subject.versions[0], [subject.versions[place] for place in subject.matching(answers)]
    if not matching:
        wrong = equal_but_for_refusals(answers.facts, now.facts)
        return Verdict(Outcome.VIOLATION, f"wrong, and not refused: {', '.join(wrong)}")
    refused = answers.refused()
    if refused:
        return _refused(next(iter(refused.values())), "when asked")
    if answers.helps in [version.helps for version in matching]:
        is_now = matching[0] is now and answers.helps == now.helps
        return Verdict(Outcome.HARMLESS if is_now else Outcome.NEAR)
    lost = [name for name, value in answers.helps.items() if value != matching[0].helps[name]]
    return Verdict(Outcome.RECOVERED, f"lost: {', '.join(lost)}")


def _after_start(answers: Answers, subject: _Subject, verdict: Verdict, reports: Sequence[str]) -> Verdict:
    """The node started: a loss must have been reported, unless it is one of spares, or nothing rested on it."""
    invented = answers.invents(subject.versions)
    if invented:
        return Verdict(Outcome.VIOLATION, f"wrong, and not refused: {', '.join(invented)}")
    if verdict.outcome is Outcome.HARMLESS:
        return Verdict(Outcome.SPARE)
    if verdict.outcome is not Outcome.RECOVERED or REPORTS.intersection(reports):
        return verdict
    if any(answers.helps == version.helps for version in subject.versions[1:]):
        return Verdict(Outcome.NEAR)
    return Verdict(Outcome.VIOLATION, f"{verdict.seen}, and nothing was reported")
