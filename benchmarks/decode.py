"""Sampling 1080p video at 3 frames a second: this project's decoders beside others, and its cache.

Writes two minutes of 1080p30 H.264 with B-frames, once with a key frame every second and once with
one every 250 frames, and samples both at 256 pixels with every contestant in turn, round by round.
``python benchmarks/decode.py --help`` lists what can be changed. Needs an ``ffmpeg`` on the path;
torchcodec and OpenCV take part where they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

WIDTH, HEIGHT, FPS = 1920, 1080, 30
SAMPLING_FPS = 3
SHORT_SIDE = 256
THREADS = 2
BATCH = 16
"""Samples that decord, torchcodec and the cache give at once."""

TARGETS = {"pyav": 1.1, "pyav_nonref": 0.85}
"""At most this share of ffmpeg's own time."""

MIN_CACHE_FACTOR = 20


def main() -> None:
    """Write the videos, measure, print the tables and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=120, help="length of the video")
    parser.add_argument("--rounds", type=int, default=3, help="how often each one runs")
    parser.add_argument(
        "--gops", type=int, nargs="+", default=[30, 250], help="frames from key frame to key frame"
    )
    arguments = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        parser.error("there is no ffmpeg on the path to compare with; install it")
    print(f"machine: {machine()}")
    result: dict[str, object] = {
        "machine": machine(),
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for gop in arguments.gops:
            path = folder / f"gop_{gop}.mp4"
            print(f"writing {arguments.seconds} s of 1080p30, a key frame every {gop} frames ...")
            write_video(path, seconds=arguments.seconds, gop=gop)
            times = measure(path, arguments.rounds)
            result[f"gop_{gop}"] = report(gop, times, path)
        result["cache"] = cache_figures(folder / f"gop_{arguments.gops[0]}.mp4", folder)
    print("RESULT " + json.dumps(result))


def machine() -> str:
    """Processor and number of cores, as the system calls them."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name}, {os.cpu_count()} cores, {platform.system()}"


