"""What differs between the families of base models: where their parts lie, how tokens enter and
pass a block, and what the classification layer sees.

A further family is a class here, under its types in FAMILIES and in `coralx.supported`; its sizes
are read without torch in `coralx.models`. Tests of all types hold it against transformers and peft.

Letters: N sequences, T tokens, D features, S image tokens before the text.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from coralx.errors import ModelError
from coralx.records import FUSED_ROLES
from coralx.supported import DECODERS, ROBERTAS
from coralx.train.disentangled import Distances, run_deberta
from coralx.train.last_block import find_last, run_bert, run_decoder, run_distilbert


class Family(abc.ABC):
    """A loaded classifier of transformers in parts. Its text path is that of the uncut model.

    Attributes:
        causal: a token sees those before it alone, and the last one of a text is pooled.
        blocks_path: of the blocks, in the base model.
        roles: of a block's linear layers, each with its path in the block.
        aliases: roles of other families, and the one that does their work here.
        head: the classification layer, `head`, and one before it that is trained as well, `dense`;
            each with its path in the classifier.
        saved: the modules of the classifier that hold these, which peft keeps with an adapter.
        pools_all: all tokens of the last block are computed, not the pooled one alone.
        attention: the way of transformers in which the uncut model computes it.
        pictures_first: uncut, it reads image tokens before the text: by `read`, then `pool`.
    """

    causal: ClassVar[bool] = False
    blocks_path: ClassVar[str]
    roles: ClassVar[Mapping[str, str]]
    aliases: ClassVar[Mapping[str, str]] = {}
    head: ClassVar[Mapping[str, str]] = {"head": "classifier"}
    saved: ClassVar[tuple[str, ...]] = ("classifier",)
    pools_all: ClassVar[bool] = False
    pictures_first: ClassVar[bool] = False
    attention: ClassVar[str] = "sdpa"

    def __init__(self, classifier: Any) -> None:
        self.classifier, self.base = classifier, classifier.base_model
        self.blocks = self.base.get_submodule(self.blocks_path)

    def embed(self, ids: Tensor) -> Tensor:
        """What enters block 0, of right-padded token ids: (N, T) -> (N, T, D)."""
        return self.base.embeddings(input_ids=ids)  # type: ignore[no-any-return]

    @abc.abstractmethod
    def norm_input(self, tokens: Tensor, index: int) -> Tensor:
        """Tokens that did not come through the blocks below, scaled as block `index` expects them.
        Tokens of another size than those beside them learn worse."""

    @abc.abstractmethod
    def run(self, index: int, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        """One block: (N, S + T, D) -> the same shape; mask: (N, S + T), True where a token carries
        meaning; `slots` is S, and these tokens share position 0."""

    @abc.abstractmethod
    def finish(self, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        """The last block and pooling: (N, S + T, D) -> (N, D)."""

    def activate(self, x: Tensor) -> Tensor:
        """What follows the layer before the last one, where there is one."""
        return torch.tanh(x)

    def read(self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """What the uncut base makes of embedded tokens: (N, S + T, D) -> the same shape."""
        given = {"attention_mask": attention_mask, "position_ids": position_ids}
        return self.base(inputs_embeds=inputs_embeds, **given).last_hidden_state  # type: ignore[no-any-return]

    def pool(self, out: Tensor, mask: Tensor, slots: int) -> Tensor:
        """What the classification layer sees of that: (N, S + T, D) -> (N, D)."""
        raise NotImplementedError


class Bert(Family):
    """Norms what leaves each block; pools the first token, through a pooler if there is one."""

    blocks_path = "encoder.layer"
    roles: ClassVar = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
    }

    def norm_input(self, tokens: Tensor, index: int) -> Tensor:
        before = self.blocks[index - 1].output if index else self.base.embeddings
        return _norm(before.LayerNorm, tokens)

    def run(self, index: int, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        return self.blocks[index](hidden, attention_mask=mask[:, None, None])  # type: ignore[no-any-return]

    def finish(self, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        out = run_bert(self.blocks[-1], hidden, mask, slots)
        return out[:, 0] if self.base.pooler is None else self.base.pooler(out)


class Roberta(Bert):
    """BERT with a classification layer of two and without a pooler."""

    head: ClassVar = {"head": "classifier.out_proj", "dense": "classifier.dense"}


class DistilBert(Bert):
    """BERT with other names, without a pooler and with a classification layer of two."""

    blocks_path = "transformer.layer"
    roles: ClassVar = {
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "output": "attention.out_lin",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
    }
    head: ClassVar = {"head": "classifier", "dense": "pre_classifier"}
    saved = ("pre_classifier", "classifier")

    def norm_input(self, tokens: Tensor, index: int) -> Tensor:
        below = self.blocks[index - 1].output_layer_norm if index else None
        return _norm(below or self.base.embeddings.LayerNorm, tokens)

    def finish(self, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        return run_distilbert(self.blocks[-1], hidden, mask, slots)[:, 0]

    def activate(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class DebertaV2(Bert):
    """DeBERTa of versions 2 and 3: BERT whose attention sees contents and distances apart, without
    positions and with a classification layer of two."""

    roles: ClassVar = {
        **Bert.roles,
        "query": "attention.self.query_proj",
        "key": "attention.self.key_proj",
        "value": "attention.self.value_proj",
    }
    head: ClassVar = {"head": "classifier", "dense": "pooler.dense"}
    saved = ("classifier", "pooler")
    pictures_first = True
    attention = "eager"  # there is no other of it

    def __init__(self, classifier: Any) -> None:
        super().__init__(classifier)
        self._distances = Distances(self.base.encoder, classifier.config.max_position_embeddings)

    def run(self, index: int, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        return self._run(self.blocks[index], hidden, mask, slots, slice(None))

    def finish(self, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        return self._run(self.blocks[-1], hidden, mask, slots, slice(slots, slots + 1))[:, 0]

    def activate(self, x: Tensor) -> Tensor:
        return ACT2FN[self.classifier.config.pooler_hidden_act](x)  # type: ignore[no-any-return]

    def read(self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        hidden = self.base.embeddings(
            inputs_embeds=inputs_embeds, position_ids=position_ids, mask=attention_mask
        )
        apart = self._distances.between(position_ids[0], position_ids[0])
        return self.base.encoder(hidden, attention_mask, relative_pos=apart).last_hidden_state  # type: ignore[no-any-return]

    def pool(self, out: Tensor, _: Tensor, slots: int) -> Tensor:
        return self.classifier.pooler(out[:, slots:])  # type: ignore[no-any-return]

    def _run(self, block: Any, hidden: Tensor, mask: Tensor, slots: int, asking: slice) -> Tensor:
        positions = count_positions(hidden, slots)[0]
        vectors, first = self._distances.vectors(max(1, len(positions) - slots))
        places = self._distances.between(positions[asking], positions) - first
        return run_deberta(block, hidden, mask, vectors, places, asking)


class ModernBert(Family):
    """Norms what enters each block but the first, and turns queries and keys by their position.
    Most blocks attend to near tokens alone. Pools all tokens or the first, through a frozen head.
    """

    blocks_path = "layers"
    roles: ClassVar = {
        "qkv": "attn.Wqkv",
        "output": "attn.Wo",
        "up": "mlp.Wi",
        "down": "mlp.Wo",
    }
    aliases: ClassVar = FUSED_ROLES
    pools_all = True
    pictures_first = True

    def __init__(self, classifier: Any) -> None:
        super().__init__(classifier)
        if (reach := classifier.config.local_attention) < 0:
            raise ModelError(f"base_model: local_attention must be 0 or more, got {reach}")

    def norm_input(self, tokens: Tensor, index: int) -> Tensor:
        return tokens if index else _norm(self.base.embeddings.norm, tokens)

    def run(self, index: int, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        block, positions = self.blocks[index], count_positions(hidden, slots)
        seen = mask[:, None, None]
        if block.attention_type == "sliding_attention":
            reach = self.classifier.config.local_attention // 2
            # A padded query must still see something, or its softmax is NaN.
            near = (positions.T - reach <= positions) & (positions <= positions.T + reach)
            own = torch.eye(len(near), dtype=torch.bool, device=near.device)
            seen = (seen & near) | own
        rotary = self.base.rotary_emb(hidden, positions, block.attention_type)
        return block(hidden, attention_mask=seen, position_embeddings=rotary)  # type: ignore[no-any-return]

    def finish(self, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        out = self.base.final_norm(self.run(len(self.blocks) - 1, hidden, mask, slots))
        return self.pool(out, mask, slots)

    def pool(self, out: Tensor, mask: Tensor, slots: int) -> Tensor:
        if self.classifier.config.classifier_pooling == "cls":
            pooled = out[:, slots]
        else:
            pooled = (out * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.classifier.head(pooled)  # type: ignore[no-any-return]


class Decoder(Family):
    """Llama and its kin: norms what enters each block; pools the last token, after a final norm."""

    causal = True
    pictures_first = True
    blocks_path = "layers"
    roles: ClassVar = {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    head: ClassVar = {"head": "score"}
    saved = ("score",)

    def embed(self, ids: Tensor) -> Tensor:
        return self.base.embed_tokens(ids)  # type: ignore[no-any-return]

    def norm_input(self, tokens: Tensor, index: int) -> Tensor:
        return tokens

    def run(self, index: int, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        positions = count_positions(hidden, slots)
        return self.blocks[index](  # type: ignore[no-any-return]
            hidden,
            attention_mask=_mask_later(mask),
            position_embeddings=self.find_angles(hidden, positions, index),
            position_ids=positions,
        )

    def finish(self, hidden: Tensor, mask: Tensor, slots: int) -> Tensor:
        rotary = self.find_angles(hidden, count_positions(hidden, slots), len(self.blocks) - 1)
        out = run_decoder(self.blocks[-1], hidden, mask, find_last(mask), rotary)
        return self.base.norm(out[:, 0])  # type: ignore[no-any-return]

    def pool(self, out: Tensor, mask: Tensor, _: int) -> Tensor:
        return out[torch.arange(len(mask), device=mask.device), find_last(mask)]

    def find_angles(self, hidden: Tensor, positions: Tensor, _: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions, as a block turns queries and keys by them."""
        return self.base.rotary_emb(hidden, position_ids=positions)  # type: ignore[no-any-return]


