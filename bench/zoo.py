"""Models to measure against: name -> builder. Random weights, seeded; small inputs and reduced sizes.

A builder returns (module in eval mode, positional arguments, keyword arguments). torchvision and transformers
are imported by the builders that need them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Example = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
ZOO: dict[str, Callable[[], Example]] = {}


def model(name: str) -> Callable[[Callable[[], Example]], Callable[[], Example]]:
    """Register a builder."""

    def add(build: Callable[[], Example]) -> Callable[[], Example]:
        ZOO[name] = build
        return build

    return add


def build(name: str) -> Example:
    """The named model with its example, weights and inputs from seed 0. Raises KeyError for an unknown name."""
    torch.manual_seed(0)
    module, args, kwargs = ZOO[name]()
    return settle(module.eval()), args, kwargs


def settle(module: nn.Module) -> nn.Module:
    """Weights that hide nothing: fresh batch statistics (0 and 1), zero biases, zero heads and tiny layer scales would let
    whole branches vanish from the result, and errors with them."""
    with torch.no_grad():
        for p in module.parameters():
            if p.numel() and p.is_floating_point() and p.abs().max() < 1e-3:
                nn.init.normal_(p, 0, 0.1 if p.ndim < 2 else p[0].numel() ** -0.5)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None:
            nn.init.normal_(m.running_mean, 0, 0.1)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return module


# torchvision ------------------------------------------------------------------------------------
def torchvision() -> Any:
    """torchvision. Some wheels lack its operators for the CPU, without which it does not import: they are declared then."""
    try:
        import torchvision as package
    except RuntimeError as e:
        if "torchvision::nms" not in str(e):
            raise
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # as far as they came
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision.library = library  # type: ignore[attr-defined]  # kept alive: the declarations go with it
        import torchvision as package

    return package


# Smallest sensible image by architecture; 64 where it is not listed. Transformers fix it in their weights.
_SIZES = {"inception_v3": 80, "alexnet": 64, "maxvit_t": 224, "vit_h_14": 56}
_FIXED = ("vit_",)
CLASSIFIERS = (
    "alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 densenet201 "
    "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 "
    "efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 "
    "mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf "
    "regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf "
    "regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 "
    "resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 "
    "shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 "
    "vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2"
).split()
SEGMENTERS = (
    "deeplabv3_mobilenet_v3_large deeplabv3_resnet101 deeplabv3_resnet50 fcn_resnet101 fcn_resnet50 lraspp_mobilenet_v3_large"
).split()


def _classifier(name: str) -> Callable[[], Example]:
    def build() -> Example:
        size = _SIZES.get(name, 64)
        options: dict[str, Any] = {"image_size": size} if name.startswith(_FIXED) else {}
        if name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": False}
        return getattr(torchvision().models, name)(weights=None, **options), (torch.randn(1, 3, size, size),), {}
    return build


def _segmenter(name: str) -> Callable[[], Example]:
    def build() -> Example:
        make = getattr(torchvision().models.segmentation, name)
        return make(weights=None, weights_backbone=None), (torch.randn(1, 3, 64, 64),), {}
    return build


for _name in CLASSIFIERS:
    model(_name)(_classifier(_name))
for _name in SEGMENTERS:
    model(_name)(_segmenter(_name))


# transformers -----------------------------------------------------------------------------------
def transformers() -> Any:
    """transformers, which imports torchvision where that is installed."""
    torchvision()
    import transformers as package

    return package


def _tokens(rows: int = 2, length: int = 13, vocabulary: int = 99) -> torch.Tensor:
    return torch.randint(3, vocabulary, (rows, length))


def _mask(rows: int = 2, length: int = 13) -> torch.Tensor:
    """Attention over everything but the end of the second row."""
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[1:, -4:] = 0
    return mask


_SMALL = {"vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
_IMAGE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80, "image_size": 32,
          "patch_size": 8}


def _encoder(config: str, cls: str, **changes: Any) -> Example:
    t = transformers()

    module = getattr(t, cls)(getattr(t, config)(**_SMALL | changes))
    return module, (), {"input_ids": _tokens(), "attention_mask": _mask()}


def _causal(config: str, cls: str, **changes: Any) -> Example:
    t = transformers()

    module = getattr(t, cls)(getattr(t, config)(**{**_SMALL, "use_cache": False, **changes}))
    return module, (), {"input_ids": _tokens(), "attention_mask": _mask()}


@model("bert")
def _() -> Example:
    return _encoder("BertConfig", "BertModel")


@model("roberta")
def _() -> Example:
    return _encoder("RobertaConfig", "RobertaModel", pad_token_id=1)


@model("distilbert")
def _() -> Example:
    t = transformers()

    config = t.DistilBertConfig(vocab_size=99, dim=48, n_layers=2, n_heads=4, hidden_dim=80)
    return t.DistilBertModel(config), (), {"input_ids": _tokens(), "attention_mask": _mask()}


@model("gpt2")
def _() -> Example:
    t = transformers()

    config = t.GPT2Config(vocab_size=99, n_embd=48, n_layer=2, n_head=4, use_cache=False)
    return t.GPT2LMHeadModel(config), (), {"input_ids": _tokens(), "attention_mask": _mask()}


@model("llama")
def _() -> Example:
    return _causal("LlamaConfig", "LlamaForCausalLM", num_key_value_heads=2)


@model("mistral")
def _() -> Example:
    return _causal("MistralConfig", "MistralForCausalLM", num_key_value_heads=2, sliding_window=8)


@model("qwen2")
def _() -> Example:
    return _causal("Qwen2Config", "Qwen2ForCausalLM", num_key_value_heads=2)


def _t5() -> Any:
    t = transformers()

    return t.T5ForConditionalGeneration(t.T5Config(vocab_size=99, d_model=48, d_kv=12, d_ff=80, num_layers=2, num_heads=4,
                                                   use_cache=False))


@model("t5_encoder")
def _() -> Example:
    return _t5().encoder, (), {"input_ids": _tokens(), "attention_mask": _mask()}


@model("t5_decoder")
def _() -> Example:
    return _t5().decoder, (), {"input_ids": _tokens(length=7), "encoder_hidden_states": torch.randn(2, 13, 48),
                               "encoder_attention_mask": _mask()}


@model("vit")
def _() -> Example:
    t = transformers()

    return t.ViTModel(t.ViTConfig(**_IMAGE)), (torch.randn(2, 3, 32, 32),), {}


@model("swin")
def _() -> Example:
    t = transformers()

    config = t.SwinConfig(image_size=64, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return t.SwinModel(config), (torch.randn(2, 3, 64, 64),), {}


@model("dinov2")
def _() -> Example:
    t = transformers()

    return t.Dinov2Model(t.Dinov2Config(**_IMAGE)), (torch.randn(2, 3, 32, 32),), {}


@model("clip")
def _() -> Example:
    t = transformers()

    config = t.CLIPConfig(text_config=_SMALL | {"max_position_embeddings": 32, "eos_token_id": 98, "bos_token_id": 97},
                          vision_config=_IMAGE, projection_dim=32)
    tokens = _tokens()
    tokens[:, -1] = 98
    return t.CLIPModel(config), (), {"input_ids": tokens, "pixel_values": torch.randn(2, 3, 32, 32),
                                     "attention_mask": torch.ones_like(tokens)}


def _whisper() -> Any:
    t = transformers()

    return t.WhisperModel(t.WhisperConfig(
        vocab_size=99, d_model=48, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=80, decoder_ffn_dim=80, num_mel_bins=16, max_source_positions=30, max_target_positions=20,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, use_cache=False))


@model("whisper_encoder")
def _() -> Example:
    return _whisper().encoder, (torch.randn(2, 16, 60),), {}


@model("whisper_decoder")
def _() -> Example:
    return _whisper().decoder, (), {"input_ids": _tokens(length=7), "encoder_hidden_states": torch.randn(2, 30, 48)}


@model("wav2vec2")
def _() -> Example:
    t = transformers()

    config = t.Wav2Vec2Config(vocab_size=32, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80,
                              conv_dim=(24, 24, 24), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3),
                              num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    return t.Wav2Vec2Model(config), (torch.randn(2, 1601),), {}


@model("segformer")
def _() -> Example:
    t = transformers()

    config = t.SegformerConfig(hidden_sizes=[16, 24, 32, 48], num_attention_heads=[1, 2, 4, 4], depths=[1, 1, 1, 1],
                               decoder_hidden_size=32, num_labels=5)
    return t.SegformerForSemanticSegmentation(config), (torch.randn(2, 3, 64, 64),), {}


@model("detr")
def _() -> Example:
    t = transformers()

    backbone = t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], out_features=["stage4"])
    config = t.DetrConfig(use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone,
                          num_queries=7, d_model=48, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                          decoder_attention_heads=4, encoder_ffn_dim=80, decoder_ffn_dim=80)
    mask = torch.ones(1, 64, 96, dtype=torch.int64)
    return t.DetrForObjectDetection(config), (torch.randn(1, 3, 64, 96),), {"pixel_mask": mask}


@model("convnext")
def _() -> Example:
    t = transformers()

    config = t.ConvNextConfig(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1])
    return t.ConvNextModel(config), (torch.randn(2, 3, 64, 64),), {}


@model("mamba")
def _() -> Example:
    t = transformers()

    config = t.MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=8, use_cache=False)
    return t.MambaForCausalLM(config), (), {"input_ids": _tokens(length=9)}


# Plain torch ------------------------------------------------------------------------------------
@model("lstm")
def _() -> Example:
    return nn.LSTM(13, 24, num_layers=2, bidirectional=True, batch_first=True), (torch.randn(3, 11, 13),), {}


@model("gru")
def _() -> Example:
    return nn.GRU(13, 24, num_layers=2, bidirectional=True), (torch.randn(11, 3, 13),), {}


@model("mlp")
def _() -> Example:
    layers = (nn.Linear(37, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 10), nn.Softmax(-1))
    return nn.Sequential(*layers), (torch.randn(5, 37),), {}
