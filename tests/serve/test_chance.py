"""Random features beside plans and SAEs of every kind, and what is kept of the SAEs."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.saes.loaded import LoadedSAE
from corrsteer.serve.chance import KEPT, Chance
from corrsteer.serve.gates import Gates
from corrsteer.serve.page import Page
from corrsteer.serve.worker import Worker
from corrsteer.steering.edits import SpareEdit
from tests.steering.test_hooks import plan_of

WIDTH, FEATURES = 32, 600


class Made:
    """A provider of random SAEs that counts those in memory."""

    def __init__(self, kind: str = "standard") -> None:
        self.kind, self.alive, self.most = kind, weakref.WeakSet(), 0

    def check_readable(self, layer: int) -> None:
        if self.kind == "topk":
            raise ConfigError("a topk SAE: type gate=always")

    def load(self, layer: int) -> LoadedSAE:
        rng = torch.Generator().manual_seed(layer)
        enc, dec = (torch.randn(s, generator=rng) for s in ((WIDTH, FEATURES), (FEATURES, WIDTH)))
        bias = torch.zeros(FEATURES), torch.zeros(WIDTH)
        k = 5 if self.kind == "topk" else None
        sae = LoadedSAE(f"s/{layer}", layer, self.kind, enc, bias[0], dec, bias[1], k=k)
        self.alive.add(sae)
        self.most = max(self.most, len(self.alive))
        return sae


def chance_of(plan, kind="standard", n_seen=2):
    saes = Made(kind)
    rng = torch.Generator().manual_seed(9)
    seen = [
        {e.layer: torch.randn(WIDTH, generator=rng) for e in plan.entries} for _ in range(n_seen)
    ]
    chance = Chance(plan, saes)
    chance.start(seen)
    chance.join()
    return chance, saes, seen


def test_one_sae_is_in_memory_at_a_time_and_only_rows_are_kept():
    plan = plan_of()
    chance, saes, _ = chance_of(plan)
    assert (saes.most, len(saes.alive)) == (1, 0)
    for entry in plan.entries:
        assert chance.encoder(entry.layer, entry.feature) is not None
        assert 0 < len(chance._rows[entry.layer]) <= KEPT
    sizes = [a.base.size if a.base is not None else a.size for a in chance._rows[0].values()]
    assert max(sizes) <= KEPT * WIDTH
    assert chance.plan(1) != chance.plan(2)


@pytest.mark.parametrize("n_seen", [0, 2])
def test_features_of_a_topk_sae_are_drawn_and_not_read(n_seen):
    plan = plan_of()
    chance, saes, seen = chance_of(plan, "topk", n_seen)
    gates = Gates(plan, chance)
    assert chance.what == "features" and not chance.why
    drawn = chance.plan(1)
    assert all(e.encoder is None and e.feature >= 0 for e in drawn.entries)
    for entry in drawn.entries if seen else ():
        acts = saes.load(entry.layer).encode(torch.stack([x[entry.layer] for x in seen]))
        assert (acts[:, entry.feature] > 0).any()
    assert gates.under_and_watched(drawn, "plan").entries == drawn.entries
    assert not {"active", "inactive"} & set(gates.names)
    with pytest.raises(ConfigError, match=r"none of plan \(a topk SAE: type gate=always\)"):
        gates.check("active")


def panes(chance) -> set[str]:
    """Those that the page asks for."""
    gates = Gates(chance._plan, chance)
    reader = SimpleNamespace(asked=lambda text, new: [1], ends=())
    source = SimpleNamespace(gates=gates, chance=chance)
    worker = Worker(1)
    page = Page(SimpleNamespace(source=source, reader=reader, stepper=None), worker, 9)

    async def body() -> bytes:
        return b'{"prompt": "x"}'

    request = SimpleNamespace(headers={"content-type": "application/json"}, body=body)
    asyncio.run(page.run(request))
    return set(worker._waiting.get()._makers)


def test_no_features_stand_in_for_several_that_are_moved_each_by_its_own_activation():
    plan = plan_of()
    one = Chance(plan, None, "none here")
    assert one.none == "" and panes(one) == {"unsteered", "steered", "random"}
    arrays = {"wanted": np.ones(2, np.float32)}
    entries = (replace(plan.entries[0], arrays=arrays), *plan.entries[1:])
    several = Chance(replace(plan.with_entries(entries), operator=SpareEdit()), None, "none here")
    assert "SpareEdit moves several features" in several.none
    assert panes(several) == {"unsteered", "steered"}
