import asyncio
import contextlib

import pytest

from qwentts_daemon.mqtt import publisher as module
from qwentts_daemon.mqtt.publisher import MAX_WAITING, Message, Publisher


class Post:
    """A client that records messages and fails on demand."""

    def __init__(self):
        self.messages = []
        self.fails = False

    async def publish(self, message):
        if self.fails:
            raise ConnectionError
        self.messages.append(message)

    @property
    def sent(self):
        return [(each.topic, each.payload) for each in self.messages]


async def test_retained_topic_publishes_newest_value_on_change_only():
    publisher, post = Publisher(), Post()
    for payload in (b"1", b"2", b"2"):
        publisher.show("state", payload)
    await publisher.flush(post.publish)
    publisher.show("state", b"2")
    await publisher.flush(post.publish)
    assert post.messages == [Message("state", b"2", retain=True)]
    publisher.show_again()
    await publisher.flush(post.publish)
    assert post.sent == [("state", b"2")] * 2


async def test_unacknowledged_message_is_kept():
    publisher, post = Publisher(), Post()
    publisher.show("state", b"1")
    publisher.tell(Message("event", b"a"))
    post.fails = True
    with pytest.raises(ConnectionError):
        await publisher.flush(post.publish)
    post.fails = False
    await publisher.flush(post.publish)
    assert post.sent == [("state", b"1"), ("event", b"a")]


async def test_pending_messages_are_bounded(caplog):
    publisher, post = Publisher(), Post()
    for number in range(MAX_WAITING + 5):
        publisher.tell(Message("event", str(number).encode()))
    await publisher.flush(post.publish)
    assert [record.args[0] for record in caplog.records] == [5]
    assert [payload for _, payload in post.sent[:1]] == [b"5"]


async def test_expired_messages_are_dropped(monkeypatch):
    publisher, post = Publisher(), Post()
    publisher.tell(Message("event", b"old"))
    monkeypatch.setattr(module, "STALE_AFTER_S", -1.0)
    await publisher.flush(post.publish)
    assert post.sent == []


async def test_messages_added_while_sending_are_sent():
    publisher, post = Publisher(), Post()
    sending = asyncio.create_task(publisher.send(post.publish, lambda: None))
    for number in range(3):
        publisher.tell(Message("event", str(number).encode()))
        while len(post.messages) <= number:  # noqa: ASYNC110 - its turns are what is waited for
            await asyncio.sleep(0)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    assert [payload for _, payload in post.sent] == [b"0", b"1", b"2"]


async def test_published_message_is_not_repeated_after_cancel():
    publisher, post = Publisher(), Post()
    publisher.tell(Message("event", b"a"))

    def ended():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await publisher.send(post.publish, ended)
    await publisher.flush(post.publish)
    assert post.sent == [("event", b"a")]
