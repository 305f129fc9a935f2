"""Why a source could not be read."""

from reclaimd.streams.errors import ReclaimdError


class SourceFailed(ReclaimdError):
    """A file or database gave no rows. `why`: what happened and what to do, without any password."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = " ".join(why.split())

    def __str__(self) -> str:
        return self.why
