"""One epoch, seen from outside: licence, question, proposals, round, storage, upgrade, the question again."""

from __future__ import annotations

from typing import Any

from deepshard.devnet.client import Json, NodeUnreachable
from deepshard.devnet.plans import LICENCE_PRICE_MAX, PROMPT, PROPOSAL_STAKE, SOUND_TITLE, WORTHLESS_TITLE, read_text
from deepshard.devnet.report import LicenceReport, StorageReport
from deepshard.devnet.roster import OBSERVER
from deepshard.devnet.stage import Stage
from deepshard.primitives import format_amount

SHORT_PHASE_S = 180.0
DOWNLOAD_S = 600.0
ROUND = 1
_DECIDED = {"accepted", "rejected", "harmful", "contested", "trained"}
_ROUND_TITLES = {
    "freezing": "waiting for the batch to freeze",
    "joining": "trainers join the round",
    "training": "training",
    "revealing": "revealing the trained weights",
    "scoring": "scoring the submissions by curvature",
}


async def live_through(stage: Stage) -> None:
    """Every step of the epoch, in order.

    Raises:
        StepFailed: one did not happen in time.
        NodeRefused, NodeUnreachable: a node would not do it.
    """
    await _buy_and_download(stage)
    stage.phase("answer-before", "asking the model before the epoch")
    stage.report.answers.prompt = PROMPT
    stage.report.answers.before = await _ask(stage)
    await _propose_and_vote(stage)
    await _live_through_round(stage)
    stage.phase("storage", "validators fetch the shards they are to hold")
    await wait_for_storage(stage)
    if stage.report.round_outcome == "accepted":
        stage.phase("upgrade", "the inference node upgrades")
        await _wait_for_download(stage, version=1)
    stage.phase("answer-after", "asking the model after the epoch")
    stage.report.answers.after = await _ask(stage)
    await _ask_streamed(stage)


async def _buy_and_download(stage: Stage) -> None:
    """The inference operator buys a licence for version 0 and brings the weights to its node."""
    stage.phase("licence", "the inference operator buys a licence")
    bought = await stage.clients["inference"].buy_licence(LICENCE_PRICE_MAX)
    stage.report.licence = LicenceReport(version=bought["version"], price=bought["price"], height=bought["height"])
    stage.narrator.say(f"licence for version {bought['version']} costs {format_amount(bought['price'])} tokens")
    stage.phase("download", "the inference node downloads the weights")
    await _wait_for_download(stage, version=0)


async def _wait_for_download(stage: Stage, *, version: int) -> None:
    seen: Json = {}

    async def look() -> bool | None:
        seen.update(await stage.clients["inference"].download())
        return True if (seen["version"], seen["state"]) == (version, "ready") else None

    def facts() -> str:
        error = f", {seen['error']}" if seen.get("error") else ""
        chunks = f"{seen.get('chunks_done')}/{seen.get('chunks_total')} chunks"
        return f"(version {seen.get('version')} {seen.get('state')}, {chunks}{error})"

    await stage.until(
        look,
        what=f"version {version} on the inference node",
        timeout_s=DOWNLOAD_S,
        facts=facts,
        culprit=lambda: "inference",
    )
    download, names = stage.report.download, stage.names
    fetched = {names.get(peer, peer): int(size) for peer, size in seen["bytes_by_peer"].items()}
    for peer, size in fetched.items():
        download.bytes_by_peer[peer] = download.bytes_by_peer.get(peer, 0) + size
    download.bytes_by_version[str(version)] = sum(fetched.values())
    download.chunks_verified += int(seen["chunks_verified"])
    download.weights_root = str(seen["weights_root"])
    stage.narrator.say(
        f"{seen['chunks_verified']} chunks verified, {sum(fetched.values()) / 2**20:.2f} MiB from {len(fetched)}"
    )


async def _ask(stage: Stage) -> str:
    answer = await stage.clients["inference"].chat(PROMPT, tokens_max=stage.plan.chat_tokens)
    text = str(answer["choices"][0]["message"]["content"])
    stage.narrator.say(f"{PROMPT!r} -> {' '.join(text.split())!r}")
    return text


