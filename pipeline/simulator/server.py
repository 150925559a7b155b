"""An OpenAI-compatible chat endpoint that makes its answers up: for demos, rehearsals, tests and benchmarks.

The walk of one request: counted, let in (key, shape, model, balance, chance, limits), answered and billed, sent. An
answer is billed when it is made; whether the client still listens changes nothing, as with real gateways.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import orjson
from aiohttp import web

from pipeline.simulator.answers import Answerer
from pipeline.simulator.chance import Roll, roll
from pipeline.simulator.completion import Answer, as_events, as_object
from pipeline.simulator.families import content_type as usual_type
from pipeline.simulator.families import dressed
from pipeline.simulator.faults import FAULTS, Fault, Manner, Shares
from pipeline.simulator.ledger import Ledger
from pipeline.simulator.limits import Lease, Limits, Refusal
from pipeline.simulator.media import named
from pipeline.simulator.question import Question, Refused, error_body, parse
from pipeline.simulator.settings import Settings
from pipeline.simulator.wire import SIGN, Reply, Sleep, Wire

_ABOUT = b"""This is the simulator of prompt-pipeline: its answers are made up, and no language model is behind it.
POST /v1/chat/completions; GET /v1/models, /media/NAME, /stats (?bodies=1, ?seconds=1), /healthz; POST /stats/reset
"""
_LARGEST_BODY = 256 * 2**20
_MODELS = ("gemini-2.5-flash", "gemini-2.5-pro", "gpt-4o-mini")
_NORMAL = NormalDist()


class Service:
    def __init__(self, settings: Settings, clock: Callable[[], float], sleep: Sleep) -> None:
        self.settings = settings
        self.ledger = Ledger(clock, settings.ledger_path)
        self._clock = clock
        self._sleep = sleep
        self._limits = Limits(settings, clock)
        self._shares = Shares(settings.faults)
        self._answers = Answerer(settings.seed, answer_tokens=settings.answer_tokens, canned=settings.canned)
        self._closing = asyncio.Event()
        self._wire = Wire(sleep, settings.slow_s, self._closing)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        name = self.ledger.receive(await request.read())
        try:
            return await self._chat(request, name)
        except Refused as refused:
            return await self._send(request, Reply(refused.status, refused.body, headers=refused.headers))
        finally:
            self.ledger.leave()

    async def _chat(self, request: web.Request, name: bytes) -> web.StreamResponse:
        fault = self._outage()
        question = None
        if fault is None or fault.billed:
            question = self._let_in(request, await request.read())
        fate = roll(self.settings.seed, name, self.ledger.times_seen(name) + 1)
        lease = None
        if fault is None:
            fault = self._shares.fault(fate.fault)
            # A 429 by chance is no place taken; everything else goes through the limits first.
            if question is not None and (fault is None or fault.status != 429):
                lease = self._admit(question)
        self.ledger.see(name)
        try:
            await self._wait(fate, fault)
            if fault is not None and not fault.billed:
                return await self._fail(request, fault, lease)
            assert question is not None  # only an unbilled outage goes without one
            return await self._answer(request, name, question, fate, fault, lease)
        finally:
            if lease is not None:
                lease.leave()

    async def _fail(self, request: web.Request, fault: Fault, lease: Lease | None) -> web.StreamResponse:
        self.ledger.fault(fault.kind)
        if lease is not None:
            lease.settle(0)
        return await self._send(request, _refusing(fault, request))

    async def _answer(
        self,
        request: web.Request,
        name: bytes,
        question: Question,
        fate: Roll,
        fault: Fault | None,
        lease: Lease | None,
    ) -> web.StreamResponse:
        answer = self._answers.answer(question, f"{request.scheme}://{request.host}/media")
        self.ledger.bill(
            name, answer.prompt_tokens, answer.completion_tokens, fault.kind if fault is not None else None
        )
        if lease is not None:
            lease.settle(answer.prompt_tokens + answer.completion_tokens)
        return await self._send(request, self._reply(question, answer, fate, fault))

    def _outage(self) -> Fault | None:
        outage = self.settings.outage
        if outage is None or not outage[0] <= self.ledger.elapsed_s < outage[1]:
            return None
        return FAULTS[outage[2]]

    def _let_in(self, request: web.Request, body: bytes) -> Question:
        settings = self.settings
        if settings.api_key is not None:
            shown = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(shown, f"Bearer {settings.api_key}".encode()):
                raise self._refused("key", 401, b'{"error":{"message":"Invalid signature","type":"401"}}')
        try:
            question = parse(body)
        except Refused:
            self.ledger.refuse("invalid")
            raise
        if settings.models is not None and question.model not in settings.models:
            message = f"No available channel for model {question.model} under group default (distributor)"
            refusal = error_body(message, "new_api_error", "model_not_found", "")
            raise self._refused("model", settings.unknown_model_status, refusal)
        if settings.balance_requests is not None and self.ledger.billed >= settings.balance_requests:
            raise self._refused("balance", 403, b'{"error":{"message":"Insufficient balance","type":"403"}}')
        return question

    def _admit(self, question: Question) -> Lease:
        tokens = question.prompt_tokens
        if self.settings.reserve_max_tokens:
            tokens += question.max_tokens or 0
        lease = self._limits.admit(tokens)
        if isinstance(lease, Lease):
            return lease
        raise self._refused(lease.what, 429, _too_many(lease), self._wait_headers(lease))

    def _wait_headers(self, refusal: Refusal) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        if self.settings.rate_headers:
            headers = self._limits.headers()
            if not math.isinf(refusal.wait_s):
                headers["Retry-After"] = str(math.ceil(refusal.wait_s))
        if self.settings.retry_after is not None:
            headers["Retry-After"] = self.settings.retry_after
        return headers

    def _refused(self, why: str, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Refused:
        self.ledger.refuse(why)
        return Refused(status, body, headers)

    async def _wait(self, fate: Roll, fault: Fault | None) -> None:
        if fault is not None and fault.slow:
            await self._sleep(self.settings.slow_s)
        elif fault is None or fault.billed:
            latency_s = self._latency_s(fate)
            if latency_s > 0:
                await self._sleep(latency_s)

    def _latency_s(self, fate: Roll) -> float:
        settings = self.settings
        latency_s = settings.latency_s
        if settings.latency_sigma:
            latency_s *= math.exp(settings.latency_sigma * _NORMAL.inv_cdf(fate.latency))
        if settings.latency_tail is not None and fate.tail < settings.latency_tail[0]:
            latency_s *= settings.latency_tail[1]
        return latency_s

    def _reply(self, question: Question, answer: Answer, fate: Roll, fault: Fault | None) -> Reply:
        made = as_object(answer, question.model, f"chatcmpl-{fate.id}", int(time.time()))
        completion: Any = dressed(made, question.model)
        content_type = "text/event-stream" if question.stream else usual_type(question.model)
        headers = {"x-oneapi-request-id": fate.id}
        if self.settings.rate_headers:
            headers |= self._limits.headers()
        if fault is None:
            return Reply(200, _encoded(completion, question, None), content_type, headers)
        if fault.reshape is not None:
            completion = fault.reshape(completion)
        body = _encoded(completion, question, fault) if fault.body is None else fault.body
        if fault.rewrite is not None:
            body = fault.rewrite(body)
        if fault.content_type != "application/json":
            content_type = fault.content_type
        manner = fault.manner if question.stream or fault.restream is None else Manner.WHOLE
        return Reply(fault.status, body, content_type, {**headers, **fault.headers}, manner)

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        self.ledger.reply(reply.status)
        return await self._wire.send(request, reply)

    async def not_here(self, request: web.Request) -> web.StreamResponse:
        message = f"Invalid URL ({request.method} {request.path})"
        reply = Reply(404, error_body(message, "invalid_request_error", "", ""))
        if request.method != "POST":
            return await self._wire.send(request, reply)
        self.ledger.receive(await request.read())
        self.ledger.refuse("path")
        self.ledger.leave()
        return await self._send(request, reply)

    async def about(self, _request: web.Request) -> web.Response:
        return web.Response(body=_ABOUT, content_type="text/plain")

    async def health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok", "simulator": True})

    async def media(self, request: web.Request) -> web.Response:
        """A picture or a film that an answer links to."""
        found = named(request.match_info["name"])
        if found is None:
            return web.Response(status=404, body=error_body("no such file", "invalid_request_error"))
        return web.Response(body=found[0], content_type=found[1])

    async def models(self, _request: web.Request) -> web.Response:
        names = self.settings.models if self.settings.models is not None else _MODELS
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names]
        return _json({"object": "list", "data": models})

    async def stats(self, request: web.Request) -> web.Response:
        return _json(self.ledger.stats(bodies="bodies" in request.query, seconds="seconds" in request.query))

    async def reset(self, _request: web.Request) -> web.Response:
        self.ledger.reset()
        self._limits = Limits(self.settings, self._clock)
        return _json({"simulator": True, "reset": True})

    async def shut_down(self, _app: web.Application) -> None:
        self._closing.set()

    async def clean_up(self, _app: web.Application) -> None:
        self.ledger.close()


SERVICE = web.AppKey("service", Service)


def create_app(
    settings: Settings, clock: Callable[[], float] = time.monotonic, sleep: Sleep = asyncio.sleep
) -> web.Application:
    """Raises SpecError when the ledger's file cannot be used."""
    service = Service(settings, clock, sleep)
    app = web.Application(client_max_size=_LARGEST_BODY)
    app[SERVICE] = service
    app.router.add_post("/v1/chat/completions", service.chat)
    app.router.add_post("/{prefix:.+}/v1/chat/completions", service.chat)
    app.router.add_get("/media/{name}", service.media)
    app.router.add_get("/v1/models", service.models)
    app.router.add_get("/{prefix:.+}/v1/models", service.models)
    app.router.add_get("/stats", service.stats)
    app.router.add_post("/stats/reset", service.reset)
    app.router.add_get("/healthz", service.health)
    app.router.add_get("/", service.about)
    app.router.add_route("*", "/{path:.*}", service.not_here)
    app.on_response_prepare.append(_sign)
    app.on_shutdown.append(service.shut_down)
    app.on_cleanup.append(service.clean_up)
    return app


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SIGN)


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def _encoded(completion: Any, question: Question, fault: Fault | None) -> bytes:
    if not question.stream:
        return orjson.dumps(completion)
    events = as_events(completion, with_usage=question.stream_usage)
    return b"".join(events if fault is None or fault.restream is None else fault.restream(events))


def _refusing(fault: Fault, request: web.Request) -> Reply:
    body = fault.body or b""
    if fault.echo:
        body = error_body(f"upstream refused the header {request.headers.get('Authorization')!r}", "server_error")
    return Reply(fault.status, body, fault.content_type, fault.headers, fault.manner)


def _too_many(refusal: Refusal) -> bytes:
    if math.isinf(refusal.wait_s):
        message = f"Request too large for {refusal.what} per minute: limit {refusal.limit}"
    else:
        message = (
            f"Rate limit reached for {refusal.what}: limit {refusal.limit}. Please try again in {refusal.wait_s:.3f}s."
        )
    kind = "tokens" if refusal.what == "tokens" else "requests"
    return error_body(message, kind, "rate_limit_exceeded")
