"""The script is made from what each command declares, so it is never behind."""

from __future__ import annotations

import shlex

from mematlas.cli.arguments import Arguments
from mematlas.cli.command import COMMANDS, DIRECTORY, TARGET, Command, load
from mematlas.frozen import record
from mematlas.kernel.maps import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Namespace
    from mematlas.cli.session import Session


@record
class Option:
    """An option of a command."""

    names: tuple[str, ...]
    help: str
    value: str | None
    """What its value is called; None when it takes none."""
    choices: tuple[str, ...]

    @property
    def is_target(self) -> bool:
        """Whether its value names a process."""
        return self.value == "TARGET"


@record
class Syntax:
    """What may follow a command."""

    name: str
    help: str
    options: list[Option]
    words: list[str | tuple[str, ...]]
    """For each word: `TARGET`, `DIRECTORY`, or what it is one of."""


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("shell", choices=tuple(SCRIPTS), help="which shell to make it for")


def run(args: Namespace, session: Session) -> int:
    session.out.write(SCRIPTS[args.shell]([syntax_of(name) for name in COMMANDS]))
    return 0


def syntax_of(name: str) -> Syntax:
    """Return what a command declares."""
    command = load(name)
    arguments = Arguments()
    command.add_arguments(arguments)
    options = [Option(("-h", "--help"), "what it does, and its options", None, ())]
    for names, settings in arguments.declared:
        choices = tuple(settings.get("choices", ()))
        if names[0].startswith("-"):
            value = None if settings.get("action") == "store_true" else value_name(names, settings.get("metavar"))
            options.append(Option(names, settings.get("help", ""), value, choices or VALUES.get(value or "", ())))
    return Syntax(
        name, COMMANDS[name][1], options, [word if isinstance(word, str) else tuple(word) for word in command.words]
    )


def value_name(names: tuple[str, ...], metavar: str | None) -> str:
    """Return what the value of an option is called."""
    return metavar or names[-1].lstrip("-").upper()


VALUES: dict[str, tuple[str, ...]] = {"KIND,...": KINDS}
"""Values that have names though no option restricts itself to them."""


# bash


def bash_script(commands: list[Syntax]) -> str:
    """Return the completion for bash, version 4 or later."""
    return BASH % {
        "commands": " ".join(command.name for command in commands),
        "cases": "\n".join(map(bash_case, commands)),
    }


def bash_case(command: Syntax) -> str:
    """Return what the bash script knows of one command."""
    options = " ".join(name for option in command.options for name in option.names)
    words = " ".join(shlex.quote(word if isinstance(word, str) else " ".join(word)) for word in command.words)
    lines = [
        f"        {command.name})",
        f"            options={shlex.quote(options)}",
        f"            words=({words})",
        "            case $option in",
    ]
    for option in command.options:
        if option.value is not None:
            values = TARGET if option.is_target else " ".join(option.choices)
            lines.append(f"                {'|'.join(option.names)}) takes=1 values={shlex.quote(values)} ;;")
    return "\n".join([*lines, "            esac", "            ;;"])


BASH = """\
# Completion of mematlas for bash.

# Whether a name may be shown: control characters in it would reach the terminal as they are.
_mematlas_is_plain() {
    local LC_ALL=C
    [[ $1 != *[!\\ -~]* ]]
}

_mematlas_targets() {
    local directory name pid quoted size
    local -A seen=()
    for directory in /proc/[0-9]*; do
        # Kernel threads have no memory. statm is short, and reading it waits for nobody.
        read -r size _ <"$directory/statm" && [[ $size != 0 ]] || continue
        read -r name <"$directory/comm" || continue
        pid=${directory#/proc/}
        [[ $pid == "$1"* ]] && COMPREPLY+=("$pid")
        # Not by compgen -W, which would run a name such as $(reboot).
        if [[ $name == "$1"* && -z ${seen[$name]} ]] && _mematlas_is_plain "$name"; then
            seen[$name]=1
            printf -v quoted %%q "$name"
            COMPREPLY+=("$quoted")
        fi
    done 2>/dev/null
    [[ self == "$1"* ]] && COMPREPLY+=(self)
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$1")
}

_mematlas_value() {
    case $2 in
        target) _mematlas_targets "$1" ;;
        directory) mapfile -t COMPREPLY < <(compgen -d -- "$1") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1") ;;
    esac
}

# Sets what is known of a command, and of one of its options.
_mematlas_syntax() {
    local option=$2
    options= takes= values=
    words=()
    case $1 in
%(cases)s
    esac
}

_mematlas() {
    local current=${COMP_WORDS[COMP_CWORD]} options takes values word nr_words=0 index
    local -a words
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "%(commands)s --help --version" -- "$current")
        return
    fi
    # bash cuts --option=value into three words.
    local before=${COMP_WORDS[COMP_CWORD - 1]}
    if [[ $current == "=" ]]; then
        current=
    elif [[ $before == "=" ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    _mematlas_syntax "${COMP_WORDS[1]}" "$before"
    if [[ $takes ]]; then
        _mematlas_value "$current" "$values"
        return
    fi
    for ((index = 2; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ $word == "--" ]]; then
            mapfile -t COMPREPLY < <(compgen -c -- "$current")
            return
        fi
        _mematlas_syntax "${COMP_WORDS[1]}" "$word"
        if [[ $takes ]]; then
            [[ ${COMP_WORDS[index + 1]} == "=" ]] && ((index++))
            ((index++))
        elif [[ $word != -* ]]; then
            ((nr_words++))
        fi
    done
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif ((nr_words < ${#words[@]})); then
        _mematlas_value "$current" "${words[nr_words]}"
    fi
}

complete -F _mematlas mematlas
"""


