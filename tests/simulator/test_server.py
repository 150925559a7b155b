from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from pipeline.errors import SpecError
from pipeline.provider.stream import Stream
from pipeline.records import STREAM_CUT
from pipeline.simulator import Settings, Simulator, serve
from pipeline.simulator.faults import FAULTS, GROUPS


def chat(text: str = "Tell me about the sea.", **more: Any) -> dict[str, Any]:
    return {"model": "gemini-2.5-flash", "stream": False, "messages": [{"role": "user", "content": text}], **more}


class Client:
    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session
        self.root = simulator.base_url.removesuffix("/v1")

    async def post(self, body: Any, *, path: str = "/v1/chat/completions", key: str | None = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.session.post(self.root + path, data=data, headers=headers) as reply:
            assert reply.headers["x-simulator"] == "prompt-pipeline"
            return reply.status, orjson.loads(await reply.read())

    async def get(self, path: str) -> Any:
        async with self.session.get(self.root + path) as reply:
            assert reply.headers["x-simulator"] == "prompt-pipeline"
            return orjson.loads(await reply.read())

    async def stats(self) -> dict[str, Any]:
        told: dict[str, Any] = await self.get("/stats")
        return told


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Client]:
    settings = {"latency_s": 0, "slow_s": 0.02, **settings}
    async with Simulator(Settings(**settings)) as simulator, aiohttp.ClientSession(auto_decompress=False) as session:
        yield Client(simulator, session)


def adds_up(stats: dict[str, Any]) -> bool:
    spoiled = sum(entry["billed"] for entry in stats["billed_by_fault"].values())
    ended = stats["answers"] + sum(stats["by_fault"].values()) + sum(stats["refused"].values())
    return bool(
        stats["requests"] == ended + stats["in_flight"]
        and stats["billed"] == stats["answers"] + spoiled
        and stats["total_tokens"] == stats["prompt_tokens"] + stats["completion_tokens"]
    )


async def test_a_completion_has_the_gateways_shape_and_honest_usage() -> None:
    async with running() as client:
        async with client.session.post(client.root + "/v1/chat/completions", json=chat()) as reply:
            answer = await reply.json()
            assert answer["id"] == "chatcmpl-" + reply.headers["x-oneapi-request-id"]
        choice = answer["choices"][0]
        assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "stop")
        assert answer["object"] == "chat.completion" and isinstance(answer["created"], int)
        assert (answer["model"], answer["system_fingerprint"]) == ("gemini-2.5-flash", "simulator")
        stats = await client.stats()
        assert stats["total_tokens"] == answer["usage"]["total_tokens"] > 0
        assert stats["simulator"] is True and adds_up(stats)
        assert stats == {**client.simulator.stats(), "uptime_s": stats["uptime_s"]}


async def test_it_answers_under_any_prefix_and_says_what_it_is() -> None:
    async with running(models=("a", "b")) as client:
        assert (await client.post(chat(model="a"), path="/some/proxy/v1/chat/completions"))[0] == 200
        assert [model["id"] for model in (await client.get("/v1/models"))["data"]] == ["a", "b"]
        assert (await client.get("/healthz"))["status"] == "ok"
        async with client.session.get(client.root) as reply:
            assert "made up" in await reply.text()


async def test_a_wrong_path_key_model_or_body_is_refused_and_counted_once() -> None:
    async with running(api_key="right", models=("gemini-2.5-flash",)) as client:
        assert (await client.post(chat(), path="/v2/chat/completions", key="right"))[0] == 404
        assert (await client.post(chat()))[0] == 401
        assert (await client.post(chat(), key="wrong"))[0] == 401
        status, body = await client.post(chat(model="gemini-2.5-flesh"), key="right")
        assert (status, body["error"]["code"]) == (503, "model_not_found")
        status, body = await client.post(b"{", key="right")
        assert (status, body["error"]["type"]) == (400, "invalid_request_error")
        assert (await client.post(chat(), key="right"))[0] == 200
        stats = await client.stats()
        assert stats["refused"] == {"path": 1, "key": 2, "model": 1, "invalid": 1}
        assert stats["by_status"] == {"404": 1, "401": 2, "503": 1, "400": 1, "200": 1}
        assert stats["requests"] == 6 and adds_up(stats)


