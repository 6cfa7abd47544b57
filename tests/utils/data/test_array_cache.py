"""The cache: whole entries or none, two runs at once, damage, full disks, memory."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import pickle
import resource
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils.data.array_cache import ArrayCache, CacheError, file_hash, tensor_hash
from utils.data.cache_leases import gate
from utils.errors import VideoNotFoundError

KEY = {"video": "abc", "fps": 3.0}


def fill(cache: ArrayCache, key: dict[str, Any] = KEY, value: int = 1, rows: int = 4) -> None:
    with cache.create(key) as writer:
        for index in range(rows):
            writer.append(np.full((1, 2, 3), value + index, np.uint8))
        writer.side["timestamps"] = np.arange(rows) / 3


def write(cache: ArrayCache, *parts: Any, error: BaseException | None = None) -> None:
    """An entry of ``parts``, whose maker ends with ``error``."""
    with cache.create(KEY) as writer:
        for part in parts:
            writer.append(part)
        if error is not None:
            raise error


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return ArrayCache(tmp_path / "some" / "cache")


def entries(cache: ArrayCache) -> list[str]:
    """Everything in the folder but the notes of who uses what."""
    return sorted(name for name in os.listdir(cache.folder) if name != ".runs")


# Round trip


def test_round_trip(cache: ArrayCache) -> None:
    assert cache.get(KEY) is None
    assert not cache.folder.exists()
    fill(cache)
    entry = cache.get(KEY)
    assert entry is not None
    assert entry.data.shape == (4, 2, 3)
    assert entry.data[:, 0, 0].tolist() == [1, 2, 3, 4]
    assert entry.side["timestamps"].tolist() == [0, 1 / 3, 2 / 3, 1]
    assert isinstance(entry.data, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        entry.data[0] = 0


@settings(deadline=None, max_examples=25)
@given(
    array=hnp.arrays(
        st.sampled_from([np.uint8, np.float32, np.float16, np.int64]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5),
    ),
    cuts=st.lists(st.integers(0, 5), max_size=4),
)
def test_how_rows_come_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray[Any, Any], cuts: list[int]
) -> None:
    cache = ArrayCache(tmp_path_factory.mktemp("cache"))
    with cache.create(KEY) as writer:
        for part in np.split(array, sorted(cut for cut in cuts if cut <= len(array))):
            writer.append(part)
    entry = cache.get(KEY)
    assert entry is not None
    assert entry.data.dtype == array.dtype
    np.testing.assert_array_equal(entry.data, array)


def test_rows_that_are_not_contiguous(cache: ArrayCache) -> None:
    rows = np.arange(24).reshape(4, 6)
    with cache.create(KEY) as writer:
        writer.append(rows[::2, ::-1])
    entry = cache.get(KEY)
    assert entry is not None
    assert entry.data.tolist() == rows[::2, ::-1].tolist()


def test_another_key_is_another_entry(cache: ArrayCache) -> None:
    fill(cache, {"video": "abc", "fps": 3.0}, value=10)
    fill(cache, {"video": "abc", "fps": 6.0}, value=20)
    for key, value in ((3.0, 10), (6.0, 20)):
        # Whatever the order of its parts.
        entry = cache.get({"fps": key, "video": "abc"})
        assert entry is not None
        assert entry.data[0, 0, 0] == value
    assert cache.get({"video": "abc"}) is None


def test_the_key_can_be_read_by_people_and_others_may_use_it(cache: ArrayCache) -> None:
    fill(cache)
    (name,) = entries(cache)
    header = json.loads((cache.folder / name / "entry.json").read_text())
    assert header == {"shape": [4, 2, 3], "dtype": "|u1", "key": KEY}
    assert (cache.folder / name).stat().st_mode & 0o777 == 0o755


# What does not become an entry


def test_rows_must_agree(cache: ArrayCache) -> None:
    for second in (np.zeros((1, 3), np.uint8), np.zeros((1, 2), np.float32)):
        with pytest.raises(ValueError, match=r"rows of .* but the entry began with"):
            write(cache, np.zeros((1, 2), np.uint8), second)
    assert cache.get(KEY) is None
    assert entries(cache) == []


@pytest.mark.parametrize("parts", [[], [np.zeros((0, 2))]])
def test_an_entry_needs_a_row(cache: ArrayCache, parts: list[Any]) -> None:
    with pytest.raises(ValueError, match="the maker of a cache entry wrote no row"):
        write(cache, *parts)
    assert entries(cache) == []


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        VideoNotFoundError("a.mp4", "no such file"),
        OSError("read error of the video's disk"),
    ],
)
def test_an_error_of_the_maker_stays_what_it_is(cache: ArrayCache, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        write(cache, np.zeros((1, 2)), error=error)
    assert caught.value is error
    assert entries(cache) == []


def test_a_full_disk(cache: ArrayCache) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CacheError) as caught:
            write(cache, *[np.zeros((1, 10_000), np.uint8)] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == (
        f"the cache in {cache.folder} cannot be written: [Errno 27] File too large; free disk "
        "space or set data.cache_dir to another folder"
    )
    assert entries(cache) == []
    fill(cache)
    assert cache.get(KEY) is not None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"cannot be written: .*set data.cache_dir"):
        fill(ArrayCache(tmp_path / "file" / "cache"))


# Damage

DAMAGES = {
    "data cut off": lambda folder: os.truncate(folder / "data.raw", 5),
    "data gone": lambda folder: (folder / "data.raw").unlink(),
    "side cut off": lambda folder: os.truncate(folder / "side.npz", 50),
    "side empty": lambda folder: (folder / "side.npz").write_bytes(b""),
    "side flipped": lambda folder: (folder / "side.npz").write_bytes(
        (folder / "side.npz").read_bytes().replace(b"\x55\x55", b"\x55\x54")
    ),
    "side noise": lambda folder: (folder / "side.npz").write_bytes(b"noise" * 9),
    "side gone": lambda folder: (folder / "side.npz").unlink(),
    "header empty": lambda folder: (folder / "entry.json").write_text(""),
    "header gone": lambda folder: (folder / "entry.json").unlink(),
    "header a list": lambda folder: (folder / "entry.json").write_text("[]"),
    "header no text": lambda folder: (folder / "entry.json").write_bytes(b"\xff\xff"),
    "type unknown": lambda folder: (folder / "entry.json").write_text(
        '{"shape": [24], "dtype": "no type"}'
    ),
    "type of objects": lambda folder: (folder / "entry.json").write_text(
        '{"shape": [3], "dtype": "|O"}'
    ),
    "shape no numbers": lambda folder: (folder / "entry.json").write_text(
        '{"shape": ["x"], "dtype": "|u1"}'
    ),
    "shape negative": lambda folder: (folder / "entry.json").write_text(
        '{"shape": [-4, -6], "dtype": "|u1"}'
    ),
    "shape of 2**64 + 24": lambda folder: (folder / "entry.json").write_text(
        '{"shape": [18446744073709551640], "dtype": "|u1"}'
    ),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_entry_is_reported_and_made_anew(
    cache: ArrayCache, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    fill(cache)
    (name,) = entries(cache)
    DAMAGES[damage](cache.folder / name)
    with caplog.at_level(logging.WARNING):
        assert cache.get(KEY) is None
    (record,) = caplog.records
    assert f"cache entry {cache.folder / name} is damaged (" in record.getMessage()
    assert "; it is made anew" in record.getMessage()
    assert entries(cache) == []
    fill(cache, value=7)
    entry = cache.get(KEY)
    assert entry is not None
    assert entry.data[0, 0, 0] == 7


def test_an_entry_that_another_run_removes_first(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache)
    (name,) = entries(cache)
    (cache.folder / name / "entry.json").unlink()
    remove = ArrayCache._remove

    def remove_twice(self: ArrayCache, folder: Path) -> None:
        remove(self, folder)
        remove(self, folder)

    monkeypatch.setattr(ArrayCache, "_remove", remove_twice)
    assert cache.get(KEY) is None
    assert entries(cache) == []


# Two runs at once


def test_the_first_to_finish_wins(cache: ArrayCache) -> None:
    with cache.create(KEY) as slow:
        slow.append(np.full((1, 2), 1))
        fill(cache, value=5)
        fast = cache.get(KEY)
        assert fast is not None
    entry = cache.get(KEY)
    assert entry is not None
    assert entry.data[0, 0, 0] == 5
    # What the fast run mapped is still there.
    assert fast.data[3, 1, 2] == 8
    assert len(entries(cache)) == 1


def _fill_many(folder: str, barrier: Any, results: Any) -> None:
    cache = ArrayCache(folder)
    barrier.wait()
    for index in range(25):
        key = {"index": index}
        if cache.get(key) is None:
            with cache.create(key) as writer:
                for row in range(20):
                    writer.append(np.full((1, 500), index + row, np.int64))
                writer.side["t"] = np.arange(20)
        entry = cache.get(key)
        assert entry is not None
        results.put(bool((entry.data[:, 0] == index + np.arange(20)).all()))


def test_two_processes_fill_the_same_cache(cache: ArrayCache) -> None:
    # Forked, as loader processes are: the test module need not be importable.
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_fill_many, args=(str(cache.folder), barrier, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    right = [results.get(timeout=30) for _ in range(50)]
    for process in processes:
        process.join(timeout=30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert all(right)
    assert len(entries(cache)) == 25


# Memory


def test_memory_does_not_grow_with_the_video(cache: ArrayCache) -> None:
    rows = np.zeros((16, 3, 64, 64), np.uint8)  # 197 kB; 79 MB in all.
    tracemalloc.start()
    try:
        with cache.create(KEY) as writer:
            for _ in range(400):
                writer.append(rows)
        entry = cache.get(KEY)
        assert entry is not None
        part = np.array(entry.data[1000:1016])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert part.shape == (16, 3, 64, 64)
    assert entry.data.nbytes > 75_000_000
    assert peak < 1_000_000


@pytest.mark.parametrize(
    "view",
    [
        np.s_[:],
        np.s_[1:3],
        np.s_[:, 1],
        np.s_[::-1],
        np.s_[1:, 1, 2],
        np.s_[::2, :, ::-2],
    ],
    ids=str,
)
def test_pickled_it_is_still_a_mapped_file(cache: ArrayCache, view: Any) -> None:
    with cache.create(KEY) as writer:
        writer.append(np.arange(60_000, dtype=np.float32).reshape(5, 3, 4000))
    entry = cache.get(KEY)
    assert entry is not None
    expected = entry.data[view]
    data = pickle.dumps(expected)
    # Spawned loader processes get this; NumPy would send the content.
    assert len(data) < 500 + sys.getsizeof(str(cache.folder))
    again = pickle.loads(data)
    np.testing.assert_array_equal(again, expected)
    assert not again.flags.writeable
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again[1:])), expected[1:])


def test_what_is_computed_from_it_is_pickled_by_content(cache: ArrayCache) -> None:
    fill(cache)
    entry = cache.get(KEY)
    assert entry is not None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(entry.data + 1)), entry.data + 1)


# Hashes


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert file_hash(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_tensor_hash_sees_names_types_shapes_and_content() -> None:
    array = np.arange(4, dtype=np.float32)
    variants = [
        [("a", array)],
        [("b", array)],
        [("a", array.reshape(2, 2))],
        [("a", array.view(np.int32))],
        [("a", array[::-1])],
        [("a", array), ("b", array)],
        [],
    ]
    assert len({tensor_hash(variant) for variant in variants}) == len(variants)
    assert tensor_hash([("a", array[::2])]) == tensor_hash([("a", array[::2].copy())])


# Damage of the data, which nothing but checksums shows


def flip(path: Path, offset: int) -> None:
    """Another byte at ``offset``; size and time stay as they are."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def fill_large(cache: ArrayCache) -> Path:
    """An entry of four blocks and a piece; returns its folder."""
    with cache.create(KEY) as writer:
        writer.append(np.arange(1_100_000, dtype=np.uint8).reshape(-1, 1000))
    (name,) = entries(cache)
    return cache.folder / name


