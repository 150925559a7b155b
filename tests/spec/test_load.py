from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SpecError
from pipeline.spec import JobSpec, load, starter
from pipeline.spec.model import MessageSpec

SHORT = """\
input: data/reviews.csv
prompt: "Is this review positive, negative or neutral? One word.\\n\\n{{ text }}"
model: gemini-2.5-flash
"""

FULL = """\
name: reviews
input:
  path: data/reviews.csv
  id: null
  where: null
  limit: null
prompt:
  user: "Is this review positive, negative or neutral? One word.\\n\\n{{ text }}"
  attachments: []
model:
  name: gemini-2.5-flash
endpoint:
  kind: chat
  base_url: https://gptproto.com/v1/
  api_key_env: GPTPROTO_API_KEY
  headers: {}
  timeout_s: {connect: 10, total: 600}
  proxy: null
  max_reply_mb: 16
limits:
  requests_per_minute: null
  tokens_per_minute: null
  input_tokens_per_minute: null
  output_tokens_per_minute: null
  concurrency: 64
retry:
  max_attempts: 6
  max_wait_s: 60
  max_in_doubt: 1
budget:
  usd: null
  tokens: null
prices: null
output:
  path: data/out/reviews
  prefix: ""
"""

KEY = "sk-proj-Zq3vT8mNw1LkX5pRb7Yd2Hs9"


def loaded(folder: Path, text: str, *overrides: str) -> JobSpec:
    path = folder / "reviews.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, overrides)


def refused(folder: Path, text: str, *overrides: str) -> list[str]:
    """The problems, without the file's name that stands before each."""
    with pytest.raises(SpecError) as caught:
        loaded(folder, text, *overrides)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{folder / 'reviews.yaml'}: ") for line in lines)
    for jargon in ("Input should", "pydantic", "http://errors", "https://errors", "value_error", "validation error"):
        assert jargon not in str(caught.value)
    return [line.removeprefix(f"{folder / 'reviews.yaml'}: ") for line in lines]


def test_the_short_and_the_full_form_load_to_the_same_values(tmp_path: Path) -> None:
    assert loaded(tmp_path, SHORT) == loaded(tmp_path, FULL)


def test_the_design_page_loads_with_its_values(tmp_path: Path) -> None:
    spec = loaded(
        tmp_path,
        """\
name: reviews
input: {path: [a.csv, b/*.csv], format: csv, id: review_id, where: "stars is not null", limit: 1000, encoding: latin-1}
prompt:
  system: "You label product reviews."
  user: "{{ title }}\\n\\n{{ text }}"
model: {name: gemini-2.5-pro, temperature: 0, max_tokens: 300, stop: ["\\n"], top_k: 4}
prices: {input: 1.25, output: 10, cached_input: 0.31}
limits: {requests_per_minute: 300, tokens_per_minute: 1e6, concurrency: 8}
output: {path: elsewhere, prefix: llm_}
""",
    )
    assert spec.input.paths == ("a.csv", "b/*.csv")
    assert (spec.input.format, spec.input.id, spec.input.limit, spec.input.encoding) == (
        "csv",
        "review_id",
        1000,
        "latin-1",
    )
    assert spec.prompt.messages == (
        MessageSpec(role="system", content="You label product reviews."),
        MessageSpec(role="user", content="{{ title }}\n\n{{ text }}"),
    )
    assert spec.model.name == "gemini-2.5-pro"
    assert spec.model.params == {"temperature": 0, "max_tokens": 300, "stop": ["\n"], "top_k": 4}
    assert spec.prices is not None
    assert (spec.prices.input, spec.prices.output, spec.prices.cached_input) == (1.25, 10.0, 0.31)
    assert spec.prices.per_request is None
    assert (spec.limits.requests_per_minute, spec.limits.tokens_per_minute) == (300.0, 1_000_000.0)
    assert (spec.output.path, spec.output.prefix) == ("elsewhere", "llm_")


def test_messages_stand_for_themselves(tmp_path: Path) -> None:
    text = "input: [a.csv, b.csv]\nmodel: m\nprompt:\n  messages:\n  - {role: user, content: '{{ a }}'}\n"
    spec = loaded(tmp_path, text)
    assert spec.prompt.messages == (MessageSpec(role="user", content="{{ a }}"),)
    assert spec.prompt.user is None
    assert spec.input.paths == ("a.csv", "b.csv")


def test_the_name_is_the_files_stem_and_names_the_output(tmp_path: Path) -> None:
    spec = loaded(tmp_path, SHORT)
    assert (spec.name, spec.output.path) == ("reviews", "data/out/reviews")
    assert loaded(tmp_path, SHORT + "name: other\noutput: {prefix: x_}\n").output.path == "data/out/other"


