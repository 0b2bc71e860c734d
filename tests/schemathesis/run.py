"""`openapi.yaml` against the local host, by schemathesis; whatever follows the binary goes to `schemathesis run`.

`make schemathesis` runs it.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent


def main():
    binary, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        serve = [pathlib.Path(binary).absolute(), "serve", "--port", "0", "--data-dir", "data"]
        with subprocess.Popen(serve, cwd=directory, stdout=subprocess.PIPE, text=True) as host:
            try:
                # "Greenwave answers at http://127.0.0.1:PORT and keeps its data in ..."
                description = host.stdout.readline().split()[3] + "/openapi.json"
                tool = pathlib.Path(sys.executable).with_name("schemathesis")
                run = [tool, "--config-file", HERE / "schemathesis.toml", "run", description, "--continue-on-failure", *options]
                found = subprocess.run(run, cwd=directory, env={**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py")}).returncode
                if host.poll() is not None:
                    sys.exit("The host did not survive.")
            finally:
                host.terminate()
    sys.exit(found or host.returncode)


main()