@pytest.mark.parametrize("offset", [0, 300_000, 1_099_999])
def test_a_flipped_byte_is_noticed_at_the_first_use(
    cache: ArrayCache,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    offset: int,
) -> None:
    # Then all blocks are compared, not a sample.
    monkeypatch.setattr("utils.data.array_cache._NUM_SAMPLED_BLOCKS", 0)
    folder = fill_large(cache)
    flip(folder / "data.raw", offset)
    with caplog.at_level(logging.WARNING):
        assert cache.get(KEY) is None
    block = offset // (256 * 1024)
    assert f"(block {block} of 5 is not what was written)" in caplog.text


def test_a_write_that_went_astray_is_noticed_later_too(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.data.array_cache._NUM_SAMPLED_BLOCKS", 0)
    folder = fill_large(cache)
    assert cache.get(KEY) is not None
    with open(folder / "data.raw", "r+b") as file:
        file.seek(700_000)
        file.write(b"?")
    assert cache.get(KEY) is None


def test_of_verified_data_a_few_blocks_are_read(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill_large(cache)
    assert cache.get(KEY) is not None
    flip(folder / "data.raw", 0)
    monkeypatch.setattr("utils.data.array_cache._NUM_SAMPLED_BLOCKS", 1)
    # Each use looks at another of the five; a thousand that all miss have probability 1e-97.
    num_uses = next(number for number in range(1000) if cache.get(KEY) is None)
    assert num_uses < 1000


@pytest.mark.parametrize("content", [None, b"", b"\0" * 20])
def test_checksums_that_are_damaged_themselves(cache: ArrayCache, content: bytes | None) -> None:
    folder = fill_large(cache)
    if content is None:
        (folder / "data.crc32").unlink()
    else:
        (folder / "data.crc32").write_bytes(content)
    assert cache.get(KEY) is None


# Room


def sized(cache: ArrayCache, number: int, num_bytes: int = 100_000) -> dict[str, Any]:
    key = {"number": number}
    with cache.create(key) as writer:
        writer.append(np.full((1, num_bytes), number, np.uint8))
    return key


def fill_in_another_process(cache: ArrayCache, *numbers: int) -> None:
    """Entries that no living run uses, each used a second after the one before."""
    process = multiprocessing.get_context("fork").Process(
        target=lambda: [sized(cache, number) for number in numbers]
    )
    process.start()
    process.join(timeout=30)
    assert process.exitcode == 0
    for age, number in enumerate(reversed(numbers), start=1):
        set_age(cache, number, age)
    for lease in (cache.folder / ".runs").glob("*.lease"):
        os.utime(lease, (0, 0))


def set_age(cache: ArrayCache, number: int, seconds: int) -> None:
    (header,) = (
        path
        for path in cache.folder.glob("*/entry.json")
        if json.loads(path.read_text())["key"] == {"number": number}
    )
    os.utime(header, (time.time() - seconds, time.time() - seconds))


def numbers_in(cache: ArrayCache) -> list[int]:
    headers = (json.loads(path.read_text()) for path in cache.folder.glob("*/entry.json"))
    return sorted(header["key"]["number"] for header in headers)


def test_what_was_not_used_for_longest_makes_way(cache: ArrayCache) -> None:
    fill_in_another_process(cache, 1, 2, 3)
    # Used again, but by a run that has ended.
    set_age(cache, 1, 0)
    bounded = ArrayCache(cache.folder, max_bytes=320_000)
    sized(bounded, 4)
    assert numbers_in(cache) == [1, 3, 4]


def test_using_an_entry_makes_it_young(cache: ArrayCache) -> None:
    fill_in_another_process(cache, 1, 2)
    assert cache.get({"number": 1}) is not None
    (used, _, folder), (older, _, _) = sorted(cache._entries(), reverse=True)
    assert json.loads((folder / "entry.json").read_text())["key"] == {"number": 1}
    assert used - older > 0.9e9


def test_what_this_run_uses_stays(cache: ArrayCache, caplog: pytest.LogCaptureFixture) -> None:
    bounded = ArrayCache(cache.folder, max_bytes=150_000)
    with caplog.at_level(logging.WARNING):
        for number in range(4):
            sized(bounded, number)
    assert numbers_in(cache) == [0, 1, 2, 3]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"the cache in {cache.folder} holds 0.0 GB that are in use, more than data.cache_max_gb "
        "(0.0)"
    )


def _use(cache: ArrayCache, key: dict[str, Any], ready: Any, done: Any) -> None:
    entry = cache.get(key)
    assert entry is not None
    ready.set()
    assert done.wait(30)
    assert (entry.data == key["number"]).all()


def test_what_another_living_run_uses_stays(cache: ArrayCache) -> None:
    fill_in_another_process(cache, 1, 2)
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_use, args=(cache, {"number": 1}, ready, done))
    other.start()
    assert ready.wait(30)
    set_age(cache, 1, 100)
    # However long ago it noted that, it lives.
    for lease in (cache.folder / ".runs").glob("*.lease"):
        os.utime(lease, (0, 0))
    bounded = ArrayCache(cache.folder, max_bytes=1)
    sized(bounded, 3)
    assert numbers_in(cache) == [1, 3]
    done.set()
    other.join(timeout=30)
    assert other.exitcode == 0
    for lease in (cache.folder / ".runs").glob("*.lease"):
        os.utime(lease, (0, 0))
    sized(bounded, 4)
    # It has ended, however it ended, and its lease is gone with it.
    assert numbers_in(cache) == [3, 4]
    assert len(list((cache.folder / ".runs").glob("*.lease"))) == 1


