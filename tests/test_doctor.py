from types import SimpleNamespace

import pytest

from ttrl_repro import doctor


def installed(*names):
    return [SimpleNamespace(metadata={"Name": name}) for name in names]


def test_cuda_packages_fail_unless_they_are_wanted(monkeypatch, capsys):
    monkeypatch.setattr(doctor.metadata, "distributions", lambda: installed("torch", "NVIDIA-cublas", "nvidia-cudnn"))
    monkeypatch.delenv("TTRL_CUDA", raising=False)
    assert doctor.cuda_packages() == ["nvidia-cublas", "nvidia-cudnn"]
    with pytest.raises(SystemExit) as caught:
        doctor.main()
    assert caught.value.code == 1
    assert "brought 2 CUDA packages (nvidia-cublas, nvidia-cudnn" in capsys.readouterr().err
    monkeypatch.setenv("TTRL_CUDA", "1")
    doctor.main()


def test_a_cpu_build_passes(monkeypatch, capsys):
    monkeypatch.setattr(doctor.metadata, "distributions", lambda: installed("torch", "numpy"))
    doctor.main()
    assert "no CUDA packages" in capsys.readouterr().out
