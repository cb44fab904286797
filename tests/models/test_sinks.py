"""Which positions are attention sinks, and the ends of a text's token sources."""

from __future__ import annotations

import pytest
import torch

from corrsteer.models.protocol import SINK, SOURCES, sinks


def of_lengths(*lengths):
    """Residuals of these lengths, in directions that differ."""
    return torch.tensor(lengths)[:, None] * torch.eye(4)[torch.arange(len(lengths)) % 4]


@pytest.mark.parametrize(
    ("lengths", "found"),
    [
        ([150.0, 1, 2, 3], [0]),
        ([1.0, 2, 150, 3, 1, 200, 2], [2, 5]),
        ([11.0, 1, 1, 1.2], [0]),
        ([10.0, 1, 1, 1.2], []),  # SINK times the median is not yet one
        ([3.0, 1, 2, 5], []),
        ([150.0, 1], [0]),
        ([150.0], []),
        ([0.0, 0, 0], []),
    ],
)
def test_a_sink_is_much_longer_than_the_median_of_its_text(lengths, found):
    assert SINK == 10
    one = torch.zeros(len(lengths), dtype=torch.long)
    assert sinks(of_lengths(*lengths), one).nonzero()[:, 0].tolist() == found
    # Neither what is in the batch with it nor its own place there matters.
    other = of_lengths(1000.0, 1000, 1000)
    for before, after in ((other, other[:0]), (other[:0], other), (other[:1], other[:2])):
        x = torch.cat([before, of_lengths(*lengths), after])
        sample = torch.tensor([0] * len(before) + [3] * len(lengths) + [4] * len(after))
        assert sinks(x, sample).nonzero()[:, 0].tolist() == [len(before) + i for i in found]


def test_no_positions_have_no_sinks():
    assert sinks(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).tolist() == []


@pytest.mark.long
@pytest.mark.parametrize("source", SOURCES)
def test_what_is_read_knows_what_belongs_to_a_source(tiny_model, source):
    from corrsteer.models.local import Local
    from corrsteer.models.spec import Model

    for family in ("llama", "gpt2"):  # with a BOS, which never counts, and without
        model = Local("cpu").load(Model("tiny", str(tiny_model(family))))
        prompts, answers = ["the cat", "a dog ran there", "d"], [[50, 51, 52], [53], []]
        whole = model.replay(prompts, answers, [0], "all")
        some = model.replay(prompts, answers, [0], source)
        within = whole.within(source)
        assert torch.equal(whole.layers[0][within], some.layers[0])
        assert torch.equal(whole.position[within], some.position)
        assert some.within(source).all()
