"""What a person would write who wants a list of all processes with psutil: the peer of ``ps``, with equal columns."""

import psutil  # type: ignore[import-untyped]

for process in psutil.process_iter():
    try:
        memory = process.memory_full_info()
        user, name, line = process.username(), process.name(), " ".join(process.cmdline())
    except psutil.Error:
        continue
    print(process.pid, user, name, memory.rss, memory.pss, memory.uss, memory.swap, line, sep="\t")
