"""The Triton kernels of the scan, as far as they go without a GPU; and what CUDA backends say of themselves."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_mamba_ssm import recurrence
from torch.testing import assert_close

from evssm import scan, scan_choice
from evssm.scan import scan_backends, scanning_with, selective_scan

CASES = Path(__file__).parent / "interpreted_triton.py"
KERNELS = ("_ends", "_carry", "_outputs", "_gradients")
NUMBERS = ("l", "d", "groups", "chunks", "blocks", "per_group")


def needs_triton():
    pytest.importorskip("triton", reason="Triton has wheels for Linux only: pip install 'evssm-lab[gpu]'")


@pytest.mark.slow
def test_the_kernels_hold_in_triton_s_interpreter():
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    needs_triton()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(CASES)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=550)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_nvidia_s_processors(capability, tmp_path, monkeypatch):
    needs_triton()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is not set
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from evssm import scan_triton

    constants = {
        **{"n": 8, "SMOOTH": True, "REVERSE": True, "STEPS": scan_triton.STEPS, "WIDE": scan_triton.WIDE},
        **{"TERMS": scan_triton.TERMS[torch.float32], "LIMIT": scan_triton.LIMIT[torch.float32]},
    }
    for name in KERNELS:
        kernel = getattr(scan_triton, name)
        names = [parameter.name for parameter in kernel.params]
        kinds = {key: "constexpr" if key in constants else "i32" if key in NUMBERS else "*fp32" for key in names}
        source = ASTSource(kernel, kinds, {key: constants[key] for key in names if key in constants})
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": scan_triton.WARPS})
        assert f".target sm_{capability}" in compiled.asm["ptx"]
        assert len(compiled.asm["cubin"]) > 1000


@pytest.fixture
def fresh():
    """States as a new process would find them, before and after."""
    functions = (scan_choice.backend_module, scan_choice._state)
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


@pytest.mark.parametrize("name", ["triton", "mamba_ssm"])
def test_without_cuda_their_state_says_so(name, fresh, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scan_backends()[name] == "not available: there is no CUDA device here"
    u = torch.rand(1, 2, 3)
    with pytest.raises(ValueError, match=f"'{name}' is not available: there is no CUDA device here, or 'auto'"):
        selective_scan(u, u, -torch.rand(2, 4), torch.rand(1, 4, 3), torch.rand(1, 4, 3), backend=name)


@pytest.mark.parametrize(("name", "package"), [("triton", "evssm-lab[gpu]"), ("mamba_ssm", "mamba-ssm")])
def test_without_their_package_their_state_says_what_installs_it(name, package, fresh, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in [key for key in sys.modules if key.split(".")[0] == name or key == f"evssm.scan_{name}"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # an import of it fails from now on
    state = scan_backends()[name]
    assert state.startswith("not available: ")
    assert package in state


def test_auto_means_what_was_said_and_only_inside_the_block(monkeypatch):
    inputs = [torch.rand(1, 2, 5), torch.rand(1, 2, 5), -torch.rand(2, 3), torch.rand(1, 3, 5), torch.rand(1, 3, 5)]
    used = []
    definition = scan.selective_scan_definition
    monkeypatch.setattr(scan, "selective_scan_definition", lambda *a, **k: used.append(1) or definition(*a, **k))
    with pytest.raises(ZeroDivisionError), scanning_with("reference"):
        selective_scan(*inputs).tolist()[1 // 0]
    assert used == [1]
    selective_scan(*inputs)
    assert used == [1]
    with pytest.raises(ValueError, match="no scan backend 'fast'"), scanning_with("fast"):
        pass


@pytest.fixture
def theirs(fresh, monkeypatch):
    """A package of mamba-ssm's name, its scan the documented recurrence; the kinds of tensors it was called with."""
    calls = []

    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
        tensors = [x for x in (u, delta, A, B, C, D, delta_bias) if x is not None]
        calls.append({(x.dtype, x.is_contiguous()) for x in tensors})
        per_channel = (x[:, None].expand(-1, u.shape[1], -1, -1) for x in (B, C))
        return recurrence(u, delta, A, *per_channel, D, z, delta_bias, delta_softplus)

    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for name, module in {"mamba_ssm": ModuleType("mamba_ssm"), "mamba_ssm.ops": ModuleType("ops")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.delitem(sys.modules, "evssm.scan_mamba_ssm", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield calls
    sys.modules.pop("evssm.scan_mamba_ssm", None)


def test_mamba_ssm_s_kernel_gets_its_arguments_in_single_precision_and_one_piece(theirs):
    assert scan_backends()["mamba_ssm"] == "available"
    inputs = {"u": torch.randn(2, 9, 4).mT, "delta": torch.randn(2, 9, 4).mT, "A": -torch.rand(4, 3)}
    inputs |= {"B": torch.randn(2, 3, 9), "C": torch.randn(2, 3, 9), "D": torch.rand(4), "delta_bias": torch.rand(4)}
    half = {name: x if x.ndim < 3 else x.bfloat16() for name, x in inputs.items()}
    for given in (inputs, half):
        y = scan_choice.backend_module("mamba_ssm").scan(*given.values(), True)
        assert theirs.pop() == {(torch.float32, True)}
        assert y.dtype == given["u"].dtype
        assert_close(y, selective_scan(**given, delta_softplus=True, backend="reference"))


def test_what_mamba_ssm_s_kernel_cannot_do_is_refused(theirs):
    kernel = scan_choice.backend_module("mamba_ssm").scan
    u, B = torch.rand(1, 2, 3), torch.rand(1, 4, 3)
    with pytest.raises(ValueError, match="float64; try 'torch'"):
        kernel(u, u, -torch.rand(2, 4, dtype=torch.float64), B, B, None, None, False)
    with pytest.raises(ValueError, match="at most 256 states, not 257"):
        kernel(u, u, -torch.rand(2, 257), torch.rand(1, 257, 3), torch.rand(1, 257, 3), None, None, False)
    with pytest.raises(ValueError, match="runs on CUDA devices, and u is on cpu"):
        selective_scan(u, u, -torch.rand(2, 4), B, B, backend="mamba_ssm")