# zsh


def zsh_script(commands: list[Syntax]) -> str:
    """Return the completion for zsh."""
    # A colon parts a command from its description.
    described = (shlex.quote(f"{command.name}:{command.help.replace(':', ',')}") for command in commands)
    return ZSH % {
        "commands": "\n".join(f"        {line}" for line in described),
        "cases": "\n".join(map(zsh_case, commands)),
    }


def zsh_case(command: Syntax) -> str:
    """Return what the zsh script knows of one command."""
    specs = [spec for option in command.options for spec in zsh_option(option)]
    for place, word in enumerate(command.words, 1):
        name = word if isinstance(word, str) else "word"
        specs.append(f"{place}:{name}:{zsh_action(word)}")
    lines = " \\\n".join(f"                {shlex.quote(spec)}" for spec in specs)
    return f"        {command.name})\n            _arguments \\\n{lines}\n            ;;"


def zsh_option(option: Option) -> list[str]:
    """Return an option as _arguments has it, one line for each of its names."""
    text = "".join(f"\\{c}" if c in "[]:\\" else c for c in option.help)
    others = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    value = ""
    if option.value is not None:
        action = zsh_action(TARGET if option.is_target else option.choices)
        value = f":{option.value.replace(':', ' ')}:{action}"
    return [f"{others}{name}[{text}]{value}" for name in option.names]


def zsh_action(word: str | tuple[str, ...]) -> str:
    """Return how zsh finds what a word can be."""
    if isinstance(word, tuple):
        return f"({' '.join(word)})" if word else ""
    return {TARGET: "_mematlas_targets", DIRECTORY: "_directories"}[word]


ZSH = """\
#compdef mematlas
# Completion of mematlas for zsh.

_mematlas_targets() {
    local directory name line
    local -a pids
    local -aU names
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
    _describe -t processes 'process' pids
    compadd -a names
    compadd self
    _directories
}

_mematlas() {
    local -a commands
    commands=(
%(commands)s
    )
    if (( CURRENT == 2 )); then
        _describe -t commands 'command' commands
        compadd -- --help --version
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
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


# fish


def fish_script(commands: list[Syntax]) -> str:
    """Return the completion for fish."""
    lines = [FISH]
    for command in commands:
        lines.append(f"complete -c mematlas -n __mematlas_first -a {command.name} -d {quote_fish(command.help)}")
    for command in commands:
        lines += ["", *fish_lines(command)]
    return "\n".join(lines) + "\n"


def fish_lines(command: Syntax) -> list[str]:
    """Return what the fish script knows of one command."""
    start = f"complete -c mematlas -n '__mematlas_is {command.name}'"
    lines = []
    for option in command.options:
        names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
        value = "" if option.value is None else f" -x -a {fish_action(TARGET if option.is_target else option.choices)}"
        lines.append(f"{start} {names}{value} -d {quote_fish(option.help)}")
    for place, word in enumerate(command.words):
        condition = f"'__mematlas_is {command.name}; and __mematlas_word {place}'"
        lines.append(f"complete -c mematlas -n {condition} -a {fish_action(word)}")
    return lines


def fish_action(word: str | tuple[str, ...]) -> str:
    """Return how fish finds what a word can be."""
    if isinstance(word, tuple):
        return quote_fish(" ".join(word))
    return {TARGET: "'(__mematlas_targets)'", DIRECTORY: "'(__fish_complete_directories)'"}[word]


def quote_fish(text: str) -> str:
    """Return a text as one word of fish, which knows two escapes in single quotes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


FISH = """\
# Completion of mematlas for fish.

function __mematlas_targets
    # grep opens the files: fish itself warns of a process that has ended meanwhile. Kernel threads have no memory.
    # statm is short, and reading it waits for nobody.
    set -l with_memory (grep -sL '^0 ' /proc/*/statm | string match -r '^/proc/[0-9]+/' | string replace -r '$' comm)
    for line in (grep -sH . $with_memory /dev/null)
        set -l parts (string match -r '^/proc/([0-9]+)/comm:(.*)' -- $line)
        # Control characters in a name would reach the terminal as they are.
        set -l name (string match -r '^[ -~]+$' -- $parts[3])
        printf '%s\\t%s\\n' $parts[2] "$name"
        test -n "$name"; and printf '%s\\tname\\n' $name
    end
    echo self
    __fish_complete_directories
end

function __mematlas_first
    test (count (commandline -opc)) -eq 1
end

function __mematlas_is
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test $words[2] = $argv[1]
end

# Whether so many words, options left out, follow the command already.
function __mematlas_word
    set -l words (commandline -opc)
    test (count (string match -v -- '-*' $words[3..-1])) -eq $argv[1]
end

complete -c mematlas -f
complete -c mematlas -n __mematlas_first -s h -l help -d 'all commands'
complete -c mematlas -n __mematlas_first -s V -l version -d 'the version'"""


SCRIPTS = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}


COMMAND = Command(
    "bash | zsh | fish",
    __doc__,
    add_arguments,
    run,
    examples=(
        ('eval "$(mematlas completion bash)"', "in ~/.bashrc"),
        ('eval "$(mematlas completion zsh)"', "in ~/.zshrc, after compinit"),
        ("mematlas completion fish > ~/.config/fish/completions/mematlas.fish", ""),
    ),
    words=(dict.fromkeys(SCRIPTS, ""),),
)
