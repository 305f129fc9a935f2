"""Stable worker IDs: the same after every restart, never the process ID."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from reclaimd.streams.errors import ConfigError
from reclaimd.streams.ids import NAME, check_worker_id
from reclaimd.streams.worker.locks import LockFile, LockHeld

_SERVICE = re.compile(r"/([^/\n]+)\.service(?=/|$)", re.MULTILINE)
_ORDINAL = re.compile(r".+-\d+\Z")
_SLOTS = 256


class Base(NamedTuple):
    """The stem of this supervisor's worker IDs, why it is stable, and the lock that keeps it ours (if it needs one)."""

    name: str
    source: str
    slot: LockFile | None = None


def base_id(explicit: str | None, environ: Mapping[str, str], folder: Path, namespace: str) -> Base:
    """`--id`, else the systemd instance, else the StatefulSet ordinal, else host name and slot. Raises ConfigError."""
    if explicit:
        return Base(check_worker_id(explicit), "--id")
    instance = systemd_instance(environ, Path("/proc/self/cgroup"))
    if instance:
        return Base(check_worker_id(instance), "systemd instance")
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", environ.get("HOSTNAME") or socket.gethostname())
    if "KUBERNETES_SERVICE_HOST" in environ and _ORDINAL.match(host):
        return Base(check_worker_id(host), "StatefulSet ordinal")
    for slot in range(_SLOTS):
        try:
            lock = LockFile.acquire(folder / f"{namespace}.{host}-s{slot}.slot")
        except LockHeld:
            continue
        return Base(check_worker_id(f"{host}-s{slot}"), "host name and slot", lock)
    raise ConfigError(f"all {_SLOTS} worker slots of this host are taken: give this worker an --id")


def systemd_instance(environ: Mapping[str, str], cgroup: Path) -> str | None:
    """`mail1` for `reclaimd-worker@mail1.service`; None outside a systemd template unit."""
    if "INVOCATION_ID" not in environ:
        return None
    try:
        text = cgroup.read_text()
    except OSError:
        return None
    # The innermost unit is ours: a user's services live inside user@1000.service.
    units = _SERVICE.findall(text)
    name = units[-1].partition("@")[2] if units else ""
    return name if NAME.match(name) else None


def process_ids(base: str, processes: int) -> list[str]:
    """One worker ID per process: the base itself when there is only one."""
    return [base] if processes == 1 else [f"{base}-{number}" for number in range(processes)]
