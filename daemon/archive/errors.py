"""What can be wrong with an archive, and what to do about it. Knows no database driver."""

from typing import ClassVar

from reclaimd.streams.addresses import redacted
from reclaimd.streams.errors import Obstacle, ReclaimdError


class Trouble(Obstacle):
    """Why an archive cannot be used now."""

    URL = ("is named by a URL that cannot be used", "correct archive.url", False)
    DRIVER = ("needs a driver that is not installed", "install reclaimd[postgresql]", False)
    UNREACHABLE = ("cannot be reached", "start its server, or correct archive.url", True)
    SLOW = ("does not answer in time", "look at the load and the locks of its server", True)
    PASSWORD = ("refuses the user name or password", "correct them in archive.url", False)
    PERMISSION = (
        "forbids what the archive needs",
        "let this user create tables and use them, or make the file and its folder writable to it",
        False,
    )
    UNGRANTED = (
        "does not let this user read it",
        "grant it USAGE on the schema and SELECT on the tables there, or name the daemon's user in archive.url",
        False,
    )
    UNREADABLE = (
        "cannot be read by this user",
        "run this as the user whom the file belongs to, or let this one read the file and enter its folder",
        False,
    )
    MISSING = ("is not there", "create the database or the folder that archive.url names", True)
    ABSENT = ("is not there", "correct archive.url (--archive-url), or start the daemon, which makes it", True)
    BLANK = ("is empty", "correct archive.url (--archive-url), or start the daemon, which makes its tables", True)
    VANISHED = ("has lost its file or its tables", "find out who deleted them; they are created anew", True)
    REPLACED = ("is another one than before", "put the old one back, or restart the daemon to use this one", True)
    READ_ONLY = ("takes no writes", "point archive.url at the primary, or make the disk writable", True)
    LOCKED = ("is locked by somebody else", "wait, or end the program that holds it", True)
    FULL = ("is on a full disk", "make room there, or lower archive.max_size", True)
    DAMAGED = ("is damaged", "move it away and restore a backup, or begin a new one without it", False)
    NOT_ONE = ("is no archive but something else", "point archive.url at another file", False)
    TOO_NEW = ("was written by a newer reclaimd", "run that version, or point archive.url at another archive", False)
    TOO_OLD = (
        "was written by an older reclaimd",
        "copy it (reclaimd archive backup FILE), then start the daemon of this version, which brings it up to date",
        False,
    )
    OTHER = ("fails", "look into the log of the database", True)


class ArchiveFailed(ReclaimdError):
    """The archive could not do what it was asked for. `where`: its URL; `detail`: the driver's own words.

    No password is in either. `waiting_helps`: the daemon goes on without the archive and tries again, a command ends.
    After one of a write nothing is known to be written: read the row of the partition again and go on from there.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, trouble: Trouble, where: str, detail: str = "") -> None:
        super().__init__(trouble, redacted(where), detail)
        self.trouble = trouble
        self.where = redacted(where)
        self.detail = " ".join(detail.split())

    @property
    def waiting_helps(self) -> bool:
        """Whether the state can pass without a change of the settings."""
        return self.trouble.waiting_helps

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"the archive {self.where} {self.trouble.what}{detail}: {self.trouble.cure}"


class ArchiveUnreachable(ArchiveFailed):
    """No answer from the database."""


class ArchiveMissing(ArchiveFailed):
    """There is no archive, and who only reads makes none."""

    exit_code = 2


class ArchiveTooOld(ArchiveFailed):
    """The archive has a schema that only who may change it brings up to date."""

    exit_code = 2


class ArchiveTooNew(ArchiveFailed):
    """The archive has a schema that this program does not know."""

    exit_code = 2


class OwnerLost(ReclaimdError):
    """Another daemon archives this partition now; nothing was written. `partition`: its name."""

    def __init__(self, partition: str) -> None:
        super().__init__(partition)
        self.partition = partition

    def __str__(self) -> str:
        return f"another daemon archives {self.partition} now: nothing is to be done here"


class BackupRefused(ReclaimdError):
    """A backup that cannot be made as asked. `why`: with the cure."""

    exit_code = 2

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return self.why
