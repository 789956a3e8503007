"""Complex tensors and Fourier transforms against eager PyTorch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphopt
from graphopt.errors import InputError, UnsupportedOperators
from tests.capture.torch_check import Of, capture, check, each, run, same

torch.manual_seed(0)
Z, W = torch.randn(3, 4, dtype=torch.complex64), torch.randn(3, 4, dtype=torch.complex64)
D = torch.randn(3, 4, dtype=torch.complex128)
X = torch.randn(3, 20)
INF, NAN = float("inf"), float("nan")
WILD = torch.tensor([complex(a, b) for a in (0.0, -0.0, 1.5, -2.0, INF, -INF, NAN) for b in (0.0, -0.0, 3.0, -1.0, INF, NAN)])


def test_parts():
    check(
        each(
            {
                "real": lambda z, x: z.real,
                "imag": lambda z, x: z.imag,
                "view": lambda z, x: torch.view_as_real(z),
                "and back": lambda z, x: torch.view_as_complex(x.reshape(3, 10, 2)),
                "complex": lambda z, x: torch.complex(x, x[:1]),
                "polar": lambda z, x: torch.polar(x.abs(), x),
                "conj": lambda z, x: z.conj(),
                "H": lambda z, x: z.mH.resolve_conj(),
                "imag of conj": lambda z, x: z.conj().imag,
                "abs": lambda z, x: z.abs(),
                "angle": lambda z, x: z.angle(),
                "real angle": lambda z, x: x.angle(),
                "sgn": lambda z, x: z.sgn(),
                "to complex": lambda z, x: x.to(torch.complex64),
                "wider": lambda z, x: z.to(torch.complex128),
                "floats": lambda z, x: z.view(torch.float32),
                "of floats": lambda z, x: x.view(torch.complex64),
                "is real": lambda z, x: z.isreal(),
            }
        ),
        Z,
        X,
    )


def test_arithmetic():
    check(
        each(
            {
                "add": lambda z, w: z + w,
                "alpha": lambda z, w: torch.add(z, w, alpha=2 - 1j),
                "sub": lambda z, w: z - w,
                "rsub": lambda z, w: 1j - z,
                "mul": lambda z, w: z * w,
                "div": lambda z, w: z / w,
                "real": lambda z, w: z * w.real,
                "number": lambda z, w: 2.5 * z + 1,
                "complex number": lambda z, w: (1 - 2j) * z,
                "real by complex": lambda z, w: w.real * 1j,
                "by real": lambda z, w: z / w.real,
                "by number": lambda z, w: z / 4,
                "number by": lambda z, w: 1 / z,
                "neg": lambda z, w: -z,
                "reciprocal": lambda z, w: z.reciprocal(),
                "square": lambda z, w: z.square(),
                "power": lambda z, w: z**3,
                "power -2": lambda z, w: z**-2,
                "root": lambda z, w: z**0.5,
                "powers": lambda z, w: z**w,
                "base": lambda z, w: 2**z,
                "eq": lambda z, w: z == z.clone(),
                "ne": lambda z, w: z != w,
                "eq number": lambda z, w: z == 1j,
                "where": lambda z, w: torch.where(w.real > 0, z, w),
                "where number": lambda z, w: torch.where(w.real > 0, z, 2j),
                "fill": lambda z, w: z.masked_fill(w.real > 0, 1 + 2j),
                "not": lambda z, w: z.logical_not(),
            }
        ),
        Z,
        W,
    )
    check(lambda d, x: (d * x, d / 3, d + 1j), D, torch.randn(4))


def test_functions():
    functions = {
        name: (lambda z, name=name: getattr(torch, name)(z))
        for name in (
            "exp",
            "exp2",
            "expm1",
            "log",
            "log2",
            "log10",
            "log1p",
            "sqrt",
            "rsqrt",
            "sin",
            "cos",
            "tan",
            "sinh",
            "cosh",
            "tanh",
            "sigmoid",
        )
    }
    check(each(functions), torch.randn(40, dtype=torch.complex64), tolerance=3e-5)
    check(each(functions), torch.randn(40, dtype=torch.complex128))


def test_what_is_not_finite():
    """Sums, products, sizes and questions as torch has them, NaN where it has NaN. (It has two kernels for the rest.)"""
    z = WILD.repeat(2)
    w = z.flip(0)
    check(
        each(
            {
                "mul": lambda z, w: z * w,
                "number": lambda z, w: z * 2.0,
                "abs": lambda z, w: z.abs(),
                "isnan": lambda z, w: z.isnan(),
                "isinf": lambda z, w: z.isinf(),
                "isfinite": lambda z, w: z.isfinite(),
                "angle": lambda z, w: z.angle(),
                "sum": lambda z, w: z[6:9].sum(),
                "eq": lambda z, w: z == w,
            }
        ),
        z,
        w,
    )
    huge = torch.tensor([3e38 + 3e38j, 1e-30 + 1e-30j, 1e30 - 2e30j])
    check(lambda z: (z / (2e38 - 1e38j), z.sqrt(), z[1:] / z[1:]), huge)
    check(lambda z: z.sqrt(), torch.tensor([complex(-4, 0.0), complex(-4, -0.0), 0j, complex(2, -0.0)]))


def test_elements_are_moved():
    check(
        each(
            {
                "reshape": lambda z: z.reshape(2, -1),
                "T": lambda z: z.T,
                "expand": lambda z: z[:, None].expand(3, 2, 4),
                "cat": lambda z: torch.cat([z, z.real], 1),
                "stack": lambda z: torch.stack([z, 2 * z]),
                "flip": lambda z: z.flip(0),
                "roll": lambda z: z.roll(1, 1),
                "slice": lambda z: z[1:, ::2],
                "index": lambda z: z[torch.tensor([2, 0]), 1],
                "select": lambda z: z.index_select(1, torch.tensor([3, 0])),
                "gather": lambda z: z.gather(1, torch.tensor([[0], [2], [1]])),
                "pad": lambda z: F.pad(z, (1, 2)),
                "pad with": lambda z: F.pad(z, (1, 0), value=2.0),
                "split": lambda z: z.split(2, 1),
                "unbind": lambda z: z.unbind(0),
                "tril": lambda z: z.tril(),
                "diagonal": lambda z: z.diagonal(),
                "repeat": lambda z: z.repeat(1, 2),
                "scatter": lambda z: z.scatter(1, torch.tensor([[0], [2], [1]]), z),
                "repeated": lambda z: z.repeat_interleave(2, 0),
                "index_add": lambda z: z.index_add(0, torch.tensor([1, 1]), z[:2]),
                "full": lambda z: torch.full_like(z, 1 - 1j),
                "ones": lambda z: torch.ones_like(z),
                "zeros": lambda z: z.new_zeros(2),
                "eye": lambda z: torch.eye(2, dtype=z.dtype),
            }
        ),
        Z,
    )

    def put(z):
        out = torch.zeros(4, 4, dtype=z.dtype)
        out[1:, :2] = z[:, :2]
        out[0, 3] = 2j
        return out

    check(put, Z)


def test_sums_and_products():
    check(
        each(
            {
                "sum": lambda z: z.sum(),
                "over": lambda z: z.sum(1, keepdim=True),
                "mean": lambda z: z.mean(0),
                "cumsum": lambda z: z.cumsum(1),
                "prod": lambda z: z.prod(),
                "prod over": lambda z: z.prod(0),
                "cumprod": lambda z: z.cumprod(1),
                "norm": lambda z: z.norm(),
                "vector norm": lambda z: torch.linalg.vector_norm(z, dim=1),
                "var": lambda z: z.var(1),
                "std": lambda z: z.std(),
                "any": lambda z: z.any(),
                "mm": lambda z: z @ z.mT,
                "mv": lambda z: z @ z[0],
                "dot": lambda z: torch.dot(z[0], z[1]),
                "vdot": lambda z: torch.vdot(z[0], z[1]),
                "bmm": lambda z: torch.bmm(z[None], z.mT[None]),
                "outer": lambda z: torch.outer(z[0], z[1]),
                "addmm": lambda z: torch.addmm(z[:, :3], z, z.mT, beta=2j, alpha=0.5),
                "einsum": lambda z: torch.einsum("ij,kj->ik", z, z.conj()),
                "linear": lambda z: F.linear(z, z, z[:, 0]),
                "conv": lambda z: F.conv1d(z[None], z[None, :, :2], z[:1, 0]),
            }
        ),
        Z,
    )


# Transforms -------------------------------------------------------------------------------------
def test_transforms():
    check(
        each(
            {
                "rfft": lambda x: torch.fft.rfft(x),
                "n": lambda x: torch.fft.rfft(x, n=12),
                "longer": lambda x: torch.fft.rfft(x, n=31, norm="ortho"),
                "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x)),
                "odd": lambda x: torch.fft.irfft(torch.fft.rfft(x), n=17),
                "fft": lambda x: torch.fft.fft(x),
                "of complex": lambda x: torch.fft.fft(torch.complex(x, x), n=7, norm="forward"),
                "ifft": lambda x: torch.fft.ifft(torch.complex(x, -x), dim=0),
                "fft2": lambda x: torch.fft.fft2(x),
                "ifft of real": lambda x: torch.fft.ifft(x),
                "ifft2": lambda x: torch.fft.ifft2(torch.complex(x, x), norm="ortho"),
                "rfft2": lambda x: torch.fft.rfft2(x),
                "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(3, 20)),
                "fftn": lambda x: torch.fft.fftn(x, dim=(1, 0)),
                "rfftn": lambda x: torch.fft.rfftn(x, s=(4, 6)),
                "irfftn": lambda x: torch.fft.irfftn(torch.complex(x, x)),
                "hfft": lambda x: torch.fft.hfft(torch.complex(x, x)),
                "ihfft": lambda x: torch.fft.ihfft(x),
                "hfft2": lambda x: torch.fft.hfft2(x),
                "shift": lambda x: torch.fft.fftshift(x),
                "back": lambda x: torch.fft.ifftshift(torch.complex(x, x), dim=1),
                "frequencies": lambda x: torch.fft.fftfreq(9, d=0.5),
                "half of them": lambda x: torch.fft.rfftfreq(9),
            }
        ),
        X,
        tolerance=2e-5,
    )
    check(lambda x: (torch.fft.rfft(x), torch.fft.fft(x, dim=0)), X.double())
    nothing = torch.randn(0, 6)  # which MKL refuses
    graph = capture(lambda x: torch.fft.rfft(x), nothing)
    assert run(graph, nothing).shape == (0, 4, 2)


WINDOW = torch.hamming_window(16)


def frames(**options):
    given = {"n_fft": 16, "hop_length": 4, "window": WINDOW, "return_complex": True, **options}
    return lambda x: torch.stft(x, **given)


def signal(**options):
    given = {"n_fft": 16, "hop_length": 4, "window": WINDOW, **options}
    return lambda z: torch.istft(z, **given)


@pytest.mark.filterwarnings("ignore:A window was not", "ignore:The length of signal")
def test_frames_and_back():
    shorter = {"win_length": 10, "window": WINDOW[:10]}
    model = each(
        {
            "plain": frames(),
            "not centred": frames(center=False),
            "zeros": frames(pad_mode="constant"),
            "edge": frames(pad_mode="replicate"),
            "normalised": frames(normalized=True),
            "both sides": frames(onesided=False),
            "shorter window": frames(**shorter),
            "no window": frames(window=None),
            "short and none": frames(win_length=10, window=None),
            "step 5": frames(hop_length=5),
            "one signal": lambda x: frames()(x[0]),
            "as pairs": lambda x: torch.view_as_real(frames()(x)),
            "of complex": lambda x: frames(onesided=False)(torch.complex(x, x)),
            "window within": lambda x: frames(window=x[0, :16])(x),
        }
    )
    check(model, X.reshape(2, 30), tolerance=2e-5)
    z = torch.randn(2, 9, 12, dtype=torch.complex64)
    model = each(
        {
            "plain": signal(),
            "normalised": signal(normalized=True),
            "shorter window": signal(**shorter),
            "no window": signal(window=None),
            "step 5": signal(hop_length=5),
            "step 1": signal(hop_length=1),
            "length": signal(length=40),
            "too long": signal(length=60),
            "one signal": lambda z: signal()(z[0]),
            "not centred": signal(center=False),
            "complex": lambda z: signal(onesided=False, return_complex=True)(torch.cat([z, z[:, :7]], 1)),
        }
    )
    check(model, z, tolerance=2e-5)


def test_frames_of_any_batch():
    batch = torch.export.Dim("batch", min=1, max=9)
    model = Of(each({"frames": lambda x: frames()(x).abs(), "back": lambda x: signal()(frames()(x))}))
    graph = capture(model, torch.randn(2, 50), dynamic=(({0: batch},),))
    for n in (1, 3):
        x = torch.randn(n, 50)
        same(run(graph.specialise({"batch": n}), x), model(x), 2e-5)


# Models -----------------------------------------------------------------------------------------
class Spectral(nn.Module):
    """A layer of a Fourier neural operator, and a complex bias."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 4, 3, dtype=torch.cfloat))
        self.register_buffer("bias", torch.randn(3, 1, 1, dtype=torch.cfloat))

    def forward(self, x):
        f = torch.fft.rfft2(x)
        out = torch.zeros(x.shape[0], 3, x.shape[2], x.shape[3] // 2 + 1, dtype=torch.cfloat)
        out[:, :, :4, :3] = torch.einsum("bixy,ioxy->boxy", f[:, :, :4, :3], self.weight) + self.bias
        return torch.fft.irfft2(out, s=x.shape[2:])


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.mask = nn.Linear(33, 33)

    def forward(self, x):
        z = torch.stft(x, 64, 16, window=self.window, return_complex=True)
        mask = torch.sigmoid(self.mask(z.abs().transpose(1, 2))).transpose(1, 2)
        return torch.istft(z * mask, 64, 16, window=self.window, length=x.shape[-1])


def rotary(x):
    angles = torch.outer(torch.arange(6.0), 1 / 100 ** (torch.arange(0, 8, 2) / 8))
    turn = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(torch.view_as_complex(x.reshape(2, 6, 4, 2)) * turn).flatten(2)


@pytest.mark.parametrize(
    "model, x",
    [(Spectral().eval(), torch.randn(2, 2, 9, 8)), (Denoiser().eval(), torch.randn(2, 400)), (Of(rotary), torch.randn(2, 6, 8))],
)
def test_models_run_in_kernels(model, x):
    with torch.no_grad():
        expected = model(x)
    compiled = graphopt.compile(model, (x,), validate=True)
    assert compiled.host_ops == []
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)


