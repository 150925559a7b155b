from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.spec import json_schema, load, starter

jsonschema = pytest.importorskip("jsonschema")

BASE = "input: a.csv\nprompt: x\nmodel: m\n"

GOOD = [
    BASE,
    "input: [a.csv, b.csv]\nprompt: {user: x, attachments: []}\nmodel: {name: m, temperature: 0, top_k: 3}\n",
    "input: {path: [a.csv], id: i}\nprompt: {messages: [{role: user, content: x}]}\nmodel: m\noutput: {prefix: x}\n",
    BASE + "limits:\nendpoint:\nretry:\nbudget:\nprices:\noutput:\nanswer:\nname:\n",
    BASE
    + "endpoint: {headers: {X-Team: a}, timeout_s: {total: 5, idle: 2}, stream: true, allow_http: true, proxy: null}\n",
    BASE + "media: true\n",
    BASE + "media: false\n",
    BASE + "media: {download: true, max_mb: 5}\n",
    BASE + "media:\n",
    BASE + "budget: {usd: null, tokens: null}\nprices: {per_request: 0.1}\noutput: data/out/x\n",
    "input: a.csv\nprompt: {user: x, attachments: [a, {column: b, as: file, optional: true}]}\nmodel: m\n",
    "input: a.csv\nprompt: {user: x, attachments: [{file: a.pdf}, {url: 'https://a.example/', detail: low}]}\n"
    "model: m\n"
    "attachments: {root: data/images, max_mb: 20, max_tokens: 2000}\n",
    BASE + "attachments:\n",
    BASE + "notify: mail me\n",
    BASE + "notify: [mail, me]\n",
    BASE + "notify: {command: [mail, me], when: trouble}\n",
    BASE + "notify:\n",
    starter("reviews"),
]

BAD = [
    "prompt: x\nmodel: m\n",
    BASE + "zebra: 1\n",
    BASE + "media: {download: yes please}\n",
    BASE + "media: {max_mb: 0}\n",
    BASE + "media: 5\n",
    BASE + "limits: {rpn: 1}\n",
    BASE + "limits: {concurrency: 0}\n",
    BASE + "limits: {concurrency: '8'}\n",
    BASE + "endpoint: {kind: chatt}\n",
    BASE + "endpoint: {api_key: x}\n",
    BASE + "answer: {fields: {a: number}, repair: -1}\n",
    BASE + "budget: {usd: -5}\n",
    BASE + "name: 7\n",
    BASE + "notify: []\n",
    BASE + "notify: {when: always}\n",
    BASE + "notify: {command: x, when: never}\n",
    BASE + "notify: [1]\n",
    "input: a.csv\nprompt: x\nmodel: {temperature: 0}\n",
    "input: a.csv\nprompt: x\nmodel: {name: m, stream: true}\n",
    "input: a.csv\nprompt: {system: x}\nmodel: m\n",
    "input: a.csv\nprompt: {user: x, attachments: [7]}\nmodel: m\n",
    "input: a.csv\nprompt: {user: x, attachments: [{column: a, url: 'https://a.example/'}]}\nmodel: m\n",
    "input: a.csv\nprompt: {user: x, attachments: [{as: file}]}\nmodel: m\n",
    "input: a.csv\nprompt: {user: x, attachments: [{column: a, as: picture}]}\nmodel: m\n",
    BASE + "attachments: {max_mb: 0}\n",
    "input: {path: []}\nprompt: x\nmodel: m\n",
]


def _judge() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", GOOD)
def test_the_schema_takes_what_loads(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    load(tmp_path / "a.yaml")
    assert list(_judge().iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize("text", BAD)
def test_the_schema_refuses_what_is_refused(tmp_path: Path, text: str) -> None:
    assert not _judge().is_valid(yaml.safe_load(text))


def _keys(schema: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        for key, inner in schema.get("properties", {}).items():
            yield f"{path}.{key}", inner
        for name, inner in schema.items():
            yield from _keys(inner, f"{path}.{name}")
    elif isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from _keys(inner, f"{path}[{index}]")


def test_every_key_is_described() -> None:
    keys = dict(_keys(json_schema(), ""))
    assert len(keys) > 40
    assert [path for path, key in keys.items() if not key.get("description")] == []


def test_the_schema_is_json_and_names_its_draft() -> None:
    assert json.loads(json.dumps(json_schema()))["$schema"] == "https://json-schema.org/draft/2020-12/schema"
