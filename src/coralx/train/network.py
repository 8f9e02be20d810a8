"""The forward pass of a pack: frozen prefix -> image tokens -> adapted blocks -> K x B logits.

Images join as extra tokens made by each genome's own linear projector (LLaVA, Liu et al. 2023,
arXiv:2304.08485). They enter at the genome's lowest adapted block rather than below the frozen
ones, where they would undo the shared prefix; with `layers: all` that is LLaVA's place.

Letters: K genomes, B rows, T tokens, D features, S image tokens, V vision features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coralx.train.adapters import PackedAdapters
from coralx.train.backbone import Backbone
from coralx.train.prefix import Batch


def score(backbone: Backbone, pack: PackedAdapters, entries: Sequence[int], batch: Batch) -> Tensor:
    """Logits of every genome for every row: (K, B).

    Args:
        entries: of each genome, the block where its adapters begin; none lies below batch.depth.
    """
    count, rows = pack.size, len(batch.mask)
    hidden = batch.hidden.repeat(count, 1, 1)
    mask = batch.mask.repeat(count, 1)
    images = _project(pack, batch)
    slots = 0 if images is None else images.shape[2]
    if slots:
        empty = hidden.new_zeros(len(hidden), slots, hidden.shape[2])
        hidden = torch.cat([empty, hidden], dim=1)
    starts = torch.tensor(entries, device=hidden.device)
    for index in range(batch.depth, backbone.depth):
        seen = mask
        if images is not None and batch.has_image is not None:
            if index in entries:
                hidden = _place(hidden, images, starts == index)
            shown = (starts <= index)[:, None] & batch.has_image[None]
            seen = torch.cat([shown.reshape(-1, 1).expand(-1, slots), mask], dim=1)
        hidden = backbone.run(hidden, seen, index, slots, pack)
    pooled = backbone.pool(hidden, seen, slots).view(count, rows, -1)
    return _classify(pack, pooled)


def _project(pack: PackedAdapters, batch: Batch) -> Tensor | None:
    """Image features through each genome's projector: (B, S, V) -> (K, B, S, D)."""
    if batch.images is None or "projector.weight" not in pack.extra:
        return None
    rows, slots, width = batch.images.shape
    weight, bias = pack.extra["projector.weight"], pack.extra["projector.bias"]
    flat = torch.matmul(batch.images.reshape(1, -1, width).float(), weight.transpose(1, 2))
    return (flat + bias[:, None]).view(pack.size, rows, slots, -1).to(batch.hidden.dtype)


def _place(hidden: Tensor, images: Tensor, entering: Tensor) -> Tensor:
    """Write the image tokens of the genomes that enter here into their slots."""
    count, rows, slots, width = images.shape
    old = hidden[:, :slots].view(count, rows, slots, width)
    new = torch.where(entering[:, None, None, None], images, old)
    return torch.cat([new.reshape(-1, slots, width), hidden[:, slots:]], dim=1)


def _classify(pack: PackedAdapters, pooled: Tensor) -> Tensor:
    """(K, B, D) -> (K, B) through each genome's own classification layer."""
    logits = torch.bmm(pooled.float(), pack.extra["head.weight"].transpose(1, 2)).squeeze(2)
    bias = pack.extra.get("head.bias")
    return logits if bias is None else logits + bias