async def test_the_key_is_not_shown_by_the_settings() -> None:
    assert "hush" not in repr(Settings(api_key="hush"))


async def test_an_account_runs_empty() -> None:
    async with running(balance_requests=2) as client:
        replies = [await client.post(chat(str(n))) for n in range(4)]
        assert [status for status, _ in replies] == [200, 200, 403, 403]
        assert replies[2][1]["error"]["message"] == "Insufficient balance"


async def test_a_stream_says_the_same_word_by_word() -> None:
    async with running() as client:
        whole = (await client.post(chat()))[1]
        body = chat(stream=True, stream_options={"include_usage": True})
        async with client.session.post(client.root + "/v1/chat/completions", json=body) as reply:
            assert reply.content_type == "text/event-stream"
            events = (await reply.text()).strip().split("\n\n")
        assert events[-1] == "data: [DONE]"
        chunks = [orjson.loads(event.removeprefix("data: ")) for event in events[:-1]]
        said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
        assert said == whole["choices"][0]["message"]["content"]
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]


async def streamed(kind: str | None, **asked: Any) -> Stream:
    """What a reader of streams makes of a reply under a fault; what had come when nothing more did."""
    async with running(faults={kind: 1.0} if kind else {}) as client:
        body = orjson.dumps(chat(stream=True, stream_options={"include_usage": True}, **asked))
        stream = Stream()
        async with client.session.post(client.root + "/v1/chat/completions", data=body) as reply:
            assert reply.headers["Content-Type"] == "text/event-stream"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5 if kind == "stream_stall" else 20):
                    while piece := await reply.content.readany():
                        stream.feed(piece)
        stream.end()
        return stream


@pytest.mark.parametrize("kind", [None, "stream_comments", "stream_accent", "stream_no_done", "slow_body"])
async def test_a_stream_of_any_good_accent_says_what_the_whole_reply_says(kind: str | None) -> None:
    async with running() as client:
        whole = (await client.post(chat()))[1]
    read = (await streamed(kind)).completion("cut")
    assert read is not None
    (choice,) = read["choices"]
    assert choice["message"]["content"] == whole["choices"][0]["message"]["content"]
    assert (choice["finish_reason"], read["usage"]) == ("stop", whole["usage"])
    assert STREAM_CUT not in read and "error" not in read


@pytest.mark.parametrize("kind", ["stream_cut", "stream_stall", "stream_error"])
async def test_half_a_stream_says_half_and_how_it_ends(kind: str) -> None:
    async with running() as client:
        text = (await client.post(chat()))[1]["choices"][0]["message"]["content"]
    read = (await streamed(kind)).completion("cut")
    assert read is not None
    content = read["choices"][0]["message"]["content"]
    assert content and text.startswith(content) and content != text
    assert ("error" in read) is (kind == "stream_error")
    assert read.get(STREAM_CUT) == (None if kind == "stream_error" else "cut")


@pytest.mark.parametrize("kind", GROUPS["streams"])
async def test_a_fault_of_streams_leaves_a_whole_reply_as_it_is(kind: str) -> None:
    async with running() as client, running(faults={kind: 1.0}) as faulty:
        good, spoiled = (await client.post(chat()))[1], (await faulty.post(chat()))[1]
        assert {**good, "created": 0} == {**spoiled, "created": 0}


@pytest.mark.parametrize("headers", [True, False])
async def test_too_many_requests_are_told_with_or_without_headers(headers: bool) -> None:
    async with running(requests_per_minute=2, rate_headers=headers) as client:
        statuses = [(await client.post(chat(str(n))))[0] for n in range(3)]
        assert statuses == [200, 200, 429]
        async with client.session.post(client.root + "/v1/chat/completions", json=chat()) as reply:
            assert reply.headers.get("Retry-After") == ("60" if headers else None)
            assert reply.headers.get("x-ratelimit-remaining-requests") == ("0" if headers else None)
            assert (await reply.json())["error"]["code"] == "rate_limit_exceeded"
        stats = await client.stats()
        assert stats["refused"] == {"requests": 2} and adds_up(stats)


async def test_a_literal_retry_after_is_sent_whatever_is_true() -> None:
    async with running(requests_per_minute=1, rate_headers=False, retry_after="soon") as client:
        await client.post(chat())
        async with client.session.post(client.root + "/v1/chat/completions", json=chat()) as reply:
            assert (reply.status, reply.headers["Retry-After"]) == (429, "soon")


