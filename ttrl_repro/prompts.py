"""A problem -> the prompt's token ids."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ttrl_repro.config import Prompt
from ttrl_repro.errors import UserError
from ttrl_repro.tasks import Question

# TTRL's suffix for models whose chat template does not ask for a box (the released code's scripts).
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def render(question: Question, tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The prompt's text, chat template included (if the tokenizer has one)."""
    suffix = {"auto": "", "boxed": BOXED}.get(prompt.suffix, prompt.suffix)
    if tokenizer.chat_template is None:
        return "\n".join(part for part in (prompt.system, question.problem + suffix) if part)
    text = _chat(question.problem + suffix, tokenizer, prompt)
    # Qwen2.5-Math's own system prompt asks for a box already; a problem that speaks of one does not count.
    if prompt.suffix == "auto" and "\\boxed" not in _chat("", tokenizer, prompt):
        text = _chat(question.problem + BOXED, tokenizer, prompt)
    return text


def _chat(content: str, tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    messages.append({"role": "user", "content": content})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def encode_prompts(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, prompt: Prompt
) -> dict[str, list[int]]:
    """Question id -> prompt token ids. Raises UserError for a problem that the tokenizer cannot write."""
    out = {}
    for question in questions:
        text = render(question, tokenizer, prompt)
        # A chat template writes its own special tokens.
        ids = tokenizer(text, add_special_tokens=tokenizer.chat_template is None).input_ids
        if not ids:
            raise UserError(f"question {question.id!r}: the prompt is empty")
        # Some tokenizers use one token for both "unknown" and "begin".
        if tokenizer.unk_token_id not in (None, tokenizer.bos_token_id) and tokenizer.unk_token_id in ids:
            raise UserError(
                f"question {question.id!r}: the model's tokenizer cannot write {text[:60]!r}; "
                f"a miniature reads expressions such as '47+36*7='"
            )
        out[question.id] = ids
    return out
