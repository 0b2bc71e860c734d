"""Processes that the scripts beside this file start: each with a log of its own, waited for, and ended with the script."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
FUNCTIONS = ["sensor-ingestion", "operations-api", "signal-adjustment", "maintenance-prediction"]


def offline_credentials():
    """Nothing here leaves the machine, and nothing of the caller's account gets in."""
    for name in ["AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]:
        os.environ.pop(name, None)
    os.environ.update(
        AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1", AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true", SAM_CLI_TELEMETRY="0",
    )


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Processes:
    """What was started, and the directory with its logs."""

    def __init__(self, logs):
        self.logs, self.running = logs, []

    def start(self, name, command, port=None, **environment):
        """Starts a process in a group of its own and waits until it listens on the port, if there is one."""
        path = self.logs / f"{name}.log"
        with open(path, "w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, **environment}, start_new_session=True
            )
        self.running.append(process)
        deadline = time.monotonic() + 120
        while port:
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port), timeout=1).close()
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} does not listen on port {port}; see {path}")
            time.sleep(0.2)

    def end(self):
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            # Children that it left behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def processes(name):
    """`Processes` that end with the block, also when the script is told to end; logs stay if the block fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    started = Processes(pathlib.Path(tempfile.mkdtemp(prefix=f"greenwave-{name}-")))
    try:
        yield started
    except BaseException:
        print(f"logs are in {started.logs}", file=sys.stderr)
        raise
    else:
        shutil.rmtree(started.logs)
    finally:
        started.end()
