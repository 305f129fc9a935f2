"""One partition's state, and the routines that several scripts share: clock, fencing, moving, the pass."""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from model.rules import Rules

STREAMS = (
    "suspect",
    *("recovered:high", "lane:high", "recovered:normal", "lane:normal", "recovered:low", "lane:low"),
)
SUSPECT = 0
LANE = {"high": 2, "normal": 4, "low": 6}
SUSPECT_FROM = 2
DEFAULT_CAP = 5000
SEEN_BUCKET = 300_000
WITHOUT_VERDICT = frozenset({"lease_expired", "takeover", "released", "unknown"})
WAITING, NOBODY = "", "?"

Event: TypeAlias = tuple[object, ...]
Settlement: TypeAlias = tuple[int, int, str, str, int]
"""Stream, entry ID, outcome, task, delay of the next attempt."""
Ref: TypeAlias = tuple[int, int]


class Entry(NamedTuple):
    """A stream entry. `owner` is the consumer it is pending to, `WAITING` when it was not delivered."""

    id: int
    task: str
    lane: str
    max: int
    deliveries: int = 0
    attempts: int = 0
    handbacks: int = 0
    token: int = 1
    first: int = 0
    unique: str = ""
    owner: str = WAITING


class Row(NamedTuple):
    """A worker row; `state` is live, fenced or gone; `cause` is empty while it lives.

    `ended`: lease time when its lease ended or it was fenced, whichever came first; of a gone row its end in wall time.
    """

    state: str
    counter: int
    nonce: int
    term: int
    host: str
    cause: str = ""
    ended: int = 0

    @property
    def token(self) -> tuple[int, int]:
        """What names the incarnation: counter and nonce."""
        return self.counter, self.nonce


class State(NamedTuple):
    """All that the scripts of one partition decide on. Hashable; mappings are sorted tuples of pairs.

    `epoch`: its fields, but for `layout`; `accepted`: what was enqueued during a rebuild; `planted`: the sentinels.
    """

    streams: tuple[tuple[Entry, ...], ...] = ((),) * len(STREAMS)
    workers: tuple[tuple[str, Row], ...] = ()
    leases: tuple[tuple[str, int], ...] = ()
    turns: tuple[tuple[str, int], ...] = ()
    wall: int | None = None
    lease: int = 0
    delayed: tuple[tuple[int, str, Entry], ...] = ()
    dead: tuple[tuple[int, str, Entry], ...] = ()
    unique: tuple[tuple[str, str], ...] = ()
    seen: tuple[tuple[int, str], ...] = ()
    paused: bool = False
    last_id: int = 0
    epoch: tuple[tuple[str, str], ...] = ()
    accepted: tuple[str, ...] = ()
    planted: bool = False

    @property
    def mode(self) -> str:
        """The epoch's field `state`: ok, lost or rebuilding. An epoch that has not begun is as good as ok."""
        return next((value for name, value in self.epoch if name == "state"), "ok")


class Step(NamedTuple):
    """What a script did. `reply` begins with a status, as the script's reply does. `rang`: the doorbell."""

    state: State
    reply: tuple[object, ...]
    events: tuple[Event, ...]
    rang: bool = False


