"""Giving up every right, for good: what a front end does before it parses what others wrote.

It becomes a user that nobody else is, so that no other process may signal or trace it, and it none: not the caller's
own, and not 65534, which others share. It keeps no capability and can get none (PR_SET_NO_NEW_PRIVS), shows nobody its
memory (PR_SET_DUMPABLE), and has a filter that refuses system calls which it never makes.

Sources: credentials(7), capabilities(7), prctl(2), seccomp(2), include/uapi/linux/seccomp.h, bpf_common.h, audit.h; the
range of users is that of DynamicUser= in systemd.exec(5).
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from mematlas.errors import NotSupported, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

USERS = range(61184, 65520)
"""Users that no account has: those that systemd gives to services for as long as these run."""
SYSTEMD = "/run/systemd/dynamic-uid"
"""Where systemd notes those that it has given away."""
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
"""SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS."""
MISSING = 0x00050000 | errno.ENOSYS
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_OF, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""BPF_LD | BPF_W | BPF_ABS; BPF_JMP | BPF_JEQ | BPF_K, BPF_JGE, BPF_JSET; BPF_RET | BPF_K."""
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT, SECOND_ARGUMENT_AT = 0, 4, 16, 24
"""Offsets in struct seccomp_data; of an argument the lower half, where the processor has that first."""
AF_UNIX = 1
X32_BIT = 0x40000000