def test_a_block_whose_keys_are_all_commented_out_is_no_block(tmp_path: Path) -> None:
    text = SHORT + "limits:\n  # concurrency: 3\nendpoint:\nretry:\nbudget:\nprices:\noutput:\nanswer:\n"
    assert loaded(tmp_path, text) == loaded(tmp_path, SHORT)


def test_an_environment_variable_in_a_prompt_is_never_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "leaked")
    spec = loaded(tmp_path, 'input: "${CANARY}.csv"\nprompt: "${CANARY} $CANARY {{ text }}"\nmodel: m\n')
    assert spec.prompt.user == "${CANARY} $CANARY {{ text }}"
    assert spec.input.paths == ("${CANARY}.csv",)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080/v1", "http://localhost:8080/v1/", "http://[::1]:1/v1"])
def test_plain_http_is_fine_on_this_machine(tmp_path: Path, address: str) -> None:
    assert loaded(tmp_path, SHORT, f"endpoint.base_url={address}").endpoint.base_url == address.rstrip("/")


def test_plain_http_elsewhere_needs_to_be_allowed_by_name(tmp_path: Path) -> None:
    text = SHORT + "endpoint: {base_url: 'http://10.0.0.7/v1', allow_http: true}\n"
    assert loaded(tmp_path, text).endpoint.base_url == "http://10.0.0.7/v1"


