"""Loaded by the interpreter of a server under test: writes down every file and host name that it touches.

The audit hook sees what is opened, copied, listed or looked up; `os.stat` and its like raise no audit event, so they
are wrapped.
"""

import os
import sys

LOG_VARIABLE = "DIANJING_TEST_AUDIT_LOG"
EVENTS = ("open", "os.", "shutil.", "socket.getaddrinfo", "socket.gethostby", "socket.connect", "subprocess.", "glob.")


def install(log):
    def write(event, arguments):
        os.write(log, f"{event} {arguments!r}\n".encode(errors="backslashreplace"))

    def wrap(name):
        original = getattr(os, name)

        def recorded(*args, **kwargs):
            write(name, args)
            return original(*args, **kwargs)

        setattr(os, name, recorded)

    sys.addaudithook(lambda event, arguments: write(event, arguments) if event.startswith(EVENTS) else None)
    for name in ("stat", "lstat", "access", "readlink"):
        wrap(name)


if LOG_VARIABLE in os.environ:
    install(os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT))
