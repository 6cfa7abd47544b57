"""Reading configs: numbers, overrides, variables, hostile files, and how errors are worded."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config import CONFIG_FOLDER, Config, find_config, load_config, parse_config
from utils.errors import ConfigError

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_config(content: str | bytes) -> Path:
        path = tmp_path / "my.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_config


def message_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **options)
    return str(caught.value)


# Finding


def test_a_path_is_taken_as_it_is(write: Write) -> None:
    path = write("training: {seed: 7}")
    assert find_config(path) == path
    assert load_config(path).training.seed == 7


@pytest.mark.parametrize("name", ["config", "config.yaml", "./config.yaml"])
def test_a_name_is_looked_up_in_configs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name).samefile(CONFIG_FOLDER / "config.yaml")


def test_a_path_of_the_checkout_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``configs/config.yaml`` is what commands without ``--config`` ask for."""
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/config.yaml").samefile(CONFIG_FOLDER / "config.yaml")
    own = tmp_path / "configs" / "config.yaml"
    own.parent.mkdir()
    own.write_text("training: {seed: 9}")
    assert load_config("configs/config.yaml").training.seed == 9


def test_a_file_of_the_working_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("training: {seed: 9}")
    assert load_config("config.yaml").training.seed == 9


def test_an_unknown_name_lists_the_known_ones() -> None:
    message = message_of(find_config, "fight_surveilance.yaml")
    assert message.startswith("config 'fight_surveilance.yaml' is neither a file nor in configs/")
    assert "config.yaml, " in message
    assert message.endswith("(did you mean 'fight_surveillance.yaml'?)")


@pytest.mark.parametrize("name", ["", ".", "a\0b"])
def test_odd_names_are_unknown_names(name: str) -> None:
    assert "neither a file" in message_of(find_config, name)


def test_a_name_too_long_for_the_file_system() -> None:
    assert message_of(find_config, "x" * 5000).endswith("cannot be read: File name too long")


# Numbers and other values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("+1e4", 1e4),
        ("1.5e3", 1.5e3),
        (".5e-3", 5e-4),
        ("2.e1", 20.0),
        ("3", 3.0),
        ("0.25", 0.25),
    ],
)
def test_floats_as_people_write_them(write: Write, text: str, value: float) -> None:
    config = load_config(write(f"training:\n  learning_rate: {text}\n"))
    assert config.training.learning_rate == value


@pytest.mark.parametrize("text", ["e4", "1e", "1e-4s", "..5e3", "1-e4"])
def test_what_only_resembles_a_float_is_text(write: Write, text: str) -> None:
    message = message_of(load_config, write(f"training:\n  learning_rate: {text}\n"))
    assert message.endswith(
        "training.learning_rate: should be a valid number, unable to parse string as a number, "
        f"got '{text}'"
    )


@pytest.mark.parametrize("key", ["training.learning_rate", "training.loss.focal_gamma"])
@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "1e400"])
def test_no_number_is_infinite_or_nan(key: str, text: str) -> None:
    message = message_of(load_config, overrides=[f"{key}={text}"])
    assert f"{key}: should be a finite number, got " in message


@pytest.mark.parametrize(
    "key",
    ["batch_size", "learning_rate", "event_fraction", "max_gradient_norm", "seed", "weight_decay"],
)
def test_yes_is_no_number(key: str) -> None:
    message = message_of(load_config, overrides=[f"training.{key}=yes"])
    assert message == (f"--set training.{key}=yes: training.{key}: should be a number, got True")


def test_empty_files_and_sections_are_all_defaults(write: Write) -> None:
    assert load_config(write("")) == Config()
    assert load_config(write("# nothing\n")) == Config()
    assert load_config(write("training:\nmodel:\n  visual_encoder:\n")) == Config()


def test_a_byte_order_mark_is_read_over(write: Write) -> None:
    assert load_config(write(b"\xef\xbb\xbftraining: {seed: 3}")).training.seed == 3