# What stands in the file besides a good input, prompt and model; the line of the problem; words it must hold.
BROKEN: list[tuple[str, int, list[str]]] = [
    ("limits:\n  rpn: 60\n", 5, ["limits.rpn is not a known key; did you mean requests_per_minute?"]),
    ("limits:\n  rpm: 60\n", 5, ["limits.rpm", "did you mean requests_per_minute?"]),
    ("limits: {concurency: 60}\n", 4, ["limits.concurency", "did you mean concurrency?"]),
    ("temperature: 0\n", 4, ["temperature is not a known key; did you mean model.temperature?"]),
    ("concurrency: 4\n", 4, ["did you mean limits.concurrency?"]),
    ("url: https://x.example/v1\n", 4, ["did you mean endpoint.base_url?"]),
    ("zebra: 4\n", 4, ["zebra is not a known key; known here: name, input, prompt"]),
    ("endpoint:\n  api_key: abc\n", 5, ["endpoint.api_key", "endpoint.api_key_env"]),
    ("endpoint:\n  api_key_name: abc\n", 5, ["endpoint.api_key_name", "did you mean api_key_env?"]),
    (f"endpoint:\n  api_key_env: {KEY}\n", 5, ["endpoint.api_key_env", "a key in a spec is refused"]),
    ("endpoint:\n  api_key_env: my key\n", 5, ["endpoint.api_key_env", "name of an environment variable"]),
    ("endpoint:\n  base_url: http://api.example/v1\n", 5, ["endpoint.base_url", "https://", "allow_http: true"]),
    ("endpoint: {base_url: 'https://me:pw@api.example/v1'}\n", 4, ["endpoint.base_url", "password"]),
    ("endpoint: {base_url: 'https://api.example/v1?k=1'}\n", 4, ["endpoint.base_url", "query"]),
    ("endpoint: {base_url: api.example/v1}\n", 4, ["endpoint.base_url", "must be an address such as https://"]),
    ("endpoint: {base_url: 'https://a.example:99999/v1'}\n", 4, ["endpoint.base_url must be an address"]),
    ("endpoint: {base_url: 'https://a.example/v1/chat/completions'}\n", 4, ["before /chat/completions"]),
    (f"endpoint:\n  headers:\n    authorization: Bearer {KEY}\n", 5, ["endpoint.headers", "authorization", "key"]),
    ("endpoint: {headers: {X-Team: 5}}\n", 4, ["endpoint.headers.X-Team must be text, not 5", "quotes"]),
    ('endpoint: {headers: {X-Team: "a\\r\\nX: b"}}\n', 4, ["endpoint.headers", "line break"]),
    ("endpoint: {headers: {X-Team: a, x-team: b}}\n", 4, ["endpoint.headers", "twice"]),
    ("endpoint: {kind: chatt}\n", 4, ["endpoint.kind must be chat"]),
    ("endpoint: {timeout_s: 600}\n", 4, ["endpoint.timeout_s must be a block of keys (connect, total, idle), not 600"]),
    ("endpoint: {timeout_s: {idle: 0}}\n", 4, ["endpoint.timeout_s.idle must be greater than 0, not 0"]),
    ("endpoint: {stream: 1}\n", 4, ["endpoint.stream must be true or false, not 1"]),
    ("stream: true\n", 4, ["stream is not a known key; did you mean endpoint.stream?"]),
    ("endpoint: {timeout_s: {total: 0}}\n", 4, ["endpoint.timeout_s.total must be greater than 0, not 0"]),
    ("endpoint: {allow_http: yes}\n", 4, ["endpoint.allow_http", "true"]),
    ("endpoint: {proxy: 'http://me:pw@proxy.example:1'}\n", 4, ["endpoint.proxy", "password"]),
    ("limits: {concurrency: 0}\n", 4, ["limits.concurrency must be at least 1, not 0"]),
    ("limits: {concurrency: 10001}\n", 4, ["limits.concurrency must be at most 10000, not 10001"]),
    ("limits: {concurrency: true}\n", 4, ["limits.concurrency must be a whole number, not true"]),
    ("limits: {concurrency: '8'}\n", 4, ["limits.concurrency", 'not "8"', "write it without quotes"]),
    ("limits: {concurrency: 8.5}\n", 4, ["limits.concurrency must be a whole number, not 8.5"]),
    ("limits: {concurrency: 010}\n", 4, ["limits.concurrency is written 010", "8 (octal)", "or write 8"]),
    ("limits: {requests_per_minute: 1:30}\n", 4, ["limits.requests_per_minute", "base 60"]),
    ("limits: {tokens_per_minute: 1_000}\n", 4, ["limits.tokens_per_minute", "or write 1000"]),
    ("limits: {tokens_per_minute: .inf}\n", 4, ["limits.tokens_per_minute", "JSON cannot carry"]),
    ("limits: {tokens_per_minute: -1}\n", 4, ["limits.tokens_per_minute must be greater than 0"]),
    ("limits: 8\n", 4, ["limits must be a block of keys (requests_per_minute", "not 8"]),
    ("limits:\n  concurrency: 4\n  concurrency: 8\n", 6, ["limits.concurrency stands twice", "line 5"]),
    ("limits:\n  5: 4\n", 5, ["limits has the key", '"5"', "quotes"]),
    ("retry: {max_attempts: 0}\n", 4, ["retry.max_attempts must be at least 1"]),
    ("retry: {max_retries: 3}\n", 4, ["did you mean max_attempts?"]),
    ("prices: {input: 3}\n", 4, ["prices must have input and output together"]),
    ("prices: {cached_input: 3, per_request: 1}\n", 4, ["prices must have input and output"]),
    ("prices: {}\n", 4, ["prices must have input and output"]),
    ("prices: {per_request: -1}\n", 4, ["prices.per_request must be at least 0, not -1"]),
    ("budget: {usd: -5}\n", 4, ["budget.usd must be greater than 0"]),
    ("budget: {tokens: 0}\n", 4, ["budget.tokens must be greater than 0"]),
    ("answer:\n  repair: 1\n", 4, ["answer must have either fields or schema"]),
    ("name: no\n", 4, ["name must be text, not false", 'put it in quotes: "no"']),
    ("name: 007\n", 4, ["name must be text, not 7 (octal)", '"007"']),
    ("name: 12:30:45\n", 4, ["name must be text", '"12:30:45"']),
    ("name: 2024-01-01\n", 4, ["name must be text, not a date", '"2024-01-01"']),
    ("name: true\n", 4, ["name must be text, not true", "quotes"]),
    ("name: 7\n", 4, ["name must be text, not 7", '"7"']),
    ("name: a/b\n", 4, ["name must be fit for a folder's name"]),
    ("output: 7\n", 4, ["output must be text, not 7", "quotes"]),
    ("output: {folder: x}\n", 4, ["output.folder", "did you mean path?"]),
    ("output: {path: ''}\n", 4, ["output.path is empty"]),
    ("010: 4\n", 4, ["the spec has the key", '"010"', "quotes"]),
    ("on: 4\n", 4, ["on must be a block of keys", "truncated"]),
    ("on: {truncated: skip}\n", 4, ["on.truncated", "retry_with_more_tokens", "skip"]),
    ("samples: 0\n", 4, ["samples", "at least 1"]),
    ("name: &a x\n", 4, ["alias or an anchor", "quotes"]),
    ("name: *a\n", 4, ["alias or an anchor", "quotes"]),
    ("name: !!python/name:os.system x\n", 4, ["tag", "quotes"]),
    ("name: !important\n", 4, ["tag", "quotes"]),
    ("---\nname: x\n", 4, ["second document", "---"]),
    ("limits:\n\tconcurrency: 4\n", 5, ["tab", "spaces"]),
    ("name: it is: so\n", 4, ["': '", "quotes"]),
    ("name: @x\n", 4, ["special character", "quotes"]),
    ('name: "x\n\n', 4, ["quote", "never closed"]),
    ('name: "\\q"\n', 4, ["double quotes"]),
    ("name: " + "[" * 3000 + "\n", 4, ["levels deep"]),
    ("name: " + "9" * 5000 + "\n", 4, ["name is a number of 5000 digits", "quotes"]),
    ('name: "\\ud800"\n', 4, ["name has half a surrogate pair"]),
    ("name: x\x07\n", 4, ["control character"]),
    (f"name: {KEY}\n", 4, ["name holds what looks like a key", "a key in a spec is refused"]),
]