class Both(nn.Module):
    def forward(self, z, x):
        return {"product": z * x, "size": z.abs(), "transform": torch.fft.fft(z)}


def test_complex_arrays_in_and_out(tmp_path):
    model, z, x = Both().eval(), torch.randn(3, 600, dtype=torch.complex64), torch.randn(600)
    expected = model(z, x)
    compiled = graphopt.compile(model, (z, x))
    assert [str(s) for s in compiled.inputs] == ["z: complex64[3, 600]", "x: f32[600]"]
    assert [s.dtype for s in compiled.outputs] == ["complex64", "f32", "complex64"]
    compiled.save(tmp_path / "both.gopt")
    for program in (compiled, graphopt.load(tmp_path / "both.gopt")):
        for _ in range(2):
            torch.testing.assert_close(program(z, x), expected, rtol=1e-4, atol=1e-3)
        lazy = model(z.conj(), x)
        torch.testing.assert_close(program(z.conj(), x), lazy, rtol=1e-4, atol=1e-3)
        got = program(z.numpy(), x.numpy())
        assert got["product"].dtype == np.complex64
        np.testing.assert_allclose(got["product"], expected["product"].numpy(), rtol=1e-4)
        named = program.run({"z": z.numpy(), "x": x.numpy()})
        np.testing.assert_allclose(named["transform"], expected["transform"].numpy(), atol=1e-3)
        with pytest.raises(InputError, match="expected dtype complex64"):
            program(z.real, x)