class Draft:
    """A state while a script runs: scripts are atomic, so nobody sees it half done."""

    def __init__(self, state: State, now: int, rules: Rules) -> None:
        self.now, self.rules = now, rules
        self.streams = list(state.streams)
        self.workers, self.leases, self.turns = dict(state.workers), dict(state.leases), dict(state.turns)
        self.delayed, self.dead = list(state.delayed), list(state.dead)
        self.unique, self.seen = dict(state.unique), set(state.seen)
        self.wall, self.lease, self.paused, self.last_id = state.wall, state.lease, state.paused, state.last_id
        self.epoch, self.accepted, self.planted = dict(state.epoch), set(state.accepted), state.planted
        self.events: list[Event] = []
        self.rang = False

    def step(self, *reply: object) -> Step:
        """The finished step."""
        state = State(
            tuple(self.streams),
            tuple(sorted(self.workers.items())),
            tuple(sorted(self.leases.items())),
            tuple(sorted(self.turns.items())),
            self.wall,
            self.lease,
            tuple(sorted(self.delayed)),
            tuple(self.dead),
            tuple(sorted(self.unique.items())),
            tuple(sorted(self.seen)),
            self.paused,
            self.last_id,
            tuple(sorted(self.epoch.items())),
            tuple(sorted(self.accepted)),
            self.planted,
        )
        return Step(state, reply, tuple(self.events), self.rang)

    @property
    def mode(self) -> str:
        """As of a state."""
        return self.epoch.get("state", "ok")

    @property
    def frozen(self) -> bool:
        """Data were lost and are not mended yet: nothing is started or moved."""
        return self.mode != "ok"

    def begin(self) -> None:
        """The first write into nothing begins the epoch."""
        if not self.epoch:
            self.epoch = {"id": "e", "archive_id": "", "state": "ok"}

    def tick(self) -> None:
        """Advances lease time by the wall time since the last script, clamped."""
        cap = shortest_term(self.workers.values()) // 3 or DEFAULT_CAP
        if self.wall is None:
            self.wall = self.lease = self.now
        elapsed = max(self.now - self.wall, 0)
        self.lease += min(elapsed, cap) if self.rules.clock_is_clamped else elapsed
        self.wall = self.now if self.rules.clock_follows_backward_steps else max(self.wall, self.now)

    def append(self, index: int, entry: Entry) -> int:
        """XADD: a new entry at the tail, waiting; that rings."""
        self.rang = True
        self.last_id += 1
        self.streams[index] = (*self.streams[index], entry._replace(id=self.last_id, owner=WAITING))
        return self.last_id

    def find(self, index: int, entry_id: int, owner: str | None = None) -> Entry | None:
        """The entry, if it is there and (when asked) pending to `owner`."""
        for entry in self.streams[index]:
            if entry.id == entry_id and (owner is None or entry.owner == owner):
                return entry
        return None

    def drop(self, index: int, entry_id: int) -> None:
        """XACK and XDEL."""
        self.streams[index] = tuple(e for e in self.streams[index] if e.id != entry_id)

    def pending(self, owners: Iterable[str]) -> list[tuple[int, Entry]]:
        """What is pending to these consumers, by stream in reading order, then by entry ID."""
        wanted = frozenset(owners)
        return [(i, e) for i, stream in enumerate(self.streams) for e in stream if e.owner in wanted]

    def delay(self, due: int, task: str, entry: Entry) -> None:
        """Sets the task aside until `due`; it is there at most once."""
        self.delayed = [row for row in self.delayed if row[1] != task]
        self.delayed.append((due, task, entry))

    def live(self, worker: str) -> Row | None:
        """The row of a worker that lives."""
        row = self.workers.get(worker)
        return row if row is not None and row.state == "live" else None

    def current(self, worker: str, token: tuple[int, int]) -> Row | None:
        """The live row, if this token names its incarnation."""
        row = self.live(worker)
        return row if row is not None and row.token == token else None

    def renew(self, worker: str, row: Row) -> None:
        """The lease starts again from now."""
        self.leases[worker] = self.lease + row.term

    def fence(self, worker: str, cause: str) -> None:
        """From here on nothing of this incarnation is accepted."""
        row = self.workers.get(worker, Row("gone", 0, 0, 0, ""))
        if self.rules.reclaim_fences or cause != "lease_expired":
            ended = min(self.leases.get(worker, self.lease), self.lease)
            term = 0 if cause == "unknown" else row.term
            self.workers[worker] = row._replace(state="fenced", cause=cause, ended=ended, term=term)
        self.leases[worker] = 0
        self.events.append(("WorkerFenced", worker, row.token, cause))

    def release_unique(self, task: str, key: str) -> None:
        """Frees the key if this task holds it."""
        if key and self.unique.get(key) == task:
            del self.unique[key]


def shortest_term(rows: Iterable[Row]) -> int:
    """The shortest lease of those that live; 0 when nobody does."""
    return min((row.term for row in rows if row.state == "live"), default=0)


