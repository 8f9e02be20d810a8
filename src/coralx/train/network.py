"""The forward pass of a pack: frozen prefix -> image tokens -> adapted blocks -> K x B logits.

Each genome joins the pack's tall matrix at the block where its adapters begin, with the frozen
prefix kept for that depth, so no block is computed for a genome that would find nothing new there.

Images join there too, as extra tokens made by each genome's own linear projector (LLaVA, Liu et
al. 2023, arXiv:2304.08485), normed as the block expects its input. Below, among the frozen blocks,
they would undo the shared prefix; with `layers: all` the place is LLaVA's own.

Letters: K genomes, B rows, T tokens, D features, S image tokens, V vision features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coralx.train.adapters import PackedAdapters
from coralx.train.backbone import Backbone
from coralx.train.prefix import Batch


def score(backbone: Backbone, pack: PackedAdapters, batch: Batch) -> Tensor:
    """Logits of every genome for every row: (K, B)."""
    images = _project(pack, batch)
    slots = 0 if images is None else images.shape[2]
    mask = batch.mask
    if batch.has_image is not None and slots:
        mask = torch.cat([batch.has_image[:, None].expand(-1, slots), mask], dim=1)
    present: list[int] = []  # genomes in the tall matrix, in its order
    hidden = seen = mask.new_zeros(0)
    for index in range(min(pack.entries), backbone.depth):
        entering = [k for k, entry in enumerate(pack.entries) if entry == index]
        if entering:
            places = pack.index(entering)
            own = None if images is None else backbone.norm_input(images[places], index)
            fresh = _enter(batch.at(index), own, len(entering))
            hidden = torch.cat([hidden, fresh]) if present else fresh
            present += entering
            seen = mask.repeat(len(present), 1)
            pack.select(present)
        if index < backbone.depth - 1:
            hidden = backbone.run(hidden, seen, index, slots, pack)
    pooled = backbone.finish(hidden, seen, slots, pack).view(pack.size, len(mask), -1)
    if present != list(range(pack.size)):
        pooled = pooled[pack.index([present.index(k) for k in range(pack.size)])]
    return _classify(backbone, pack, pooled)


def _project(pack: PackedAdapters, batch: Batch) -> Tensor | None:
    """Image features through each genome's projector: (B, S, V) -> (K, B, S, D)."""
    if batch.images is None or "projector.weight" not in pack.extra:
        return None
    rows, slots, width = batch.images.shape
    weight, bias = pack.extra["projector.weight"], pack.extra["projector.bias"]
    flat = torch.matmul(batch.images.reshape(1, -1, width).float(), weight.transpose(1, 2))
    return (flat + bias[:, None]).view(pack.size, rows, slots, -1)


def _enter(prefix: Tensor, images: Tensor | None, count: int) -> Tensor:
    """What joins the tall matrix for `count` genomes: the prefix (B, T, D) behind each one's image
    tokens (count, B, S, D)."""
    fresh = prefix.repeat(count, 1, 1)
    if images is None:
        return fresh
    return torch.cat([images.flatten(0, 1).to(prefix.dtype), fresh], dim=1)


def _classify(backbone: Backbone, pack: PackedAdapters, pooled: Tensor) -> Tensor:
    """(K, B, D) -> (K, B) through each genome's own classification layer, or its two."""
    pooled = pooled.float()
    if "dense.weight" in pack.extra:
        dense = pack.extra["dense.weight"].transpose(1, 2)
        pooled = torch.bmm(pooled, dense) + pack.extra["dense.bias"][:, None]
        pooled = backbone.family.activate(pooled)
    logits = torch.bmm(pooled, pack.extra["head.weight"].transpose(1, 2)).squeeze(2)
    bias = pack.extra.get("head.bias")
    return logits if bias is None else logits + bias