class Gemma(Decoder):
    """A decoder that norms what leaves attention and MLP as well, and turns queries and keys of
    near and of all tokens by angles of their own."""

    def find_angles(self, hidden: Tensor, positions: Tensor, index: int) -> tuple[Tensor, Tensor]:
        kind = self.classifier.config.layer_types[index]
        return self.base.rotary_emb(hidden, positions, kind)  # type: ignore[no-any-return]


FAMILIES: Mapping[str, type[Family]] = {
    "bert": Bert,
    "distilbert": DistilBert,
    "deberta-v2": DebertaV2,
    "modernbert": ModernBert,
    **dict.fromkeys(ROBERTAS, Roberta),
    **dict.fromkeys(DECODERS, Decoder),
    "gemma3_text": Gemma,
}


def count_positions(hidden: Tensor, slots: int) -> Tensor:
    """(1, S + T) position of each token; image tokens share position 0."""
    ticks = torch.arange(hidden.shape[1], device=hidden.device) - slots
    return ticks.clamp(min=0)[None]


def _norm(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    return norm(tokens.to(norm.weight.dtype))  # type: ignore[no-any-return]


def _mask_later(mask: Tensor) -> Tensor:
    """(N, T) -> (N, 1, T, T), True where attention may look: what carries meaning and is not
    later."""
    size = mask.shape[1]
    earlier = torch.ones(size, size, dtype=torch.bool, device=mask.device).tril()
    # A padded query must still see something (itself), or its softmax is NaN.
    own = torch.eye(size, dtype=torch.bool, device=mask.device)
    return (mask[:, None, None] & earlier) | own
