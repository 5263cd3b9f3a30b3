"""Refuses a process every use of the network, and notes it: by `prepare` of processes.py, or as its sitecustomize."""

import sys
from pathlib import Path
from typing import Any

# Not socket.bind: urllib3, which mnist1d brings, looks by it whether the machine has IPv6.
EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "urllib.Request"}
EVENTS |= {"socket.gethostbyname", "socket.gethostbyaddr", "http.client.connect"}


def refuse(note: str) -> None:
    """From here on, a use raises and is written into the file `note`."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # A socket of this machine's own processes is no network. AF_UNIX is 1.
        if event in EVENTS and getattr(arguments[0], "family", None) != 1:
            with Path(note).open("a") as file:
                file.write(f"{event} {arguments}\n")
            raise PermissionError(f"no network in tests: {event}")

    sys.addaudithook(hook)


def refuse_in_children(folder: Path, note: Path) -> str:
    """The PYTHONPATH with which Python processes start so."""
    text = f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport no_network\n"
    (folder / "sitecustomize.py").write_text(f"{text}no_network.refuse({str(note)!r})\n")
    return str(folder)