# Overrides


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("training.learning_rate=1e-4", lambda c: c.training.learning_rate, 1e-4),
        ("data.cache_dir=null", lambda c: c.data.cache_dir, None),
        ("data.cache_dir=", lambda c: c.data.cache_dir, None),
        ("data.cache_dir=a=b", lambda c: c.data.cache_dir, "a=b"),
        (" training.seed =5", lambda c: c.training.seed, 5),
        ("model.labels=[fall, 'on']", lambda c: c.model.labels, ["fall", "on"]),
        (
            "model.trigger_detector.hidden_dims=[]",
            lambda c: c.model.trigger_detector.hidden_dims,
            [],
        ),
        ("model.visual_encoder.weights=none", lambda c: c.model.visual_encoder.weights, None),
        ("model.visual_encoder.weights=None", lambda c: c.model.visual_encoder.weights, None),
        ("training.loss={type: focal}", lambda c: c.training.loss.type, "focal"),
        ("training.loss.positive_weight=auto", lambda c: c.training.loss.positive_weight, "auto"),
        ("training.loss.positive_weight=3", lambda c: c.training.loss.positive_weight, 3.0),
        ("inference.save_scores=true", lambda c: c.inference.save_scores, True),
    ],
)
def test_overrides(override: str, get: Callable[[Config], Any], value: Any) -> None:
    got = get(load_config(overrides=[override]))
    assert got == value
    assert type(got) is type(value)


def test_the_last_override_wins_over_file_and_earlier_ones(write: Write) -> None:
    path = write("training: {seed: 1, batch_size: 4}")
    config = load_config(path, ["training.seed=2", "training.seed=3"])
    assert (config.training.seed, config.training.batch_size) == (3, 4)


@pytest.mark.parametrize("override", ["=x", "seed", "seed=1", ".=1", "a.=1", ".b=1", "a..b=1", ""])
def test_an_override_that_names_no_key(override: str) -> None:
    message = message_of(load_config, overrides=[override])
    assert message == f"--set {override}: write it as section.key=value"


def test_an_override_below_a_value() -> None:
    message = message_of(load_config, overrides=["training.seed.x=1"])
    assert message == "--set training.seed.x=1: 'training.seed' is a value, not a section"


def test_an_override_that_is_no_yaml() -> None:
    message = message_of(load_config, overrides=["training.seed=[1"])
    assert message.startswith("--set training.seed=[1: not valid YAML: ")


def test_an_error_names_the_override_or_the_file_that_caused_it(write: Write) -> None:
    path = write("training: {sed: 1}")
    message = message_of(load_config, path, ["training.lerning_rate=1", "data.image_size=3"])
    parts = message.split("; ")
    assert f"{path}: unknown key 'sed' in 'training'" in parts
    assert "--set training.lerning_rate=1: unknown key 'lerning_rate' in 'training'" in parts
    assert (
        "--set data.image_size=3: data.image_size: should be greater than or equal to 16, got 3"
        in parts
    )


def test_of_several_overrides_of_a_key_the_last_is_blamed() -> None:
    section, key = "training.loss={focal_alpha: 5}", "training.loss.focal_alpha=-1"
    for overrides in ([key, section], [section, key]):
        message = message_of(load_config, overrides=["data.decoder=pyav", *overrides])
        assert message.startswith(f"--set {overrides[-1]}: training.loss.focal_alpha: ")


# Variables


def test_variables_are_taken_from_the_environment(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "/videos")
    monkeypatch.setenv("WORKERS", "2")
    path = write(
        "data:\n  train_annotations: ${PLACE}/a/${PLACE}.json\n  num_workers: ${WORKERS}\n"
        "model: {labels: ['${PLACE}', $PLACE]}\n"
    )
    config = load_config(path, ["data.val_annotations=${PLACE}/b.json"])
    assert config.data.train_annotations == "/videos/a//videos.json"
    assert config.data.val_annotations == "/videos/b.json"
    assert config.data.num_workers == 2
    assert config.model.labels == ["/videos", "$PLACE"]