MOUNTING = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "open_tree_attr": 467,
}
"""The newer calls for it, whose numbers are the same everywhere."""
# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
NEVER_MADE = {
    "x86_64": {
        **MOUNTING,
        "execve": 59,
        "execveat": 322,
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "io_uring_setup": 425,
        "pidfd_getfd": 438,
        "mount": 165,
        "umount2": 166,
        "pivot_root": 155,
        "chroot": 161,
        "unshare": 272,
        "setns": 308,
        "init_module": 175,
        "finit_module": 313,
        "delete_module": 176,
        "kexec_load": 246,
        "kexec_file_load": 320,
        "keyctl": 250,
        "add_key": 248,
        "request_key": 249,
        "open_by_handle_at": 304,
        "swapon": 167,
        "swapoff": 168,
    },
    "aarch64": {
        **MOUNTING,
        "execve": 221,
        "execveat": 281,
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "bpf": 280,
        "perf_event_open": 241,
        "userfaultfd": 282,
        "io_uring_setup": 425,
        "pidfd_getfd": 438,
        "mount": 40,
        "umount2": 39,
        "pivot_root": 41,
        "chroot": 51,
        "unshare": 97,
        "setns": 268,
        "init_module": 105,
        "finit_module": 273,
        "delete_module": 106,
        "kexec_load": 104,
        "kexec_file_load": 294,
        "keyctl": 219,
        "add_key": 217,
        "request_key": 218,
        "open_by_handle_at": 265,
        "swapon": 224,
        "swapoff": 225,
    },
}
"""System calls that a front end never makes: of running programs, of the memory of others, of the machine."""
SOCKET = {"x86_64": 41, "aarch64": 198}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
IOCTL = {"x86_64": 16, "aarch64": 29}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
TERMINAL_CALLS = (0x5412, 0x541C, 0x5410)
"""TIOCSTI and TIOCLINUX: a terminal that is shared with a shell of root's takes what they put into it for typed; and
TIOCSPGRP, after which what is typed comes to us."""
CLONE_NEWUSER = 0x10000000
OPEN_TREE, OPEN_TREE_CLONE, AT_FDCWD = MOUNTING["open_tree"], 1, -100
SECCOMP = {"x86_64": 317, "aarch64": 277}
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64."""


def leave_rights(kept: set[int]) -> None:
    """Give up every right, and what is open but the standard streams and ``kept``; modules are found as before.

    Raises:
        PermissionDenied, NotSupported: as `confine` does.
    """
    from mematlas.kernel.descriptors import close_all_but

    close_all_but({*kept, *hold_modules()})
    if not may_others_go(working_directory()):
        os.chdir("/")  # names without a slash at their head would lead where it may not go
    confine()


def confine() -> int:
    """Give up every right, in all threads, and for good; return which user we are now.

    Raises:
        PermissionDenied: needs CAP_SETUID and CAP_SETGID.
        NotSupported: this user namespace has no user to spare.
    """
    from mematlas.kernel.libc import plain_function

    call = plain_function("prctl")  # found while we may go anywhere
    uid = become_nobody_else()
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_DUMPABLE, 0)):
        if call(option, value, 0, 0, 0):
            raise NotSupported(f"prctl({option})")
    filter_calls()
    check_confined()
    return uid


def become_nobody_else() -> int:
    """Become a user that no process runs as; return which."""
    first = os.getpid() % len(USERS)
    refused: OSError | None = None
    for index in range(len(USERS)):
        uid: int = USERS[(first + index) % len(USERS)]
        if os.path.exists(f"{SYSTEMD}/{uid}"):
            continue  # a service has it
        try:
            os.setgroups(())
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, -1, 0)  # with a way back
            # Whoever becomes the same at this moment may signal us by now, or is among these.
            others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
            os.setresuid(-1, uid, -1)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise PermissionDenied("becoming another user", "CAP_SETUID", "CAP_SETGID") from None
            refused = error
            continue
        if not any(map(may_signal, others)):
            os.setresuid(uid, uid, uid)
            return uid
        os.setresuid(-1, 0, -1)
    raise NotSupported("a user of our own", f"a user namespace with users of {USERS[0]} to {USERS[-1]}") from refused


def unused_user(other: int) -> int:
    """Return a user that no process runs as, and who is not another one.

    Raises:
        NotSupported: there is none.
    """
    used = {other}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            used.add(os.stat(f"/proc/{name}").st_uid)
        except OSError:
            pass  # it has ended
    first = os.getpid() % len(USERS)
    for index in range(len(USERS)):
        uid: int = USERS[(first + index) % len(USERS)]
        if uid not in used and not os.path.exists(f"{SYSTEMD}/{uid}"):
            return uid
    raise NotSupported("a user of our own")


def may_signal(pid: int) -> bool:
    """Whether we may signal a process, as one of our user: kill(2)."""
    try:
        os.kill(pid, 0)
    except (PermissionError, ProcessLookupError):
        return False
    return True


def hold_modules() -> set[int]:
    """Have what is imported later found where nobody else may go; return the descriptors that do it.

    The way to a directory takes a right, and not what is in it: so each directory of modules is held, and a link of
    /proc is the way there.
    """
    held: dict[str, int] = {}
    import_nothing_from_here()
    for path in sys.path:
        if os.path.isdir(path) and not may_others_go(path):
            held[path] = open_alone(path)
    if held:
        sys.path[:] = [moved(path, held) for path in sys.path]
        for module in list(sys.modules.values()):
            places = getattr(module, "__path__", None)
            if isinstance(places, list):
                places[:] = [moved(path, held) for path in places]
    return set(held.values())


def import_nothing_from_here() -> None:
    """Have nothing more imported from the directory that we were started in, unless what we are made of is in it.

    ``python -m`` looks there first. A front end may write where all may, and so be what the other side imports next.
    """
    here = working_directory()
    sys.path[:] = [path for path in sys.path if (path or here) != here or is_made_of(path)]


def is_made_of(path: str) -> bool:
    """Whether modules were imported from a directory, and not from one below it."""
    return has_modules(path, [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())])


def working_directory() -> str:
    """Return the directory that we were started in; nothing where it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def has_modules(path: str, files: Iterable[str]) -> bool:
    """Whether modules were imported from a directory, and not from one below it; ``files`` are theirs.

    >>> has_modules("/srv/lib", ["/srv/lib/numpy/__init__.py"]), has_modules("/srv", ["/srv/lib/numpy/__init__.py"])
    (True, False)
    """
    return bool(path) and any(os.path.dirname(file.removesuffix("/__init__.py")) == path for file in files)


def open_alone(path: str) -> int:
    """Return a descriptor of a directory from which no way leads up: of a mount of its own, that nobody else has.

    Source: open_tree(2), since Linux 5.2, commit a07b20004793. Where that may not be done, it is one as any other.
    """
    from mematlas.kernel.libc import plain_function

    fd = plain_function("syscall")(OPEN_TREE, AT_FDCWD, os.fsencode(path), OPEN_TREE_CLONE | os.O_CLOEXEC)
    return fd if fd >= 0 else os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def may_others_go(path: str) -> bool:
    """Whether a user who is nobody here may go to a directory and read it: not to one that is gone."""
    if not path:
        return False
    path = os.path.realpath(path)
    if not os.stat(path).st_mode & stat.S_IROTH:
        return False
    while os.stat(path).st_mode & stat.S_IXOTH:
        if path == "/":
            return True
        path = os.path.dirname(path)
    return False