def test_complex_sizes_may_be_free():
    batch = torch.export.Dim("batch", min=1, max=9)
    compiled = graphopt.compile(Of(lambda z: z * z.conj()), (Z,), dynamic_shapes=(({0: batch},),))
    for n in (1, 5):
        z = torch.randn(n, 4, dtype=torch.complex64)
        torch.testing.assert_close(compiled(z), z * z.conj())


def test_what_is_not_done_is_refused_by_name():
    """Never computed on the real part alone."""
    with pytest.raises(UnsupportedOperators, match=r"aten.asin.default \(on a complex tensor\)"):
        capture(lambda z: torch.asin(z), Z)
    with pytest.raises(UnsupportedOperators, match="cond"):
        capture(lambda z, x: torch.cond(x.sum() > 0, lambda z: z + 1, lambda z: z * 2, (z,)), Z, X)


def test_torch_compile():
    fast = torch.compile(Both(), backend="graphopt", options={"fallback": False})
    with torch.no_grad():
        torch.testing.assert_close(fast(Z, X[0, :4]), Both()(Z, X[0, :4]), rtol=1e-4, atol=1e-4)
        turned = torch.compile(lambda z: (z * 2j).T, backend="graphopt", options={"fallback": False})
        torch.testing.assert_close(turned(Z), (Z * 2j).T)
        assert turned(Z).stride() == (Z * 2j).T.stride()
