"""Power cuts: nothing acknowledged is lost, nothing is invented, and no cut is ever taken for damage."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.rigs.cuts import images
from tests.rigs.scale import pick


@pytest.mark.fault("P13", "C01")
@pytest.mark.parametrize("media", [False, True])
def test_a_power_cut_loses_nothing_acknowledged_and_invents_nothing(tmp_path: Path, media: bool) -> None:
    count = pick(60, 2000)
    for number, wrong in enumerate(islice(images(tmp_path, seed=20, media=media), count)):
        assert not wrong, (number, wrong)
    print(f"{count} power-cut images")
