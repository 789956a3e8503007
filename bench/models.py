"""Models at their real sizes, for timing: random weights made lively as the zoo does, images of 224, texts of 128 tokens.

The zoo's models are small and are for correctness; a name that stands here is built at its real size, any other
name of the zoo as it stands there (batch 1 then means: the zoo's own example).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bench.zoo import CLASSIFIERS, SEGMENTERS, ZOO, Example, settle, torchvision, transformers

# What issue 3 compares; the default of every command here.
TEN = ("mlp", "squeezenet1_1", "mobilenet_v2", "efficientnet_b0", "resnet18", "densenet121", "resnet50", "convnext_tiny",
       "bert", "vit_b_16")
TOKENS = 128
_IMAGE_SIZES = {"inception_v3": 299}  # pixels; 224 elsewhere
# Transformers whose configuration says their usual size when nothing is asked of it: name -> (configuration, model).
_TEXT = {"bert": ("BertConfig", "BertModel"), "roberta": ("RobertaConfig", "RobertaModel"),
         "distilbert": ("DistilBertConfig", "DistilBertModel"), "electra": ("ElectraConfig", "ElectraModel"),
         "mpnet": ("MPNetConfig", "MPNetModel"), "gpt2": ("GPT2Config", "GPT2Model")}


def known() -> list[str]:
    """Every name that `build` takes."""
    return sorted({*TEN, *_TEXT, *CLASSIFIERS, *SEGMENTERS, *ZOO})


def unknown(names: Sequence[str]) -> str:
    """What is wrong with these names, empty where nothing is."""
    wrong = [n for n in names if n not in known()]
    near = {m for n in wrong for m in difflib.get_close_matches(n, known(), 2)}
    return f"unknown model {', '.join(wrong)}" + (f"; did you mean {' or '.join(sorted(near))}?" if near else "") if wrong else ""


def has_batch(name: str) -> bool:
    """Whether the model is built for any batch; those of the zoo alone have the one of their example."""
    return name in (*TEN, *_TEXT, *CLASSIFIERS, *SEGMENTERS)


def build(name: str, batch: int) -> Example:
    """The module in eval mode with its arguments, from seed 0."""
    torch.manual_seed(0)
    module, args, kwargs = _make(name)
    module = settle(module.eval())
    if has_batch(name):
        torch.manual_seed(1)  # inputs that do not depend on how many numbers the weights took
        args = tuple(_example(a, batch) for a in args)
    return module, args, kwargs


def _make(name: str) -> Example:
    if name == "mlp":
        layers: list[nn.Module] = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
        return nn.Sequential(*layers), (torch.empty(1, 784),), {}
    if name in _TEXT:
        config, model = _TEXT[name]
        t = transformers()
        return getattr(t, model)(getattr(t, config)(use_cache=False)), (torch.empty(1, TOKENS, dtype=torch.int64),), {}
    if name in SEGMENTERS:
        make = getattr(torchvision().models.segmentation, name)
        return make(weights=None, weights_backbone=None), (torch.empty(1, 3, 224, 224),), {}
    if name in CLASSIFIERS:
        size = _IMAGE_SIZES.get(name, 224)
        options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return getattr(torchvision().models, name)(weights=None, **options), (torch.empty(1, 3, size, size),), {}
    return ZOO[name]()


def _example(like: torch.Tensor, batch: int) -> torch.Tensor:
    shape = (batch, *like.shape[1:])
    return torch.randn(shape) if like.is_floating_point() else torch.randint(3, 1000, shape)
