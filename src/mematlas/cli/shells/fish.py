"""Completion for fish."""

from __future__ import annotations

from mematlas.cli.command import DIRECTORY, PREFIXES, RECORDING, TARGET, TARGET_OR_FILE, TARGET_OR_PATH
from mematlas.cli.shells import OVERVIEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.shells import Syntax, Values


def script(commands: list[Syntax]) -> str:
    """Return the completion script."""
    prefixes = " ".join(f"{prefix} {quote(text)}" for prefix, text in PREFIXES.items())
    lines = [SCRIPT.replace("PREFIXES", prefixes)]
    for command in commands:
        if command.name != OVERVIEW:
            lines.append(f"complete -c mematlas -n __mematlas_first -a {command.name} -d {quote(command.help)}")
    for command in commands:
        lines += ["", *command_lines(command)]
    return "\n".join(lines) + "\n"


def command_lines(command: Syntax) -> list[str]:
    """Return what the script knows of one command."""
    start = f"complete -c mematlas -n '__mematlas_is {command.name}'"
    lines = []
    for option in command.options:
        names = " ".join(map(name_words, option.names))
        value = "" if option.metavar is None else f" -x{action(option.values)}"
        lines.append(f"{start} {names}{value} -d {quote(option.help)}")
    for index, values in enumerate(command.words):
        from_on = " or_more" if command.repeats and index == len(command.words) - 1 else ""
        condition = f"'__mematlas_is {command.name}; and __mematlas_word {index}{from_on}'"
        lines.append(f"complete -c mematlas -n {condition}{action(values)}")
    return lines


def name_words(name: str) -> str:
    """Return how fish is given the name of an option.

    >>> name_words("--limit"), name_words("-n")
    ('-l limit', '-s n')
    """
    return f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"


def action(values: Values) -> str:
    """Return how fish finds what a word can be, as an argument of complete; nothing where it can be anything."""
    if values.kind:
        return f" -a {quote(FUNCTIONS[values.kind])}"
    if not values.texts:
        return ""
    pairs = " ".join(f"{name} {quote(text)}" for name, text in values.texts.items())
    function = "__mematlas_list" if values.is_list else "__mematlas_values"
    return f" -a {quote(f'({function} {pairs})')}"


def quote(text: str) -> str:
    """Return a text as one word of fish, which knows two escapes in single quotes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


FUNCTIONS = {
    TARGET: "(__mematlas_targets)",
    TARGET_OR_FILE: "(__mematlas_targets_or_files)",
    TARGET_OR_PATH: "(__mematlas_targets_or_files path)",
    DIRECTORY: "(__fish_complete_directories)",
    RECORDING: "(__fish_complete_suffix .mematlas)",
}
SCRIPT = """\
# Completion of mematlas for fish.

# Each value with what it means.
function __mematlas_values
    printf '%s\\t%s\\n' $argv
end

# The same where several can be given, parted by commas: after those that are there already.
function __mematlas_list
    set -l there (commandline -ct | string replace -r '^--[^=]*=' '' | string replace -r '[^,]*$' '')
    printf "$there%s\\t%s\\n" $argv
end

# PIDs for who begins with a digit, names else; directories for a path, and where no process is like that.
function __mematlas_targets
    set -l current (commandline -ct | string replace -r '^--[^=]*=' '')
    if string match -qr '^[.]|/' -- "$current"
        __fish_complete_directories "$current"
        return
    end
    # grep opens the files: fish itself warns of a process that has ended meanwhile. Kernel threads have no memory.
    # statm is short, and reading it waits for nobody.
    set -l with_memory (grep -sL '^0 ' /proc/*/statm | string match -r '^/proc/[0-9]+/' | string replace -r '$' comm)
    # In the C locale no byte makes a name a binary file to grep.
    for line in (env LC_ALL=C grep -sH '' $with_memory /dev/null)
        set -l parts (string match -r '^/proc/([0-9]+)/comm:(.*)' -- $line)
        # Control characters in a name would reach the terminal as they are.
        set -l name (string match -r '^[ -~]+$' -- $parts[3])
        string match -qr '^[0-9]' -- "$current"; and printf '%s\\t%s\\n' $parts[2] "$name"
        test -n "$name"; and printf '%s\\tname\\n' $name
    end
    echo self
    # fish puts no space behind a colon.
    __mematlas_values PREFIXES
    __fish_complete_directories "$current"
end

# The same where files can be meant, behind file: or, with a word, by themselves.
function __mematlas_targets_or_files
    set -l current (commandline -ct)
    if string match -q 'file:*' -- "$current"
        printf 'file:%s\\n' (__fish_complete_path (string replace 'file:' '' -- "$current"))
        return
    end
    __mematlas_targets
    __mematlas_values file: 'the path of a file'
    set -q argv[1]; and __fish_complete_path "$current"
end

function __mematlas_first
    test (count (commandline -opc)) -eq 1
end

# Options where a command could stand are those of mematlas alone.
function __mematlas_is
    set -l words (commandline -opc) ''
    test "$words[2]" = $argv[1]
    or test $argv[1] = overview -a (count $words) -eq 2
    or begin
        test $argv[1] = overview
        and string match -q -- '-*' "$words[2]"
    end
end

# Whether so many words, options left out, follow the command already.
function __mematlas_word
    set -l words (commandline -opc)
    set -l number (count (string match -v -- '-*' $words[3..-1]))
    test $number -eq $argv[1]
    or test "$argv[2]" = or_more -a $number -gt $argv[1]
end

complete -c mematlas -f
complete -c mematlas -n '__mematlas_is overview' -s V -l version -d 'the version'"""
