"""Likelihoods of options are those of lm-evaluation-harness' ``hf`` model, on the original data of
every task that weighs them, for a tokenizer of each kind: SentencePiece's with BOS, and byte-level
BPE without. They are given the same prompts, and an option as it follows its prompt."""

import itertools
import math

import pytest

from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.tasks.blimp import BLiMP
from corrsteer.tasks.crows_pairs import CrowSPairs
from corrsteer.tasks.model_written_evals import ModelWrittenEvals
from corrsteer.tasks.openbookqa import OpenBookQA
from corrsteer.tasks.truthfulqa import TruthfulQA
from tests.tasks.test_prompts_golden import build

ROWS = 100
DATA = {
    "truthfulqa": (TruthfulQA, {"kind": "mc1"}), "openbookqa": (OpenBookQA, {}),
    "blimp": (BLiMP, {}), "crows_pairs": (CrowSPairs, {}),
    "model_written_evals": (ModelWrittenEvals, {}),
}  # fmt: skip
ODD = [
    ("Is it so?", ("yes", "yes, it is", "yes, it isn't", "no")),  # one begins as another does
    ("He wrote: it is", ("n't", "n't so", "'s", "an ant")),  # a border that could be within a word
    ("x" * 40, ("x", "xx", "!", "é", "日本", " two  spaces inside ")),
    ("2 + 2 =", ("4", "44", "four", "-4")),
    ("A line\nand another", ("one\ntwo", "\tthree")),
    ("", ("A sentence.", "A sentence, longer.", "é", "1")),
]


def bpe(texts, folder):
    """A random Llama whose tokenizer merges what is common in the texts, and writes no BOS."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))  # fmt: skip
    words = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    words.pad_token = "</s>"
    words.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        initializer_range=0.25, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )).save_pretrained(folder)  # fmt: skip


@pytest.fixture(scope="module")
def asked(shared):
    """(prompt, options) by data set: 100 evenly spaced questions of each, of those not too long."""
    found = {"odd": ODD}
    for name, (task, settings) in DATA.items():
        made = build(task, name, shared / "data" / name, **settings)
        examples = [e for e in made.examples() if len(e.prompt) < 600]
        step = len(examples) / ROWS
        picked = [examples[int(n * step)] for n in range(ROWS)]
        found[name] = [(e.prompt, e.options) for e in picked]
    return found


@pytest.fixture(scope="module", params=["sentencepiece", "bpe"])
def folder(request, shared, asked, tmp_path_factory):
    if request.param == "sentencepiece":
        return shared / "models" / "stories260K"
    place = tmp_path_factory.mktemp("bpe")
    rows = itertools.chain(*asked.values())
    bpe([text for prompt, options in rows for text in (prompt, *options)], place)
    return place


@pytest.fixture(scope="module")
def harness(folder):
    """``harness(pairs)``: lm-eval's log-likelihoods of (context, continuation)."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=16)

    def weigh(pairs):
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=n)
            for n, pair in enumerate(pairs)
        ]
        return [log for log, _ in model.loglikelihood(requests, disable_tqdm=True)]

    return weigh


@pytest.mark.night
@pytest.mark.parametrize("name", ["odd", *DATA])
def test_options_weigh_what_lm_eval_says(folder, harness, asked, name):
    model = Local("cpu", batch_size=16).load(Model("m", str(folder)))
    rows = asked[name]
    (answers,) = model.choose([p for p, _ in rows], [None], [options for _, options in rows])
    pairs = [
        (prompt, f" {option.strip()}" if prompt else option.strip())
        for prompt, options in rows
        for option in options
    ]
    found = [w for answer in answers for w in answer.options]
    expected = harness(pairs)
    assert len(found) == len(expected) >= (2 * ROWS if name != "odd" else 20)
    wrong = [
        (pair, w.log, log)
        for pair, w, log in zip(pairs, found, expected, strict=True)
        if not math.isclose(w.log, log, rel_tol=1e-4, abs_tol=1e-3)
    ]
    assert wrong == []
    # What is likelier is so by both, whatever it is compared by.
    by_sum = iter(expected)
    for (_, options), answer in zip(rows, answers, strict=True):
        mine = [w.log for w in answer.options]
        theirs = [next(by_sum) for _ in options]
        assert mine.index(max(mine)) == theirs.index(max(theirs)) or math.isclose(
            *sorted(theirs)[-2:], rel_tol=1e-4
        )


@pytest.mark.night
def test_white_space_at_the_end_of_a_prompt_is_the_prompts_own(folder, harness):
    """lm-eval counts it to what follows: it is what the two differ in, but for that they agree."""
    model = Local("cpu").load(Model("m", str(folder)))
    prompts, options = ["Is it so?\n", "Well?\n\n"], [("yes, it is", "no")] * 2
    (answers,) = model.choose(prompts, [None], options)
    for prompt, answer in zip(prompts, answers, strict=True):
        asked, end = prompt.rstrip(), prompt[len(prompt.rstrip()) :]
        alone, *both = harness([(asked, end), *((asked, end + text) for text in options[0])])
        for weighed, log in zip(answer.options, both, strict=True):
            assert weighed.log == pytest.approx(log - alone, rel=1e-4, abs=1e-3)