def place(entry: Entry) -> int:
    """The stream that an entry with these deliveries belongs in."""
    return SUSPECT if entry.deliveries >= SUSPECT_FROM else LANE[entry.lane]


def renumbered(entry: Entry) -> Entry:
    """The envelope of the next entry that carries the task."""
    return entry._replace(token=entry.token + 1, first=entry.first or entry.id)


def bury(d: Draft, entry: Entry, cause: str, worker: str) -> int:
    """A dead letter."""
    d.last_id += 1
    d.dead.append((d.last_id, cause, entry._replace(owner=WAITING)))
    if d.rules.unique_is_released_on_death:
        d.release_unique(entry.task, entry.unique)
    d.events.append(("Died", worker, entry.task, cause, d.last_id))
    return d.last_id


def move(d: Draft, index: int, old: Entry, cause: str, worker: str) -> None:
    """The one routine by which a task comes back."""
    entry = renumbered(old)
    counts = cause in WITHOUT_VERDICT and (d.rules.takeover_counts_delivery or cause != "takeover")
    entry = entry._replace(
        deliveries=entry.deliveries + counts,
        handbacks=entry.handbacks + (not counts),
    )
    if counts and entry.deliveries >= entry.max and d.rules.max_deliveries_holds:
        d.events.append(("Moved", cause, worker, index, old.id, entry.task, -1))
        bury(d, entry, "max_deliveries", worker)
    else:
        target = place(entry)
        target -= target != SUSPECT
        d.append(target, entry)
        d.events.append(("Moved", cause, worker, index, old.id, entry.task, target))
    d.drop(index, old.id)


def finish(d: Draft, worker: str) -> None:
    """The last of a fenced worker is moved: its lease goes, its row stays for the operator."""
    d.leases.pop(worker, None)
    row = d.workers.get(worker)
    if row is not None and row.state == "fenced":
        d.turns.pop(worker, None)
        d.workers[worker] = row._replace(state="gone", ended=d.now)
        d.events.append(("WorkerGone", worker, row.token, row.cause))


def drain(d: Draft, members: Iterable[str], limit: int) -> tuple[int, bool]:
    """Moves up to `limit` of what `members` have pending. Returns how many, and whether some are left."""
    todo = d.pending(members)
    for index, entry in todo[:limit]:
        row = d.workers.get(entry.owner)
        move(d, index, entry, row.cause if row and row.cause else "unknown", entry.owner)
    if not d.rules.delconsumer_only_when_empty:
        for index, entry in todo[limit:]:
            kept = (e._replace(owner=NOBODY) if e.id == entry.id else e for e in d.streams[index])
            d.streams[index] = tuple(kept)
    return min(limit, len(todo)), len(todo) > limit


def fence_expired(d: Draft) -> None:
    """Fences everyone whose lease has ended."""
    for worker, end in sorted(d.leases.items()):
        if 0 < end <= d.lease:
            d.fence(worker, "lease_expired")


def run_pass(d: Draft, limit: int) -> tuple[int, bool, int]:
    """Continues the running pass, else begins one with all that are fenced.

    Returns how many entries it moved, whether it stopped with some left, and how many workers the pass has.
    """
    members = [w for w, score in sorted(d.leases.items()) if score == -1]
    if not members:
        members = [w for w, score in sorted(d.leases.items()) if score == 0]
        d.leases.update((w, -1) for w in members)
        if members:
            d.events.append(("PassBegan", tuple(members)))
    moved, more = drain(d, members, limit)
    if not more:
        for worker in members:
            finish(d, worker)
    return moved, more, len(members)


def drain_one(d: Draft, worker: str, limit: int) -> tuple[int, bool]:
    """Brings back what one fenced worker has pending. Returns entries moved, and whether some of its own are left."""
    if d.frozen:
        return 0, True
    if not d.rules.one_pass_for_all:
        moved, more = drain(d, [worker], limit)
        if not more:
            finish(d, worker)
        return moved, more
    moved, more = 0, False
    while not more and d.leases.get(worker, 1) <= 0:
        passed, more, _ = run_pass(d, limit - moved)
        moved += passed
    return moved, more
