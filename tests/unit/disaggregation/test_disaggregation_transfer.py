"""Whatever way a cache takes, what arrives is what was sent."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_falsify.disaggregation.caches import LayerCache
from pytest_falsify.disaggregation.carriers import (
    MemoryReceiver,
    MemorySender,
    SocketReceiver,
    SocketSender,
)
from pytest_falsify.disaggregation.shards import heads_of, joined, sharded
from pytest_falsify.disaggregation.transfer import Transfer
from pytest_falsify.errors import CaptureError

torch = pytest.importorskip("torch")
HEADS, TOKENS, CHANNELS = 4, 11, 8


def layers(count=2, dtype=torch.float32):
    made = torch.randn(
        2 * count, HEADS, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(3)
    )
    return {
        layer: LayerCache(
            keys=made[2 * layer].to(dtype), values=made[2 * layer + 1].to(dtype), length=TOKENS
        )
        for layer in range(count)
    }


def expected(sent):
    return dict.fromkeys(sent, (HEADS, TOKENS, TOKENS))


def received(transfer, sent):
    data = b"".join(bytes(each) for each in transfer.packed(sent))
    return transfer.unpacked(memoryview(bytearray(data)), expected(sent))


@settings(max_examples=60)
@given(
    ranks=st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8])),
    block=st.none() | st.integers(1, 12),
    order=st.sampled_from(["as they are", "reversed"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_any_ranks_blocks_and_order_bring_the_same_bits(ranks, block, order, dtype):
    options = {"ranks": {"from": ranks[0], "to": ranks[1]}, "order": order}
    sent = layers(dtype=dtype)
    arrived = received(Transfer(options=options | ({"block": block} if block else {})), sent)
    for layer, cache in sent.items():
        assert torch.equal(arrived[layer].keys, cache.keys)
        assert torch.equal(arrived[layer].values, cache.values)
        assert arrived[layer].positions == cache.positions


@given(heads=st.sampled_from([1, 2, 4, 8]), ranks=st.sampled_from([1, 2, 4, 8, 16]))
def test_every_head_is_on_a_rank_and_all_ranks_hold_as_many(heads, ranks):
    held = heads_of(heads, ranks)
    assert {head for each in held for head in each} == set(range(heads))
    assert len({len(each) for each in held}) == 1
    whole = torch.arange(heads * 6).reshape(heads, 3, 2)
    assert torch.equal(joined(sharded(whole, ranks), heads), whole)


def test_heads_that_do_not_divide_over_the_ranks_are_refused():
    with pytest.raises(CaptureError, match="4 key heads do not divide over 3 ranks"):
        heads_of(4, 3)


def test_a_layer_or_a_rank_that_does_not_arrive_is_an_error():
    transfer = Transfer(options={"ranks": {"from": 2, "to": 1}})
    data = bytearray(b"".join(map(bytes, transfer.packed(layers(1)))))
    with pytest.raises(CaptureError, match=r"1\.k` of rank 0 did not arrive"):
        transfer.unpacked(memoryview(data), expected(layers(2)))


def test_lost_tokens_are_an_error():
    transfer = Transfer(options={"block": 4})
    short = {
        layer: LayerCache(keys=each.keys[:, :8], values=each.values[:, :8], length=TOKENS)
        for layer, each in layers().items()
    }
    data = bytearray(b"".join(map(bytes, transfer.packed(short))))
    with pytest.raises(CaptureError, match="cache of layer 0 arrived as"):
        transfer.unpacked(memoryview(data), expected(short))


def carried(sender, receiver, pieces):
    tickets, taken = SimpleQueue(), SimpleQueue()
    thread = Thread(target=lambda: taken.put(bytes(receiver.take(tickets.get(timeout=10)))))
    thread.start()
    sender.put([memoryview(each) for each in pieces], tickets.put)
    thread.join(10)
    return taken.get(timeout=10)


@pytest.mark.parametrize("size", [0, 1, 64, 3 << 20])
def test_carriers_bring_every_byte(size):
    pieces = [bytes([index % 251]) * size for index in range(3)]
    memory, receiver = MemorySender(), MemoryReceiver()
    try:
        assert carried(memory, receiver, pieces) == b"".join(pieces)
    finally:
        memory.close()
    listener = SocketReceiver()
    sender = SocketSender(listener.port)
    try:
        assert carried(sender, listener, pieces) == b"".join(pieces)
    finally:
        sender.close()
        listener.close()


def put(sender, data):
    tickets = []
    sender.put([memoryview(data)], tickets.append)
    return tickets[0]


def test_shared_memory_is_used_again_and_given_back():
    sender, tickets = MemorySender(), []
    for _ in range(3):
        sender.restart()
        tickets.append(put(sender, b"x" * 100))
    assert len(set(tickets)) == 1
    sender.close()
    assert not Path(tickets[0][0]).exists()


def test_of_a_larger_cache_before_it_a_smaller_one_sees_nothing():
    large = layers(3)
    small = {0: LayerCache(keys=large[1].keys[:, :4], values=large[2].values[:, :4], length=4)}
    whole = (HEADS, TOKENS, TOKENS)
    transfer, tickets = Transfer(options={}), []
    with closing(MemorySender()) as sender:
        receiver = MemoryReceiver()
        for sent in (large, small):
            sender.restart()
            receiver.restart()
            sender.put(transfer.packed(sent), tickets.append)
            data = receiver.take(tickets[-1])
        assert tickets[0][:2] == tickets[1][:2]
        assert bytes(data) == b"".join(map(bytes, transfer.packed(small)))
        arrived = transfer.unpacked(data, {0: (HEADS, 4, 4)})
        assert torch.equal(arrived[0].keys, small[0].keys)
        with pytest.raises(CaptureError, match="did not arrive"):
            transfer.unpacked(data, {2: whole})


def test_a_segment_at_the_place_of_one_that_is_gone_is_not_taken_for_it():
    receiver = MemoryReceiver()
    with closing(MemorySender()) as sender:
        before = put(sender, b"before")
        assert bytes(receiver.take(before)) == b"before"
    with closing(MemorySender()) as sender:
        after = put(sender, b"after")
        assert bytes(receiver.take(after)) == b"after"
    assert after[1] != before[1]


KILLED = """
import os, sys, tempfile
from pathlib import Path
from pytest_falsify.disaggregation.carriers import MemorySender
MemorySender().put([memoryview(b"x" * 100)], lambda ticket: print(ticket[0], flush=True))
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files without a name are Linux's")
def test_a_process_that_is_killed_leaves_no_segment_behind():
    done = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9
    path = Path(done.stdout.strip())
    assert path.is_relative_to("/proc")
    assert not path.exists()


def test_where_every_file_has_a_name_it_goes_with_its_sender(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with closing(MemorySender()) as sender:
        ticket = put(sender, b"named")
        assert Path(ticket[0]).name.startswith("pytest-falsify-")
        assert bytes(MemoryReceiver().take(ticket)) == b"named"
    assert not Path(ticket[0]).exists()


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=6))
@settings(max_examples=25)
def test_every_byte_of_every_piece_is_in_its_place(sizes):
    pieces = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    tickets = []
    with closing(MemorySender()) as sender:
        sender.put([memoryview(each) for each in pieces], tickets.append)
        assert bytes(MemoryReceiver().take(tickets[0])) == b"".join(pieces)