def test_a_value_of_the_environment_is_not_looked_into(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTER", "${INNER}")
    monkeypatch.delenv("INNER", raising=False)
    assert load_config(write("data: {cache_dir: '${OUTER}'}")).data.cache_dir == "${INNER}"


def test_an_unset_variable_is_an_error_where_it_is_needed(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    path = write("data: {cache_dir: '${NOT_SET}/cache'}")
    assert message_of(load_config, path) == (
        f"{path}: data.cache_dir uses ${{NOT_SET}}, which is not set; run: export NOT_SET=..."
    )
    assert load_config(path, interpolate=("events",)).data.cache_dir == "${NOT_SET}/cache"
    assert "which is not set" in message_of(load_config, path, interpolate=("data",))


# Errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"trainig": {}},
            "unknown key 'trainig'; known: data, events, freezing, inference, model, training "
            "(did you mean 'training'?)",
        ),
        (
            {"training": {"learning_rates": {"backbone": 1}}},
            "unknown key 'backbone' in 'training.learning_rates'; known: time_aware_encoder, "
            "trigger_detector, visual_backbone (did you mean 'visual_backbone'?)",
        ),
        (
            {"training": {"loss": {"positive_weight": "automatic"}}},
            "training.loss.positive_weight: should be a valid number, unable to parse string as a "
            "number, or should be 'auto', got 'automatic'",
        ),
        (
            {"training": {"loss": {"positive_weight": -1}}},
            "training.loss.positive_weight: should be greater than 0, or should be 'auto', got -1",
        ),
        (
            {"data": {"resize_mode": "squash"}},
            "data.resize_mode: should be 'crop', 'stretch' or 'letterbox', got 'squash'",
        ),
        (
            {"data": {"train_annotations": 5}},
            "data.train_annotations: should be a valid string, got 5",
        ),
        ({"data": [1]}, "data: should be a section with keys of its own, got [1]"),
        ({"data": {1: 2}}, "data.1: keys should be strings, got 1"),
        ({1: {}}, "1: keys should be strings, got 1"),
        (
            {"model": {"trigger_detector": {"hidden_dims": [8, 0]}}},
            "model.trigger_detector.hidden_dims[1]: should be greater than or equal to 1, got 0",
        ),
        (
            {"training": {"batch_size": 1.5}},
            "training.batch_size: should be a valid integer, got a number with a fractional part, "
            "got 1.5",
        ),
        (
            {"training": {"seed": 2**32}},
            "training.seed: should be less than 4294967296, got 4294967296",
        ),
        (
            {"model": {"labels": ["a", "a"]}},
            "model.labels: must name each class once, or be null, got ['a', 'a']",
        ),
        ({"model": {"labels": []}}, "model.labels: must name each class once, or be null, got []"),
        (
            {"model": {"labels": ["a", " "]}},
            "model.labels: must not hold an empty name, got ['a', ' ']",
        ),
        (
            {"model": {"labels": ["a"], "trigger_detector": {"num_classes": 3}}},
            "model: trigger_detector.num_classes is 3 but labels names 1: ['a']; leave "
            "num_classes null",
        ),
        (
            {"freezing": {"llm_base": False}},
            "freezing.llm_base: must be true; the describer's base model is never trained here, "
            "got False",
        ),
        (
            {"training": {"cache_features": True}},
            "training.cache_features needs freezing.visual_backbone: true; features of a backbone "
            "that learns would be stale after one step",
        ),
        (
            {
                "training": {"cache_features": True},
                "freezing": {"visual_backbone": True},
                "data": {"cache_dir": None},
            },
            "training.cache_features needs data.cache_dir, which is null",
        ),
        (
            {"model": {"visual_encoder": {"appearance": False}}},
            "model.visual_encoder: appearance and motion.enabled are both false: the encoder would "
            "see nothing; set one of them to true",
        ),
        (
            {"model": {"visual_encoder": {"feature_norm": "standard"}}},
            "model.visual_encoder.feature_norm: standard takes mean and spread from the cached "
            "features of the training videos; set training.cache_features to true, or the norm to "
            "layer",
        ),
    ],
)
def test_wording(content: dict[Any, Any], message: str) -> None:
    assert message_of(parse_config, content, origin="here") == f"here: {message}"


