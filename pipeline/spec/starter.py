"""The job spec that ``pipeline init`` writes."""

from __future__ import annotations

import json
from typing import Final

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import SpecError
from pipeline.spec.document import quoted
from pipeline.spec.model import JobName

_TEXT: Final = """\
# A job: each row of `input` becomes a prompt, each prompt one answer.
# Look before you pay:  pipeline check FILE, pipeline preview FILE, pipeline rehearse FILE; then  pipeline run FILE
# Keys with a leading # are optional and show their defaults or an example. Unknown keys are refused.

name: {name}

input:
  path: data/reviews.csv            # csv, tsv, parquet, jsonl; a glob, or a list of files
  # id: review_id                   # column that names a row; without it a row is named by its content
  # where: "stars is not null"      # SQL condition on the columns
  # limit: 100                      # first 100 rows only
  # format: csv                     # when the file's suffix does not say it
  # encoding: utf-8

prompt:                             # jinja2 templates over the columns of a row
  system: "You label product reviews."
  user: |
    Is this review positive, negative or neutral? One word.

    {{{{ text }}}}
  # attachments: [photo]            # images, PDFs, audio: columns with addresses, or with paths below attachments.root

# attachments: {{root: data/images, max_mb: 20}}

model:
  name: gemini-2.5-flash
  temperature: 0                    # any further key goes into the request body as it stands
  # max_tokens: 300

endpoint:
  base_url: https://gptproto.com/v1
  api_key_env: GPTPROTO_API_KEY     # the NAME of a variable; the key itself never stands in a spec
  # timeout_s: {{connect: 10, total: 600, idle: 120}}
  # stream: false                   # true: replies come as a stream of events
  # headers: {{X-Team: labels}}
  # proxy: http://proxy.example:3128
  # max_reply_mb: 16

# answer:                           # typed columns; without it there is the response alone
#   fields:
#     sentiment: [positive, negative, neutral]
#     confidence: number              # string, number, integer, boolean, {{list: string}}, or a JSON Schema

# on: {{truncated: keep, refusal: keep}}  # or fail: what becomes of an answer that is not plainly ok
# samples: 1                        # independent answers a row; most of them decide
# dedupe: false                     # true: equal requests are asked once
# evaluate: {{gold: label, field: sentiment}}   # hold a field against a column of right labels

limits:
  # requests_per_minute: null       # null: not known, found out while running
  # tokens_per_minute: null
  concurrency: 64                   # rows in flight at most
  # share: true                     # share these limits with jobs that run beside this one with the same key

# retry:
#   max_attempts: 6
#   max_wait_s: 60
#   max_in_doubt: 1                 # further attempts after one that may have been billed

# prices: {{input: 0.30, output: 2.50}}   # USD per 1M tokens, of your own contract; unknown stays unknown
# budget: {{usd: 10}}                 # never passed, reruns included; needs prices and model.max_tokens

# expire: 30d                       # older answers are asked again on `pipeline run --refresh-expired`
# notify: "mail -s labels me@example.org"   # run when a run has ended, with summary.json on its stdin

output: {output}
"""


def starter(name: str) -> str:
    """YAML with comments that loads as it stands. ``SpecError`` for a name that no job may have."""
    try:
        TypeAdapter(JobName).validate_python(name, strict=True)
        name.encode()
    except (ValidationError, UnicodeEncodeError):
        raise SpecError(f"{quoted(name)} cannot name a job; use letters, digits, - and _, at most 100") from None
    return _TEXT.format(
        name=json.dumps(name, ensure_ascii=False), output=json.dumps(f"data/out/{name}", ensure_ascii=False)
    )
