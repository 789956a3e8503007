"""A random PyTorch module in the making, as source text: every line runs as soon as it is drawn, in three worlds.

One is eager f32, one eager f64, and in one more in f64 all inputs and weights lie a few ulps off. Where their integers differ, or
their floats by much, rounding decides and the line is left out. Where they agree, their distance bounds the rounding error.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.generate.drawing import LARGEST, Drawing, Skip

MOVED = 1e-6  # by how much, relatively, inputs and weights lie off in the third world


Proposal = Callable[["TorchDraft"], Any]
PROPOSALS: list[tuple[float, Proposal]] = []


def proposal(weight: float = 1.0) -> Callable[[Proposal], Proposal]:
    def register(f: Proposal) -> Proposal:
        PROPOSALS.append((weight, f))
        return f
    return register


@dataclass
class TorchCase:
    """The source of a module, its weights, its inputs, and what is right: arrays, and how far off each result may lie."""

    source: str
    module: nn.Module
    inputs: tuple[torch.Tensor, ...]
    expected: dict[str, np.ndarray]
    err: dict[str, float]
    skipped: Counter[str] = field(default_factory=Counter)
    dynamic: Any = None

    @property
    def finite(self) -> bool:
        known = [*(t.numpy() for t in self.inputs), *self.expected.values()]
        return all(np.isfinite(a).all() for a in known if a.dtype.kind == "f")


class World:
    """Where lines run: variables, layers, and the float dtype that `FT` stands for."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.self = type("Layers", (), {})()
        self.names: dict[str, Any] = {"torch": torch, "F": F, "nn": nn, "FT": dtype, "self": self.self}

    def given(self, t: torch.Tensor, moved: torch.Tensor | None) -> torch.Tensor:
        if not t.is_floating_point():
            return t.clone()
        return (t.double() if self.dtype == torch.float64 else t.clone()) if moved is None else moved.clone()


