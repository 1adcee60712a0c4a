"""THE table of layers: YAML name, class path, slug, aliases, paper and the arguments in YAML order.

Importing this module loads no layer and no torch; a layer's file is imported when its class is first asked for.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import LayerFileError
from .layers._timm import NAMES

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Layer:
    """One row of the table; ``path`` is ``module:class``, ``arguments`` are those of a YAML row (no ``channels``).

    ``pasted`` are names of copies in other repositories, which are the host's where it has a class of that name;
    ``registered`` is the class of a user's own layer, ``source`` says where that comes from. ``given`` are the
    arguments that the slug stands for, and ``gathers`` names the argument, a mapping, that takes the keywords which are
    no arguments of the class.
    """

    name: str
    path: str
    slug: str
    aliases: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    paper: str = ""
    year: int = 0
    arxiv: str = ""
    pasted: tuple[str, ...] = ()
    registered: type[nn.Module] | None = None
    source: str = ""
    given: tuple[Any, ...] = ()
    gathers: str = ""

    def load(self) -> type[nn.Module]:
        """Import and return the class.

        Raises:
            LayerFileError: If its file cannot be imported.
        """
        if self.registered is not None:
            return self.registered
        module, _, name = self.path.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except Exception as error:  # a damaged file raises anything
            lacking = error.name if isinstance(error, ModuleNotFoundError) else None
            is_ours = not lacking or lacking.partition(".")[0] == "yolo_attn"
            mend = "--force-reinstall --no-deps yolo-attn" if is_ours else lacking
            raise LayerFileError(
                f"{self.name} cannot be used, for {module} cannot be imported: {type(error).__name__}: {error}. "
                f"Mend it: pip install {mend}"
            ) from error

    def cited(self) -> str:
        """Return paper and year in Markdown, linked where arXiv has it."""
        title = f"[{self.paper}](https://arxiv.org/abs/{self.arxiv})" if self.arxiv else self.paper
        return f"{title}, {self.year}"

    def parameters(self) -> list[inspect.Parameter]:
        """Return the constructor's parameters in YAML order, without the width."""
        parameters = list(inspect.signature(self.load()).parameters.values())[1:]
        return [p for p in parameters if not (self.gathers and p.kind is p.VAR_KEYWORD)]


def _layer(
    name: str,
    module: str,
    slug: str,
    aliases: str,
    arguments: str,
    paper: str,
    year: int,
    arxiv: str,
    pasted: str = "",
) -> Layer:
    path = f"yolo_attn.layers.{module}:{name}"
    words = (tuple(text.split()) for text in (aliases, arguments, pasted))
    other, taken, copies = words
    return Layer(name, path, slug, other, taken, paper, year, arxiv, copies)


