"""What all tests share: Hypothesis draws the same examples in every run and never looks at time.
Nothing is written to the folders of the user who runs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("psedge", deadline=None, derandomize=True, database=None)
settings.load_profile("psedge")


@pytest.fixture(autouse=True, scope="session")
def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield
