"""A bucket as its writers see it: plain calls for tests, and every way to change it, with and without an event."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from nats.aio.client import Client

T = TypeVar("T")

CALL_SECS: Final = 30.0


class Bucket:
    """Has a client of its own, in a thread of its own. Not safe to use from several threads at once."""

    def __init__(self, url: str, name: str = "ai-gateway", **options: Any) -> None:
        """``options``: of the connection."""
        self.name = name
        self._options = {"servers": url, "max_reconnect_attempts": -1, "reconnect_time_wait": 0.05, **options}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = Client()

    def __enter__(self) -> Bucket:
        self.connect()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def connect(self) -> None:
        async def quiet(_error: Exception) -> None:
            return None

        self._call(self._client.connect(error_cb=quiet, **self._options))

    def close(self) -> None:
        self._call(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECS)
        self._loop.close()

    def _call(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(CALL_SECS)

    def api(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises AssertionError for a refusal."""
        payload = json.dumps(body or {}).encode()
        answer: dict[str, Any] = json.loads(self._call(self._client.request(f"$JS.API.{subject}", payload, 10)).data)
        assert "error" not in answer, answer["error"]
        return answer

    def create(self, **changes: Any) -> None:
        config = {
            "name": f"KV_{self.name}",
            "subjects": [f"$KV.{self.name}.>"],
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": 3600 * 10**9,
            "storage": "file",
            **changes,
        }
        self.api(f"STREAM.CREATE.KV_{self.name}", config)

    def destroy(self) -> None:
        self.api(f"STREAM.DELETE.KV_{self.name}")

    def info(self) -> dict[str, Any]:
        return self.api(f"STREAM.INFO.KV_{self.name}")

    def publish(self, key: str, value: bytes = b"", headers: dict[str, str] | None = None) -> int:
        """The revision."""
        subject = f"$KV.{self.name}.{key}"
        reply = self._call(self._client.request(subject, value, 10, headers=headers))
        answer = json.loads(reply.data)
        assert "error" not in answer, answer["error"]
        return int(answer["seq"])

    def put(self, key: str, value: bytes | str, ttl_secs: int | None = None) -> int:
        raw = value.encode() if isinstance(value, str) else value
        return self.publish(key, raw, {"Nats-TTL": f"{ttl_secs}s"} if ttl_secs is not None else None)

    def delete(self, key: str) -> int:
        return self.publish(key, b"", {"KV-Operation": "DEL"})

    def purge_key(self, key: str) -> int:
        return self.publish(key, b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"})

    def purge(self, key: str | None = None) -> None:
        """Without an event."""
        self.api(f"STREAM.PURGE.KV_{self.name}", {"filter": f"$KV.{self.name}.{key}"} if key is not None else {})

    def remove_message(self, seq: int) -> None:
        """By hand, without an event."""
        self.api(f"STREAM.MSG.DELETE.KV_{self.name}", {"seq": seq})

    def last(self, key: str) -> dict[str, Any] | None:
        """The last message of a key, as the server tells it."""
        body = json.dumps({"last_by_subj": f"$KV.{self.name}.{key}"}).encode()
        reply = self._call(self._client.request(f"$JS.API.STREAM.MSG.GET.KV_{self.name}", body, 10))
        message: dict[str, Any] | None = json.loads(reply.data).get("message")
        return message

    def consumers(self) -> list[str]:
        names = self.api(f"CONSUMER.NAMES.KV_{self.name}")["consumers"]
        return list(names or [])

    def delete_consumer(self, name: str) -> None:
        self.api(f"CONSUMER.DELETE.KV_{self.name}.{name}")
