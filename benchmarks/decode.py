"""Sampling 1080p video at 3 frames a second: this project's decoders beside others, and its cache.

Writes two minutes of 1080p30 H.264 as x264 makes it by default, with B-frames, once with a key
frame every second and once with one every 250 frames, and samples both at 256 pixels with every
contestant in turn, round by round, on two cores. The figure that counts is a contestant's time as a
share of what bare ``ffmpeg -threads 2`` took in the same round; beside it stand the CPU seconds,
which hang less on what else the machine does. A round in which other programs took a part of the
cores is measured again. ``python benchmarks/decode.py --help`` lists what can be changed. Needs an
``ffmpeg`` on the path; torchcodec and OpenCV take part where they are installed
(``pip install '.[bench]'``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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

WARM_UP_SECONDS = 2
"""Length of the video that each contestant reads first: what it imports is then in memory."""

MAX_OTHERS_SHARE = 0.05
"""A round counts as disturbed where other programs took more than this part of our cores."""

TRIES_PER_ROUND = 3

Contestants = dict[str, Callable[[Path], int]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One contestant in one round.

    Attributes:
        seconds: On the clock.
        cpu_seconds: Of all cores, in this process and those that it started.
        others_share: What other programs took of our cores meanwhile; 0 where nobody can tell.
    """

    seconds: float
    cpu_seconds: float
    others_share: float


