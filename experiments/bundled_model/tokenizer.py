"""The bundled tokenizer: BPE with byte fallback, so that it can read any text."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from experiments.bundled_model.text import documents

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
VOCAB = 2048
_SPACE = "▁"
# A word, a digit or a mark, each with the space before it; a line break stands alone.
_PIECES = Regex(f"{_SPACE}?\\p{{L}}+|{_SPACE}?\\p{{N}}|\\n|{_SPACE}?[^\\p{{L}}\\p{{N}}\\n▁]|▁+")


def train(folder: Path, held_out: set[str], n_documents: int) -> None:
    """Trains the tokenizer on world text and saves it in transformers' format: 2 s for 30,000."""
    from transformers import PreTrainedTokenizerFast

    texts = [p + a for _, p, a in documents("tokenizer", n_documents, held_out)]
    learned = _pipeline(models.BPE())
    learned.train_from_iterator(
        texts, BpeTrainer(vocab_size=VOCAB - len(SPECIALS) - 256, show_progress=False)
    )
    # The trainer knows no byte tokens: give them the ids after the specials, as Llama does.
    spec = json.loads(learned.to_str())["model"]
    names = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256))]
    names += [piece for piece in spec["vocab"] if piece not in names]
    vocab = {name: i for i, name in enumerate(names)}
    merges = [tuple(m) for m in spec["merges"]]
    bpe = models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = _pipeline(bpe)
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    ).save_pretrained(folder)


def _pipeline(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_PIECES, "isolated")
    return tokenizer
