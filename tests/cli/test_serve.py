"""`regard serve` and `regard explore` as processes: they listen, answer, say what is wrong, and stop when told to."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest


@pytest.mark.slow
def test_a_service_listens_answers_and_stops():
    command = [sys.executable, "-m", "regard", "serve", "g2p", "nothing", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"listening on (http://127\.0\.0\.1:\d+) ", process.stderr.readline())[1]
            told = ready(address)
            assert {one["name"]: one["state"] for one in told["models"]} == {"g2p": "ready", "nothing": "failed"}
            assert "no model 'nothing'" in process.stderr.readline()
            body = json.dumps({"model": "g2p", "texts": ["python"]}).encode()
            asked = Request(f"{address}/api/run/translate", body, {"Content-Type": "application/json"})
            with urlopen(asked, timeout=30) as answer:
                assert json.load(answer)["answers"] == ["P AY1 TH AA0 N"]
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


def ready(address):
    """What /ready says once no model is being opened."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            with urlopen(f"{address}/ready", timeout=30) as answer:
                told = json.load(answer)
        except HTTPError as error:
            told = json.load(error)
        if all(one["state"] != "loading" for one in told["models"]):
            return told
        time.sleep(0.1)
    raise AssertionError("no model was opened")


def test_beyond_this_machine_and_a_port_that_is_taken(regard, tmp_path):
    ended = regard("serve", "g2p", "--host", "0.0.0.0")
    assert (ended.code, "needs a token" in ended.err) == (2, True)
    ended = regard("serve", "g2p", "--token-file", tmp_path / "none")
    assert (ended.code, "cannot be read" in ended.err) == (2, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = regard("explore", "g2p", "--no-browser", "--port", taken.getsockname()[1])
    assert (ended.code, "choose another --port" in ended.err) == (2, True)


def test_help_needs_no_web_framework():
    code = (
        "import sys; sys.argv = ['regard', '--help']\n"
        "from regard.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'fastapi', 'uvicorn', 'torch', 'starlette'} & set(sys.modules)"
    )
    environment = {**os.environ, "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