async def test_the_tokens_of_answers_fill_the_minute() -> None:
    async with running(tokens_per_minute=100, answer_tokens=(60, 60)) as client:
        assert (await client.post(chat()))[0] == 200
        assert (await client.post(chat()))[0] == 200  # let in with 69 of 100 taken, since its own answer is not known
        assert (await client.post(chat()))[0] == 429
    async with running(tokens_per_minute=100, answer_tokens=(20, 20), reserve_max_tokens=True) as client:
        assert (await client.post(chat(max_tokens=95)))[0] == 429
        assert (await client.post(chat(max_tokens=80)))[0] == 200
        assert (await client.post(chat(max_tokens=60)))[0] == 200


async def test_more_in_flight_than_allowed_are_refused() -> None:
    gate = asyncio.Event()

    async def sleep(_: float) -> None:
        await gate.wait()

    simulator = Simulator(Settings(concurrency=3), sleep=sleep)
    async with simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        inside = [asyncio.create_task(client.post(chat(str(n)))) for n in range(3)]
        while (await client.stats())["in_flight"] < 3:
            await asyncio.sleep(0)
        assert (await client.post(chat("one more")))[0] == 429
        gate.set()
        assert [status for status, _ in await asyncio.gather(*inside)] == [200, 200, 200]
        assert (await client.post(chat("one more")))[0] == 200
        assert (await client.stats())["max_in_flight"] == 4


async def sent(client: Client, body: Any, *, patience_s: float = 20) -> str:
    """How one request ended, in a word."""
    try:
        async with client.session.post(
            client.root + "/v1/chat/completions",
            data=orjson.dumps(body),
            allow_redirects=False,
            headers={"Authorization": "Bearer canary"},
            timeout=aiohttp.ClientTimeout(total=patience_s),
        ) as reply:
            raw = await reply.read()
            return f"{reply.status} {reply.headers['x-simulator']} {len(raw)} {raw[:60_000]!r}"
    except (aiohttp.ClientError, TimeoutError) as exc:
        return type(exc).__name__


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", list(FAULTS))
async def test_every_fault_is_sent_counted_and_billed_as_its_table_says(kind: str, stream: bool) -> None:
    endless = kind == "hang" or (stream and kind == "stream_stall")
    async with running(faults={kind: 1.0}) as client:
        end = await sent(client, chat(stream=stream), patience_s=0.3 if endless else 20)
        while (await client.stats())["in_flight"]:
            await asyncio.sleep(0.01)
        stats = await client.stats()
        fault = FAULTS[kind]
        assert stats["by_fault"] == {kind: 1}
        assert stats["billed"] == fault.billed and adds_up(stats)
        assert stats["by_status"] == {str(fault.status) if fault.status else "none": 1}
        assert (stats["total_tokens"] > 0) is fault.billed
        expected = {
            "hang": "TimeoutError",
            "stream_stall": "TimeoutError" if stream else "200",
            "reset_before": "ClientOSError",
            "reset_after": "ClientOSError",
            "close_before": "ServerDisconnectedError",
            "garbage": "ClientResponseError",
            "big_header": "ClientResponseError",
            "truncated": "ClientPayloadError",
        }
        assert end.split(" ")[0] == expected.get(kind, str(fault.status)), end
        assert ("canary" in end) is (kind == "echo_key")


@pytest.mark.parametrize(
    ("kind", "reads"),
    [
        ("truncated", False),
        ("cut_until_close", False),
        ("slow_body", True),
        ("invalid_utf8", False),
        ("nan_json", False),
        ("lone_surrogate", False),
        ("nul_chars", True),
        ("duplicate_keys", True),
        ("trailing_garbage", False),
        ("not_json_200", False),
        ("wrong_content_type", True),
        ("parts_content", True),
        ("input_output_usage", True),
        ("odd_usage", True),
        ("null_content", True),
        ("empty_choices", True),
    ],
)
async def test_a_spoiled_body_reads_as_json_or_does_not(kind: str, reads: bool) -> None:
    async with running(faults={kind: 1.0}) as client:
        try:
            async with client.session.post(client.root + "/v1/chat/completions", json=chat()) as reply:
                orjson.loads(await reply.read())
        except (aiohttp.ClientError, orjson.JSONDecodeError):
            assert not reads
        else:
            assert reads