# Positional order is the order of a YAML row and so a file format: append only.
# fmt: off
TABLE: tuple[Layer, ...] = (
    _layer(
        "SE", "se", "se", "SEAttention", "reduction bias", "Squeeze-and-Excitation Networks", 2017, "1709.01507",
        pasted="SELayer SEBlock SE_Block SE_block se_block SE_Attention",
    ),
    _layer(
        "DoubleAttention", "double_attention", "a2", "A2 A2Attention", "c_m c_n reconstruct residual",
        "A^2-Nets: Double Attention Networks", 2018, "1810.11579",
        pasted="A2Atttention",
    ),
    _layer(
        "BAM", "bam", "bam", "BAMBlock", "reduction dilation num_layers combine",
        "BAM: Bottleneck Attention Module", 2018, "1807.06514",
        pasted="BamBlock BAMLayer",
    ),
    _layer(
        "BiFormer", "biformer", "biformer", "BiLevelRoutingAttention BRA",
        "n_win num_heads qk_dim qk_scale kv_per_win kv_downsample_ratio kv_downsample_kernel kv_downsample_mode topk "
        "param_attention param_routing diff_routing soft_routing side_dwconv auto_pad mask_pad",
        "BiFormer: Vision Transformer with Bi-Level Routing Attention", 2023, "2303.08810",
    ),
    _layer(
        "MHSA", "mhsa", "mhsa", "", "num_heads qkv_bias qk_scale attn_drop proj_drop",
        "Attention Is All You Need", 2017, "1706.03762",
    ),
    _layer(
        "MHSALePE", "mhsa_lepe", "mhsa-lepe", "AttentionLePE",
        "num_heads qkv_bias qk_scale attn_drop proj_drop side_dwconv lepe_on",
        "CSWin Transformer (locally-enhanced positional encoding)", 2021, "2107.00652",
    ),
    _layer(
        "CAA", "caa", "caa", "ContextAnchorAttention", "h_kernel_size v_kernel_size gate_only",
        "Poly Kernel Inception Network for Remote Sensing Detection", 2024, "2403.06258",
    ),
    _layer(
        "CBAM", "cbam", "cbam", "CBAMBlock", "reduction kernel_size mlp_bias spatial_bn",
        "CBAM: Convolutional Block Attention Module", 2018, "1807.06521",
        pasted="CBAMLayer CBAM_Block cbam_block CBAM_BLOCK CBAMAttention CBAMModule",
    ),
    _layer(
        "CloAttention", "clo_attention", "clo", "EfficientAttention",
        "num_heads group_split kernel_sizes window_size attn_drop proj_drop qkv_bias pool",
        "Rethinking Local Perception in Lightweight Vision Transformer", 2023, "2303.17803",
    ),
    _layer(
        "CrissCross", "criss_cross", "crisscross", "CrissCrossAttention CCA", "recurrence",
        "CCNet: Criss-Cross Attention for Semantic Segmentation", 2018, "1811.11721",
        pasted="Criss_Cross_Attention",
    ),
    _layer(
        "CoordAtt", "coord_att", "coordatt", "CoordinateAttention CA", "reduction",
        "Coordinate Attention for Efficient Mobile Network Design", 2021, "2103.02907",
        pasted="CoordAttention CoordAttn",
    ),
    _layer(
        "CoT", "cot", "cot", "CoTAttention", "kernel_size",
        "Contextual Transformer Networks for Visual Recognition", 2021, "2107.12292",
    ),
    _layer(
        "CPCA", "cpca", "cpca", "", "channelAttention_reduce",
        "Channel Prior Convolutional Attention for Medical Image Segmentation", 2023, "2306.05196",
    ),
    _layer(
        "DAttention", "dattention", "dat", "DAT DeformableAttention",
        "n_heads n_groups attn_drop proj_drop stride offset_range_factor use_pe dwc_pe no_off fixed_pe ksize log_cpb "
        "kv_size q_size",
        "Vision Transformer with Deformable Attention", 2022, "2201.00520",
    ),
    _layer(
        "ECA", "eca", "eca", "ECAAttention EfficientChannelAttention eca_layer EcaModule", "kernel_size gamma b bias",
        "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", 2019, "1910.03151",
        pasted="ECALayer EcaLayer ECA_layer ECABlock ECA_Block eca_block ECA_Attention eca_attention ECAModule",
    ),
    _layer(
        "EMA", "ema", "ema", "EMA_attention EMA_Attention", "factor",
        "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", 2023, "2305.13563",
        pasted="EMAttention",
    ),
    _layer(
        "SimAM", "simam", "simam", "simam_module", "e_lambda",
        "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks", 2021, "",
        pasted="Simam_module SimAM_module SimAM_Module",
    ),
    _layer(
        "GAM", "gam", "gam", "GAM_Attention GAMAttention", "rate channel_sigmoid grouped",
        "Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions", 2021, "2112.05561",
    ),
    _layer(
        "Triplet", "triplet", "triplet", "TripletAttention", "no_spatial",
        "Rotate to Attend: Convolutional Triplet Attention Module", 2020, "2010.03045",
    ),
    _layer(
        "Shuffle", "shuffle", "shuffle", "ShuffleAttention sa_layer SA", "groups",
        "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", 2021, "2102.00240",
        pasted="Shuffle_Attention shuffle_attention",
    ),
    _layer(
        "MLCA", "mlca", "mlca", "", "local_size gamma b local_weight",
        "Mixed local channel attention for object detection", 2023, "",
    ),
    _layer(
        "SK", "sk", "sk", "SKAttention", "kernels reduction group L", "Selective Kernel Networks", 2019, "1903.06586",
    ),
    _layer(
        "LSKA", "lska", "lska", "", "kernel_size",
        "Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN", 2023, "2309.01439",
    ),
    _layer(
        "LSK", "lsk", "lsk", "LSKblock LSKBlock", "",
        "Large Selective Kernel Network for Remote Sensing Object Detection", 2023, "2303.09030",
    ),
    _layer(
        "SCSA", "scsa", "scsa", "",
        "head_num window_size group_kernel_sizes qkv_bias down_sample_mode attn_drop_ratio gate_layer",
        "SCSA: Exploring the Synergistic Effects Between Spatial and Channel Attention", 2024, "2407.05128",
    ),
    _layer(
        "ELA", "ela", "ela", "EfficientLocalizationAttention", "kernel_size groups num_groups bias",
        "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", 2024, "2403.01123",
    ),
    _layer(
        "Polarized", "polarized", "polarized", "ParallelPolarizedSelfAttention PolarizedSelfAttention", "",
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021, "2107.00782",
    ),
    _layer(
        "PolarizedSeq", "polarized", "polarized-seq", "SequentialPolarizedSelfAttention", "",
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021, "2107.00782",
    ),
    _layer(
        "PSA_p", "psa", "psa-p", "", "",
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression (official code)", 2021, "2107.00782",
    ),
    _layer(
        "PSA_s", "psa", "psa-s", "", "",
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression (official code)", 2021, "2107.00782",
    ),
    _layer(
        "GC", "gc", "gc", "ContextBlock", "ratio pooling_type fusion_types",
        "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019, "1904.11492",
    ),
)
# fmt: on