def main() -> None:
    """Write the videos, measure, print the tables and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=120, help="length of the video")
    parser.add_argument("--rounds", type=int, default=5, help="how often each one runs")
    parser.add_argument(
        "--gops", type=int, nargs="+", default=[30, 250], help="frames from key frame to key frame"
    )
    arguments = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        parser.error("there is no ffmpeg on the path to compare with; install it")
    print(f"machine: {machine()}")
    cores = take_cores()
    running, busiest = contestants(), 0.0
    result: dict[str, object] = {
        "machine": machine(),
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm_up(running, folder)
        for gop in arguments.gops:
            path = folder / f"gop_{gop}.mp4"
            print(f"writing {arguments.seconds} s of 1080p30, a key frame every {gop} frames ...")
            write_video(path, seconds=arguments.seconds, gop=gop)
            rounds = measure(running, path, num_rounds=arguments.rounds, cores=cores)
            result[f"gop_{gop}"] = report(gop, list(running), rounds, path)
            busiest = max(busiest, others_share(rounds))
        result["other_programs_share_of_cores"] = round(busiest, 3)
        result["cache"] = cache_figures(folder / f"gop_{arguments.gops[0]}.mp4", folder)
    print("RESULT " + json.dumps(result))


def take_cores() -> list[int]:
    """Run on `THREADS` cores alone, where the system lets one choose; returns which.

    Decoders that take as many threads as there are cores then have no more of them than ffmpeg.
    """
    if not hasattr(os, "sched_setaffinity"):
        print(f"this system lets nobody choose cores; all but ffmpeg may use more than {THREADS}")
        return []
    cores = sorted(os.sched_getaffinity(0))[:THREADS]
    os.sched_setaffinity(0, cores)
    return cores


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
            # All else is x264's own choice: three B-frames in a row, of which one is referred to.
            options={"g": str(gop)},
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
    return num_samples


def skipping(path: Path) -> str:
    """What NONREF leaves out of a file, and what that does to the times."""
    from utils.video.sampler import FrameSampler
    from utils.video.source import VideoSource

    with VideoSource.open(path) as source:
        for _ in FrameSampler(SAMPLING_FPS, short_side=SHORT_SIDE, is_sparse=True).stream(source):
            pass
        return str(source.skipping)


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

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, THREADS])
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


def contestants() -> Contestants:
    """In the order in which they run."""
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
            print(f"{name} is left out: {package} is not installed; run: pip install '.[bench]'")
    return found


def warm_up(running: Contestants, folder: Path) -> None:
    """Let every contestant import what it needs and find its files in memory."""
    path = folder / "warm_up.mp4"
    write_video(path, seconds=WARM_UP_SECONDS, gop=FPS)
    for run in running.values():
        run(path)


def measure(
    running: Contestants, path: Path, *, num_rounds: int, cores: Sequence[int]
) -> list[dict[str, Run]]:
    """Rounds in which nobody disturbed; all of them where there is none such.

    In every other round they run in the opposite order: none always follows the same one.
    """
    tried: list[dict[str, Run]] = []
    quiet: list[dict[str, Run]] = []
    num_samples: set[int] = set()
    while len(quiet) < num_rounds and len(tried) < TRIES_PER_ROUND * num_rounds:
        names = list(running) if len(tried) % 2 == 0 else list(running)[::-1]
        measured = {}
        for name in names:
            measured[name], given = timed(running[name], path, cores)
            if name != "ffmpeg":
                num_samples.add(given)
        tried.append(measured)
        others = others_share([measured])
        if others <= MAX_OTHERS_SHARE:
            quiet.append(measured)
        print(
            f"round {len(tried)}: {len(quiet)} of {num_rounds} are undisturbed; other programs "
            f"took up to {others:.0%} of the cores"
        )
    if len(num_samples) != 1:
        raise RuntimeError(f"they gave different numbers of samples: {sorted(num_samples)}")
    return quiet or tried


def timed(run: Callable[[Path], int], path: Path, cores: Sequence[int]) -> tuple[Run, int]:
    """What a contestant took, and how many samples it gave."""
    busy_before, cpu_before, began = busy_seconds(cores), cpu_seconds(), time.perf_counter()
    num_samples = run(path)
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu_before
    others = max(0.0, busy_seconds(cores) - busy_before - cpu)
    share = others / (seconds * len(cores)) if cores else 0.0
    return Run(seconds=seconds, cpu_seconds=cpu, others_share=share), num_samples


def cpu_seconds() -> float:
    """Spent so far by this process and by those that it started and that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def busy_seconds(cores: Sequence[int]) -> float:
    """Spent so far by these cores on anything at all; 0 where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    ticks = 0
    for line in stat.read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name in {f"cpu{core}" for core in cores}:
            # Without the two kinds of idling, and without guests, who are counted as users too.
            user, nice, system, _, _, *interrupts_and_stolen = map(int, fields[:8])
            ticks += user + nice + system + sum(interrupts_and_stolen)
    return ticks / os.sysconf("SC_CLK_TCK")


def report(
    gop: int, names: Sequence[str], rounds: Sequence[dict[str, Run]], path: Path
) -> dict[str, object]:
    """Print the table of one file; shares are medians over rounds, each against its own round."""
    print(f"\nGOP {gop}, {path.stat().st_size / 2**20:.0f} MiB; {skipping(path)} with NONREF")
    print(f"{'':16}{'s':>8}{'of ffmpeg':>12}{'from - to':>16}{'CPU s':>8}{'of ffmpeg':>12}")
    figures: dict[str, object] = {}
    for name in names:
        runs = [measured[name] for measured in rounds]
        bare = [measured["ffmpeg"] for measured in rounds]
        pairs = list(zip(runs, bare, strict=True))
        shares = sorted(ours.seconds / theirs.seconds for ours, theirs in pairs)
        share = statistics.median(shares)
        cpu_share = statistics.median(
            ours.cpu_seconds / theirs.cpu_seconds for ours, theirs in pairs
        )
        seconds = statistics.median(run.seconds for run in runs)
        cpu = statistics.median(run.cpu_seconds for run in runs)
        target = f"   target <= {TARGETS[name]:.2f}" if name in TARGETS else ""
        print(
            f"{name:16}{seconds:8.2f}{share:12.2f}{shares[0]:9.2f} - {shares[-1]:4.2f}{cpu:8.2f}"
            f"{cpu_share:12.2f}{target}"
        )
        figures[name] = {
            "median_seconds": round(seconds, 3),
            "of_ffmpeg": round(share, 3),
            "lowest": round(shares[0], 3),
            "highest": round(shares[-1], 3),
            "cpu_seconds": round(cpu, 3),
            "cpu_of_ffmpeg": round(cpu_share, 3),
        }
    print(f"{len(rounds)} rounds; other programs: up to {others_share(rounds):.0%} of the cores\n")
    return figures


def others_share(rounds: Sequence[dict[str, Run]]) -> float:
    """The most that other programs took of our cores while anyone ran."""
    return max(run.others_share for measured in rounds for run in measured.values())


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
