"""Who a process is: whose child, which user's, and where it runs. Each of these may change while it lives."""

from __future__ import annotations

from mematlas.frozen import Record, record
from mematlas.kernel.cgroups import read_cgroups
from mematlas.kernel.rights import user_name
from mematlas.kernel.status import has_parent, parse_parent, parse_user, read_of
from mematlas.model.containers import place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.kernel.procfs import ProcessDir
    from mematlas.model.containers import Place


@record
class Who(Record):
    """Who a process is. None is "not known", but for what it may be in none of."""

    parent: int | None
    """The PID of its parent; 0 where that is none, or of another PID namespace."""
    uid: int | None
    user: str | None
    """Its name, or the number where nobody here has it."""
    cgroup: str | None
    """Its path in the hierarchy that charges memory."""
    container: str | None
    """The ID or name of the container that it runs in, as the path tells; None where it is in none."""
    pod: str | None
    unit: str | None
    """The unit of systemd that it belongs to."""


NOT_KNOWN = Who(None, None, None, None, None, None, None)


class WhoFinder:
    """Finds out who processes are. Users, and the places where processes run, are looked up once each.

    >>> WhoFinder().of(1, 4294967294, "0::/system.slice/ssh.service\\n")
    Who(parent=1, uid=4294967294, user='4294967294', cgroup='/system.slice/ssh.service', container=None, pod=None, \
unit='ssh.service')
    """

    def __init__(self, are_ours: bool = True) -> None:
        """``are_ours`` says that users are those of this machine: those of another one have no names here."""
        self._are_ours = are_ours
        self._users: dict[int, str] = {}
        self._places: dict[str, Place] = {}

    def read(self, process: ProcessDir) -> Who:
        """Return who a process is now.

        Raises:
            ProcessGone: it has ended.
        """
        return self.of_status(read_of(process, "status", bytes), read_cgroups(process))

    def of_status(self, status: bytes, cgroups: str | None) -> Who:
        """Return who a process is, given its status file, and its cgroups as `of` takes them."""
        return self.of(parse_parent(status) if has_parent(status) else None, parse_user(status), cgroups)

    def of(self, parent: int | None, uid: int | None, cgroups: str | None) -> Who:
        """Return who a process is, given the lines of its /proc/PID/cgroup; None where these are not known."""
        place = self._place(cgroups)
        return Who(
            parent=parent,
            uid=uid,
            user=self._user(uid),
            cgroup=place.path if place else None,
            container=place.container if place else None,
            pod=place.pod if place else None,
            unit=place.unit if place else None,
        )

    def _user(self, uid: int | None) -> str | None:
        if uid is not None and uid not in self._users:
            self._users[uid] = user_name(uid) if self._are_ours else str(uid)
        return None if uid is None else self._users[uid]

    def _place(self, cgroups: str | None) -> Place | None:
        if cgroups is not None and cgroups not in self._places:
            self._places[cgroups] = place_of(cgroups)
        return None if cgroups is None else self._places[cgroups]
