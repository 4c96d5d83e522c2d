"""Fuzz for a while: `python tests/fuzz/run.py --seconds N [--only NAME ...] [--jobs 2] [--json FILE]`.

Each harness is a process of Atheris that begins with its committed corpus. What it finds to be new is kept in
`.fuzz/NAME/` at the project's root and used again the next time; inputs that crash, hang or take too much memory lie in
`.fuzz/NAME-findings/`. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).parent))
import harness

ROOT: Final = Path(__file__).parent.parent.parent
KEPT: Final = ROOT / ".fuzz"
RSS_MIB_MAX: Final = 1024
INPUT_SECONDS_MAX: Final = 5
_STATUS: Final = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/")
_STATISTIC: Final = re.compile(r"stat::(\w+):\s+(\d+)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one harness. `coverage` counts edges of our code, `units` inputs that reached something new."""

    name: str
    seconds: int
    executions: int
    executions_per_s: int
    coverage: int
    units: int
    peak_rss_mib: int
    findings: list[str]
    error: str


def fuzz(name: str, seconds: int) -> Outcome:
    """Run one harness for so long, or until it finds something."""
    kept, findings = KEPT / name, KEPT / f"{name}-findings"
    kept.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    known = set(findings.iterdir())
    command = [
        sys.executable,
        str(harness.FOLDER / "atheris_main.py"),
        name,
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={RSS_MIB_MAX}",
        f"-timeout={INPUT_SECONDS_MAX}",
        "-print_final_stats=1",
        f"-artifact_prefix={findings}/",
        str(kept),
        str(harness.CORPUS / name),
    ]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    log = process.stdout + process.stderr
    statistics = {key: int(value) for key, value in _STATISTIC.findall(log)}
    coverage = [int(found[1]) for found in _STATUS.findall(log)]
    new = sorted(str(path.relative_to(ROOT)) for path in set(findings.iterdir()) - known)
    return Outcome(
        name,
        seconds,
        statistics.get("number_of_executed_units", 0),
        statistics.get("average_exec_per_sec", 0),
        coverage[-1] if coverage else 0,
        statistics.get("new_units_added", 0),
        statistics.get("peak_rss_mb", 0),
        new,
        "" if process.returncode == 0 else log[-3000:],
    )


def outcomes(names: list[str], seconds: int, jobs: int) -> Iterator[Outcome]:
    """Outcomes in the order of the names, `jobs` harnesses at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda name: fuzz(name, seconds), names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each harness")
    parser.add_argument("--only", nargs="*", choices=harness.names(), help="harnesses; all of them if none is named")
    parser.add_argument("--jobs", type=int, default=2, help="harnesses at a time")
    parser.add_argument("--json", default=str(KEPT / "figures.json"), help="file for the figures")
    arguments = parser.parse_args()
    heads = ("harness", "executions", "a second", "coverage", "new units", "peak MiB", "findings")
    print("{:14}{:>12}{:>10}{:>10}{:>11}{:>10}{:>10}".format(*heads), flush=True)
    found: list[Outcome] = []
    for one in outcomes(arguments.only or harness.names(), arguments.seconds, arguments.jobs):
        found.append(one)
        print(
            f"{one.name:14}{one.executions:>12,}{one.executions_per_s:>10,}{one.coverage:>10,}"
            f"{one.units:>11,}{one.peak_rss_mib:>10,}{len(one.findings):>10}",
            flush=True,
        )
        if one.error:
            print(one.error, *one.findings, sep="\n", flush=True)
    Path(arguments.json).write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", "utf-8")
    sys.exit(any(one.error for one in found))


if __name__ == "__main__":
    main()