async def _ask_streamed(stage: Stage) -> None:
    pieces = await stage.clients["inference"].chat_streamed(PROMPT, tokens_max=stage.plan.chat_tokens)
    answers = stage.report.answers
    answers.streamed, answers.streamed_pieces = "".join(pieces), sum(bool(piece) for piece in pieces)


async def _propose_and_vote(stage: Stage) -> None:
    stage.phase("proposing", "the informant proposes two texts")
    informant = stage.clients["informant"]
    for name, title in (("sound", SOUND_TITLE), ("worthless", WORTHLESS_TITLE)):
        await informant.propose(read_text(name), title=title, stake=PROPOSAL_STAKE)
        await stage.tell_news()
    stage.phase("voting", "the validators judge them")
    status: dict[str, str] = {}

    async def look() -> bool | None:
        status.update({str(each["title"]): str(each["status"]) for each in await stage.observer.proposals()})
        return True if len(status) == 2 and set(status.values()) <= _DECIDED else None

    await stage.until(
        look,
        what="a verdict on both proposals",
        timeout_s=stage.plan.scoring_s,
        facts=lambda: f"({', '.join(f'{title}: {now}' for title, now in status.items())})",
        culprit=lambda: OBSERVER,
    )


async def _live_through_round(stage: Stage) -> None:
    limits = {"training": stage.plan.training_s, "scoring": stage.plan.scoring_s}
    status, seen = "freezing", dict[str, Any]()

    async def look() -> bool | None:
        seen.update(next((each for each in await stage.observer.rounds() if each["number"] == ROUND), {}))
        return True if seen.get("status", status) != status else None

    while status not in {"closed", "void"}:
        stage.phase(status, _ROUND_TITLES[status])
        await stage.until(
            look,
            what=f"the end of {status}",
            timeout_s=limits.get(status, SHORT_PHASE_S),
            facts=lambda: _progress(seen),
            culprit=lambda: laggard(stage, seen),
        )
        status = str(seen["status"])
    stage.report.round_outcome = "accepted" if status == "closed" else "void"
    stage.report.round_reason = str(seen.get("reason") or "")


def _progress(round_: Json) -> str:
    trainers = round_.get("trainers", [])
    match round_.get("status"):
        case "training":
            return f"({sum(bool(each['committed']) for each in trainers)} of {len(trainers)} trainers have committed)"
        case "scoring":
            return f"({len(round_['reporters'])} validators have reported)"
        case _:
            return ""


def laggard(stage: Stage, round_: Json) -> str:
    """Name of a node that the round waits for, from what was last seen of it; the observer if none stands out."""
    names, waiting = stage.names, list[str]()
    if round_.get("status") == "training":
        waiting = [names.get(each["address"], "") for each in round_["trainers"] if not each["committed"]]
    elif round_.get("status") == "scoring":
        reported = {names.get(address) for address in round_["reporters"]}
        waiting = [each.name for each in stage.of_role("validator") if each.name not in reported]
    return waiting[0] if waiting else OBSERVER


async def wait_for_storage(stage: Stage) -> None:
    """Until every validator that can be reached holds what it is assigned of the newest version.

    Raises:
        StepFailed: one doesn't in time.
    """
    version = 1 if stage.report.round_outcome == "accepted" else 0

    async def look() -> bool | None:
        here = stage.of_role("validator")
        for each in here:
            try:
                storage = (await stage.clients[each.name].status())["storage"]
            except NodeUnreachable:
                return None  # a fault came upon it meanwhile
            stage.report.storage[each.name] = StorageReport(
                version=storage["version"], assigned=storage["assigned"], held=storage["held"]
            )
        holdings = [stage.report.storage[each.name] for each in here]
        return True if all(each.version == version and each.held == each.assigned for each in holdings) else None

    await stage.until(
        look,
        what=f"version {version} on all its holders",
        timeout_s=DOWNLOAD_S,
        facts=lambda: (
            f"({', '.join(f'{name} {each.held}/{each.assigned}' for name, each in stage.report.storage.items())})"
        ),
        culprit=lambda: _behind(stage, version),
    )


def _behind(stage: Stage, version: int) -> str:
    for name, each in stage.report.storage.items():
        if each.version != version or each.held != each.assigned:
            return name
    return OBSERVER