def test_an_entry_that_is_being_evicted_is_gone_or_held(cache: ArrayCache) -> None:
    """A run that asks while another evicts waits: it is not given what is about to go."""
    fill_in_another_process(cache, 1)
    results = multiprocessing.get_context("fork").Queue()
    asking = multiprocessing.get_context("fork").Process(
        target=lambda: results.put(cache.get({"number": 1}) is None)
    )
    with gate(cache.folder, exclusive=True):
        asking.start()
        asking.join(timeout=0.3)
        assert asking.is_alive()
        (folder,) = cache.folder.glob("[!.]*")
        cache._remove(folder)
    assert results.get(timeout=30)
    asking.join(timeout=30)


def test_where_nothing_is_known_of_other_runs_nothing_is_evicted(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_in_another_process(cache, 1, 2)
    monkeypatch.setattr("utils.data.cache_leases.fcntl", None)
    sized(ArrayCache(cache.folder, max_bytes=1), 3)
    assert numbers_in(cache) == [1, 2, 3]


def test_a_file_system_without_locks(cache: ArrayCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    fill_in_another_process(cache, 1, 2)
    monkeypatch.setattr("utils.data.cache_leases.fcntl.flock", refuse)
    os.mkdir(cache.folder / ".new-old")
    os.utime(cache.folder / ".new-old", (0, 0))
    sized(ArrayCache(cache.folder, max_bytes=1), 3)
    assert cache.get({"number": 3}) is not None
    assert numbers_in(cache) == [1, 2, 3]
    assert leftovers(cache) == [".new-old"]


def _fill_bounded(folder: Path, barrier: Any, results: Any) -> None:
    """Each entry is forgotten at once by a process of its own, as by many short runs."""
    cache = ArrayCache(folder, max_bytes=300_000)
    barrier.wait()
    for index in range(30):
        key = {"number": index % 6}
        if cache.get(key) is None:
            sized(cache, index % 6)
        entry = cache.get(key)
        results.put(entry is not None and bool((entry.data == index % 6).all()))


def test_two_bounded_runs_do_not_disturb_each_other(cache: ArrayCache) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_fill_bounded, args=(cache.folder, barrier, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert all(results.get(timeout=30) for _ in range(60))
    for process in processes:
        process.join(timeout=30)
    assert [process.exitcode for process in processes] == [0, 0]


# What a run that died left behind


def _die_while_writing(cache: ArrayCache) -> None:
    with cache.create({"number": 99}) as writer:
        writer.append(np.zeros((1, 10), np.uint8))
        os._exit(0)


def leftovers(cache: ArrayCache) -> list[str]:
    return [name for name in entries(cache) if name.startswith(".")]


def test_half_an_entry_of_a_dead_run_is_removed(cache: ArrayCache) -> None:
    dying = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(cache,))
    dying.start()
    dying.join(timeout=30)
    (folder,) = leftovers(cache)
    # Young: its maker may be about to lock it.
    sized(ArrayCache(cache.folder), 1)
    assert leftovers(cache) == [folder]
    os.utime(cache.folder / folder, (0, 0))
    sized(ArrayCache(cache.folder), 2)
    assert leftovers(cache) == []
    assert numbers_in(cache) == [1, 2]


def test_half_an_entry_of_a_living_run_is_left_alone(cache: ArrayCache) -> None:
    with cache.create({"number": 1}) as writer:
        writer.append(np.zeros((1, 10), np.uint8))
        (folder,) = leftovers(cache)
        os.utime(cache.folder / folder, (0, 0))
        sized(ArrayCache(cache.folder), 2)
        assert leftovers(cache) == [folder]
    assert numbers_in(cache) == [1, 2]


# What may become better


def forget_the_dead(cache: ArrayCache) -> None:
    for lease in (cache.folder / ".runs").glob("*.lease"):
        os.utime(lease, (0, 0))


def _break_off(folder: Path, seen: Any) -> None:
    cache = ArrayCache(folder)
    # A run asks first, and what it began with stays until it ends.
    seen.put(cache.get(KEY) is None)
    with cache.create(KEY) as writer:
        writer.append(np.full((2, 1), 1, np.uint8))
        writer.is_provisional = not writer.is_retry
    entry = ArrayCache(folder).get(KEY)
    seen.put(entry is not None and len(entry.data) == 2)


def break_off_in_another_process(cache: ArrayCache) -> list[bool]:
    context = multiprocessing.get_context("fork")
    seen = context.Queue()
    process = context.Process(target=_break_off, args=(cache.folder, seen))
    process.start()
    answers = [seen.get(timeout=30), seen.get(timeout=30)]
    process.join(timeout=30)
    assert process.exitcode == 0
    forget_the_dead(cache)
    return answers


def test_a_provisional_entry_is_made_anew_by_the_next_run(cache: ArrayCache) -> None:
    assert break_off_in_another_process(cache) == [True, True]
    assert cache.get(KEY) is None
    assert entries(cache) == []
    with cache.create(KEY) as writer:
        assert writer.is_retry
        writer.append(np.full((4, 1), 1, np.uint8))
    entry = cache.get(KEY)
    assert entry is not None
    assert len(entry.data) == 4


def test_a_provisional_entry_is_made_anew_once(cache: ArrayCache) -> None:
    for _ in range(2):
        assert break_off_in_another_process(cache) == [True, True]
    entry = cache.get(KEY)
    assert entry is not None, "the second run could do no better, and neither will the third"
    assert len(entry.data) == 2


def test_a_provisional_entry_stays_while_a_run_uses_it(cache: ArrayCache) -> None:
    with cache.create(KEY) as writer:
        assert not writer.is_retry
        writer.append(np.full((2, 1), 1, np.uint8))
        writer.is_provisional = True
    assert cache.get(KEY) is not None
    forget_the_dead(cache)
    assert ArrayCache(cache.folder).get(KEY) is not None


def test_a_provisional_entry_stays_where_nobody_knows_who_uses_it(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_in_another_process(cache)
    monkeypatch.setattr("utils.data.array_cache.names_in_use", lambda folder: None)
    assert cache.get(KEY) is not None


def test_a_provisional_entry_stays_where_the_cache_may_only_be_read(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_in_another_process(cache)

    def refuse(self: ArrayCache, folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ArrayCache, "_remove", refuse)
    assert cache.get(KEY) is not None