async def test_a_bomb_is_one_good_gzip_file_of_200_mb() -> None:
    async with running(faults={"gzip_bomb": 1.0}) as client:
        async with client.session.post(client.root + "/v1/chat/completions", json=chat()) as reply:
            packed = await reply.read()
        opened = gzip.decompress(packed)
        assert len(packed) < 300_000 < 200_000_000 < len(opened)
        assert orjson.loads(opened.lstrip())["choices"]


async def fates(bodies: list[dict[str, Any]], concurrency: int, rounds: int) -> tuple[Counter[str], dict[str, Any]]:
    async with running(faults={"any": 0.3, "reset_before": 0.1}, seed=7) as client:
        places = asyncio.Semaphore(concurrency)
        ends: Counter[str] = Counter()

        async def one(body: dict[str, Any]) -> None:
            for _ in range(rounds):
                async with places:
                    end = await sent(client, body)
                    ends[f"{body['messages'][0]['content']}: {end.split(' ')[0]}"] += 1

        await asyncio.gather(*(one(body) for body in bodies))
        return ends, await client.stats()


async def test_who_gets_which_fault_depends_on_seed_body_and_count_and_on_nothing_else() -> None:
    bodies = [chat(f"row {n}") for n in range(60)]
    ends, stats = await fates(bodies, concurrency=1, rounds=3)
    other_ends, other_stats = await fates(bodies[::-1], concurrency=40, rounds=3)
    assert ends == other_ends
    for key in ("by_fault", "by_status", "billed_by_fault", "billed", "total_tokens", "repeated"):
        assert stats[key] == other_stats[key], key
    assert adds_up(stats) and adds_up(other_stats)
    assert 0.25 < sum(stats["by_fault"].values()) / stats["requests"] < 0.55


async def test_another_seed_is_another_fate() -> None:
    statuses = []
    for seed in (1, 2):
        async with running(faults={"server_error": 0.5}, seed=seed) as client:
            statuses.append([(await client.post(chat(str(n))))[0] for n in range(30)])
    assert statuses[0] != statuses[1]
    assert {500, 200} == set(statuses[0]) == set(statuses[1])


async def test_a_429_by_chance_takes_no_place() -> None:
    async with running(faults={"rate_limited": 1.0}, requests_per_minute=1) as client:
        assert [(await client.post(chat()))[0] for _ in range(3)] == [429] * 3
        stats = await client.stats()
        assert (stats["by_fault"], stats["refused"]) == ({"rate_limited": 3}, {})


async def test_a_refused_request_meets_the_same_fate_later() -> None:
    """A limit must not shift which request gets which fault, or a run under limits could not be repeated."""
    free, narrow = Counter[str](), Counter[str]()
    async with running(faults={"server_error": 0.5}) as client:
        for n in range(20):
            free[f"{n} {(await client.post(chat(str(n))))[0]}"] += 1
    async with running(faults={"server_error": 0.5}, requests_per_minute=2, window_s=0.02) as client:
        for n in range(20):
            while (status := (await client.post(chat(str(n))))[0]) == 429:
                await asyncio.sleep(0.005)
            narrow[f"{n} {status}"] += 1
    assert free == narrow


async def test_an_outage_is_for_everybody_until_it_ends() -> None:
    now = 0.0
    settings = Settings(latency_s=0, outage=(10, 70, "unavailable"))
    async with Simulator(settings, clock=lambda: now) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        statuses = []
        for now in (0.0, 9.9, 10.0, 69.9, 70.0):  # noqa: B007 - the clock reads it
            statuses.append((await client.post(chat()))[0])
        assert statuses == [200, 200, 503, 503, 200]
        assert adds_up(await client.stats())


async def test_a_client_that_leaves_is_billed_all_the_same() -> None:
    gate = asyncio.Event()

    async def sleep(_: float) -> None:
        await gate.wait()

    simulator = Simulator(Settings(), sleep=sleep)
    async with simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        task = asyncio.create_task(client.post(chat()))
        while not simulator.stats()["in_flight"]:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gate.set()
        while simulator.stats()["in_flight"]:
            await asyncio.sleep(0)
        assert simulator.stats()["billed"] == 1
        await client.post(chat())
        assert simulator.stats()["repeated"] == 1


