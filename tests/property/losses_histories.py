"""Histories that once went wrong, shrunk: what they are about, whether a copy is made at the begin, and the moves."""

from typing import Any

from property.losses_letters import LETTERS

HISTORIES: dict[str, tuple[bool, list[tuple[str, dict[str, Any]]]]] = {
    **LETTERS,
    "schedules that came back before their rebuild reached Redis": (
        True,
        [
            ("lose", {"kind": "all", "pick": 0}),
            ("go_on", {"who": 1, "on": "schedules", "points": 7}),
            ("lose", {"kind": "copy", "pick": 0}),
            ("put", {"name": "z"}),
        ],
    ),
    "what was queued goes to its lane when what it waited for is removed": (
        True,
        [
            ("work", {"name": "b", "want": 2, "outcomes": []}),
            ("work", {"name": "b", "want": 0, "outcomes": ["succeeded", "succeeded"]}),
            ("until_whole", {}),
            ("lose", {"kind": "copy", "pick": 0}),
        ],
    ),
    "leases are lost": (False, [("delete", {"name": "leases"})]),
    "the clock is lost": (False, [("delete", {"name": "clock"}), ("send_again", {"pick": 3})]),
    "what ended after a rebuild, before the archive has read anything again": (
        False,
        [
            ("lose", {"kind": "all", "pick": 0}),
            ("go_until", {"who": 1, "where": "after end_rebuild"}),
            ("work", {"name": "b", "want": 2, "outcomes": []}),
            ("work", {"name": "b", "want": 0, "outcomes": ["succeeded", "succeeded"]}),
            ("delete", {"name": "lane:high"}),
            ("until_whole", {}),
            ("check_not_open", {"name": "t3"}),
        ],
    ),
    "the ID of an open task is sent again while that is on its way back": (
        False,
        [
            ("forget", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("go_until", {"who": 0, "where": "before restore"}),
            ("go_until", {"who": 0, "where": "before restore"}),
            ("send", {"name": "t4"}),
        ],
    ),
    "an event of schedules that the archiver had in its hands when it was lost": (
        False,
        [
            ("copy", {}),
            ("put", {"name": "z"}),
            ("go_on", {"who": 0, "on": "schedules", "points": 3}),
            ("lose", {"kind": "copy", "pick": 0}),
        ],
    ),
    "a schedule is removed, put, and removed again by the same words, of which the archiver has not read the last": (
        False,
        [
            ("remove", {"name": "z"}),
            ("put", {"name": "z"}),
            ("go_on", {"who": 1, "on": "schedules", "points": 1}),
            ("race", {"points": [4, 7, 3, 8, 5, 8]}),
            ("remove", {"name": "z"}),
            ("lose", {"kind": "all", "pick": 8}),
        ],
    ),
    "what no stream tells is read, and then there are older data with the mark that it was read under": (
        False,
        [
            ("lose", {"pick": 20, "kind": "all"}),
            ("race", {"points": [1, 8, 1, 3, 7, 5, 4, 4, 5, 1]}),
            ("go_until", {"who": 0, "where": "tail"}),
            ("copy", {}),
            ("enqueue", {"how_many": 1, "unique": "", "lane": "low", "delay_ms": 400}),
            ("race", {"points": [2, 5, 7, 4]}),
            ("lose", {"kind": "copy", "pick": 17}),
        ],
    ),
    "of a paused queue all is lost, and then its epoch while it is rebuilt": (
        False,
        [
            ("pause", {"paused": True}),
            ("until_whole", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("go_until", {"who": 0, "where": "before restore"}),
            ("delete", {"name": "epoch"}),
        ],
    ),
    "of a paused queue a key is lost, and then there are older data while that is rebuilt": (
        True,
        [
            ("pause", {"paused": True}),
            ("until_whole", {}),
            ("delete", {"name": "recovered:high"}),
            ("go_until", {"who": 0, "where": "before restore"}),
            ("lose", {"kind": "copy", "pick": 0}),
        ],
    ),
    "of a task that was redriven only that was archived": (
        False,
        [
            ("work", {"name": "a", "want": 3, "outcomes": ["retry", "dead", "dead", "succeeded"]}),
            ("go_until", {"who": 1, "where": "before restore"}),
            ("lose", {"kind": "key", "pick": 28}),
            ("work", {"name": "a", "want": 1, "outcomes": ["succeeded", "parked", None]}),
            ("enqueue", {"how_many": 2, "lane": "high", "delay_ms": 0, "unique": ""}),
            ("work", {"name": "a", "want": 4, "outcomes": ["failed"]}),
            ("race", {"points": [1, 7, 4, 3, 1, 6, 5, 6, 1, 7, 2]}),
            ("kill", {"who": 0, "points": 60}),
            ("letter", {"what": "redrive", "pick": 4}),
            ("go_until", {"who": 0, "where": "tail"}),
            ("go_on", {"who": 0, "on": "tasks", "points": 3}),
            ("lose", {"kind": "all", "pick": 29}),
        ],
    ),
    "what waited for a schedule's open task waits again in older data, and another one after it": (
        True,
        [
            ("work", {"name": "b", "want": 1, "outcomes": []}),
            ("work", {"name": "b", "want": 1, "outcomes": ["failed", "retry", None, "succeeded"]}),
            ("fire", {"name": "s", "overlap": "queue_one", "how_many": 0}),
            ("letter", {"what": "redrive", "pick": 3}),
            ("race", {"points": [6, 5, 3, 3, 1, 1, 6, 5]}),
            ("lose", {"kind": "copy", "pick": 0}),
        ],
    ),
    "a key is lost after a rebuild that the archive was not told of": (
        False,
        [
            ("delete", {"name": "fired"}),
            ("go_until", {"who": 1, "where": "before end_rebuild"}),
            ("lose_answer", {"who": 1}),
            ("delete", {"name": "lane:normal"}),
        ],
    ),
    "older data come back right after a rebuild, with a task delayed that had ended": (
        True,
        [
            ("lose", {"kind": "all", "pick": 0}),
            ("go_until", {"who": 0, "where": "after end_rebuild"}),
            ("lose", {"kind": "copy", "pick": 0}),
            ("work", {"name": "b", "want": 3, "outcomes": []}),
            ("work", {"name": "b", "want": 0, "outcomes": ["parked", "retry"]}),
        ],
    ),
    "a rebuild begun late is cancelled, and a loss right then forgets nothing": (
        False,
        [
            ("delete", {"name": "delayed:body"}),
            ("go_until", {"who": 0, "where": "begin_rebuild"}),
            ("go_on", {"who": 1, "on": "tasks", "points": 3000}),
            ("go_on", {"who": 0, "on": "tasks", "points": 1}),
            ("go_until", {"who": 1, "where": "before finish"}),
            ("lose_answer", {"who": 0}),
            ("lose", {"kind": "all", "pick": 0}),
            ("kill", {"who": 1, "points": 8}),
            ("until_whole", {}),
        ],
    ),
    "an ID is sent again without its unique key, and older data show it with that": (
        False,
        [
            ("copy", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("send", {"name": "t6"}),
            ("until_whole", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("until_whole", {}),
            ("lose", {"kind": "copy", "pick": 0}),
        ],
    ),
    "an ID is sent again without its unique key, and older data show it with that, delayed to nobody knows when": (
        False,
        [
            ("copy", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("send", {"name": "t6"}),
            ("until_whole", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("until_whole", {}),
            ("lose", {"kind": "copy", "pick": 0}),
            ("delete", {"name": "delayed"}),
        ],
    ),
    "a worker begins a task of older data, which had come back since, before that is noticed": (
        True,
        [
            ("lose", {"kind": "all", "pick": 0}),
            ("until_whole", {}),
            ("lose", {"kind": "copy", "pick": 0}),
            ("die", {"name": "a"}),
            ("work", {"name": "b", "want": 3, "outcomes": []}),
            ("until_whole", {}),
            ("work", {"name": "a", "want": 3, "outcomes": []}),
        ],
    ),
    "a worker begins a task of older data, which is just as the archive knows it, before that is noticed": (
        True,
        [
            ("lose", {"kind": "copy", "pick": 0}),
            ("die", {"name": "a"}),
            ("work", {"name": "b", "want": 4, "outcomes": []}),
            ("until_whole", {}),
            ("work", {"name": "a", "want": 4, "outcomes": []}),
        ],
    ),
    "everything is lost again while two rebuild, and the one who had looked goes on where the other has begun anew": (
        False,
        [
            ("work", {"name": "b", "outcomes": [None], "want": 4}),
            ("copy", {}),
            ("die", {"name": "b"}),
            ("race", {"points": [8, 3, 6, 8, 6, 7]}),
            ("lose", {"kind": "copy", "pick": 15}),
            ("go_until", {"where": "drop", "who": 1}),
            ("go_until", {"where": "before restore", "who": 0}),
            ("lose", {"kind": "all", "pick": 13}),
            ("go_on", {"on": "tasks", "points": 20, "who": 0}),
            ("race", {"points": [3, 4, 2, 3, 4, 8, 8, 8, 7, 5, 7, 1]}),
        ],
    ),
    "a schedule that no archive saw comes back in older data, and a newer one of its name is archived": (
        False,
        [
            ("put", {"name": "z"}),
            ("copy", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("put", {"name": "z"}),
            ("until_whole", {}),
            ("lose", {"kind": "copy", "pick": 0}),
        ],
    ),
    "a removal comes back in older data, of a schedule that was put again since, and all is lost": (
        False,
        [
            ("remove", {"name": "s"}),
            ("copy", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("put", {"name": "s"}),
            ("until_whole", {}),
            ("lose", {"kind": "copy", "pick": 0}),
            ("put", {"name": "z"}),
            ("until_whole", {}),
            ("lose", {"kind": "all", "pick": 0}),
        ],
    ),
}