def moved(path: str, held: dict[str, int]) -> str:
    """Return another way to a path, by the descriptor of the innermost directory that is held.

    >>> moved("/srv/private/lib/numpy", {"/srv/private/lib": 5})
    '/proc/self/fd/5/numpy'
    """
    fits = [place for place in held if path == place or path.startswith(f"{place}/")]
    if not fits:
        return path
    place = max(fits, key=len)
    return f"/proc/self/fd/{held[place]}{path[len(place) :]}"


def filter_calls() -> None:
    """Have the kernel refuse calls that we never make, where it is known how they are numbered."""
    from mematlas.kernel.libc import at_address, plain_errno, plain_function

    machine = os.uname().machine
    if machine not in SECCOMP:
        return
    code = filter_code(machine)
    address, program = at_address(code)
    fprog = b"".join(number.to_bytes(8, sys.byteorder) for number in (len(code) // 8, address))  # little-endian, both
    done = plain_function("syscall")(SECCOMP[machine], SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, fprog)
    del program
    # A kernel without CONFIG_SECCOMP_FILTER has nothing in its place; another answer names a thread that was left out.
    if done and not (done == -1 and plain_errno() in (errno.EINVAL, errno.ENOSYS)):
        raise NotSupported("a filter of system calls", "a kernel that takes it")


def filter_code(machine: str) -> bytes:
    """Return the program of the filter: struct sock_filter, each 8 bytes."""
    refused = sorted(NEVER_MADE[machine].values())
    lines = [(LOAD, 0, 0, ARCHITECTURE_AT), (JUMP_EQUAL, 1, 0, ARCHITECTURES[machine]), (RETURN, 0, 0, KILL)]
    lines.append((LOAD, 0, 0, NUMBER_AT))
    if machine == "x86_64":  # the same calls by other numbers
        lines += [(JUMP_AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, REFUSE)]
    for number in refused:
        lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    # The C library takes clone(2) then, of which the flags can be seen.
    lines += [(JUMP_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, MISSING)]
    # Sockets are for names of users: other families lead out of the machine, or into the kernel's depths.
    for number in (SOCKET[machine], SOCKETPAIR[machine]):
        lines += [(JUMP_EQUAL, 0, 4, number), (LOAD, 0, 0, FIRST_ARGUMENT_AT), (JUMP_EQUAL, 1, 0, AF_UNIX)]
        lines += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    lines += [(JUMP_EQUAL, 0, 4, CLONE[machine]), (LOAD, 0, 0, FIRST_ARGUMENT_AT), (JUMP_ANY_OF, 0, 1, CLONE_NEWUSER)]
    lines += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    # The kernel takes the lower half of a request for all of it (ioctl(2), an unsigned int).
    nr = len(TERMINAL_CALLS)
    lines += [(JUMP_EQUAL, 0, nr + 2, IOCTL[machine]), (LOAD, 0, 0, SECOND_ARGUMENT_AT)]
    lines += [(JUMP_EQUAL, nr - 1 - at, at == nr - 1, number) for at, number in enumerate(TERMINAL_CALLS)]
    lines += [(RETURN, 0, 0, REFUSE)]
    lines += [(RETURN, 0, 0, ALLOW)]
    sizes = (2, 1, 1, 4)
    numbers = (number.to_bytes(size, sys.byteorder) for line in lines for number, size in zip(line, sizes, strict=True))
    return b"".join(numbers)


def check_confined() -> None:
    """Raise `NotSupported` unless the kernel says that we have no capability, and can get none."""
    with open("/proc/thread-self/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file if b":" in line)
    held = [name for name in (b"CapInh", b"CapPrm", b"CapEff", b"CapAmb") if int(fields.get(name, b"1"), 16)]
    if held or int(fields.get(b"NoNewPrivs", b"0")) != 1:
        raise NotSupported("giving up all rights", "a kernel that takes them from who becomes another user")
