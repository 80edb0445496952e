"""A virtual environment a peer, made on demand in the user's cache; this one's packages (torch) are behind its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig

from benchmarks.peers.catalogue import Peer
from models.data.fetch import cache_dir

INSTALL_TIMEOUT_S = 900


class PeerAbsent(RuntimeError):
    """The peer cannot be had here; the text says why."""


def python_of(peer: Peer, install: bool) -> str:
    """The interpreter that can start the peer. Raises PeerAbsent when it is not installed or does not install."""
    if not peer.requirement:
        return sys.executable
    folder = cache_dir() / "peers" / peer.name
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if done.exists() and done.read_text(encoding="utf-8") == peer.requirement:
        return str(python)
    if not install:
        raise PeerAbsent(f"not installed; `swan bench serving --install` gets {peer.requirement}")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "zz_parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    command = [str(python), "-m", "pip", "install", "-q", peer.requirement]
    result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    if result.returncode != 0:
        raise PeerAbsent(f"{peer.requirement} does not install: {result.stderr.strip().splitlines()[-1][:200]}")
    done.write_text(peer.requirement, encoding="utf-8")
    return str(python)
