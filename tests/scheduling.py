"""Distribution of test files over the processes of pytest-xdist."""

from xdist.scheduler import LoadFileScheduling

SHARED_FOLDERS = ("tests/demo/security/",)  # all of its files need the same server, which takes long to start


class FileScheduling(LoadFileScheduling):
    """Gives the tests of one file, or of a shared folder, to one process."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        return next((folder for folder in SHARED_FOLDERS if scope.startswith(folder)), scope)
