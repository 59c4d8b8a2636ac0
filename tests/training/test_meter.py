"""The means of a record, and which optimizers skipped updates in it."""

from __future__ import annotations

import torch

from cyclegan_fast.training.meter import Meter


def test_updates_that_were_skipped_count_in_their_record_alone() -> None:
    """fp16 skips some at its start, which says nothing of what happens later."""
    G, D = torch.zeros(()), torch.zeros(())
    meter = Meter({"the generators": G, "the discriminators": D})

    def step(loss: float, *updated: torch.Tensor) -> None:
        for count in updated:
            count += 1
        meter.add({"G": torch.tensor(loss)})

    step(1.0, G), step(3.0, G, D)
    assert meter.skipped() == ["the discriminators"] and meter.means() == {"G": 2.0}
    meter.reset()
    step(5.0, D), step(7.0, D)
    assert meter.skipped() == ["the generators"] and meter.means() == {"G": 6.0}
    meter.reset()
    step(1.0, G, D)
    assert meter.skipped() == []
    resumed = Meter({"the generators": G, "the discriminators": D})
    resumed.begin(lambda: 0.0, done=5)
    resumed.add({"G": torch.tensor(1.0)})
    assert resumed.skipped() == ["the generators", "the discriminators"]  # neither was updated in this step
    resumed = Meter({"the generators": G, "the discriminators": D})
    resumed.begin(lambda: 0.0, done=5)
    D += 1
    resumed.add({"G": torch.tensor(1.0)})
    assert resumed.skipped() == ["the generators"]
