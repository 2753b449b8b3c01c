"""Completion for zsh."""

from __future__ import annotations

import shlex

from mematlas.cli.command import DIRECTORY, PREFIXES, RECORDING, TARGET, TARGET_OR_FILE, TARGET_OR_PATH
from mematlas.cli.shells import OVERVIEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.shells import Option, Syntax, Values


def script(commands: list[Syntax]) -> str:
    """Return the completion script."""
    lines = [f"{command.name}:{command.help}" for command in commands if command.name != OVERVIEW]
    return SCRIPT % {
        "prefixes": " ".join(PREFIXES),
        "commands": "\n".join(f"        {shlex.quote(line)}" for line in lines),
        "cases": "\n".join(map(case, commands)),
    }


def case(command: Syntax) -> str:
    """Return what the script knows of one command."""
    specs = [spec for option in command.options for spec in option_specs(option)]
    if command.name == OVERVIEW:
        specs.append("--version[the version]")
    for number, values in enumerate(command.words, 1):
        specs.append(f"{number}:{message(values)}:{action(values)}")
    if command.repeats:
        specs.append(f"*:{message(command.words[-1])}:{action(command.words[-1])}")
    lines = " \\\n".join(f"                {shlex.quote(spec)}" for spec in specs)
    return f"        {command.name})\n            _arguments \\\n{lines}\n            ;;"


def option_specs(option: Option) -> list[str]:
    """Return an option as _arguments has it, one line for each of its names."""
    others = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    text = f"[{escape(option.help, '[]:')}]"
    if option.metavar is None:
        return [f"{others}{name}{text}" for name in option.names]
    value = f":{escape(option.metavar, ':')}:{action(option.values)}"
    # With a "=" the value may follow one, or be the next word.
    names = [f"{name}=" if name.startswith("--") else name for name in option.names]
    return [f"{others}{name}{text}{value}" for name in names]


def message(values: Values) -> str:
    """Return what a word is called."""
    return escape(values.kind, ":") or "word"


def action(values: Values) -> str:
    """Return how zsh finds what a word can be."""
    if values.kind:
        return ACTIONS[values.kind]
    if values.is_list:
        return " ".join(["_values -s , value", *map(value_spec, values.texts.items())])
    if not any(values.texts.values()):
        return f"({' '.join(values.texts)})" if values.texts else ""
    return f"(({' '.join(map(described, values.texts.items()))}))"


def described(item: tuple[str, str]) -> str:
    """Return a value with what it means, as an action has it."""
    name, text = item
    return f"{name}\\:{shlex.quote(escape(text, ':'))}" if text else name


def value_spec(item: tuple[str, str]) -> str:
    """Return a value as _values has it, quoted."""
    name, text = item
    return shlex.quote(f"{name}[{escape(text, '[]:')}]") if text else name


def escape(text: str, special: str) -> str:
    """Return a text with a backslash before each special character."""
    return "".join(f"\\{c}" if c in special or c == "\\" else c for c in text)


ACTIONS = {
    TARGET: "_mematlas_targets",
    TARGET_OR_FILE: "_mematlas_targets file",
    TARGET_OR_PATH: "_mematlas_targets path",
    DIRECTORY: "_directories",
    RECORDING: "_files -g '*.mematlas'",
}
SCRIPT = """\
#compdef mematlas
# Completion of mematlas for zsh.

# PIDs for who begins with a digit, names else; directories for a path, and where no process is like that. Where files
# can be meant (the last word) these, behind file: or by themselves.
_mematlas_targets() {
    local directory name line files
    local -a pids
    local -aU names
    # _arguments puts words of its own before ours.
    [[ $argv[-1] == (file|path) ]] && files=$argv[-1]
    if [[ -n $files ]] && compset -P file:; then
        _files
        return
    fi
    if [[ $PREFIX == */* || $PREFIX == .* ]]; then
        if [[ $files == path ]]; then _files; else _directories; fi
        return
    fi
    for directory in /proc/<->(N); do
        # Kernel threads have no memory. statm is short, and reading it waits for nobody.
        line=0
        read -r line <$directory/statm 2>/dev/null
        [[ ${line%%%% *} != 0 ]] || continue
        read -r name <$directory/comm 2>/dev/null || continue
        # Control characters in a name would reach the terminal as they are.
        [[ $name == *[^\\ -~]* ]] && name=
        pids+=("${directory:t}:${name//:/ }")
        [[ -n $name ]] && names+=("$name")
    done 2>/dev/null
    local expl found
    if [[ $PREFIX == <->* ]]; then
        _describe -t processes 'process' pids && found=1
        [[ -n $found && $files != path ]] && return
    fi
    _wanted names expl 'name of a process' compadd -a names -- && found=1
    _wanted targets expl 'target' compadd self && found=1
    # What the prefix says comes right behind it.
    _wanted prefixes expl 'prefix' compadd -S '' -- %(prefixes)s ${files:+file:} && found=1
    if [[ $files == path ]]; then
        _files
    elif [[ -z $found ]]; then
        _directories
    fi
}

_mematlas() {
    local -a commands
    commands=(
%(commands)s
    )
    if (( CURRENT == 2 )) && [[ $PREFIX != -* ]]; then
        _describe -t commands 'command' commands
        return
    fi
    local command=$words[2]
    if [[ $command == -* ]]; then
        command=overview
    else
        shift words
        (( CURRENT-- ))
    fi
    case $command in
%(cases)s
    esac
}

if [[ $funcstack[1] == _mematlas ]]; then
    _mematlas "$@"
else
    compdef _mematlas mematlas
fi
"""
