"""How a model reads and writes text: prompts to tokens, tokens to answers.

Everything here is the tokenizer's work and costs no pass of the model.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from typing import Any

from corrsteer.errors import ConfigError, DataError
from corrsteer.models.reading import appended, end, ends, prepended, seen, start, waits
from corrsteer.models.spec import Model

log = logging.getLogger(__name__)

# How much of a prompt's end is tokenised together with an allowed answer. The token boundary
# before the answer depends only on the few characters around it.
_TAIL = 32

_AT_ONCE = 256
"""Texts that a tokenizer is asked for at a time: its answer is 140 bytes per token, for a while."""


class Text:
    """A tokenizer with a model's limits: its chat template, its room, its ends of text."""

    def __init__(self, tokenizer: Any, model: Model, batch_size: int, config: Any) -> None:
        """``config``: the text model's own."""
        self._model = model
        self._batch_size = batch_size
        self._tokenizer = tokenizer
        self._vocabulary: int = config.vocab_size
        # None where positions have no limit, as with ALiBi.
        self._max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self._eos = list(ends(model))
        self._appended, self._start = appended(model), start(model)
        # Padding is always masked, so any id will do where a tokenizer has none.
        self._pad: int = tokenizer.pad_token_id or 0
        self._special = set(tokenizer.all_special_ids) | {
            i for i, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        spelled = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} & {*self._eos}
        texts = (text.strip() for text in tokenizer.convert_ids_to_tokens(sorted(spelled)))
        self._endings = tuple(text for text in texts if text)
        self._checks_start = model.chat_template
        # Every stage asks for those of the same prompts, and telling tokens takes a while.
        self._last_batches: tuple[Any, list[list[int]]] | None = None
        self._last_rows: dict[str, array[int]] = {}  # of those prompts: they are soon asked
        if not self._eos:
            log.warning(
                "no file of model %r names an end of text (eos_token_id): answers run to"
                " task.max_new_tokens",
                model.path,
            )

    # -- prompts ---------------------------------------------------------------------------

    def n_tokens(self, prompt: str) -> int:
        """Tokens of the prompt as the model reads it, BOS and chat template included."""
        return len(self._encode([prompt])[0])

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Readable text of each token alone, its leading space kept."""
        return [self._token_text(int(i)) for i in ids]

    def batches(self, prompts: Sequence[str], batch_size: int | None = None) -> list[list[int]]:
        """Indices of the prompts in batches of similar length, shortest first.

        Ties keep their input order, so the result depends on the prompts alone.
        """
        asked = tuple(prompts), batch_size
        if self._last_batches is None or self._last_batches[0] != asked:
            rows = self._encode(prompts)
            self._last_rows = {p: array("i", row) for p, row in zip(prompts, rows, strict=True)}
            self._last_batches = asked, self._batches([len(row) for row in rows], batch_size)
        return [list(batch) for batch in self._last_batches[1]]

    def _batches(self, lengths: list[int], batch_size: int | None = None) -> list[list[int]]:
        size = batch_size or self._batch_size
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids per prompt. A chat template writes its own BOS. An empty prompt is one token:
        BOS or, for a tokenizer without one, the end of text."""
        if self._last_rows and all(prompt in self._last_rows for prompt in prompts):
            return [self._last_rows[prompt].tolist() for prompt in prompts]
        whole = seen(self._model, prompts)
        rows = self._ids(whole, special=not self._model.chat_template)
        if self._start is not None:
            rows = [row or [self._start] for row in rows]
        chat = self._model.chat_template
        # Some models end an answer at the very token that their template begins one with.
        ended = sum(
            text.rstrip().endswith(self._endings) and not (chat and waits(self._model, prompt))
            for prompt, text in zip(prompts, whole, strict=True)
        )
        if ended:
            mend = (
                " or the template of model.chat_template, which needs a turn for the answer"
                " (add_generation_prompt)."
            )
            raise DataError(
                f"{ended} of {len(rows)} prompts end in an end of text"
                f" ({' or '.join(self._endings)}), after which a model has nothing to say: take it"
                f" out of the prompt{mend if chat else '.'}"
            )
        if self._checks_start and rows:
            self._check_start(rows[0])
        return self._some(rows, "prompts")

    def _check_start(self, row: list[int]) -> None:
        """Warn, once, of a chat template without the BOS that the tokenizer writes elsewhere."""
        self._checks_start = False
        usual = prepended(self._model)
        if row[: len(usual)] != usual:
            log.warning(
                "the chat template of model %r writes no %s, which its tokenizer puts before other"
                " texts: begin it with {{ bos_token }} if the model was trained so",
                self._model.path,
                "".join(self._tokenizer.convert_ids_to_tokens(usual)),
            )

    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids per text, BOS in front where the tokenizer has one, no chat template."""
        return self._some(self._ids(texts, special=True), "texts")

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """``special``: with what the tokenizer puts before a text. What it puts behind is left
        out."""
        rows: list[list[int]] = []
        # Not verbose about long texts: _check_room has better words for them.
        for first in range(0, len(texts), _AT_ONCE):
            some = list(texts[first : first + _AT_ONCE])
            rows += self._tokenizer(some, verbose=False, add_special_tokens=special)["input_ids"]
        return [row[: len(row) - self._appended] for row in rows] if special else rows

    def _some(self, rows: list[list[int]], what: str) -> list[list[int]]:
        empty = sum(not row for row in rows)
        if empty:
            raise DataError(
                f"{empty} of {len(rows)} {what} have no tokens: remove or fill the empty {what}."
            )
        return rows

    def check_prompts(self, prompts: Sequence[str], max_new_tokens: int) -> None:
        """Raise DataError if a prompt is empty or leaves no room for an answer."""
        rows = self._encode(prompts)
        self._check_room(rows, max_new_tokens, [len(prompt) for prompt in prompts])

    def check_options(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> None:
        """Raise DataError if a prompt is empty, or too long with one of the ``options`` that are
        weighed after it."""
        rows = self._encode(prompts)
        longest = [
            max(map(len, answers)) for answers in self._continuations(prompts, rows, options)
        ]
        self._check_room(rows, longest, [len(prompt) for prompt in prompts])

    def _check_room(
        self,
        rows: list[list[int]],
        new_tokens: int | Sequence[int],
        characters: Sequence[int] = (),
        what: str = "prompts",
    ) -> None:
        """``new_tokens``: of an answer, or of the answer to each."""
        each = [new_tokens] * len(rows) if isinstance(new_tokens, int) else new_tokens
        limit, positions = self._model.max_prompt_tokens, self._max_positions
        limits = [limit if positions is None else min(limit, positions - n) for n in each]
        long = [n for n, row in enumerate(rows) if len(row) > limits[n]]
        if not long:
            return
        limit, new_tokens = min((limits[n], each[n]) for n in long)
        room = None if positions is None else positions - new_tokens
        if room is not None and room < 1:
            raise DataError(
                f"an answer of {new_tokens} tokens has no room behind any of the {what}: the model"
                f" has {positions} positions; shorten it, or choose a model with more."
            )
        message = (
            f"{len(long)} of {len(rows)} {what} have more than {limit} tokens (the longest has"
            f" {max(len(rows[n]) for n in long)})"
        )
        if characters:
            short = min(characters[n] for n in long) - 1
            message += f": leave them out with task.max_chars={short}"
        else:
            message += f": shorten the {what}"
        if room is None or limit < room:
            most = "" if room is None else f" (at most {room} here)"
            raise DataError(f"{message}, or raise model.max_prompt_tokens{most}.")
        kept = f" ({new_tokens} of them are kept for the answer)" if new_tokens else ""
        raise DataError(
            f"{message}, or choose a model with more than {self._max_positions} positions{kept}."
        )

    def _token_text(self, token: int) -> str:
        piece: str | None = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # embeddings are often padded beyond the vocabulary
            return f"<{token}>"
        text = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if not text or "\N{REPLACEMENT CHARACTER}" in text:
            return piece  # one byte of a longer character
        # Decoders drop a leading space at the start of a text; here it tells " A" from "A".
        return f" {text}" if piece[0] in "\u2581\u0120" and text[0] != " " else text

    def _only(
        self, allowed: Sequence[str], prompts: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """The ids to suppress so that one of the ``allowed`` texts must come next, and the ids of
        those texts after each prompt."""
        ends = [text[-_TAIL:] for text in seen(self._model, prompts)]
        tails = sorted(set(ends))
        before = self._tokenizer(tails, add_special_tokens=False)["input_ids"]
        keep: dict[str, list[int]] = {tail: [] for tail in tails}
        for text in allowed:
            longer = [tail + _after(tail, text) for tail in tails]
            after = self._tokenizer(longer, add_special_tokens=False)["input_ids"]
            for tail, old, new in zip(tails, before, after, strict=True):
                if len(new) != len(old) + 1 or new[:-1] != old:
                    raise ConfigError(
                        f"allowed answer {text!r} is not one token of model {self._model.name!r}"
                        f" after {tail[-12:]!r}: choose answers that its tokenizer writes as one"
                        " token there."
                    )
                keep[tail].append(new[-1])
        kept = {token for tokens in keep.values() for token in tokens}
        return [i for i in range(self._vocabulary) if i not in kept], [keep[end] for end in ends]

    def continuations(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[list[list[int]]]:
        """The tokens of every option as it follows its prompt, ``[prompt][option]``."""
        return self._continuations(prompts, self._encode(prompts), options)

    def _continuations(
        self,
        prompts: Sequence[str],
        rows: Sequence[list[int]],
        options: Sequence[Sequence[str]],
    ) -> list[list[list[int]]]:
        """The tokens of every option after its prompt, ``[prompt][option]``; ``rows``: those of
        the prompts."""
        before = seen(self._model, prompts)
        after = [
            [_after(text, f" {option.strip()}") for option in some]
            for text, some in zip(before, options, strict=True)
        ]
        both = [text + each for text, some in zip(before, after, strict=True) for each in some]
        whole = iter(self._ids(both, special=not self._model.chat_template))
        return [
            [self._behind(row, next(whole), each) for each in some]
            for row, some in zip(rows, after, strict=True)
        ]

    def written(
        self, prompts: Sequence[str], answers: Sequence[str], stop: Sequence[str], ends: bool
    ) -> list[list[int]]:
        """The tokens of an answer to each prompt, as the model should write it: behind a space
        where the prompt does not end in white space. ``ends``: with its end, the first of the
        ``stop`` texts or, where there is none, the model's own."""
        rows, last = self._encode(prompts), end(self._model) if ends and not stop else None
        closing = stop[0] if ends and stop else ""
        before = seen(self._model, prompts)
        texts = [
            _after(text, f" {answer.strip()}") + closing
            for text, answer in zip(before, answers, strict=True)
        ]
        both = [prompt + text for prompt, text in zip(before, texts, strict=True)]
        whole = self._ids(both, special=not self._model.chat_template)
        found = [self._behind(*each) for each in zip(rows, whole, texts, strict=True)]
        return [tokens if last is None else [*tokens, last] for tokens in found]

    def _behind(self, row: list[int], whole: list[int], text: str) -> list[int]:
        """What follows a prompt's tokens in those of prompt and text together."""
        if whole[: len(row)] == row and len(whole) > len(row):
            return whole[len(row) :]
        # Some tokenizers join the prompt's end with the answer's start, or end a text themselves.
        alone: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return alone or [self._pad]

    # -- ends of answers -----------------------------------------------------------------

    def _until_stop(
        self, tokens: tuple[int, ...], stop: Sequence[str]
    ) -> tuple[tuple[int, ...], str]:
        """The tokens up to the one that completes a stop text, and the text before that."""

        def text_of(part: tuple[int, ...]) -> str:
            decoded: str = self._tokenizer.decode(
                part, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            return decoded

        text = text_of(tokens)
        if not any(s in text for s in stop):
            return tokens, text
        for n in range(1, len(tokens) + 1):
            part = text_of(tokens[:n])
            ends = [part.index(s) for s in stop if s in part]
            if ends:
                return tokens[:n], part[: min(ends)]
        raise AssertionError("a stop text in the whole answer is in one of its beginnings")

    def _until_eos(self, row: list[int]) -> tuple[int, ...]:
        for n, token in enumerate(row, start=1):
            if token in self._eos:
                return tuple(row[:n])
        return tuple(row)


def _after(text: str, answer: str) -> str:
    """An answer as it follows a text: without its leading space after white space or nothing."""
    return answer.lstrip() if not text or text[-1].isspace() else answer


def processed(options: dict[str, Any], device: str) -> dict[str, Any]:
    """The options of ``generate`` with suppressed tokens as an object. nnsight walks through all
    that it is given, and as a list they are nearly the whole vocabulary."""
    from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

    if "suppress_tokens" not in options:
        return options
    others = {name: value for name, value in options.items() if name != "suppress_tokens"}
    processor = SuppressTokensLogitsProcessor(options["suppress_tokens"], device)
    return {**others, "logits_processor": LogitsProcessorList([processor])}
