"""A Ray of our own: what its processes have imported, whose ports it leaves alone, and who hears SIGTERM."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

from tests.faults.job import ROOT

# Prints what a Ray of our own is like and is terminated inside of it.
PROGRAM = """
    import json, os, signal, sys, time
    import psutil, ray
    from pipelines.errors import run_cli
    from pipelines.ray_session import starting_ray

    def look(_):
        with starting_ray(0.5, "tests.pipelines.preloaded", 1) as ready:
            ready()
            loaded = ray.remote(num_cpus=0.1)(lambda: "tests.pipelines.preloaded" in sys.modules)
            ports = [port for one in psutil.Process().children(recursive=True) for port in ports_of(one)]
            print(json.dumps({"loaded": ray.get(loaded.remote()), "ports": ports}), flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    def ports_of(process):
        return [one.laddr.port for one in process.net_connections() if one.status == psutil.CONN_LISTEN]

    sys.exit(run_cli(look, []))
"""
AGENT_PORT = 52365  # of every Ray that is not told otherwise


def test_our_own_ray_preloads_and_takes_no_fixed_port_and_no_signal() -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 143, done.stderr
    assert done.stderr == "terminated; the same command continues where it stopped\n"
    seen = json.loads(done.stdout)
    assert seen["loaded"]
    assert seen["ports"] and AGENT_PORT not in seen["ports"]