# Class names in lower case that stand for nothing here, or for several things, and what to say to them.
ELSEWHERE = {
    "attention": (
        "; the layer listed elsewhere as Attention is MHSA here (Ultralytics has an Attention of its own, "
        "another function that rows cannot name)."
    ),
    **dict.fromkeys(
        ("selfattention", "multiheadattention", "multiheadselfattention"), "; multi-head self-attention is MHSA here."
    ),
    "psa": "; polarized self-attention is Polarized, PolarizedSeq, PSA_p or PSA_s here. Ultralytics' PSA is another.",
    **dict.fromkeys(
        ("channelattention", "spatialattention"),
        "; CBAM is both, one after the other. Ultralytics has a ChannelAttention and a SpatialAttention of its own, "
        "other functions that rows cannot name.",
    ),
    "ca_block": (
        "; several classes are called CA_Block. Coordinate attention is CoordAtt here, the attention of channels SE."
    ),
    "ccattention": "; several classes are called so. Criss-cross attention is CrissCross here.",
    "ea": "; EA is external attention in some places, efficient attention in others. CloAttention is CloFormer's.",
    "bilevelroutingattention_nchw": (
        "; it is another function than BiFormer where the windows do not divide the map, and its weights have other "
        "names. BiFormer is the official BiLevelRoutingAttention."
    ),
    "biformerblock": "; it is a whole block around BiFormer, which is here.",
    "regional_routing_attention_torch": (
        "; it is yolo_attn.layers.regional_routing_attention, which gives the weights too with return_attention=True."
    ),
    **dict.fromkeys(
        ("semodule", "squeezeexcitation", "squeezeexcite"),
        "; its linear maps have biases and it names its weights otherwise. The function is SE with {bias: true}.",
    ),
    **dict.fromkeys(
        ("gcmodule", "gcblock", "globalcontextblock", "contextblock2d"),
        "; several classes are called so. GC is the authors' ContextBlock; its ratio is 1/16 for a reduction of 16.",
    ),
    "globalcontext": (
        "; it is timm's. GC is the authors' ContextBlock: {ratio: 0.125, fusion_types: [channel_mul]} comes near."
    ),
    **dict.fromkeys(
        ("skconv", "selectivekernel"), "; it is another form of selective kernels. SK is SKAttention(channel, kernels)."
    ),
    "dattentionbaseline": (
        "; it is DAttention with other defaults: {n_groups: 1, offset_range_factor: -1, ksize: 9}. Its width is "
        "n_heads * n_head_channels, and DAttention returns the map alone."
    ),
    "deformableattention2d": "; it is another form of deformable attention. DAttention is that of DAT.",
    **dict.fromkeys(
        ("lskattention", "lsk_attention"), "; it is a block of two 1x1 convolutions around LSK, which is here alone."
    ),
    "lska_attention": "; it is a block of two 1x1 convolutions around LSKA, which is here alone.",
    **dict.fromkeys(
        ("cotlayer", "cot_layer"),
        "; the authors' layer is another function. CoT is the widely copied CoTAttention.",
    ),
    **dict.fromkeys(
        ("efficientlocalattn", "efficientlocalattention"), "; timm's is another function. ELA is that of the copies."
    ),
}
# Not a paper but a way to many: a slug for each name of timm's that may be used.
TIMM = Layer(
    "TimmAttention",
    "yolo_attn.layers.timm_attention:TimmAttention",
    "timm-<name>",
    arguments=("name", "options"),
    paper="PyTorch Image Models (timm), any of its attention layers by name",
    year=2019,
    gathers="options",
)
# A control for comparisons, no attention: rows know it, lists of layers do not show it.
POINTWISE = Layer(
    "Pointwise",
    "yolo_attn.layers.pointwise:Pointwise",
    "pointwise",
    arguments=("hidden",),
    paper="none, the control of yolo-attn study",
)
TIMM_SLUGS: tuple[Layer, ...] = tuple(replace(TIMM, slug=f"timm-{name}", given=(name,)) for name in NAMES)
