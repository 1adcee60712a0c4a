"""regional_routing_attention lets the pixels of each region attend to the pixels of the regions a graph lists for it.

Paper: BiFormer: Vision Transformer with Bi-Level Routing Attention, arXiv 2303.08810.
Official code: rayleizhu/BiFormer (MIT), function ``regional_routing_attention_torch``.
Differs: the attention weights are returned only on request.
"""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from . import _checks as check
from ._attention import attend, attend_with_weights


def regional_routing_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    region_graph: Tensor,
    region_size: Sequence[int],
    kv_region_size: Sequence[int] | None = None,
    auto_pad: bool = True,
    return_attention: bool = False,
    ret_attn_mask: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend from every region of the query map to the key/value regions listed for it, per head.

    ``y_i = sum_j softmax_j(scale q_i k_j) v_j`` with j in the regions ``region_graph[r]``, r the region of i.

    Paper: BiFormer, 2023, arXiv 2303.08810.

    Args:
        query: ``(B, C, Hq, Wq)``; channel = head * width + position in the head.
        key: ``(B, C, Hk, Wk)``.
        value: ``(B, Cv, Hk, Wk)``, usually ``Cv = C``.
        scale: Factor of the query-key products.
        region_graph: Integers ``(B, heads, regions of the query, topk)``: the key/value regions, counted in row order,
            that a query region sees. One listed twice counts twice.
        region_size: Height and width of a query region in pixels.
        kv_region_size: The same for keys and values; None means ``region_size``.
        auto_pad: Pad the maps with zeros at the bottom and right to whole regions. Padded keys take part in the softmax
            (with weight ``exp(0)``).
        return_attention: Also return the weights, which the fused computation never holds.
        ret_attn_mask: The same, as BiFormer calls it.

    Returns:
        The map; if asked for also the weights ``(B, heads, regions, pixels of a query region, topk *
        pixels of a key/value region)``.

    Shape:
        ``(B, C, Hq, Wq) -> (B, Cv, Hq, Wq)``; O(Hq Wq topk r) time for r pixels in a key/value region, topk copies of
        keys and values in memory.

    Raises:
        ValueError: If a size does not fit the graph or the regions.

    Example:
        No YAML row: this is a function for layers of your own.

        >>> graph = torch.randint(0, 16, (2, 4, 16, 3))
        >>> y = regional_routing_attention(q, k, v, 32**-0.5, graph, (5, 5))  # maps (2, 128, 20, 20)
    """
    if region_graph.dim() != 4 or region_graph.is_floating_point():
        given = f"{region_graph.dtype} of shape {tuple(region_graph.shape)}"
        raise ValueError(f"region_graph is {given}; it must hold integers of shape (B, heads, regions, topk)")
    size = check.pair("region_size", region_size)
    kv_size = size if kv_region_size is None else check.pair("kv_region_size", kv_region_size)
    heads = region_graph.shape[1]
    q = _regions("query", query, size, heads, auto_pad)  # (B, heads, R, T, d)
    k = _regions("key", key, kv_size, heads, auto_pad)  # (B, heads, Rk, M, d)
    v = _regions("value", value, kv_size, heads, auto_pad)
    if q.shape[:3] != region_graph.shape[:3]:
        given = f"region_graph of shape {tuple(region_graph.shape)} does not fit the query map"
        raise ValueError(f"{given}, which has (B, heads, regions) = {tuple(q.shape[:3])}")
    k, v = _gather(k, region_graph), _gather(v, region_graph)  # (B, heads, R, topk * M, d)
    if return_attention or ret_attn_mask:
        o, weights = attend_with_weights(q, k, v, scale)
        return _to_map(o, size, query), weights
    # One batch dimension: fused kernels want four dimensions.
    o = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), scale)
    return _to_map(o.reshape(*q.shape[:4], v.shape[-1]), size, query)


def _regions(name: str, x: Tensor, size: tuple[int, int], heads: int, auto_pad: bool) -> Tensor:
    """Return the map as ``(B, heads, regions, pixels of a region, head width)``, padded to whole regions."""
    (_, c, h, w), (rh, rw) = x.shape, size
    if c % heads:
        raise ValueError(f"{name} has {c} channels, which is not divisible by the {heads} heads of region_graph")
    if not auto_pad and (h % rh or w % rw):
        raise ValueError(f"{name} map {h}x{w} is not divisible by regions of {rh}x{rw}; auto_pad=True pads it")
    if auto_pad:
        x = F.pad(x, (0, -w % rw, 0, -h % rh))
    return rearrange(x, "b (heads d) (j h) (i w) -> b heads (j i) (h w) d", heads=heads, h=rh, w=rw)


def _gather(x: Tensor, graph: Tensor) -> Tensor:
    """Return the tokens of the listed regions joined: ``(B, heads, regions, topk * pixels, head width)``."""
    tokens = rearrange(x, "b heads r m d -> b heads r (m d)")
    index = rearrange(graph, "b heads r topk -> b heads (r topk) 1").expand(-1, -1, -1, tokens.shape[-1])
    return rearrange(
        tokens.gather(2, index), "b heads (r topk) (m d) -> b heads r (topk m) d", r=graph.shape[2], d=x.shape[-1]
    )


def _to_map(x: Tensor, size: tuple[int, int], query: Tensor) -> Tensor:
    """Undo ``_regions``: tokens back to a map, cropped to the height and width of the query."""
    (rh, rw), (h, w) = size, query.shape[2:]
    y = rearrange(x, "b heads (j i) (h w) d -> b (heads d) (j h) (i w)", i=(w + rw - 1) // rw, h=rh, w=rw)
    return y[:, :, :h, :w].contiguous()