class TorchDraft(Drawing):
    """Draws lines."""

    EMPTY, ONE, MOST, AXES = 0.015, 0.15, 17, 4

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.numbers = torch.Generator().manual_seed(source.randrange(2**31))
        self.skipped: Counter[str] = Counter()
        self.count = 0
        self.specials = source.random() < 0.1
        self.inputs: dict[str, torch.Tensor] = {}
        self.layers: list[tuple[str, str, nn.Module]] = []
        self.lines: list[str] = []
        self.order: list[str] = []  # variables that hold tensors
        self.moved: dict[str, torch.Tensor] = {}
        self._renew()

    # Drawing ------------------------------------------------------------------------------------
    def name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.worlds[0].names[name]

    def pick(self, fits: Callable[[torch.Tensor], bool], otherwise: Callable[[], str] | None = None, fresh: float = 0.1) -> str:
        """A variable that fits, most likely one of the latest; else a new input."""
        found = [n for n in self.order if fits(self[n])]
        if found and not (otherwise is not None and self.chance(fresh)):
            back = 0
            while back < len(found) - 1 and self.chance(0.35):
                back += 1
            return found[-1 - back]
        if otherwise is None:
            raise Skip
        return otherwise()

    def leaf(self, dtype: torch.dtype, shape: Sequence[int], data: torch.Tensor | None = None) -> str:
        """A new input."""
        name = f"x{len(self.inputs)}"
        t = self.data(dtype, shape) if data is None else data
        self.inputs[name] = t
        moved = None
        if t.is_floating_point():
            moved = t.double() * (1 + MOVED * (torch.randint(0, 2, t.shape, generator=self.numbers) * 2 - 1))
            self.moved[name] = moved
        for k, w in enumerate(self.worlds):
            w.names[name] = w.given(t, moved if k == 2 else None)
        self.order.append(name)
        return name

    def data(self, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
        if dtype == torch.bool:
            return torch.randint(0, 2, tuple(shape), generator=self.numbers).bool()
        if not dtype.is_floating_point:
            return torch.randint(-4, 7, tuple(shape), generator=self.numbers).to(dtype)
        x = torch.randn(tuple(shape), generator=self.numbers) * self.choice((1, 1, 0.4, 3))
        if self.specials and x.numel():
            for _ in range(self.integer(1, 2)):
                x.view(-1)[self.integer(0, x.numel() - 1)] = self.choice((float("nan"), float("inf"), float("-inf"), 0.0))
        return x.to(dtype)

    def float(self, low: int = 0, high: int = 5, fits: Callable[[torch.Tensor], bool] = lambda t: True) -> str:
        return self.pick(lambda t: t.is_floating_point() and low <= t.dim() <= high and fits(t),
                         lambda: self.leaf(torch.float32, self.shape(low, min(high, 4))))

    def any(self, low: int = 0, high: int = 5) -> str:
        def new() -> str:
            dtype = torch.float32 if self.chance(0.8) else self.choice((torch.int64, torch.int32, torch.bool))
            return self.leaf(dtype, self.shape(low, min(high, 4)))

        return self.pick(lambda t: low <= t.dim() <= high, new)

    def number(self) -> str:
        return str(self.choice((2, -1, 0.5, 1.5, -0.25, 3, 0.1)))

    # Lines --------------------------------------------------------------------------------------
    def layer(self, constructor: str) -> str:
        """A layer with weights of its own, in all worlds; what to call it by."""
        torch.manual_seed(self.random.randrange(2**31))
        try:
            made = eval(constructor, {"nn": nn, "torch": torch}).eval()
        except Exception as e:
            raise self._skip("refused", constructor) from e
        with torch.no_grad():
            for key, b in made.state_dict().items():
                if key.endswith("running_var"):
                    b.uniform_(0.3, 2)
                elif key.endswith("running_mean") or (b.dim() == 1 and b.is_floating_point()):
                    b.uniform_(-1, 1.5)
        name = self.name("l")
        self.layers.append((name, constructor, made))
        self._add_layer(name, made)
        return f"self.{name}"

    def _add_layer(self, name: str, made: nn.Module) -> None:
        import copy

        setattr(self.worlds[0].self, name, made)
        setattr(self.worlds[1].self, name, copy.deepcopy(made).double())
        moved = copy.deepcopy(made).double()
        signs = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for p in moved.state_dict().values():
                if p.is_floating_point():
                    p.mul_(1 + MOVED * (torch.randint(0, 2, p.shape, generator=signs) * 2 - 1))
        setattr(self.worlds[2].self, name, moved)

    def line(self, code: str, results: int = 1, in_place: str | None = None) -> list[str]:
        """Run `code`, an expression of so many results (0: a statement, which changes `in_place`), and keep it."""
        names = [self.name("v") for _ in range(results)]
        text = f"{', '.join(names)} = {code}" if names else code
        try:
            self._run(text)
            self._check(names or [in_place or ""], code)
        except Skip:
            if in_place:
                self._renew()
            raise
        self.lines.append(text)
        self.order += names
        return names

    def one(self, code: str) -> str:
        return self.line(code)[0]

    def _run(self, text: str) -> None:
        try:
            with torch.no_grad():
                for w in self.worlds:
                    exec(text, w.names)
        except Exception as e:
            raise self._skip("refused by eager", text.split("=", 1)[-1].strip()) from e

    def _check(self, names: Sequence[str], code: str) -> None:
        for name in names:
            a, b, c = (w.names[name] for w in self.worlds)
            if not isinstance(a, torch.Tensor) or a.is_complex() or a.numel() > LARGEST:
                raise self._skip("no case", code)
            if a.dtype in (torch.float64,) or a.dim() > 6:
                raise self._skip("no case", code)
            bound(a, b, c, lambda why: self._skip(why, code))

    def _skip(self, why: str, code: str) -> Skip:
        self.skipped[f"{why}: {code.split('(')[0].split('.')[-1].strip()}"] += 1
        return Skip(why)

    def _renew(self) -> None:
        """The worlds as the lines so far leave them."""
        self.worlds = [World(torch.float32), World(torch.float64), World(torch.float64)]
        for name, t in self.inputs.items():
            for k, w in enumerate(self.worlds):
                w.names[name] = w.given(t, self.moved.get(name) if k == 2 else None)
        for name, _, made in self.layers:
            self._add_layer(name, made)
        for text in self.lines:
            self._run(text)

    # The whole ----------------------------------------------------------------------------------
    def case(self) -> TorchCase:
        text = "\n".join(self.lines)
        outputs = [n for n in self.order if not n.startswith("x") and not _read(n, text)]
        outputs += [n for n in self.order if n.startswith("v") and n not in outputs and self.chance(0.08)]
        if not outputs:
            raise Skip("nothing computed")
        used = [n for n in self.inputs if _read(n, text)] or list(self.inputs)[:1]
        source = written(used, self.layers, self.lines, outputs)
        self._renew()
        expected, err = {}, {}
        for n in outputs:
            a, b, c = (w.names[n] for w in self.worlds)
            err[n] = bound(a, b, c, Skip)
            expected[n] = a.detach().contiguous().clone().numpy()
        module = built(source, {name: made for name, _, made in self.layers})
        return TorchCase(source, module, tuple(self.inputs[n].clone() for n in used), expected, err, self.skipped)


def bound(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, skip: Callable[[str], Exception]) -> float:
    """A bound on the rounding error of a result from its values in the three worlds; raises what `skip` makes of a reason."""
    if a.shape != b.shape or a.shape != c.shape:
        raise skip("decided by rounding")
    if not a.is_floating_point():
        if not (torch.equal(a, b) and torch.equal(a, c)):
            raise skip("decided by rounding")
        if a.numel() and a.dtype != torch.bool and int(a.abs().max()) > 2**20:
            raise skip("too large")
        return 0.0
    if a.numel() == 0:
        return 0.0
    x, y, z = (t.detach().double() for t in (a, b, c))
    masks = [torch.where(torch.isfinite(t), 0.0, t).nan_to_num(7.0, torch.inf, -torch.inf) for t in (x, y, z)]
    if not (torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])):
        raise skip("decided by rounding")
    finite = torch.isfinite(x)
    if not finite.any():
        return 0.0
    largest = float(y[finite].abs().max())
    gap, move = float((x - y)[finite].abs().max()), float((y - z)[finite].abs().max())
    limit = 4 * gap + 2 * move
    if largest > 2e4:
        raise skip("too large")
    if limit > 0.005 * largest + 1e-5:
        raise skip("ill-conditioned")
    return limit


def _read(name: str, text: str) -> bool:
    """Does the text read the variable?"""
    import re

    return any(re.search(rf"\b{name}\b", line.split(" = ", 1)[-1] if re.match(r"^[\w, ]+ = ", line) else line)
               for line in text.splitlines())


def written(inputs: Sequence[str], layers: Sequence[tuple[str, str, nn.Module]], lines: Sequence[str],
            outputs: Sequence[str]) -> str:
    """The module as source text."""
    text = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\nFT = torch.float32\n\n\n"
    text += "class Generated(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    text += "".join(f"        self.{name} = {constructor}\n" for name, constructor, _ in layers
                    if any(f"self.{name}(" in t for t in lines))
    text += f"\n    def forward(self, {', '.join(inputs)}):\n" + "".join(f"        {t}\n" for t in lines)
    return text + f"        return ({', '.join(outputs)},)\n"


def built(source: str, weights: dict[str, nn.Module]) -> nn.Module:
    """The module of a source, with weights given by layer."""
    names: dict[str, Any] = {}
    exec(compile(source, "<generated>", "exec"), names)
    module = names["Generated"]().eval()
    for name, made in weights.items():
        if hasattr(module, name):
            getattr(module, name).load_state_dict(made.state_dict())
    return module
