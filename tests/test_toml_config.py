"""Defaults, file, flags; and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.config import Experiment
from psedge.protocol.errors import ConfigError
from psedge.toml_config import from_json, load_config, to_json, to_toml, tomllib
from psedge.toml_text import dumps

BASE: dict[str, Any] = {"model": {"factory": "mlp"}, "data": {"dataset": "digits"}}


def test_the_default_experiment_is_the_empty_file() -> None:
    assert load_config({}) == Experiment()


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text("[optimizer]\nlr = 1e-3\nmomentum = 0.5\n[cluster]\nworkers = 2\n")
    experiment = load_config(path, ["optimizer.lr=0.25", "sync.mode=bsp", "optimizer.lr=0.5"])
    assert experiment.name == "demo"
    assert experiment.optimizer.lr == 0.5
    assert experiment.optimizer.momentum == 0.5
    assert experiment.sync.mode == "bsp"
    assert experiment.cluster.workers == 2
    assert experiment.cluster.servers == 1


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("optimizer.kind=adam", "optimizer", "kind", "adam"),
        ('optimizer.kind="adam"', "optimizer", "kind", "adam"),
        ("optimizer.lr = 1e-2", "optimizer", "lr", 0.01),
        ("optimizer.lr=1", "optimizer", "lr", 1.0),
        ("optimizer.nesterov=true", "optimizer", "nesterov", True),
        ("optimizer.betas=[0.5, 0.6]", "optimizer", "betas", (0.5, 0.6)),
        ("sync.lag_bound=none", "sync", "lag_bound", None),
        ("compression.lossless=none", "compression", "lossless", "none"),
        ("sync.lag_bound=12", "sync", "lag_bound", 12),
        ("data.path=my photos/2024", "data", "path", "my photos/2024"),
        ("data.path=a=b", "data", "path", "a=b"),
        ("data.path=x\nlr = 3", "data", "path", "x\nlr = 3"),
    ],
)
def test_override_values(override: str, section: str, key: str, value: object) -> None:
    experiment = load_config({**BASE, "sync": {"lag_bound": 5}}, [override])
    assert getattr(getattr(experiment, section), key) == value


def test_overrides_reach_tables_and_lists_of_tables() -> None:
    flags = ["model.arguments.width=3", 'optimizer.groups=[{match="*.bias", weight_decay=0}]']
    experiment = load_config(BASE, flags)
    assert experiment.model is not None
    assert experiment.model.arguments == {"width": 3}
    assert experiment.optimizer.groups[0].weight_decay == 0.0
    assert "arguments" not in BASE["model"], "the caller's mapping is left as it is"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"optimizer": {"learning_rate": 1}},
         'config: [optimizer] has no key "learning_rate"; did you mean "lr"?'),
        ({"optimizer": {"momentun": 1}},
         'config: [optimizer] has no key "momentun"; did you mean "momentum"?'),
        ({"optimizr": {}},
         'config: the experiment has no key "optimizr"; did you mean "optimizer"?'),
        ({"lr": 1}, 'config: the experiment has no key "lr"; it belongs in [optimizer]'),
        ({"optimizer": {"batch_size": 1}},
         'config: [optimizer] has no key "batch_size"; it belongs in [data]'),
        ({"checkpoint": {"zzz": 1}},
         'config: [checkpoint] has no key "zzz"; known are evaluate_every_epochs, every_epochs, '
         "every_seconds, keep"),
        ({"optimizer": {"groups": [{"match": "a"}, {"mach": "b"}]}},
         'config: [optimizer.groups] has no key "mach"; did you mean "match"?'),
        ({"optimizer": {"groups": [{"lr": 1}]}},
         'config: [optimizer.groups] lacks the key "match"'),
        ({"optimizer": {"lr": "big"}}, 'config: [optimizer] lr = "big": expected a number'),
        ({"optimizer": {"lr": 0}}, "config: [optimizer] lr = 0: expected a number > 0.0"),
        ({"optimizer": {"lr": None}}, "config: [optimizer] lr = none: expected a number"),
        ({"compression": {"push": "float61"}},
         'config: [compression] push = "float61": must be one of auto, identity, float16, '
         'bfloat16, q8, q4, ternary, sign, ecsq, top-k, adacomp, power-sgd; '
         'did you mean "float16"?'),
        ({"optimizer": {"betas": [0.9]}},
         "config: [optimizer] betas = [0.9]: expected a list of length 2"),
        ({"optimizer": {"betas": [0.9, "x"]}},
         'config: [optimizer] betas = [0.9, "x"]: expected a number'),
        ({"cluster": {"servers": 1.5}}, "config: [cluster] servers = 1.5: expected a whole number"),
        ({"cluster": 3}, "config: cluster = 3: expected a table"),
        ({"seed": -1}, "config: seed = -1: expected a whole number >= 0"),
        ({"sync": {"lag_bound": -1}},
         "config: [sync] lag_bound = -1: expected a whole number >= 0, or leave it out"),
        ({"model": {}}, 'config: [model] lacks the key "factory"'),
        ({"optimizer": {"nesterov": 1}},
         "config: [optimizer] nesterov = 1: expected true or false"),
    ],
)  # fmt: skip
def test_mistakes_name_place_key_and_expectation(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=abc", '--set: [optimizer] lr = "abc": expected a number'),
        ("optimizer.lr=none", '--set: [optimizer] lr = "none": expected a number'),
        ("optimizer.lr", "--set optimizer.lr: expected section.key=value"),
        ("=3", "--set =3: expected section.key=value"),
        ("optimizer..lr=3", "--set optimizer..lr=3: expected section.key=value"),
        ("seed.x=3", "--set seed.x=3: seed is a value, it has no keys"),
        ("optimizer.lrr=3", 'did you mean "lr"?'),
    ],
)
def test_mistakes_in_flags(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"seed": 1}, [override])
    assert message in str(caught.value)


def test_mistakes_in_files_name_the_file(tmp_path: Path) -> None:
    good = tmp_path / "digits.toml"
    good.write_text("[optimizer]\nlrate = 3\n")
    with pytest.raises(ConfigError, match=r"digits\.toml: \[optimizer\] has no key"):
        load_config(good)
    good.write_text("[optimizer]\nlr = = 3\n")
    with pytest.raises(ConfigError, match=r"digits\.toml: not valid TOML: .*line 2"):
        load_config(good)
    with pytest.raises(
        ConfigError, match=r"digit\.toml: no such file; did you mean .*digits\.toml"
    ):
        load_config(tmp_path / "digit.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)
    good.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no text; a config is a TOML file"):
        load_config(good)


def test_a_mistake_in_a_flag_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    file = tmp_path / "digits.toml"
    file.write_text("seed = 1\n")
    with pytest.raises(ConfigError, match=r'^--set: \[optimizer\] has no key "rate"'):
        load_config(file, ["optimizer.rate=1"])
    with pytest.raises(ConfigError, match=r'^--set: the experiment has no key "optimiser"'):
        load_config(file, ["optimiser.lr=1"])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"optimizer": {"betas": [0.9, 1.0]}}, "betas = [0.9, 1.0]: each must be"),
        ({"optimizer": {"lr": float("inf")}}, "lr = inf: expected a finite number"),
        ({"optimizer": {"kind": "adam", "nesterov": True}}, 'nesterov = true is for kind = "sgd"'),
        ({"optimizer": {"momentum": 0, "nesterov": True}}, "needs momentum above 0"),
        ({"optimizer": {"groups": [{"match": "a", "lr": -1}]}}, "lr = -1.0 of match"),
        ({"optimizer": {"arguments": {"a": 1}}}, "arguments are for a factory"),
        ({"schedule": {"milestones": [3]}}, 'belong to kind = "step"'),
        ({"schedule": {"kind": "step"}}, "needs milestones"),
        ({"schedule": {"kind": "step", "milestones": [5, 3]}}, "must be above 0 and rise"),
        ({"schedule": {"kind": "step", "milestones": [3, 10]}}, "not before the end"),
        ({"schedule": {"warmup": 10}}, "warmup = 10 is not shorter than length = 10 epochs"),
        ({"schedule": {"kind": "one-cycle"}}, "needs a warmup"),
        ({"sync": {"local_steps": 4}, "worker": {"overlap": True}}, "choose one"),
        ({"sync": {"local_steps": 4}, "worker": {"accumulate": 2}}, "take a larger batch_size"),
        ({"sync": {"mode": "bsp"}, "optimizer": {"delay_compensation": 0.1}}, "is for [sync] mode"),
        ({"sync": {"local_steps": 4}, "optimizer": {"delay_compensation": 0.1}}, "cannot go with"),
        ({"worker": {"overlap": True}, "optimizer": {"delay_compensation": 0.1}}, "overlap = true"),
        (
            {"compression": {"pull_chain": "shared"}, "optimizer": {"delay_compensation": 0.1}},
            'pull_chain = "shared"',
        ),
        (
            {"cluster": {"servers": 3}, "optimizer": {"delay_compensation": 0.1}},
            "cannot go with [replication] replicas = 2",
        ),
        (
            {"durability": {"log": "group"}, "optimizer": {"delay_compensation": 0.1}},
            'cannot go with [durability] log = "group"',
        ),
        ({"optimizer": {"delay_compensation": float("inf")}}, "expected a finite number"),
        ({"data": {"dataset": "digits"}}, "[data] without [model]"),
        ({"model": {"factory": "mlp"}}, "[model] without [data]"),
        ({**BASE, "data": {"dataset": "npz", "path": "../x"}}, "leaves the data folder"),
        ({**BASE, "data": {"dataset": "npz", "path": "/etc"}}, "leaves the data folder"),
        ({**BASE, "data": {"dataset": "npz", "path": "C:\\x"}}, "leaves the data folder"),
        ({"cluster": {"lease_seconds": 2}}, "more than twice"),
        ({"cluster": {"pace": [0.5]}}, "1 is full speed"),
    ],
)
def test_rules_that_tie_keys_together(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_resolved_config_reads_back_the_same() -> None:
    flags = [
        "optimizer.groups=[{match='*.bias'}, {match='b.*', lr=1}]",
        'model.arguments={"odd key"=[1, {a=2.5}], b={c=true}}',
        "data.augment=['crop']",
        "sync.lag_bound=7",
    ]
    experiment = load_config(BASE, flags)
    assert load_config(tomllib.loads(to_toml(experiment))) == experiment
    assert from_json(msgspec.json.decode(msgspec.json.encode(to_json(experiment)))) == experiment


def test_every_shipped_config_is_right() -> None:
    shipped = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
    assert shipped
    for path in shipped:
        assert load_config(path).name


_KEYS = st.text(min_size=1, max_size=5)
_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_toml_text_reads_back_the_same(table: dict[str, Any]) -> None:
    assert tomllib.loads(dumps(table)) == table


def test_toml_leaves_none_out_and_refuses_objects() -> None:
    assert tomllib.loads(dumps({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}
    with pytest.raises(TypeError, match="TOML has no set"):
        dumps({"a": {1}})
