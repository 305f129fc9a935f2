"""Histories that once went wrong, shrunk: what they are about, whether a copy is made at the begin, and the moves."""

from typing import Any

HISTORIES: dict[str, tuple[bool, list[tuple[str, dict[str, Any]]]]] = {
    "schedules that came back before their rebuild reached Redis": (
        True,
        [
            ("lose", {"kind": "all", "pick": 0}),
            ("go_on", {"who": 1, "on": "schedules", "points": 7}),
            ("lose", {"kind": "copy", "pick": 0}),
            ("put", {"name": "z"}),
        ],
    ),
    "a letter that an older copy shows open comes back there without a verdict": (
        True,
        [
            ("lose", {"kind": "copy", "pick": 0}),
            ("work", {"name": "b", "want": 4, "outcomes": []}),
            ("die", {"name": "b"}),
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
    "the ID of a dead letter is sent again while that is on its way back": (
        False,
        [
            ("forget", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("go_until", {"who": 0, "where": "before restore"}),
            ("go_until", {"who": 0, "where": "before restore"}),
            ("send", {"name": "t2"}),
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
    "the ID of a letter that was purged is sent again": (
        False,
        [
            ("letter", {"what": "purge", "pick": 0}),
            ("until_whole", {}),
            ("lose", {"kind": "all", "pick": 0}),
            ("send", {"name": "t2"}),
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
}
