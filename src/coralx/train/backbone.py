"""The frozen base model, loaded once and shared by all genomes.

A text classifier of transformers (`AutoModelForSequenceClassification`, one logit) cut into
parts, so that training can enter at any block: embed -> run, block by block -> finish. Its text
path is exactly that of the uncut model, which is why exported adapters load in stock peft.

Letters: N sequences, T tokens, D features.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from coralx.errors import DataError, ModelError
from coralx.flops import Sides, training_flops
from coralx.models import check_alone, resolve_model
from coralx.supported import (
    check_attention,
    check_direction,
    check_positions,
    check_window,
    count_positions,
    find_window,
)
from coralx.train.adapters import AdaptedLinear, AtWork, PackedAdapters, Weights
from coralx.train.digest import digest_model
from coralx.train.families import FAMILIES
from coralx.train.frozen import FrozenProducts
from coralx.train.hub import fetch_model
from coralx.train.pretrained import load_classifier, load_tokenizer

TOKENIZED = 512  # texts at a time


class Backbone:
    """A frozen base model in parts. Everything it computes is independent of genomes unless a
    pack of adapters is passed to `run`.

    Args:
        trust_remote_code: run code that lies in the model's folder, should it need any.
        products: the format of the frozen matrix products.

    Raises:
        ModelError: the model cannot be loaded, is of an unsupported type, or its tokenizer is
            another model's.
    """

    def __init__(
        self,
        base_model: str,
        device: torch.device,
        dtype: torch.dtype,
        trust_remote_code: bool = False,
        products: torch.dtype = torch.float32,
    ) -> None:
        self.name = base_model
        self.path = fetch_model(resolve_model(base_model), trust_remote_code)
        check_alone(base_model, Path(self.path))  # of the hub's files, too
        self.trust_remote_code = trust_remote_code
        self.device, self.dtype = device, dtype
        # Not `.to(dtype)`, which would round the rotary frequencies, too.
        self.classifier = load_classifier(self.path, trust_remote_code, dtype).to(device)
        self.classifier.eval().requires_grad_(False)
        self.tokenizer = load_tokenizer(self.path, trust_remote_code)
        settings: Any = self.classifier.config
        check_direction(base_model, settings.model_type, getattr(settings, "is_decoder", False))
        check_attention(base_model, settings.to_dict())
        self.family = FAMILIES[settings.model_type](self.classifier)
        self.depth = len(self.family.blocks)
        if not self.depth:
            raise ModelError(f"base_model: {base_model} has no blocks, so nothing to adapt")
        self.hidden: int = settings.hidden_size
        self._padding: int | None = settings.pad_token_id
        self.positions = count_positions(
            settings.model_type, settings.max_position_embeddings, self._padding or 0
        )
        self.window = find_window(settings.to_dict())
        self._vocabulary: int = self.family.base.get_input_embeddings().num_embeddings
        self._check_tokenizer()
        self.products = FrozenProducts(products)
        self._at_work = AtWork()
        self.linears = self._wrap_linears()
        with self.products.exact():
            self._try_out()

    @functools.cached_property
    def digest(self) -> str:
        """Of the model's files; read once, where it is asked for."""
        return digest_model(self.path)

    @functools.cached_property
    def blank_ids(self) -> frozenset[int]:
        """Tokens that say nothing of a text: special ones, that of what is unknown among them."""
        return frozenset(self.tokenizer.all_special_ids)

    @functools.cached_property
    def given(self) -> dict[str, Tensor]:
        """What a genome trains beside its adapters and starts with as the base has it, by name:
        the bias of the classification layer, at zero, and all of a layer before it."""
        start = {} if self.family.causal else {"head.bias": torch.zeros(1)}
        for part, path in self.family.head.items():
            if part != "head":
                layer = self.classifier.get_submodule(path)
                values = layer.named_parameters(prefix=part)
                start |= {name: value.detach().float().cpu() for name, value in values}
        return start

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], int]:
        """Token ids of each text, special tokens included, cut at `max_tokens`; and how many
        texts lost tokens by that. A decoder's end with the token that transformers pools.

        Raises:
            ModelError: as `check_length`.
            DataError: a text has no token, or one that the model has no embedding for.
        """
        self.check_length(max_tokens)
        found: list[list[int]] = []
        cut = 0
        # A tokenizer's own record of a text holds what was cut off, too: few at a time.
        for first in range(0, len(texts), TOKENIZED):
            part = list(texts[first : first + TOKENIZED])
            ids = self.tokenizer(part, truncation=True, max_length=max_tokens)["input_ids"]
            for text, own in zip(part, ids, strict=True):
                self._check_ids(text, own)
            # Not all tokenizers say what they left out.
            full = [text for text, own in zip(part, ids, strict=True) if len(own) == max_tokens]
            whole = self.tokenizer(full, verbose=False)["input_ids"] if full else []
            cut += sum(len(own) > max_tokens for own in whole)
            found += [self._end(own) for own in ids] if self.family.causal else ids
        return found, cut

    def check_text(self, text: str, max_tokens: int) -> None:
        """Pass if the model can be given the text. Few tokenizers make one that it cannot: those
        alone are asked.

        Raises:
            DataError: as `tokenize`.
        """
        if self._may_fail:
            ids = self.tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
            self._check_ids(text, ids)

    def check_length(self, max_tokens: int) -> None:
        """Pass if texts of so many tokens go through the blocks as through the uncut model.

        Raises:
            ModelError: the model has fewer positions than that, or a sliding window of fewer
                tokens.
        """
        check_positions(self.name, self.positions, max_tokens)
        check_window(self.name, self.window, max_tokens)

    def embed(self, ids: Tensor) -> Tensor:
        """What enters block 0, of right-padded token ids: (N, T) -> (N, T, D)."""
        return self.family.embed(ids)

    def norm_input(self, tokens: Tensor, index: int) -> Tensor:
        """Tokens that did not come through the blocks below, scaled as block `index` expects them.
        Tokens of another size than those beside them learn worse."""
        return self.family.norm_input(tokens, index)

    def run(
        self,
        hidden: Tensor,
        mask: Tensor,
        index: int,
        slots: int = 0,
        pack: PackedAdapters | None = None,
    ) -> Tensor:
        """One block: (N, S + T, D) -> the same shape.

        Args:
            mask: (N, S + T), True where a token carries meaning.
            slots: S, the image tokens before the text; they share position 0.
            pack: adapters to add; N must then be K x B, genome by genome.
        """
        with self._adapted(pack):
            return self.family.run(index, hidden, mask, slots)

    def finish(
        self, hidden: Tensor, mask: Tensor, slots: int = 0, pack: PackedAdapters | None = None
    ) -> Tensor:
        """The last block and pooling, of the pooled token alone: (N, S + T, D) -> (N, D).

        Arguments as of `run`.
        """
        with self._adapted(pack):
            return self.family.finish(hidden, mask, slots)

    def entry(self, layers: int | str) -> int:
        """The block where adapters of the last `layers` blocks, or "all", begin."""
        return max(0, self.depth - layers) if isinstance(layers, int) else 0

    def find_targets(self, target_modules: Sequence[str], layers: int | str) -> list[str]:
        """The linear layers that a genome adapts, as paths `<block>.<path in block>`.

        Raises:
            ModelError: a name matches no linear layer; the message lists those there are.
        """
        found = set()
        for target in target_modules:
            matches = [p for p in self.linears[0] if self._matches(target, p)]
            if not matches:
                roles = (*self.family.roles, *self.family.aliases)
                raise ModelError(
                    f"target_modules: {target!r} matches no linear layer of {self.name}; use "
                    f"all-linear, a role ({', '.join(roles)}) or a suffix of "
                    f"{', '.join(self.linears[0])}"
                )
            found.update(matches)
        order = [p for p in self.linears[0] if p in found]
        return [f"{i}.{path}" for i in range(self.entry(layers), self.depth) for path in order]

    def full_path(self, target: str) -> str:
        """The path of a `<block>.<path>` target in the uncut model, as peft names it."""
        prefix = self.classifier.base_model_prefix
        return f"{prefix}.{self.family.blocks_path}.{target}"

    def linear(self, target: str) -> AdaptedLinear:
        block, _, path = target.partition(".")
        return self.linears[int(block)][path]

    def training_flops(self, weights: Weights, rows: int, tokens: int, pictured: bool) -> float:
        """Of a step of one genome: see `coralx.flops`."""
        roles = self.family.roles.items()
        adapted = {role: weights.lora.get(f"{weights.entry}.{path}") for role, path in roles}
        ranks = {role: len(pair[0]) for role, pair in adapted.items() if pair}
        height = self.depth - weights.entry
        whole = self.family.pools_all
        return training_flops(self._block_sides, ranks, height, rows, tokens, pictured, whole)

    def weight_bytes(self) -> int:
        """Of the frozen weights in memory: all but the layers that each genome has its own of."""
        own = tuple(f"{name}." for name in self.family.saved)
        named = self.classifier.named_parameters()
        return sum(p.nbytes for name, p in named if not name.startswith(own))

    @functools.cached_property
    def _block_sides(self) -> dict[str, Sides]:
        """What goes into each linear layer of a block and what comes out, by role."""
        layers = {role: self.linears[0][path].base for role, path in self.family.roles.items()}
        return {role: (layer.in_features, layer.out_features) for role, layer in layers.items()}

    def _check_tokenizer(self) -> None:
        """Added tokens may lie beyond the embedding: few texts have them, which are looked at."""
        added = self.tokenizer.added_tokens_decoder
        most = max(i for i in self.tokenizer.get_vocab().values() if i not in added)
        if most >= self._vocabulary:
            raise ModelError(
                f"base_model: {self.name} has embeddings of {self._vocabulary} tokens, and its "
                f"tokenizer gives ids up to {most}; save the tokenizer that belongs to the model"
            )

    @functools.cached_property
    def _may_fail(self) -> bool:
        """Whether there are texts without a token, or tokens without an embedding."""
        beyond = any(i >= self._vocabulary for i in self.tokenizer.added_tokens_decoder)
        return beyond or not self.tokenizer("")["input_ids"]

    @torch.no_grad()
    def _try_out(self) -> None:
        """Run the first block and the last: transformers loads models that it cannot run."""
        mask = torch.ones(1, 2, dtype=torch.bool, device=self.device)
        try:
            hidden = self.family.run(
                0, self.embed(torch.ones_like(mask, dtype=torch.long)), mask, 0
            )
            self.family.finish(hidden, mask, 0)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever settings that do not fit make of it
            cause = str(error).partition("\n")[0]
            raise ModelError(
                f"base_model: transformers loads {self.name} and cannot run it: "
                f"{type(error).__name__}: {cause}; mend its config.json"
            ) from None

    def _check_ids(self, text: str, ids: Sequence[int]) -> None:
        if not ids:
            raise DataError(
                f"text {text!r:.40} is no token at all to the tokenizer of {self.name}; take such "
                "rows out"
            )
        if max(ids) >= self._vocabulary:
            raise DataError(
                f"text {text!r:.40} has token {max(ids)}, and {self.name} has embeddings of "
                f"{self._vocabulary}; take such rows out, or use model.resize_token_embeddings"
            )

    def _end(self, ids: list[int]) -> list[int]:
        """Without padding at the end, as which some tokenizers close a text: transformers pools
        the last token that is none, or the first, and later ones are not seen there."""
        size = len(ids)
        while size > 1 and ids[size - 1] == self._padding:
            size -= 1
        return ids[:size]

    @contextlib.contextmanager
    def _adapted(self, pack: PackedAdapters | None) -> Iterator[None]:
        """The linear layers with the pack's adapters added, for this thread."""
        self._at_work.pack = pack
        try:
            with self._attention():
                yield
        finally:
            self._at_work.pack = None

    def _attention(self) -> contextlib.AbstractContextManager[None]:
        """cuDNN's, which torch prefers on some GPUs, makes a plan for each new shape of a batch,
        which takes longer than many steps."""
        if self.device.type == "cpu":
            return contextlib.nullcontext()
        return sdpa_kernel(
            [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        )

    def _matches(self, target: str, path: str) -> bool:
        if target == "all-linear":
            return True
        role = self.family.aliases.get(target, target)
        if role in self.family.roles:
            return path == self.family.roles[role]
        return path == target or path.endswith("." + target)

    def _wrap_linears(self) -> list[dict[str, AdaptedLinear]]:
        """Put an AdaptedLinear around each linear layer of each block."""
        wrapped: list[dict[str, AdaptedLinear]] = []
        for index, block in enumerate(self.family.blocks):
            paths = [n for n, m in block.named_modules() if isinstance(m, nn.Linear)]
            if not paths:
                raise ModelError(f"base_model: {self.name} has no linear layers to adapt")
            wrapped.append({})
            for path in paths:
                target, linear = f"{index}.{path}", block.get_submodule(path)
                layer = AdaptedLinear(target, linear, self.products, self._at_work)
                block.set_submodule(path, layer)
                wrapped[index][path] = layer
        return wrapped