def write_video(path: Path, *, seconds: int, gop: int) -> None:
    """A textured scene that a camera pans over, with things that move and the noise of a sensor."""
    import av

    random = np.random.default_rng(0)
    # Coarse and fine structure, as pictures have; larger than the picture by how far it pans.
    scene = np.zeros((HEIGHT + 256, WIDTH + 512), np.float32)
    for cell in (8, 32, 128):
        rows, columns = scene.shape[0] // cell + 1, scene.shape[1] // cell + 1
        coarse = random.normal(0, 12 * (cell / 32) ** 0.5, (rows, columns)).astype(np.float32)
        scene += coarse.repeat(cell, 0).repeat(cell, 1)[: scene.shape[0], : scene.shape[1]]
    scene += 128
    grains = random.normal(0, 3, (8, HEIGHT, WIDTH)).astype(np.float32)
    chroma = np.full((HEIGHT // 2, WIDTH), 128, np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264",
            rate=FPS,
            options={
                "preset": "veryfast",
                "g": str(gop),
                "bf": "3",
                "crf": "23",
                "x264-params": "scenecut=0:b-adapt=0",
            },
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(seconds * FPS):
            top = round(128 + 120 * np.sin(number / 97))
            left = round(256 + 250 * np.sin(number / 151))
            luma = scene[top : top + HEIGHT, left : left + WIDTH] + grains[number % len(grains)]
            for actor in range(6):
                x = int((number * (3 + actor) + 300 * actor) % (WIDTH - 120))
                y = 100 + 150 * actor
                luma[y : y + 120, x : x + 120] = 40 + 35 * actor
            picture = np.concatenate([luma.clip(0, 255).astype(np.uint8), chroma])
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def bare_ffmpeg(path: Path) -> int:
    """Decodes everything and throws it away."""
    subprocess.run(  # noqa: S603 (a program and a file of our own)
        ["ffmpeg", "-v", "error", "-nostdin", "-threads", str(THREADS), "-i", str(path)]
        + ["-an", "-f", "null", "-"],
        check=True,
    )
    return 0


def sampled(path: Path, *, decoder: str, is_sparse: bool = False) -> int:
    """This project's way: decode everything, convert and scale what is sampled."""
    from utils.video.sampler import FrameSampler
    from utils.video.source import VideoSource

    sampler = FrameSampler(SAMPLING_FPS, short_side=SHORT_SIDE, is_sparse=is_sparse)
    with VideoSource.open(path, decoder=decoder) as source:
        num_samples = sum(1 for _ in sampler.stream(source))
        if source.loss:
            raise RuntimeError(f"{path}: {source.loss}")
        if is_sparse:
            print(
                f"  NONREF skipped {source.skipping.num_frames} frames, a sample is at most "
                f"{source.skipping.max_time_error_seconds:.3f} s late"
            )
    return num_samples


def batches(num_frames: int) -> Iterator[list[int]]:
    """Indices of the sampled frames, as many at once as a user of such a library would ask for."""
    indices = list(range(0, num_frames, FPS // SAMPLING_FPS))
    yield from (indices[start : start + BATCH] for start in range(0, len(indices), BATCH))


def with_decord(path: Path) -> int:
    """As its documentation advises: batches of indices, scaled by the reader."""
    import decord

    reader = decord.VideoReader(
        str(path), width=WIDTH * SHORT_SIDE // HEIGHT, height=SHORT_SIDE, num_threads=THREADS
    )
    return sum(len(reader.get_batch(batch).asnumpy()) for batch in batches(len(reader)))


def with_torchcodec(path: Path) -> int:
    """Exact mode, batches of indices, scaled by the decoder."""
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined, unused-ignore]
    from torchcodec.transforms import Resize  # type: ignore[attr-defined, unused-ignore]

    decoder = VideoDecoder(
        str(path),
        num_ffmpeg_threads=THREADS,
        transforms=[Resize((SHORT_SIDE, WIDTH * SHORT_SIDE // HEIGHT))],
    )
    return sum(len(decoder.get_frames_at(batch).data) for batch in batches(len(decoder)))


def with_opencv(path: Path) -> int:
    """Every frame is grabbed, what is sampled is converted and scaled."""
    import cv2  # type: ignore[import-not-found, unused-ignore]

    capture = cv2.VideoCapture(str(path))
    num_samples = number = 0
    while capture.grab():
        if number % (FPS // SAMPLING_FPS) == 0:
            is_there, picture = capture.retrieve()
            if not is_there:
                raise RuntimeError(f"{path}: OpenCV cannot retrieve frame {number}")
            size = (WIDTH * SHORT_SIDE // HEIGHT, SHORT_SIDE)
            cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            num_samples += 1
        number += 1
    capture.release()
    return num_samples


def contestants() -> dict[str, Callable[[Path], int]]:
    """In the order in which they run, round by round."""
    known: dict[str, tuple[str | None, Callable[[Path], int]]] = {
        "ffmpeg": (None, bare_ffmpeg),
        "pyav": (None, lambda path: sampled(path, decoder="pyav")),
        "pyav_nonref": (None, lambda path: sampled(path, decoder="pyav", is_sparse=True)),
        "pyav_isolated": (None, lambda path: sampled(path, decoder="pyav_isolated")),
        "decord": ("decord", with_decord),
        "torchcodec": ("torchcodec", with_torchcodec),
        "opencv": ("cv2", with_opencv),
    }
    found = {}
    for name, (package, run) in known.items():
        if package is None or importlib.util.find_spec(package) is not None:
            found[name] = run
        else:
            print(f"{name} is left out: {package} is not installed")
    return found


def measure(path: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; they take turns."""
    times: dict[str, list[float]] = {}
    num_expected: set[int] = set()
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}")
        for name, run in contestants().items():
            began = time.perf_counter()
            num_samples = run(path)
            times.setdefault(name, []).append(time.perf_counter() - began)
            if num_samples:
                num_expected.add(num_samples)
    if len(num_expected) != 1:
        raise RuntimeError(f"they gave different numbers of samples: {sorted(num_expected)}")
    return times


def report(gop: int, times: dict[str, list[float]], path: Path) -> dict[str, object]:
    """Print the table of one file; ratios are medians over rounds, each against its own round."""
    print(f"\nGOP {gop}, {path.stat().st_size / 2**20:.0f} MiB   median s   of ffmpeg   target")
    figures: dict[str, object] = {}
    for name, seconds in times.items():
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(seconds, times["ffmpeg"], strict=True)
        )
        target = f"<= {TARGETS[name]:.2f}" if name in TARGETS else ""
        print(f"{name:24}   {statistics.median(seconds):8.2f}   {ratio:9.2f}   {target}")
        figures[name] = {
            "median_seconds": round(statistics.median(seconds), 3),
            "of_ffmpeg": round(ratio, 3),
        }
    print()
    return figures


def cache_figures(path: Path, folder: Path) -> dict[str, float]:
    """Frames a second from the decoder into the cache, and from the cache as training reads it."""
    from utils.config.schema import DataConfig
    from utils.data.annotations import VideoAnnotation
    from utils.data.video_inputs import VideoInputsLoader

    config = DataConfig(
        frame_sampling_rate=SAMPLING_FPS, image_size=224, cache_dir=str(folder / "cache")
    )
    loader = VideoInputsLoader(config, ["event"])
    video = VideoAnnotation(video=path.name, path=path)
    began = time.perf_counter()
    num_frames = len(loader.load_frames(video))
    decoded = num_frames / (time.perf_counter() - began)
    inputs = loader.load_frames(video).inputs
    length = min(BATCH, num_frames)
    starts = np.random.default_rng(0).integers(0, num_frames - length + 1, 50)
    began = time.perf_counter()
    for start in starts:
        np.array(inputs[start : start + length])
    cached = len(starts) * length / (time.perf_counter() - began)
    print(f"decoder {decoded:.0f} frames/s   cache {cached:.0f} frames/s   ", end="")
    print(f"{cached / decoded:.0f} times, target >= {MIN_CACHE_FACTOR}")
    return {
        "decoder_frames_per_second": round(decoded, 1),
        "cache_frames_per_second": round(cached, 1),
        "factor": round(cached / decoded, 1),
    }


if __name__ == "__main__":
    main()
