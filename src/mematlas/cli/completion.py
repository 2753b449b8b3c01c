"""The script is made from what each command declares, so it is never behind."""

from __future__ import annotations

from mematlas.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mematlas.cli.arguments import Arguments, Namespace
    from mematlas.cli.session import Session

SHELLS = {
    "bash": "version 4 or later",
    "zsh": "with compinit",
    "fish": "version 3 or later",
}


def add_arguments(arguments: Arguments) -> None:
    arguments.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(args: Namespace, session: Session) -> int:
    session.out.write(script_of(args.shell))
    return 0


def script_of(shell: str) -> str:
    """Return the completion script of a shell."""
    from mematlas.cli.shells import all_syntax, bash, fish, zsh

    scripts = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}
    return scripts[shell](all_syntax())


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
    words=(SHELLS,),
)
