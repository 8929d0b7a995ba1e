"""The committed page is what the types say."""

from __future__ import annotations

from pathlib import Path

import pytest

from psedge.config import Experiment
from psedge.config_docs import document, main
from psedge.config_types import fields_of, struct_in
from psedge.toml_config import load_config, tomllib

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "run `make docs`"


def test_every_key_is_described() -> None:
    def check(type_: type, place: str) -> int:
        count = 0
        for field in fields_of(type_).values():
            inner = struct_in(field.type)
            described = field.meta is not None and field.meta.description
            assert described or (inner and inner.__doc__), f"{place}{field.name} has no description"
            count += 1 + (check(inner, f"{place}{field.name}.") if inner else 0)
            assert f"`{field.name}`" in document() or f"`[{field.name}]`" in document()
        return count

    assert check(Experiment, "") > 50


def test_the_example_on_the_page_works() -> None:
    example = document().split("```toml\n")[1].split("```")[0]
    experiment = load_config(tomllib.loads(example))
    assert experiment.cluster.workers == 3


def test_bounds_choices_and_defaults_are_shown() -> None:
    page = document()
    assert "| `lr` | number, > 0 | `0.1` |" in page
    assert '| `mode` | `bsp`, `ssp`, `asp` | `"ssp"` |' in page
    assert "| `lag_bound` | integer, ≥ 0 | absent |" in page
    assert "| `factory` | string | required |" in page
    assert "| `betas` | 2 numbers | `[0.9, 0.999]` |" in page


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == document()
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
