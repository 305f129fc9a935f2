"""Schedules, three daemons that each know what they once saw of them, and workers; all on one partition."""

from dataclasses import dataclass, field
from typing import NamedTuple

from property.lab import Lab, verdict
from property.occurrences_checker import Judge, Rule
from property.snapshot import entry_order
from reclaimd.streams import scripts
from reclaimd.streams.codec import Delivery, Outcome
from reclaimd.streams.occurrence_scripts import (
    Fired,
    FireReply,
    FireRow,
    Row,
    RunRow,
    SkipRow,
    fire,
    fired_rows,
    retire,
)
from support.servers import Server

MOST_AT_ONCE = 3
STYLES = ("each", "latest", "none", "drip")
NAMES = ("skip", "queue", "allow", "mixed")
OVERLAPS = {"skip": ("skip",), "queue": ("queue_one",), "allow": ("allow",), "mixed": ("skip", "queue_one")}


class Letter(NamedTuple):
    """A call on its way, or the reply to one."""

    rows: tuple[Row, ...]
    seen_at: int
    reply: FireReply | None = None


@dataclass(eq=False)
class Daemon:
    """What it knows, and since when. `skew`: how far its clock is from the server's. If paused, it hears nothing."""

    rules: dict[str, Rule] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Fired] = field(default_factory=dict)
    seen_at: int = 0
    skew: int = 0
    paused: bool = False

    def plan(self, style: str, now: int, names: tuple[str, ...]) -> list[Row]:
        """Rows for what is due by its own clock."""
        found: list[Row] = []
        for name in names:
            if name in self.rules:
                found += self._plan_one(self.rules[name], self.rows.get(name, Fired()), style, now + self.skew)
        return found

    def _plan_one(self, rule: Rule, fired: Fired, style: str, clock: int) -> list[Row]:
        last = fired.last if fired.generation == rule.generation else 0
        due = [n for n in _instants(rule, last, clock) if rule.due(n) <= clock]
        rows: list[Row] = []
        if style in {"latest", "none"}:
            kept = 1 if style == "latest" else 0
            passed = due[: len(due) - kept]
            if passed:
                rows.append(SkipRow(rule.name, rule.generation, last, passed[-1], len(passed), "misfire"))
                last, due = passed[-1], due[len(passed) :]
        for nominal in due[:MOST_AT_ONCE]:
            overlap = "wait" if style == "drip" else rule.overlap
            args = (rule.name, rule.generation, last, nominal, rule.due(nominal), overlap, "normal")
            rows.append(FireRow(*args, 1 + nominal // rule.every % 2, b'{"a":[]}', rule.limit))  # type: ignore[arg-type]
            last = nominal
        return rows

    def learn(self, letter: Letter) -> None:
        """Take in a reply, however old."""
        for row, result in zip(letter.rows, letter.reply.rows if letter.reply else (), strict=False):
            if not isinstance(row, RunRow):
                self.rows[row.schedule] = result.fired


def _instants(rule: Rule, last: int, upto: int) -> range:
    return range(rule.after(last), upto + 1, rule.every)


class World:
    """Everything there is, one step at a time; each is judged."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.flush()
        self.lab = Lab(server)
        self.judge = Judge()
        self.rules: dict[str, Rule] = {}
        self.removed: dict[str, str] = {}
        self.last_event = "0-0"
        self.daemons = [Daemon() for _ in range(3)]
        self.calls: list[Letter] = []
        self.replies: list[tuple[Daemon, Letter]] = []
        self.requests = 0
        self.workers: dict[str, tuple[str, list[Delivery]]] = {}

    def close(self) -> None:
        self.lab.close()

    def check(self) -> None:
        """Judge what is there now."""
        self.judge.judge(self.lab.raw, self.lab.tag, self.lab.now, self.lab.look())

    def event_id(self) -> str:
        """Of a new event of schedules: IDs never go back, whatever the clock does."""
        ms, seq = entry_order(self.last_event)
        self.last_event = f"{self.lab.now}-0" if self.lab.now > ms else f"{ms}-{seq + 1}"
        return self.last_event

    def upsert(self, name: str, every: int, overlap: int, limit: int, jitter: int) -> None:
        """Create or retime it: a new generation."""
        generation = self.event_id()
        choices = OVERLAPS[name]
        since = entry_order(generation)[0]
        rule = Rule(name, generation, every, since, choices[overlap % len(choices)], limit, min(jitter, every - 1))
        self.rules[name] = self.judge.rules[name, generation] = rule
        self.removed.pop(name, None)

    def change_overlap(self, name: str, overlap: int) -> None:
        """No timing: the generation stays."""
        rule = self.rules.get(name)
        if rule:
            choices = OVERLAPS[name]
            self.rules[name] = rule._replace(overlap=choices[overlap % len(choices)])

    def remove(self, name: str) -> None:
        if self.rules.pop(name, None):
            self.removed[name] = self.event_id()

    def pass_time(self, ms: int) -> None:
        """Daemons follow what happens to schedules meanwhile."""
        self.lab.now += ms
        for daemon in self.daemons if ms else ():
            if not daemon.paused:
                self.look(daemon, rows=False)

    def look(self, daemon: Daemon, *, rows: bool) -> None:
        """It reads the schedules, and perhaps what was fired."""
        daemon.rules, daemon.removed, daemon.seen_at = dict(self.rules), dict(self.removed), self.lab.now
        if rows:
            flat = self.lab.do("HGETALL", self.lab.key("fired"))
            daemon.rows = fired_rows(zip(flat[::2], flat[1::2], strict=True))

    def execute(self, letter: Letter) -> Letter:
        """The server carries out a call, whenever it was sent."""
        call = fire(self.lab.partition, letter.rows, seen_at=letter.seen_at, epoch_id="e", now=self.lab.now)
        return letter._replace(reply=self.lab.send(call))

    def run_now(self, name: str) -> None:
        """Somebody asks for a task, twice."""
        self.requests += 1
        ask = Letter((RunRow(name, f"r{self.requests}", "normal", 2, b"{}"),), self.lab.now)
        first, again = self.execute(ask).reply, self.execute(ask).reply
        assert first is not None
        assert again is not None
        assert [first.rows[0].status, again.rows[0].status] == ["fired", "duplicate"]

    def retire(self, daemon: Daemon) -> None:
        """What it knows to be removed."""
        if daemon.removed:
            self.lab.send(retire(self.lab.partition, list(daemon.removed.items()), now=self.lab.now))

    def work(self, worker: str, want: int, outcomes: list[Outcome | None]) -> None:
        """One turn: verdicts on what it has, and more."""
        token, running = self.workers.get(worker) or (self.lab.join(worker), [])
        verdicts = dict(zip(running, outcomes, strict=False))
        settled = [verdict(d, outcome, delay_ms=500) for d, outcome in verdicts.items() if outcome]
        turned = self.lab.turn(worker, token, want, settlements=settled)
        if turned.status != "ok":
            self.workers.pop(worker, None)
            return
        left = [d for d in running if not verdicts.get(d)]
        self.workers[worker] = token, [*left, *turned.deliveries]

    def die(self, worker: str) -> None:
        """Its parent saw it."""
        if worker in self.workers:
            token, _ = self.workers.pop(worker)
            self.lab.send(scripts.release(self.lab.partition, worker, token.partition("-")[2], now=self.lab.now))

    def blackout(self) -> None:
        """Nobody renews for a lease; a daemon clears up."""
        self.lab.expire()
        self.lab.reclaim_all()
        self.workers.clear()

    def restart(self) -> None:
        """kill -9 of the server, and a new start from its append-only file."""
        before = self.lab.look().without_consumers()
        self.lab.close()
        self.server.kill9()
        self.server.start()
        now, turns, nonces = self.lab.now, self.lab.turns, self.lab.nonces
        self.lab = Lab(self.server)
        self.lab.now, self.lab.turns, self.lab.nonces = now, turns, nonces
        assert self.lab.look().without_consumers() == before

    def _is_finished(self, row: Row, daemon: Daemon) -> bool:
        rule, fired = self.rules[row.schedule], daemon.rows.get(row.schedule, Fired())
        return fired.generation == rule.generation and 0 < rule.limit <= fired.count

    def run_out(self) -> None:
        """All work ends and one daemon goes on alone: nothing is left behind."""
        daemon = Daemon()
        self.lab.now = max(self.lab.now, entry_order(self.last_event)[0]) + 60_000
        self.blackout()
        self.check()
        for _ in range(60):
            self.look(daemon, rows=True)
            self.retire(daemon)
            # A daemon here knows nothing of limits.
            plan = tuple(
                row for row in daemon.plan("latest", self.lab.now, NAMES) if not self._is_finished(row, daemon)
            )
            if plan:
                self.execute(Letter(plan, self.lab.now))
            self.lab.promote()
            self.work("last", 50, ["succeeded"] * 50)
            self.check()
            seen = self.lab.look()
            # Retries may be an hour away: the clock has gone back since.
            self.lab.now = max([self.lab.now, *seen.delayed.values()])
            if not plan and not seen.queued and not any(p.where != "dead" for (p,) in seen.places.values()):
                break
        else:
            raise AssertionError("work does not end")
        self.look(daemon, rows=True)
        for name, rule in self.rules.items():
            row = daemon.rows[name]
            assert row.generation == rule.generation, f"{name} fires no more: {row}"
            is_finished = 0 < rule.limit <= row.count
            due = [n for n in _instants(rule, row.last, self.lab.now) if rule.due(n) <= self.lab.now]
            assert is_finished or not due, f"{name} left {due[:3]}: {row} {rule}"
