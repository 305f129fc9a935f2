"""Typed caller of the script by which data cease to belong to an archive (docs/protocol.md). No IO here."""

from __future__ import annotations

from reclaimd.streams.lua_source import load_script
from reclaimd.streams.scripts import Call


def disown(archive_id: str, epoch: str, *accepted: str) -> Call[bool]:
    """What this archive had belongs to none; it is gone for good. False: another one has it, and nothing happened.

    `epoch`: the key, of a partition or of the schedules; `accepted`: of a partition, that key too.
    """
    return Call(load_script("disown"), (epoch, *accepted), ("", archive_id), lambda reply: bytes(reply) == b"ok")
