"""Greedy answers of a GGUF file by llama.cpp: several at a time, each place taken by the next
prompt as soon as its answer has ended.

Another engine for answers that are long: on one core faster than ours, with the file's own numbers
(its weights are not dequantised, and activations are rounded to 8 bits for the products).
``pip install --no-binary llama-cpp-python llama-cpp-python`` builds it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

PLACES, BATCH = 8, 512


class Engine:
    """A file in llama.cpp. ``longest``: tokens of a prompt and its answer, at most.

    Not closed: its memory is the process's.
    """

    def __init__(self, file: Path, longest: int, threads: int = 1) -> None:
        import llama_cpp

        self._c = llama_cpp
        self._c.llama_backend_init()
        options = self._c.llama_model_default_params()
        options.use_extra_bufts = False  # with AMX, 0.3.36 ends in a segmentation fault
        self._model = self._c.llama_model_load_from_file(str(file).encode(), options)
        if not self._model:
            raise ValueError(f"llama.cpp cannot read {file}.")
        how = self._c.llama_context_default_params()
        how.n_ctx, how.n_seq_max, how.kv_unified = PLACES * longest, PLACES, False
        how.n_batch = how.n_ubatch = BATCH
        how.n_threads = how.n_threads_batch = threads
        how.flash_attn_type = self._c.LLAMA_FLASH_ATTN_TYPE_DISABLED  # half as fast on a CPU
        self._context = self._c.llama_init_from_model(self._model, how)
        vocabulary = self._c.llama_model_get_vocab(self._model)
        self._words = self._c.llama_vocab_n_tokens(vocabulary)
        self._batch = self._c.llama_batch_init(BATCH, 0, 1)

    def answers(
        self, prompts: Sequence[Sequence[int]], tokens: int, ends: Collection[int]
    ) -> Iterator[tuple[int, list[int]]]:
        """Which prompt and its answer of at most ``tokens`` tokens, as they end; an end that the
        model wrote is the last of them. ``ends``: the tokens that end an answer."""
        memory = self._c.llama_get_memory(self._context)
        waiting = list(range(len(prompts)))[::-1]
        at: dict[int, tuple[int, list[int]]] = {}  # place -> prompt and its answer so far
        while at or waiting:
            for place in set(range(PLACES)) - set(at):
                if waiting:
                    n = waiting.pop()
                    self._c.llama_memory_seq_rm(memory, place, -1, -1)
                    at[place] = n, [self._read(place, prompts[n])]
            for place, (n, made) in list(at.items()):
                if made[-1] in ends or len(made) == tokens:
                    yield n, made
                    del at[place]
            if at:
                where = [len(prompts[n]) + len(made) - 1 for n, made in at.values()]
                self._decode([made[-1] for _, made in at.values()], where, list(at), len(at))
                for row, (_, made) in enumerate(at.values()):
                    made.append(self._best(row))

    def _read(self, place: int, prompt: Sequence[int]) -> int:
        """The first token after a prompt."""
        for begin in range(0, len(prompt), BATCH):
            part = prompt[begin : begin + BATCH]
            self._decode(part, range(begin, begin + len(part)), [place] * len(part), 1)
        return self._best(-1)

    def _decode(
        self, ids: Sequence[int], positions: Sequence[int], places: Sequence[int], scored: int
    ) -> None:
        """The last ``scored`` of the tokens get logits."""
        self._batch.n_tokens = len(ids)
        for row, token in enumerate(ids):
            self._batch.token[row], self._batch.pos[row] = token, positions[row]
            self._batch.n_seq_id[row], self._batch.seq_id[row][0] = 1, places[row]
            self._batch.logits[row] = row >= len(ids) - scored
        if self._c.llama_decode(self._context, self._batch):
            raise ValueError(f"llama.cpp cannot decode {len(ids)} tokens at {positions[-1]}.")

    def _best(self, row: int) -> int:
        logits = self._c.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._words,)).argmax())
