"""The report, as the command writes it."""

from __future__ import annotations

import html.parser
import json
import re
import stat
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from pipeline.drift import Labels
from pipeline.evaluate import evaluate
from pipeline.job import Job
from pipeline.ledger import Totals
from pipeline.report.charts import charts
from pipeline.report.figures import Example, Failure, Figures, Pace
from pipeline.report.gather import PAUSE_S, STEPS, gather, latency, pace
from pipeline.report.page import render, text
from pipeline.spec import load
from tests.e2e.rig import Endpoint, JobFolder, new_job, simulate
from tests.e2e.scripted import Said, refuses, says, scripted

__all__ = ["new_job", "simulate"]

Simulate = Callable[..., Endpoint]
NewJob = Callable[..., JobFolder]
MOOD = {"fields": {"mood": ["good", "bad"]}}
SCRIPT = "<script>alert(1)</script>"


class Seen(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.text = ""
        self.pieces: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data
        self.pieces.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def report(job: JobFolder, *more: str) -> Seen:
    done = job.run("report", *more)
    assert done.returncode == 0, done.stderr
    page = (job.out / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "Content-Security-Policy" in page
    seen = Seen(page)
    assert not seen.elements["script"]
    assert not [name for name in seen.attributes if name.startswith("on") or name == "src"]
    assert set(re.findall(r'href="([^"#]*)', page)) <= {""}
    assert not re.search(r"url\((?!#)", page)
    return seen


def answering(label: Callable[[str], str | None]) -> Callable[[dict[str, Any]], Said]:
    def script(body: dict[str, Any]) -> Said:
        said = label(body["messages"][-1]["content"].split()[-1])
        return refuses(f"no {SCRIPT} see https://evil.example/x\x1b[31m\u202e") if said is None else says(said)

    return script


def test_a_finished_job_with_gold_labels_is_told_whole(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.more = {"answer": MOOD, "evaluate": {"gold": "gold", "field": "mood"}, "prices": {"input": 1, "output": 2}}
    job.rows([{"id": str(n), "text": f"text {n}", "gold": ("good", "bad")[n % 2]} for n in range(40)])
    assert job.run().returncode == 0
    seen = report(job)
    summary = job.summary()
    shares = job.results()["mood"].value_counts()
    for mood, count in shares.iter_rows():
        assert f"{mood} {count} {count / 40 * 100:.1f} %" in seen.words
    assert f"Accuracy {summary['evaluation']['accuracy']:.3f}" in seen.words
    assert "finished" in seen.words
    assert "These answers are made up" in seen.words
    assert f"prompt {summary['tokens']['prompt']:,}" in seen.words
    assert f"${summary['cost_usd']:.4f}" in seen.words
    assert "No row has failed" in seen.words
    assert "first finished run" in seen.words
    assert seen.elements["svg"] == 3
    path = job.out / "report.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(job.out.glob("report*tmp"))


def test_the_same_figures_make_the_same_bytes(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(20)
    job.run()
    report(job)
    first = (job.out / "report.html").read_bytes()
    report(job)
    assert (job.out / "report.html").read_bytes() == first


def test_what_an_endpoint_says_stays_text(new_job: NewJob) -> None:
    with scripted(answering(lambda word: SCRIPT if int(word) < 5 else None)) as told:
        job = new_job(told.endpoint)
        job.number_of_rows(8)
        job.run("run", "--max-failed", "3")
    seen = report(job)
    assert SCRIPT in seen.text  # as a label, and in the error of a failed row
    assert f"no {SCRIPT} see https://evil.example/x" in seen.text
    assert "\x1b" not in seen.text
    assert "\u202e" not in seen.text
    assert "made up" not in seen.text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&#34;&#39;"),
        ("see http://a.b and HTTPS://c", "see http&#58;//a.b and HTTPS&#58;//c"),
        ("a\x00b\x1b[2Jc\u202ed", "a b [2Jc d"),
        ("two\r\nlines\n", "two\nlines\n"),
        ("x" * 500, "x" * 399 + "…"),
        (None, "None"),
    ],
)
def test_text_from_the_data_is_harmless(value: object, shown: str) -> None:
    assert text(value) == shown


def test_an_unfinished_job_is_told_as_it_stands(new_job: NewJob) -> None:
    with scripted(answering(lambda word: '{"mood": "good"}' if int(word) < 6 else '{"mood": "bad"}')) as told:
        job = new_job(told.endpoint, concurrency=1)
        job.more["answer"] = MOOD
        job.number_of_rows(6)
        assert job.run().returncode == 0
        job.number_of_rows(10)  # four more, which nobody has sent yet
        seen = report(job)
    assert "stopped early" in seen.words
    assert "4 of 10 rows are still pending" in seen.words
    assert "good 6 100.0 %" in seen.words
    assert "6 ok, 4 pending" in seen.words


def test_a_job_without_rows_has_a_report(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    (job.folder / "in.csv").write_text("id,text\n")
    assert job.run().returncode == 0
    seen = report(job)
    assert "no row has ended yet" in seen.words
    assert "Rows 0" in seen.words
    assert not seen.elements["svg"]


def test_a_job_whose_rows_all_failed_has_a_report(new_job: NewJob) -> None:
    with scripted(answering(lambda word: None)) as told:
        job = new_job(told.endpoint)
        job.more["evaluate"] = {"gold": "text"}
        job.number_of_rows(7)
        assert job.run().returncode == 3
    seen = report(job)
    assert "Failed 7 100.0 %" in seen.words
    assert "Median latency unknown" in seen.words
    assert "7 rows, kept; --retry-failed sends them again" in seen.words
    assert "Accuracy unknown" in seen.words
    assert "Money price unknown" in seen.words
    assert "unknown is not 0" in seen.words


def test_an_alarm_is_in_the_report_with_what_was_before(new_job: NewJob) -> None:
    bad = 2
    with scripted(answering(lambda word: json.dumps({"mood": "bad" if int(word) < bad else "good"}))) as told:
        job = new_job(told.endpoint)
        job.more = {"answer": MOOD, "alarm": {"flip_rate": 0.1}}
        job.number_of_rows(10)
        assert job.run().returncode == 0
        bad = 5
        job.template = "Positive or not? {{ text }}"
        assert job.run("run", "--accept-changes").returncode == 3
    seen = report(job)
    assert "Alarm: 3 of 10 rows changed their mood, 30.0 % (flip_rate: 0.1)" in seen.words
    assert "bad 5 50.0 % 20.0 %" in seen.words
    assert "rows whose mood flipped 3 of 10 30.0 % 10.0 %" in seen.words
    assert "Finished runs" in seen.words


def test_the_report_goes_where_it_is_told_to_and_never_over_a_table(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    assert "no checkpoint yet" in job.run("report").stderr
    job.run()
    assert job.run("report", "--to", "there.html").returncode == 0
    assert (job.folder / "there.html").exists()
    assert not (job.out / "report.html").exists()
    for target, cure in (("out/results.parquet", "must end in .html"), ("no/where.html", "No such file")):
        done = job.run("report", "--to", target)
        assert done.returncode == 2
        assert cure in done.stderr


def test_without_the_extra_the_way_to_install_it_is_told(simulate: Simulate, new_job: NewJob) -> None:
    job = new_job(simulate())
    job.number_of_rows(3)
    without = "import sys; sys.modules['matplotlib'] = None; from pipeline.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "report", str(job.write())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'prompt-pipeline[report]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_figures_equal_those_of_the_tables(
    simulate: Simulate, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job(simulate(latency_s=0.01, latency_sigma=0.5, faults={"empty_content": 0.2, "server_error": 0.2}))
    job.more = {"answer": MOOD}
    job.number_of_rows(120)
    job.run("run", "--max-failed", "100%")
    monkeypatch.chdir(job.folder)
    found = gather(Job(load("job.yaml")))
    results, attempts = job.results(), pl.read_parquet(job.out / "attempts.parquet")
    ok = results["status"] == "ok"
    assert 0 < found.failed == 120 - ok.sum()
    assert found.labels["mood"].counts == dict(results.filter(ok)["mood"].value_counts().iter_rows())
    waited = sorted(attempts.filter(ok)["latency_s"].to_list())
    assert found.latency is not None
    cuts = statistics.quantiles(waited, n=100, method="inclusive")
    shares = (found.latency.p50, found.latency.p90, found.latency.p95, found.latency.p99)
    for share, place in zip(shares, (49, 89, 94, 98), strict=True):
        assert share == pytest.approx(cuts[place])
    assert sum(found.latency.counts) == len(waited)
    assert (sum(found.pace.ended), sum(found.pace.failed)) == (120, found.failed)
    assert found.attempts == Counter(attempts.filter(ok)["attempts"].to_list())
    assert {failure.kind: failure.rows for failure in found.failures} == job.summary()["failures"]
    assert found.totals.attempts == job.summary()["requests"]


def ends(*at: float) -> pl.DataFrame:
    return pl.DataFrame(
        {"ended_at": at, "latency_s": 0.5, "attempts": 1, "answered": True},
        schema_overrides={"ended_at": pl.Float64, "answered": pl.Boolean},
    )


def test_long_pauses_are_no_work() -> None:
    night = [100.0 + second for second in range(60)]
    found = pace(ends(*night, *(second + 86_400 for second in night)))
    assert found.at_work_s == pytest.approx(0.5 + 59 + 59)
    (pause,) = found.pauses_s
    assert pause == pytest.approx(59.5)
    assert sum(found.ended) == 120
    assert len(found.ended) == STEPS
    assert (found.first, found.last) == (99.5, 86_559.0)
    short = pace(ends(0.0, PAUSE_S))
    assert short.at_work_s == pytest.approx(PAUSE_S + 0.5)
    assert not short.pauses_s


def test_rows_that_all_ended_at_once_have_a_pace() -> None:
    found = pace(ends(5.0, 5.0, 5.0).with_columns(latency_s=pl.lit(None, pl.Float64)))
    assert sum(found.ended) == 3
    assert len(charts(found, latency(pl.Series([0.2, 0.2, 0.2])))) == 3


def test_an_odd_table_of_figures_makes_a_page_of_text_alone() -> None:
    names = [f"{SCRIPT}{n}" for n in range(30)]
    page = render(
        Figures(
            job="j", model=SCRIPT, host="h", running=True, simulated=False, finished=False, rows=60,
            statuses={"ok": 60}, failed=0, attempts={}, pace=Pace(), latency=None, totals=Totals(), cost_usd=None,
            labels={SCRIPT: Labels("c", 60, dict.fromkeys(names, 2))},
            evaluation=evaluate({(a, b): 1 for a in names for b in names[:2]}),
            failures=[Failure(SCRIPT, 1, True, [Example(SCRIPT, SCRIPT, SCRIPT, 500)])],
            drift=None, alarm=None, reasons=[SCRIPT], past=[],
        ),
        [],
    )  # fmt: skip
    seen = Seen(page)
    assert not seen.elements["script"]
    assert "18 more labels" in seen.words
    assert "The 12 most frequent of 30 labels" in seen.words