async def test_latency_follows_the_seed_and_its_median() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    settings = Settings(latency_s=0.2, latency_sigma=0.5, latency_tail=(0.02, 50))
    async with Simulator(settings, sleep=sleep) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        for n in range(300):
            await client.post(chat(str(n)))
    assert sorted(slept)[150] == pytest.approx(0.2, rel=0.15)
    assert len(set(slept)) == 300
    assert 1 <= sum(seconds > 3 for seconds in slept) <= 20


async def test_a_reset_starts_everything_anew() -> None:
    async with running(requests_per_minute=1) as client:
        first = (await client.post(chat()))[1]
        assert (await client.post(chat()))[0] == 429
        await client.post(b"", path="/stats/reset")
        assert (await client.stats())["requests"] == 0
        status, again = await client.post(chat())
        assert (status, again["id"]) == (200, first["id"])


async def test_the_bill_survives_the_server(tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    async with running(ledger_path=path) as client:
        await client.post(chat())
        before = await client.stats()
    async with running(ledger_path=path) as client:
        await client.post(chat())
        stats = await client.stats()
    assert stats["total_tokens"] == 2 * before["total_tokens"]
    assert (stats["requests"], stats["billed"], stats["repeated"]) == (2, 2, 1)


async def test_a_taken_port_and_a_host_for_others_are_refused_in_words() -> None:
    async with Simulator(Settings()) as simulator:
        port = int(simulator.base_url.split(":")[2].removesuffix("/v1"))
        with pytest.raises(SpecError, match=f"port {port} on 127.0.0.1 is taken"):
            await Simulator(Settings(), port=port).start()
    with pytest.raises(SpecError, match=r"0\.0\.0\.0 is not this machine alone"):
        Simulator(Settings(), host="0.0.0.0")
    with pytest.raises(SpecError, match="port must lie in"):
        serve(Settings(), "127.0.0.1", 70000, ready=print)
    assert Simulator(Settings(), host="0.0.0.0", allow_remote=True)


async def test_a_simulator_can_stop_and_come_back_at_the_same_address() -> None:
    simulator = Simulator(Settings(latency_s=0))
    await simulator.start()
    first = simulator.base_url
    await simulator.stop()
    await simulator.start()
    assert simulator.base_url == first
    async with aiohttp.ClientSession() as session:
        assert (await Client(simulator, session).post(chat()))[0] == 200
    await simulator.stop()


def test_settings_name_all_that_is_wrong() -> None:
    with pytest.raises(SpecError) as refused:
        Settings(faults={"rate_limitd": 0.6, "hang": 0.5}, window="slidin", concurrency=0, outage=(0, 1, "mixed"))
    for said in ("did you mean rate_limited?", "add up to 1.1", "window must be one of", "concurrency must be above 0"):
        assert said in str(refused.value)


def test_groups_hold_known_faults_and_none_that_stops_a_run() -> None:
    for kinds in GROUPS.values():
        assert set(kinds) <= set(FAULTS)
        assert not set(kinds) & {"unauthorized", "balance", "quota", "hang"}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_of_its_own_stops_when_told_even_with_a_request_hanging(how: signal.Signals) -> None:
    code = (
        "from pipeline.simulator import Settings, serve\n"
        "serve(Settings(faults={'hang': 1.0}), '127.0.0.1', 0, ready=lambda url: print(url, flush=True))\n"
        "print('ended')"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        asyncio.run(_hang_and_signal(url, server.pid, how))
        out, err = server.communicate(timeout=20)
    assert (server.returncode, out, err) == (0, "ended\n", "")


async def _hang_and_signal(url: str, pid: int, how: signal.Signals) -> None:
    async with aiohttp.ClientSession() as session:
        task = asyncio.create_task(session.post(url + "/chat/completions", json=chat()))
        deadline = time.monotonic() + 20
        in_flight = 0
        while not in_flight and time.monotonic() < deadline:
            async with session.get(url.removesuffix("/v1") + "/stats") as reply:
                in_flight = (await reply.json())["in_flight"]
        assert in_flight == 1
        os.kill(pid, how)
        with pytest.raises(aiohttp.ClientError):
            await task