@pytest.mark.fault("D21", "D22", "D23", "D24", "D25", "S03", "S06")
@pytest.mark.parametrize(("text", "line", "words"), BROKEN, ids=[text[:40] for text, _, _ in BROKEN])
def test_a_broken_spec_is_told_by_line_place_and_cure(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    problems = refused(tmp_path, SHORT + text)
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"line {line}: ")
    for word in words:
        assert word in problems[0]
    assert KEY not in problems[0]


# Whole files, for what is wrong with input, prompt and model themselves.
BROKEN_WHOLE: list[tuple[str, list[str]]] = [
    ("prompt: x\nmodel: m\n", ["line 1: input is missing", "data/reviews.csv"]),
    ("input: a.csv\nmodel: m\n", ["line 1: prompt is missing", "{{ text }}"]),
    ("input: a.csv\nprompt: x\n", ["line 1: model is missing", "gemini-2.5-flash"]),
    ("input: a.csv\npromt: x\nmodel: m\n", ["line 2: promt is not a known key; did you mean prompt?"]),
    ("input: {id: x}\nprompt: x\nmodel: m\n", ["line 1: input.path is missing"]),
    ("input: {pth: x}\nprompt: x\nmodel: m\n", ["line 1: input.pth", "did you mean path?"]),
    ("input: {path: []}\nprompt: x\nmodel: m\n", ["line 1: input.path is an empty list"]),
    ("input:\n- a.csv\n- 7\nprompt: x\nmodel: m\n", ["line 3: input[1] must be text, not 7"]),
    ("input: {path: a, format: xls}\nprompt: x\nmodel: m\n", ["input.format must be csv, tsv, parquet", '"xls"']),
    ("input: {path: a, limit: 0}\nprompt: x\nmodel: m\n", ["input.limit must be at least 1, not 0"]),
    ("input: {path: a, encoding: utf-99}\nprompt: x\nmodel: m\n", ["input.encoding is no known text encoding"]),
    ("input: {path: a, encoding: hex}\nprompt: x\nmodel: m\n", ["input.encoding is no known text encoding"]),
    ("input: a.csv\nprompt: ''\nmodel: m\n", ["line 2: prompt is empty"]),
    ("input: a.csv\nprompt:\n  user: '  '\nmodel: m\n", ["line 3: prompt.user is empty"]),
    ("input: a.csv\nprompt:\n  system: x\nmodel: m\n", ["line 2: prompt.user is missing"]),
    ("input: a.csv\nprompt:\n  template: x\nmodel: m\n", ["line 3: prompt.template", "did you mean user?"]),
    ("input: a.csv\nprompt: {{ text }}\nmodel: m\n", ["line 2: prompt begins with {{", "quotes"]),
    ("input: a.csv\nprompt: {{ text }} or not\nmodel: m\n", ["line 2:", "begins with {{", "quotes"]),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments:\n  - photo\n  - 7\nmodel: m\n",
        ["line 6: prompt.attachments[1] must be text, not 7"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments:\n  - {colum: a}\nmodel: m\n",
        ["line 5: prompt.attachments[0].colum is not a known key; did you mean column?"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments:\n  - {column: a, url: 'https://a.example/x.png'}\nmodel: m\n",
        ["line 5: prompt.attachments[0] must have one of column, file, url, not column and url together"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments: [{as: file}]\nmodel: m\n",
        ["line 4: prompt.attachments[0] must have one of column, file, url, and has none"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments: [{column: a, as: picture}]\nmodel: m\n",
        ["line 4: prompt.attachments[0].as must be image_url, file, file_url or input_audio", '"picture"'],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments: [{column: a, as: file, detail: low}]\nmodel: m\n",
        ["prompt.attachments[0] has detail, which only an image_url knows"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments:\n  - {file: a.pdf}\nmodel: m\n",
        ["line 5: prompt.attachments[0].file is a local file, which needs attachments.root"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments:\n  - {url: a.pdf}\nmodel: m\n",
        ["line 5: prompt.attachments[0].url must be an http(s):// or data: address"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments:\n  - {url: 'https://me:pass@a.example/'}\nmodel: m\n",
        ["line 5: prompt.attachments[0].url has a user name or a password"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments: [{url: 'https://a.example/', as: input_audio}]\nmodel: m\n",
        ["prompt.attachments[0] is an http(s) address, and input_audio carries its content"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  attachments: [{url: 'https://a.example/', optional: true}]\nmodel: m\n",
        ["prompt.attachments[0] is the same for every row, so optional has no meaning"],
    ),
    (
        "input: a.csv\nprompt: {attachments: [a], messages: [{role: system, content: x}]}\nmodel: m\n",
        ["line 2: prompt has attachments and no user message"],
    ),
    ("input: a.csv\nprompt: {user: x, images: [a]}\nmodel: m\n", ["prompt.images", "did you mean attachments?"]),
    (
        "input: a.csv\nprompt: x\nattachments: [photo]\nmodel: m\n",
        ["line 3: attachments must be a block of keys (root, max_mb, max_tokens), not a list"],
    ),
    (
        "input: a.csv\nprompt: x\nattachments: {max_mb: -1}\nmodel: m\n",
        ["line 3: attachments.max_mb must be greater than 0, not -1"],
    ),
    (
        "input: a.csv\nprompt:\n  user: x\n  messages: [{role: user, content: x}]\nmodel: m\n",
        ["line 4: prompt.messages stands beside system or user"],
    ),
    (
        "input: a.csv\nprompt:\n  messages:\n  - {role: user, content: x}\n  - {role: bot, content: x}\nmodel: m\n",
        ["line 5: prompt.messages[1].role must be system, developer, user or assistant", '"bot"'],
    ),
    ("input: a.csv\nprompt:\n  messages: [{role: user}]\nmodel: m\n", ["prompt.messages[0].content is missing"]),
    ("input: a.csv\nprompt: x\nmodel: {temperature: 0}\n", ["line 3: model.name is missing"]),
    ("input: a.csv\nprompt: x\nmodel: 7\n", ["line 3: model must be text, not 7"]),
    ("input: a.csv\nprompt: x\nmodel: off\n", ["line 3: model must be text, not false", 'quotes: "off"']),
    ("input: a.csv\nprompt: x\nmodel:\n", ["line 3: model"]),
    ("- a\n- b\n", ["line 1: the spec must be keys and values", "a list"]),
    ("just text\n", ["line 1: the spec must be keys and values", '"just text"']),
    ("", ["line 1: the spec is empty", "pipeline init"]),
    ("# nothing yet\n", ["line 1: the spec is empty"]),
    ("%YAML " + "9" * 5000 + ".1\n--- a\n", ["no valid YAML"]),
    ('"\\UFFFFFFFF": a\n', ["no valid YAML"]),
]


@pytest.mark.parametrize(("text", "words"), BROKEN_WHOLE, ids=[text[:40] for text, _ in BROKEN_WHOLE])
def test_a_broken_main_block_is_told_by_line_place_and_cure(tmp_path: Path, text: str, words: list[str]) -> None:
    problems = refused(tmp_path, text)
    assert len(problems) == 1, problems
    for word in words:
        assert word in problems[0]


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("temprature: 0", ["model.temprature", "did you mean temperature?"]),
        ("maxTokens: 3", ["model.maxTokens", "did you mean max_tokens?"]),
        ("max-tokens: 3", ["did you mean max_tokens?"]),
        ("reponse_format: {}", ["did you mean response_format?"]),
        ("stream: true", ["model.stream", "write it as endpoint.stream"]),
        ("messages: []", ["model.messages", "prompt.messages"]),
        ("model: x", ["model.model", "model.name"]),
        ("params: {temperature: 0}", ["model.params", "directly under model"]),
        ("stop: no", ["model.stop is written no", "false", '"no"']),
        ("metadata: {day: 2024-01-01}", ["model.metadata.day", "a date", "quotes"]),
        ("metadata: {seen: [.nan]}", ["model.metadata.seen[0]", "JSON cannot carry"]),
        ("logit_bias: {50256: -100}", ["model.logit_bias has the key", "quotes"]),
        ("seed: 1e999", ["model.seed is a number too large"]),
        ("seed: 99999999999999999999", ["model.seed is a number of 20 digits"]),
        ("api_key: abc", ["model.api_key", "a key in a spec is refused"]),
        (f"metadata: {{note: 'token={KEY[8:]}'}}", ["model.metadata.note", "a key in a spec is refused"]),
        (f"{KEY}: 1", ["model", "a key in a spec is refused"]),
    ],
)
def test_a_slip_in_the_models_parameters_is_refused(tmp_path: Path, param: str, words: list[str]) -> None:
    problems = refused(tmp_path, f"input: a.csv\nprompt: x\nmodel:\n  name: m\n  {param}\n")
    assert len(problems) == 1, problems
    assert problems[0].startswith("line 5: ")
    for word in words:
        assert word in problems[0]
    assert KEY not in problems[0]
    assert KEY[8:] not in problems[0]


def test_parameters_of_other_servers_pass_as_they_stand(tmp_path: Path) -> None:
    text = (
        "input: a.csv\nprompt: x\nmodel: {name: m, top_k: 3, min_tokens: 2, nothing: null, thinking: {budget: 1e3}}\n"
    )
    assert loaded(tmp_path, text).model.params == {
        "top_k": 3,
        "min_tokens": 2,
        "nothing": None,
        "thinking": {"budget": 1000.0},
    }


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "inptu: a.csv\nprompt: no\nmodel:\n  temprature: 1\nlimits:\n  concurrency: 0\n  rpn: 3\nbudget: {usd: -1}\n"
    problems = refused(tmp_path, text, "retry.max_attempts=0")
    assert [problem.split(": ", 1)[1].split(" ")[0] for problem in problems] == [
        "inptu",
        "prompt",
        "model.name",
        "model.temprature",
        "limits.concurrency",
        "limits.rpn",
        "budget.usd",
        "retry.max_attempts",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"endpoint: {{headers: {{X-Thing: {KEY}}}}}",
        "endpoint: {headers: {X-Thing: 8f3a9c1e7b2d4f6a8c0e1b3d5f7a9c2e}}",
        f"endpoint: {{headers: Bearer {KEY}}}",
        f"endpoint: {{base_url: {KEY}}}",
        f"endpoint: {{kind: {KEY}}}",
        f"endpoint: {{timeout_s: {KEY}}}",
        "endpoint: {api_key_env: 8f3a9c1e7b2d4f6a8c0e1b3d5f7a9c2e}",
        f"output: 's3://user:{KEY}@bucket/x'",
        f"name: 'Bearer {KEY[8:]}'",
        f"{KEY}: 1",
        f"limits: {{{KEY}: 1}}",
        f"limits: {{concurrency: {KEY}}}",
        f"limits: {KEY}",
        f"name: '{KEY}",
        f"'{KEY}': {{'{KEY}': 1}}",
        f"answer: {KEY}",
        f"{KEY}",
        f"*{KEY}",
        f"!{KEY}!{KEY} x",
        f"%{KEY}",
    ],
)
def test_a_key_is_refused_and_never_shown(tmp_path: Path, text: str) -> None:
    told = "\n".join(refused(tmp_path, f"{SHORT}{text}\n"))
    assert KEY[8:] not in told
    assert "8f3a9c1e" not in told


def test_a_key_in_a_prompt_is_refused_and_long_tokens_in_it_are_not(tmp_path: Path) -> None:
    base = "input: a.csv\nmodel: m\nprompt: "
    told = refused(tmp_path, f"{base}'my key is {KEY}'\n")
    assert told == [
        "line 3: prompt holds what looks like a key; a key in a spec is refused; "
        "name an environment variable in endpoint.api_key_env"
    ]
    loaded(tmp_path, f"{base}'the token 8f3a9c1e7b2d4f6a8c0e1b3d5f7a9c2e, a risk-adjusted-return-of-investments'\n")


def test_a_date_in_a_path_or_a_cache_key_is_no_secret(tmp_path: Path) -> None:
    text = "input: data/2024-01-31/reviews_v2.csv\nprompt: x\nmodel: {name: m, prompt_cache_key: nightly-2024-v3-x}\n"
    loaded(tmp_path, text)


def test_an_override_sets_one_value(tmp_path: Path) -> None:
    spec = loaded(
        tmp_path,
        SHORT,
        "limits.concurrency=8",
        "model.temperature=0.5",
        'model.stop=["a", "b"]',
        "endpoint.timeout_s.total=30",
        "endpoint.base_url=http://127.0.0.1:8080/v1",
        "prompt.system=Be brief: no # more",
        "prompt.user={{ text }}: which?",
        'name="007"',
        "prices={per_request: 0.01}",
        "retry.max_wait_s=1e1",
        "input.limit=",
    )
    assert spec.limits.concurrency == 8
    assert spec.model.name == "gemini-2.5-flash"
    assert spec.model.params == {"temperature": 0.5, "stop": ["a", "b"]}
    assert (spec.endpoint.timeout_s.connect, spec.endpoint.timeout_s.total) == (10, 30)
    assert spec.endpoint.base_url == "http://127.0.0.1:8080/v1"
    assert [message.content for message in spec.prompt.messages] == ["Be brief: no # more", "{{ text }}: which?"]
    assert (spec.name, spec.output.path) == ("007", "data/out/007")
    assert spec.prices is not None
    assert spec.prices.per_request == 0.01
    assert spec.retry.max_wait_s == 10
    assert spec.input.limit is None


def test_a_short_override_keeps_the_rest_of_its_block(tmp_path: Path) -> None:
    text = "input: {path: a.csv, id: i}\nprompt: x\nmodel: {name: m, seed: 1}\n"
    spec = loaded(tmp_path, text, "model=other", "input=b.csv")
    assert (spec.model.name, spec.model.params) == ("other", {"seed": 1})
    assert (spec.input.paths, spec.input.id) == (("b.csv",), "i")


def test_an_override_mends_what_the_file_has_wrong(tmp_path: Path) -> None:
    assert loaded(tmp_path, SHORT + "limits: {concurrency: 0}\n", "limits.concurrency=2").limits.concurrency == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("limits.rpn=8", ["--set limits.rpn: limits.rpn is not a known key; did you mean requests_per_minute?"]),
        ("limits.concurrency", ["--set", "must look like limits.concurrency=8"]),
        ("=8", ["--set", "must look like limits.concurrency=8"]),
        ("limits..x=8", ["--set", "must look like limits.concurrency=8"]),
        ("name.first=8", ["--set name.first", "leads into name"]),
        ("limits.concurrency=many", ["--set limits.concurrency: limits.concurrency must be a whole number", '"many"']),
        ("limits.concurrency=[1", ["--set limits.concurrency", "no valid YAML"]),
        ("concurrency=8", ["--set concurrency", "did you mean limits.concurrency?"]),
        ("name=no", ["--set name: name must be text, not false", "quotes"]),
        ("budget.usd=-5", ["--set budget.usd: "]),
        ("model.temprature=5", ["--set model.temprature", "did you mean temperature?"]),
        (f"endpoint.api_key_env={KEY}", ["--set endpoint.api_key_env", "a key in a spec is refused"]),
        (f"{KEY}=1", ["--set"]),
        (f"{KEY}", ["--set"]),
        ("name=" + "9" * 5000, ["--set name: name is a number of 5000 digits"]),
    ],
)
def test_a_wrong_override_is_named_with_its_cure(tmp_path: Path, override: str, words: list[str]) -> None:
    problems = refused(tmp_path, SHORT + "name: x\n", override)
    assert len(problems) == 1, problems
    for word in words:
        assert word in problems[0]
    assert KEY not in problems[0]


def test_a_block_from_the_command_line_forgets_the_lines_of_the_one_it_replaces(tmp_path: Path) -> None:
    told = refused(tmp_path, SHORT + "limits:\n  rpn: 1\n", "limits={rpn: 2}")
    assert told == ["--set limits: limits.rpn is not a known key; did you mean requests_per_minute?"]


def test_files_that_cannot_be_a_spec_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "reviews.yaml").write_text(SHORT)
    (tmp_path / "latin.yaml").write_bytes(b"input: a.csv\nprompt: caf\xe9\n")
    (tmp_path / "table.csv").write_bytes(b"a,b\n" * 300_000)
    with pytest.raises(SpecError, match=r"there is no such file; did you mean .*reviews\.yaml\?"):
        load(tmp_path / "review.yaml")
    with pytest.raises(SpecError, match=r"there is no such file$"):
        load(tmp_path / "nowhere" / "x.yaml")
    with pytest.raises(SpecError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(SpecError, match=r"line 2: is not UTF-8"):
        load(tmp_path / "latin.yaml")
    with pytest.raises(SpecError, match="larger than 1 MB"):
        load(tmp_path / "table.csv")
    with pytest.raises(SpecError, match="cannot be read"):
        load("a\0b.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert loaded(tmp_path, "\ufeff" + SHORT).model.name == "gemini-2.5-flash"


def test_aliases_are_refused_before_they_expand(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert refused(tmp_path, bomb) == [
        "line 1: this line has an alias or an anchor, which a spec may not use; put a text with * or & in quotes"
    ]


def test_a_job_cannot_be_changed_once_loaded(tmp_path: Path) -> None:
    spec: Any = loaded(tmp_path, SHORT)
    with pytest.raises(ValueError, match="frozen"):
        spec.limits.concurrency = 3


@pytest.mark.parametrize("name", ["reviews", "no", "2024-01-01", 'it\'s: a "job"', "träume"])
def test_the_starter_loads_as_it_stands(tmp_path: Path, name: str) -> None:
    spec = loaded(tmp_path, starter(name))
    assert (spec.name, spec.output.path) == (name, f"data/out/{name}")


def test_every_optional_line_of_the_starter_loads_too(tmp_path: Path) -> None:
    lines = starter("reviews").splitlines()
    written, optional = lines[:3], re.compile(r"( *)# ?( *\w+:.*)")
    written += [match[1] + match[2] if (match := optional.fullmatch(line)) else line for line in lines[3:]]
    assert not [line for line in written[3:] if line.lstrip().startswith("#")]
    spec = loaded(tmp_path, "\n".join(written))
    assert spec.budget.usd == 10
    assert spec.answer is not None
    assert spec.retry.max_attempts == 6


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\nb", "\ud800"])
def test_a_name_that_no_folder_can_have_starts_no_job(name: str) -> None:
    with pytest.raises(SpecError, match="cannot name a job"):
        starter(name)


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["no", KEY, "{{ x }}"])
)
_NAMES = """name input path id prompt user system messages role content model endpoint headers timeout_s limits
concurrency retry prices budget usd output answer attachments where"""
_KEYS = st.one_of(st.sampled_from(_NAMES.split()), st.text(max_size=5))
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


def _flow(value: object) -> str:
    """YAML by hand, so that the traps stay unquoted."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return str(value)


def _never_another_exception(folder: Path, data: bytes, overrides: list[str]) -> None:
    path = folder / "any.yaml"
    path.write_bytes(data)
    try:
        spec = load(path, overrides)
    except SpecError as error:
        assert str(error).isprintable() or "\n" in str(error)
        assert KEY not in str(error)
    else:
        assert isinstance(spec, JobSpec)


_ANY = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_ANY
@given(text=st.text(alphabet=st.sampled_from("ab: -[]{}#&*!|>'\"%@`,?\n\t\\0189.ux~<=_\u2028é"), max_size=60))
def test_any_text_is_a_job_or_a_spec_error(tmp_path: Path, text: str) -> None:
    _never_another_exception(tmp_path, text.encode(), [])
    _never_another_exception(tmp_path, (SHORT + text).encode(), [text])


@_ANY
@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_job_or_a_spec_error(tmp_path: Path, data: bytes) -> None:
    _never_another_exception(tmp_path, data, [])


@_ANY
@given(block=_KEYS, tree=_TREES)
def test_any_tree_is_a_job_or_a_spec_error(tmp_path: Path, block: str, tree: object) -> None:
    data = f"{SHORT}{block}: {_flow(tree)}\n".encode(errors="replace")
    _never_another_exception(tmp_path, data, [f"{block}={_flow(tree)}"])


@_ANY
@given(tree=st.dictionaries(_KEYS, _TREES, max_size=5))
def test_any_whole_tree_is_a_job_or_a_spec_error(tmp_path: Path, tree: dict[str, object]) -> None:
    _never_another_exception(tmp_path, _flow(tree).encode(errors="replace"), [])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SHORT)
    path.chmod(0)
    with pytest.raises(SpecError, match="cannot be read: Permission denied"):
        load(path)


def test_an_attachment_is_a_column_or_a_block(tmp_path: Path) -> None:
    spec = loaded(
        tmp_path,
        "input: a.csv\nprompt:\n  user: x\n"
        "  attachments: [photo, {column: scan, as: file, optional: true}, {file: a.pdf}]\n"
        "attachments: {root: data/images}\nmodel: m\n",
    )
    photo, scan, fixed = spec.prompt.attachments
    assert (photo.column, photo.form, photo.optional) == ("photo", None, False)
    assert (scan.column, scan.form, scan.optional) == ("scan", "file", True)
    assert (fixed.file, fixed.column) == ("a.pdf", None)
    assert (spec.attachments.root, spec.attachments.max_mb, spec.attachments.max_tokens) == ("data/images", 20, None)


def test_words_that_yaml_reads_as_truth_values_are_words_where_a_key_stands(tmp_path: Path) -> None:
    found = loaded(tmp_path, SHORT + "on:\n  truncated: fail\nsamples: 3\n")
    assert (found.on.truncated, found.on.empty, found.samples) == ("fail", "fail", 3)
