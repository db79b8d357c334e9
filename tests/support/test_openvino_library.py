"""OpenVINO is imported without its telemetry."""

import subprocess
import sys


def test_no_telemetry_is_sent() -> None:
    code = (
        "import sys, socket, multiprocessing\n"
        "def refuse(*arguments, **options): raise SystemExit('telemetry was sent')\n"
        "multiprocessing.Process.start = socket.socket.connect = refuse\n"
        "import deploy.backends.openvino.runner\n"
        "import openvino.tools.ovc\n"
        "assert not any(name.startswith('openvino_telemetry.') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
