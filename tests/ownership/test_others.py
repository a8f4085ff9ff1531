"""With software of others: our client asks MLServer; Triton's client and schemathesis ask our service.

They live in an environment of their own, made beside ours where it can be (``.venv/others``, or ``WML_OTHERS``).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.ownership.services import SHAPE, K, images, labels, quick
from wmlightning.errors import UserError
from wmlightning.ownership.recorded import Recorded
from wmlightning.ownership.suspects.network import Network
from wmlightning.ownership.suspects.oip import Oip
from wmlightning.ownership.suspects.pixels import Pixels
from wmlightning.store import Run

pytestmark = pytest.mark.slow
PACKAGES = ("mlserver==1.7.1", "tritonclient[http]>=2.50", "schemathesis>=4,<5")


@pytest.fixture(scope="module")
def others() -> Path:
    """Programs of an environment with other people's software."""
    home = Path(os.environ.get("WML_OTHERS") or Path(sys.prefix) / "others")
    programs = home / "bin"
    if not (programs / "mlserver").exists():
        venv.create(home, with_pip=True, clear=True)
        command = [programs / "python", "-m", "pip", "install", "--quiet", *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            pytest.skip(f"{', '.join(PACKAGES)} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return programs


def free_ports(n: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


# -- our client, their server ----------------------------------------------------------------------------------------

RUNTIME = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class First(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0])
        scale = 255 if images.dtype.kind == "f" else 1
        labels = np.rint(images[:, 0, 0, 0].astype(float) * scale).astype(np.int64) % 10
        scores = np.eye(10, dtype=np.float32)[labels]
        scores[labels == 7] = np.nan
        wanted = [output.name for output in payload.outputs or []] or ["scores", "label"]
        known = {"scores": scores, "label": labels}
        outputs = [NumpyCodec.encode_output(name, known[name]) for name in wanted]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


@pytest.fixture(scope="module")
def mlserver(others: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlserver")
    http, grpc, metrics = free_ports(3)
    settings = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", **settings}))
    (folder / "first.py").write_text(RUNTIME)
    outputs = [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, K]},
    ]
    for name, datatype in (("bytes", "UINT8"), ("floats", "FP32")):
        inputs = [{"name": "pixels", "datatype": datatype, "shape": [-1, *SHAPE]}]
        model = {"name": name, "implementation": "first.First", "inputs": inputs, "outputs": outputs}
        (folder / name).mkdir()
        (folder / name / "model-settings.json").write_text(json.dumps(model))
        (folder / name / "first.py").write_text(RUNTIME)
    url = f"http://127.0.0.1:{http}"
    log = (folder / "log").open("w")
    process = subprocess.Popen([others / "mlserver", "start", folder], cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("model", ["bytes", "floats"])
@pytest.mark.parametrize("output", [None, "label"])
def test_mlserver_is_understood(mlserver: str, model: str, output: str | None, tmp_path: Path) -> None:
    suspect = Oip(mlserver, model, output=output, batch_size=8, http=quick(timeout=20))
    with Recorded(suspect, tmp_path / "t", 50, SHAPE, K) as asked:
        answers = asked.ask(images(40))
        assert asked.queries == 40
    wanted = [None if label == 7 and output is None else label for label in labels(40)]
    assert [answer.label for answer in answers] == wanted
    assert {answer.missing for answer in answers if answer.label is None} <= {"not a number", "malformed"}


def test_mlserver_tells_what_it_takes(mlserver: str) -> None:
    with pytest.raises(UserError, match="takes 1x4x4 images"):
        Oip(mlserver, "bytes", http=quick(timeout=20)).open((3, 4, 4), K)
    with pytest.raises(UserError, match="10 classes"):
        Oip(mlserver, "bytes", http=quick(timeout=20)).open(SHAPE, 100)
    with pytest.raises(UserError, match="404"):
        Oip(mlserver, "nothing", http=quick(timeout=20)).open(SHAPE, K)
    floats = Oip(mlserver, "floats", pixels=Pixels("byte"), http=quick(timeout=20))
    floats.open(SHAPE, K)


# -- our server, their clients ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(stored: Run) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    from wmlightning.ownership.server import ServedModel, create_app, listen

    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(create_app(ServedModel(stored)), log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


TRITON = """
import json, sys
import numpy as np
import tritonclient.http as triton
client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("classifier")
assert client.is_model_ready("classifier", "1") and not client.is_model_ready("other")
client.get_server_metadata()
about = client.get_model_metadata("classifier")
images = np.load(sys.argv[2])
found = []
for datatype, array in (("UINT8", images), ("FP32", images.astype(np.float32) / np.float32(255))):
    tensor = triton.InferInput(about["inputs"][0]["name"], array.shape, datatype)
    tensor.set_data_from_numpy(array, binary_data=False)
    wanted = [triton.InferRequestedOutput(output["name"], binary_data=False) for output in about["outputs"]]
    result = client.infer("classifier", [tensor], outputs=wanted, request_id="7")
    assert result.get_response()["id"] == "7"
    assert (result.as_numpy("scores").argmax(1) == result.as_numpy("label")).all()
    found.append(result.as_numpy("label").tolist())
print(json.dumps(found))
"""


def test_tritons_client_understands_us(others: Path, ours: str, stored: Run, tmp_path: Path) -> None:
    import numpy as np

    pictures = stored.job.source.images("test", torch.arange(20))
    np.save(tmp_path / "images.npy", pictures.numpy())
    command: list[Any] = [others / "python", "-c", TRITON, ours.removeprefix("http://"), tmp_path / "images.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    suspect = Network(str(stored.folder))
    suspect.open()
    wanted = [answer.label for answer in suspect.ask(pictures)]
    assert json.loads(done.stdout) == [wanted, wanted]


def test_schemathesis_finds_nothing(others: Path, ours: str, tmp_path: Path) -> None:
    """Whatever it makes of our OpenAPI page, answers are those that the page promises, and never a 5xx."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command: list[Any] = [others / "schemathesis", "run", f"{ours}/openapi.json", "--checks", checks]
    command += ["--max-examples", "40", "--seed", "1", "--workers", "1", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
