"""The miniature's tokenizer: one token per character, one per word, and one for `\\boxed{`.

The fast functions here encode the corpus; `build_tokenizer` makes the same vocabulary into a
`transformers` tokenizer that is saved beside the weights, so that any tool loads the model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK, BOX = "<pad>", "<bos>", "<eos>", "<unk>", "\\boxed{"
WORDS = ("plus", "minus", "times", "mod", "max", "rule", "order")
VOCABULARY = [PAD, BOS, EOS, UNK, *"0123456789", *"+-*%=;", BOX, "}", *"()~,<>?:ABCD", *WORDS]
IDS = {token: i for i, token in enumerate(VOCABULARY)}
TOKENS = re.compile("|".join(re.escape(token) for token in (BOX, *WORDS)) + r"|[\s\S]")


def _encode(text: str) -> list[int]:
    # KeyError: the corpus wrote something outside the vocabulary
    return [IDS[token] for token in TOKENS.findall(text)]


def encode_prompt(text: str) -> list[int]:
    """`<bos>` and the prompt's tokens."""
    return [IDS[BOS], *_encode(text)]


def encode_completion(text: str, limit: int, ends: bool) -> list[int]:
    """The completion's tokens, with `<eos>` if it ends, cut to `limit` tokens if it does not."""
    ids = _encode(text) + ([IDS[EOS]] if ends else [])
    if ends and len(ids) > limit:
        raise ValueError(f"a completion of {len(ids)} tokens does not fit in {limit}: {text}")
    return ids[:limit]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The same vocabulary as a `transformers` tokenizer (adds `<bos>`, decodes without spaces)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKENS.pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, IDS[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        model_max_length=160,
        clean_up_tokenization_spaces=False,
    )
