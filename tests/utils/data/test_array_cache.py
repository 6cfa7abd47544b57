"""The cache: whole entries or none, two runs at once, damage, full disks, memory."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import resource
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils.data.array_cache import ArrayCache, CacheError, file_hash, tensor_hash
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
    return sorted(os.listdir(cache.folder))


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
