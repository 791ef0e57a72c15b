"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A request that cannot be carried out: its message names file, field and what would be right.

    The command line prints it in one line and exits with code 2, before anything is written.
    Every other exception is a defect of this project and keeps its traceback.
    """


class Interrupted(Exception):
    """The run was asked to stop (SIGINT or SIGTERM) and did, with its record closed."""

    def __init__(self, signal_number: int, folder: object) -> None:
        super().__init__(f"interrupted; continue with `ttrl resume {folder}`")
        self.signal_number = signal_number
