"""The part of a text that is its answer: not what was thought before it, nor what runs on after.

Thinking: ``<think>...</think>``, also ``thinking``, ``thought``, ``reasoning`` and Mistral's
``[THINK]``, and the analysis channel of gpt-oss. A block that the prompt opened has only its end,
and all before it was thought. A block that is never closed was cut off: there is no answer. Where
the answer itself stands in ``<answer>...</answer>``, it is what stands there.

Run-on: a base model goes on with the next question of the page it is writing. It begins at
"Question:", at a line that begins, in any case, with "Q:", "Problem:", "Question 2",
"### Instruction:", "Input:", "User:" and the like, or where a chat template would end the turn
(``<|im_end|>``, ``[INST]``, ``</s>`` at the end of a line). It counts only behind some text: an
answer may repeat its own question.
"""

from __future__ import annotations

import re

_TAG = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>|\[(/?)THINK\]", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>(\w+)(?:<\|message\|>)?")
_RUN_ON = re.compile(
    r"(?<=\s)Question(?:\s[0-9]{1,4})?:"
    r"|(?<=\n)[ \t]{0,8}(?:[#>]{1,6}[ \t]|\*{1,2})?"
    r"(?i:(?:Question|Problem|Exercise)"
    r"(?::|\s[0-9]{1,4}[:.]|(?:\s[0-9]{1,4})?(?:\s?[-–—]\s|[*_]{0,2}[ \t\r]{0,8}(?=\n|\Z)))"
    r"|(?:Q|Instruction|Input|Prompt|Human|User):)"
    r"|<\|im_start\|>user|<\|(?:im_end|user|eot_id|end|endoftext|end_of_text|return)\|>"
    r"|<end_of_turn>|\[INST\]|</s>(?=[ \t\r]{0,8}(?:\n|\Z|<s>|\[INST\]))"
)


def spoken(text: str) -> str:
    """What is said behind the thinking; empty where that was cut off."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        text = text[channels[-1].end() :] if channels[-1][1] == "final" else ""
    pieces: list[str] = []
    start, thinking = 0, False
    for tag in _TAG.finditer(text):
        closes = bool(tag[1] or tag[2])
        if closes and not thinking:
            pieces.clear()  # the prompt had opened the block
        elif not closes and not thinking:
            pieces.append(text[start : tag.start()])
        thinking, start = not closes, tag.end()
    if thinking:
        return ""
    said = "".join([*pieces, text[start:]])
    marks = list(_ANSWER.finditer(said))
    return _ANSWER_END.split(said[marks[-1].end() :], maxsplit=1)[0] if marks else said


def reply(text: str) -> str:
    """What is said, up to where the next question begins."""
    said = spoken(text)
    for match in _RUN_ON.finditer(said):
        if said[: match.start()].strip():
            return said[: match.start()]
    return said
