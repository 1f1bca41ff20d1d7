"""A batch on a Ray cluster of two nodes: a worker killed, the command killed, nothing lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hermes3.llm import LLM
from tests.cli.program import ROOT, command, hermes3
from tests.server.test_batch import answers, request, written

WAIT_S = 1200  # on a machine that others use
N_LINES = 24
PATIENT = {  # a machine that stands still for minutes has not lost its nodes
    "RAY_health_check_initial_delay_ms": "600000",
    "RAY_health_check_timeout_ms": "600000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_gcs_rpc_server_connect_timeout_s": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hermes3.errors import Hermes3Error
    from hermes3.llm import EngineChoice
    from hermes3.server import batch_ray

    monkeypatch.setattr(batch_ray, "find_spec", lambda name: None)
    crew = batch_ray.Crew("m", "m", EngineChoice(), 1, "auto", None)
    with pytest.raises(Hermes3Error, match=r"not installed: pip install 'hermes3\[ray\]'"):
        batch_ray.answer_all_on_ray(crew, tmp_path, [], tmp_path / "out", max_bytes=1, told=lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_workers_need_a_cluster(tmp_path: Path) -> None:
    source = written(tmp_path / "in", [request("r")])
    done = hermes3("batch", str(source), str(tmp_path / "out"), "--workers", "2")
    assert (done.returncode, "--workers is for --ray" in done.stderr) == (2, True)


@pytest.fixture(scope="module")
def patient(ray_installed: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster(patient: None) -> Iterator[str]:
    """Its address; two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made.address
    made.shutdown()


def workers() -> list[int]:
    """Processes of Ray that hold an engine."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:  # it ended meanwhile
            continue
        if title.startswith(b"ray::") and b"Answerer" in title:
            found.append(int(entry.name))
    return found


def n_answers(target: Path) -> int:
    return target.read_bytes().count(b"\n") if target.exists() else 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"the command ended before {what}: {process.communicate()[1].decode()[-3000:]}")
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_worker_and_the_command_killed(cluster: str, smol_gguf: Path, tmp_path: Path) -> None:
    given = {"model": "m", "max_tokens": 30, "temperature": 0}
    lines = [request(f"r{i}", f"Count to {i}.", **given) for i in range(N_LINES)]
    lines[5]["body"]["temperature"] = -1
    source, target = written(tmp_path / "in", lines), tmp_path / "out"
    words = ("batch", str(source), str(target), "--model", str(smol_gguf), "--ctx", "256", "--at-once", "1",
             "--served-model-name", "m", "--threads", "1", "--ray", cluster, "--workers", "2")  # fmt: skip
    with subprocess.Popen(command(*words), cwd=ROOT, stderr=subprocess.PIPE) as process:
        wait_until(lambda: n_answers(target) >= 3, process, "answer")
        assert len(workers()) == 2
        os.kill(victim := workers()[0], signal.SIGKILL)
        before = n_answers(target)
        wait_until(lambda: n_answers(target) >= before + 4, process, "answer after a worker's death")
        assert victim not in workers()
        process.send_signal(signal.SIGKILL)
    n_before = n_answers(target)
    assert 7 <= n_before < N_LINES
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    assert f"{N_LINES} lines answered, {n_before} of them by an earlier run" in done.stderr
    found = answers(target)  # no custom_id twice
    assert found.keys() == {line["custom_id"] for line in lines}
    assert (found["r5"]["status_code"], found["r5"]["body"]["error"]["param"]) == (400, "temperature")
    with LLM(smol_gguf, n_ctx=256) as llm:
        for name in ("r2", "r13", "r23"):
            alone = llm.chat(f"Count to {name[1:]}.", temperature=0, max_tokens=30)
            assert found[name]["body"]["choices"][0]["message"]["content"] == alone.text


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_cluster_of_its_own(patient: None, smol_gguf: Path, tmp_path: Path) -> None:
    lines = [request(f"r{i}", model="m", max_tokens=5) for i in range(5)]
    source, target = written(tmp_path / "in", lines), tmp_path / "out"
    words = ("batch", str(source), str(target), "--model", str(smol_gguf), "--ctx", "128",
             "--served-model-name", "m", "--ray", "local")  # fmt: skip
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    assert len(answers(target)) == 5