def test_every_error_is_named_at_once() -> None:
    message = message_of(parse_config, {"data": {"image_size": 1}, "training": {"batch_size": 0}})
    assert message == (
        "config: data.image_size: should be greater than or equal to 16, got 1; "
        "config: training.batch_size: should be greater than or equal to 1, got 0"
    )


@pytest.mark.parametrize("content", [[1], "text", None])
def test_a_checkpoint_whose_config_is_none(content: Any) -> None:
    message = message_of(parse_config, content, origin="x.pt")
    assert message == f"x.pt: must be sections such as 'data' and 'model', got {content!r}"


# Files that are wrong or hostile

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAUGHS, "aliases (*name) are not allowed in a config"),
        ("data: &d {}\nmodel: *d\n", "aliases (*name) are not allowed in a config"),
        ("data: !!python/object/apply:os.system ['touch hacked']", "could not determine"),
        ("data: !!python/name:os.system", "could not determine"),
        ("data: {seed: 1, seed: 2}", "the key 'seed' is given twice"),
        ("data:\n  a: 1\ntraining:\ndata:\n", "the key 'data' is given twice"),
        ("? [a, b]\n: 1\n", "unhashable key"),
        ("? {a: b}\n: 1\n", "unhashable key"),
        ("data: {<<: {a: 1}}", "could not determine"),
        ("data: [1", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("\ttraining: 1", "not valid YAML"),
        ("--- {}\n--- {}\n", "expected a single document"),
        ("data: \x01", "not valid YAML"),
        ("training: {seed: " + "9" * 5000 + "}", "not valid YAML"),
        ("[" * 60_000, "not valid YAML"),
        ("{a: " * 20_000, "not valid YAML"),
        ("- a\n- b\n", "the top level must be sections such as 'data:' and 'model:'"),
        ("just text", "the top level must be sections such as 'data:' and 'model:'"),
        (b"data: \xff\xfe", "cannot be read: 'utf-8' codec"),
        (b"#" * ((1 << 17) + 1), "larger than 131072 bytes; that is no config"),
    ],
    ids=range(21),
)
def test_hostile_files(
    write: Write,
    content: str | bytes,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(content)
    message = message_of(load_config, path)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert len(message) < 1000
    assert not (tmp_path / "hacked").exists()


def test_a_file_without_permission(write: Write) -> None:
    path = write("training: {}")
    path.chmod(0)
    try:
        try:
            path.read_bytes()
        except PermissionError:
            assert "Permission denied" in message_of(load_config, path)
        else:
            pytest.skip("this user may read every file")
    finally:
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)


# Round trip


@settings(deadline=None, max_examples=25)
@given(
    learning_rate=st.floats(min_value=0, exclude_min=True, max_value=10_000),
    labels=st.none()
    | st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4, unique=True),
    positive_weight=st.none() | st.just("auto") | st.floats(min_value=1e-3, max_value=1e3),
    hidden_dims=st.lists(st.integers(1, 4096), max_size=3),
)
def test_plain_data_round_trip(
    learning_rate: float,
    labels: list[str] | None,
    positive_weight: float | str | None,
    hidden_dims: list[int],
) -> None:
    content = {
        "model": {"labels": labels, "trigger_detector": {"hidden_dims": hidden_dims}},
        "training": {"learning_rate": learning_rate, "loss": {"positive_weight": positive_weight}},
    }
    config = Config.model_validate(content)
    assert Config.model_validate(config.to_plain()) == config
    assert config.training.learning_rate == learning_rate
    assert config.model.labels == labels


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{fight: 4}", "of 'fight' should be above 0 and at most 1, got 4"),
        ("{fight: x}", "should be a valid number, unable to parse string as a number, got 'x'"),
        ("4", "should be less than or equal to 1, got 4"),
    ],
)
def test_only_the_branch_that_was_meant_is_complained_of(
    write: Write, text: str, said: str
) -> None:
    path = write(f"model: {{labels: [fight], trigger_detector: {{threshold: {text}}}}}")
    key = "model.trigger_detector.threshold"
    assert message_of(load_config, path) == f"{path}: {key}: {said}"
