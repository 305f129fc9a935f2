"""The marks `<n>:<nonce>` that prove up to where an archive and Redis agree. Pure."""

from __future__ import annotations

from reclaimd.daemon.rebuild.values import PartitionRow


def mark_number(mark: str) -> int:
    """The count in a mark; 0 for none or for what is no mark."""
    number = mark.partition(":")[0]
    return int(number) if number.isascii() and number.isdigit() else 0


def new_mark(nonce: str, *marks: str) -> str:
    """The one that follows all of these. `nonce`: random; 8 hex digits of it are used."""
    return f"{max(map(mark_number, marks), default=0) + 1}:{nonce[:8]}"


def mark_after(row: PartitionRow) -> str:
    """Above every mark that Redis can have from before; the same however often the rebuild is finished."""
    return f"{mark_number(row.mark) + 2}:{row.rebuild_id[:8]}"
