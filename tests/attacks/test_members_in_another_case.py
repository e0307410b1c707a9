"""Members that differ in case alone from those that a rule reads.

Some parsers fold case, even the Kelvin sign: `"BACKGROUND": true` starts a response whose usage appears only later, and
`"Stream": true` a stream that was never asked for its usage. Under a rule such a member must be refused.
"""

from __future__ import annotations

import json

import pytest

from tests.e2e import answers
from tests.e2e.calls import CHAT, ask
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider

MEMBERS = [
    ("/openai/v1/responses", '"BACKGROUND":true'),
    ("/openai/v1/responses", '"bac\u212aground":true'),
    ("/openai/v1/responses", '"bac\\u212aground":true'),
    (CHAT, '"Stream":true'),
    (CHAT, '"\u017ftream":true'),
    (CHAT, '"stream":true,"Stream_Options":{"include_usage":false}'),
    (CHAT, '"stream":true,"stream_options":{"include_usage":true,"Include_Usage":false}'),
]


@pytest.mark.parametrize("size", [10, 100_000], ids=["short", "long"])
@pytest.mark.parametrize(("target", "member"), MEMBERS)
def test_it_is_refused(gateway: Gateway, provider: Provider, target: str, member: str, size: int) -> None:
    case = provider.case(answers.by_path)
    body = f'{{"model":"m","input":"{"x" * size}",{member}}}'.encode()
    answer = ask(gateway, case, body, target=target)
    assert answer.status == 400
    assert "lower case" in json.loads(answer.body)["error"]["message"]
    assert not any(received.complete for received in case.received)
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage_status"]) == ("refused", "none")
