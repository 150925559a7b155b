"""``make bench-limits``: how much of an allowance is used, and what an outage costs, in real time.

The real command against the simulator, each a process of its own, several scenarios side by side. A table, and JSON in
data/out/bench/. Ends with exit 1 when a goal was missed. Figures of a busy machine are lower bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.figures import machine
from tests.bench_limits.judge import Verdict
from tests.bench_limits.scenarios import SCENARIOS, Scenario
from tests.bench_limits.trace import Trace

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data" / "out" / "bench"
LONGEST_S = 600.0


def write_job(scenario: Scenario, folder: Path, port: int) -> Path:
    table = folder / "rows.csv"
    lines = (f"r{place:06d},Say a word about number {place}\n" for place in range(scenario.rows))
    table.write_text("id,text\n" + "".join(lines))
    spec = {
        "name": scenario.name,
        "input": {"path": str(table), "id": "id"},
        "prompt": "{{ text }}",
        "model": "made-up",
        "endpoint": {
            "base_url": f"http://127.0.0.1:{port}/v1",
            "api_key_env": "BENCH_KEY",
            "timeout_s": {"connect": 10, "total": scenario.timeout_s},
        },
        "limits": scenario.limits,
        "output": str(folder / "out"),
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(spec))  # JSON is YAML
    return path


def play(scenario: Scenario, folder: Path) -> Trace:
    """Run the command, or several of it, to the end against a simulator of its own."""
    folder.mkdir()
    diary = folder / "diary.jsonl"
    server = [sys.executable, "-m", "tests.bench_limits.server", str(diary), json.dumps(scenario.simulator)]
    if scenario.lengths is not None:
        server += ["--lengths", json.dumps(scenario.lengths)]
    with subprocess.Popen(server, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        port = json.loads(child.stdout.readline())["port"]
        places = [folder / f"job-{number}" for number in range(scenario.jobs)]
        running = [start(scenario, place, port) for place in places]
        killed_at = None
        if scenario.kill_after_s is not None:
            time.sleep(scenario.kill_after_s)
            killed, places = running.pop(0), places[1:]
            killed.kill()
            killed_at = time.monotonic()
            killed.communicate()
        said = [process.communicate(timeout=LONGEST_S)[1] for process in running]
        child.stdin.close()
        stats = json.loads(child.stdout.read().splitlines()[-1])
    summaries = [json.loads((place / "out" / "summary.json").read_bytes()) for place in places]
    lines = [json.loads(line) for line in diary.read_bytes().splitlines()]
    code = max(process.returncode for process in running)
    return Trace.of(lines, stats, summaries, code, "".join(said)[-2_000:], killed_at)


def start(scenario: Scenario, folder: Path, port: int) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [sys.executable, "-m", "pipeline", "run", str(write_job(scenario, folder, port)), "--quiet"]
    if scenario.minutes is not None:
        command += ["--max-minutes", str(scenario.minutes)]
    environment = {**os.environ, "BENCH_KEY": "made-up", "XDG_STATE_HOME": str(folder.parent / "state")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def judged(scenario: Scenario, folder: Path) -> tuple[Scenario, list[Verdict], Trace]:
    print(f"begins: {scenario.name}", file=sys.stderr, flush=True)
    trace = play(scenario, folder / scenario.name)
    verdicts = [*scenario.judge(trace), Verdict("exit code", trace.code, 75 if scenario.minutes is not None else 0)]
    print(f"ended: {scenario.name}", file=sys.stderr, flush=True)
    return scenario, verdicts, trace


def table(results: Sequence[tuple[Scenario, list[Verdict], Trace]]) -> str:
    lines = []
    for scenario, verdicts, _ in results:
        lines.append(f"\n{scenario.name}: {scenario.about}")
        lines += [
            f"  {one.what:<42}{one.told:>12}  {one.goal_told:<12}{'' if one.met else 'MISSED'}" for one in verdicts
        ]
    return "\n".join(lines)


def members(scenario: Scenario, verdicts: Sequence[Verdict], trace: Trace) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "about": scenario.about,
        "figures": [{**asdict(one), "met": one.met} for one in verdicts],
        "requests": len(trace.entries),
        "limits_found": trace.summary.get("limits_found"),
        "complaint": trace.complaint,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_limits", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in SCENARIOS], metavar="SCENARIO")
    parser.add_argument("--side-by-side", type=int, default=8, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep jobs and diaries there")
    args = parser.parse_args()
    chosen = [one for one in SCENARIOS if args.only is None or one.name in args.only]
    FOLDER.mkdir(parents=True, exist_ok=True)
    seen = machine()
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="limits-", dir=FOLDER) as made:
        folder = args.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(args.side_by_side) as pool:
            longest_first = sorted(chosen, key=lambda one: -one.seconds)
            done = {one.name: pool.submit(judged, one, folder) for one in longest_first}
            results = [done[one.name].result() for one in chosen]
    print(table(results))
    load = os.getloadavg()[0]
    print(f"\n{time.time() - began:.0f} s; load average {seen['load_average'][0]:.1f} before, {load:.1f} after")
    report = {
        "format": 1,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "machine": seen,
        "load_average_after": os.getloadavg(),
        "used": "answers / (allowed per second x seconds from the first request to the last answer, or of the span)",
        "scenarios": [members(*result) for result in results],
    }
    aside = FOLDER / "limits.aside"
    aside.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{aside.rename(FOLDER / 'limits.json').relative_to(ROOT)} written")
    return 0 if all(one.met for _, verdicts, _ in results for one in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
