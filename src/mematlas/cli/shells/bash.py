"""Completion for bash, version 4 or later."""

from __future__ import annotations

import shlex

from mematlas.cli.command import PREFIXES
from mematlas.cli.shells import OVERVIEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.shells import Option, Syntax, Values


def script(commands: list[Syntax]) -> str:
    """Return the completion script."""
    return SCRIPT % {
        "prefixes": " ".join(PREFIXES),
        "commands": " ".join(command.name for command in commands if command.name != OVERVIEW),
        "cases": "\n".join(map(case, commands)),
    }


def case(command: Syntax) -> str:
    """Return what the script knows of one command."""
    options = " ".join(name for option in command.options for name in option.names)
    words = " ".join(shlex.quote(values_text(values)) for values in command.words)
    lines = [
        f"        {command.name})",
        f"            options={shlex.quote(options)}",
        f"            words=({words})",
        *(["            repeats=1"] if command.repeats else []),
        "            case $option in",
        *(value_case(option) for option in command.options if option.metavar is not None),
        "            esac",
        "            ;;",
    ]
    return "\n".join(lines)


def value_case(option: Option) -> str:
    """Return the line about the value of an option."""
    values = shlex.quote(values_text(option.values))
    return f"                {'|'.join(option.names)}) takes=1 values={values} ;;"


def values_text(values: Values) -> str:
    """Return values as the script has them: the kind, or all of them, with a comma first where several can be given."""
    return values.kind or ("," if values.is_list else "") + " ".join(values.texts)


SCRIPT = """\
# Completion of mematlas for bash.

# Whether a name may be shown: control characters in it would reach the terminal as they are.
_mematlas_is_plain() {
    local LC_ALL=C
    [[ $1 != *[!\\ -~]* ]]
}

# Files, with a prefix before each. Readline goes on in directories, and quotes names that need it.
_mematlas_files() {
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -P "$2" -f -- "$1")
    compopt -o filenames 2>/dev/null
}

# PIDs for who begins with a digit, names else; directories for a path, and where no process is like that. Where files
# can be meant (the second word) these, behind file: or by themselves.
_mematlas_targets() {
    local directory name pid quoted size
    if [[ $2 && $1 == file:* ]]; then
        _mematlas_files "${1#file:}" file:
        return
    fi
    local -A seen=()
    if [[ $1 != */* && $1 != .* ]]; then
        for directory in /proc/[0-9]*; do
            # Kernel threads have no memory. statm is short, and reading it waits for nobody.
            read -r size _ <"$directory/statm" && [[ $size != 0 ]] || continue
            pid=${directory#/proc/}
            [[ $1 == [0-9]* && $pid == "$1"* ]] && COMPREPLY+=("$pid")
            read -r name <"$directory/comm" || continue
            # Not by compgen -W, which would run a name such as $(reboot). Names may be empty, or @: keys may not.
            if [[ -n $name && $name == "$1"* && -z ${seen[x$name]} ]] && _mematlas_is_plain "$name"; then
                seen[x$name]=1
                printf -v quoted %%q "$name"
                COMPREPLY+=("$quoted")
            fi
        done 2>/dev/null
        [[ self == "$1"* ]] && COMPREPLY+=(self)
        for name in %(prefixes)s ${2:+file:}; do
            [[ $name == "$1"* ]] && COMPREPLY+=("$name")
        done
        # What the prefix says comes right behind it.
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace 2>/dev/null
    fi
    if [[ $2 == *path ]]; then
        _mematlas_files "$1"
    elif ((! ${#COMPREPLY[@]})); then
        mapfile -t COMPREPLY < <(compgen -d -- "$1")
    fi
}

_mematlas_value() {
    case $2 in
        target | "target or "*) _mematlas_targets "$1" "${2#target}" ;;
        directory) mapfile -t COMPREPLY < <(compgen -d -- "$1") ;;
        recording) mapfile -t COMPREPLY < <(compgen -f -X '!*.mematlas' -- "$1"; compgen -d -- "$1") ;;
        ,*) mapfile -t COMPREPLY < <(compgen -P "${1%%"${1##*,}"}" -W "${2#,}" -- "${1##*,}") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1") ;;
    esac
}

# Sets what is known of a command, and of one of its options.
_mematlas_syntax() {
    local option=$2
    options= takes= values= repeats=
    words=()
    case $1 in
%(cases)s
    esac
}

_mematlas() {
    local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} first=2
    local options takes values repeats word nr_words=0 index
    local -a words
    COMPREPLY=()
    if ((COMP_CWORD == 1)) && [[ $current != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "%(commands)s" -- "$current")
        return
    fi
    # Options where a command could stand are those of mematlas alone.
    [[ $command == -* ]] && command=overview first=1
    # bash cuts --option=value into three words.
    local before=${COMP_WORDS[COMP_CWORD - 1]}
    if [[ $current == "=" ]]; then
        current=
    elif [[ $before == "=" ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    _mematlas_syntax "$command" "$before"
    if [[ $takes ]]; then
        _mematlas_value "$current" "$values"
        return
    fi
    # It cuts file:PATH into three words too, unless it was told otherwise.
    if [[ ${words[0]} == "target or "* ]]; then
        if [[ $current == ":" && $before == file ]]; then
            _mematlas_files ""
            return
        elif [[ $before == ":" && ${COMP_WORDS[COMP_CWORD - 2]} == file ]]; then
            _mematlas_files "$current"
            return
        fi
    fi
    for ((index = first; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ $word == "--" ]]; then
            mapfile -t COMPREPLY < <(compgen -c -- "$current")
            return
        fi
        _mematlas_syntax "$command" "$word"
        if [[ $takes ]]; then
            [[ ${COMP_WORDS[index + 1]} == "=" ]] && ((index++))
            ((index++))
        elif [[ $word != -* ]]; then
            ((nr_words++))
        fi
    done
    [[ $repeats ]] && ((nr_words >= ${#words[@]})) && nr_words=$((${#words[@]} - 1))
    if [[ $current == -* ]]; then
        ((first == 1)) && options+=" --version"
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif ((nr_words < ${#words[@]})); then
        _mematlas_value "$current" "${words[nr_words]}"
    fi
}

complete -F _mematlas mematlas
"""
