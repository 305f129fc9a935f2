"""Who is due next: a heap of names with lazy deletion. Pure."""

import heapq

SLACK = 1_000
"""Outdated heap entries that are kept at least before the heap is built anew."""


class Timers:
    """Names, each with at most one due instant in wall milliseconds; setting one again replaces it.

    Setting, removing and popping cost O(log n); nothing is ever searched.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def set(self, name: str, due_ms: int) -> None:
        """Make `name` due at that instant, and at no other."""
        if self._due.get(name) == due_ms:
            return
        self._due[name] = due_ms
        heapq.heappush(self._heap, (due_ms, name))
        if len(self._heap) > 2 * len(self._due) + SLACK:
            self._rebuild()

    def fill(self, dues: dict[str, int]) -> None:
        """Set very many at once, by name: O(n) instead of O(n log n). The dict is kept."""
        self._heap += zip(dues.values(), dues, strict=True)
        heapq.heapify(self._heap)
        self._due = self._due | dues if self._due else dues

    def remove(self, name: str) -> None:
        """`name` is not due any more; nothing happens if it wasn't."""
        self._due.pop(name, None)

    def due(self, name: str) -> int | None:
        """When `name` is due, if it is."""
        return self._due.get(name)

    def next_due(self) -> int | None:
        """The earliest instant of all, or None when nothing is due ever."""
        heap = self._heap
        while heap and self._due.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now_ms: int, limit: int) -> list[str]:
        """Take out up to `limit` names that are due at `now_ms`, the earliest first."""
        names: list[str] = []
        while len(names) < limit:
            due = self.next_due()
            if due is None or due > now_ms:
                break
            name = heapq.heappop(self._heap)[1]
            del self._due[name]
            names.append(name)
        return names

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self._due.clear()

    def _rebuild(self) -> None:
        self._heap = [(due, name) for name, due in self._due.items()]
        heapq.heapify(self._heap)
