"""`fg shell-init`: `fg` is job control in every shell; with this function it is this command, too. Imports little."""

from typing import Annotated

import typer

from fgcli.errors import UsageError

_POSIX = """\
# fg is job control, of `fg`, `fg %1`, `fg 2`, `fg +` and `fg -`, and otherwise the toolkit fgcli.
fg() {
    case "${1-}" in
        '' | %* | [0-9]* | + | -) builtin fg "$@" ;;
        *) command fgcli "$@" ;;
    esac
}
"""
_FISH = """\
# fg is job control, of `fg`, `fg %1` and `fg 2`, and otherwise the toolkit fgcli.
if not functions --query __fgcli_job_control
    if functions --query fg # fish's own function around its builtin
        functions --copy fg __fgcli_job_control
    else
        function __fgcli_job_control
            builtin fg $argv
        end
    end
end
function fg --description 'fgcli, or job control'
    if test (count $argv) -eq 0; or string match --quiet --regex -- '^(%|[0-9]|[+-]$)' $argv[1]
        __fgcli_job_control $argv
    else
        command fgcli $argv
    end
end
"""
FUNCTIONS = {"bash": _POSIX, "zsh": _POSIX, "fish": _FISH}
RC_LINES = {
    "bash": """echo 'eval "$(fgcli shell-init bash)"' >> ~/.bashrc""",
    "zsh": """echo 'eval "$(fgcli shell-init zsh)"' >> ~/.zshrc""",
    "fish": "echo 'fgcli shell-init fish | source' >> ~/.config/fish/config.fish",
}
"""What writes the function into the file that a shell reads at its start."""


def shell_init(shell: Annotated[str, typer.Argument(help=f"One of {', '.join(FUNCTIONS)}.", metavar="SHELL")]) -> None:
    """Print a function for your shell: `fg train …` runs the toolkit; `fg`, `fg %1` and `fg 2` stay job control.

    For good: eval "$(fgcli shell-init bash)" in ~/.bashrc, the same with zsh in ~/.zshrc; in
    ~/.config/fish/config.fish: fgcli shell-init fish | source.
    """
    if shell not in FUNCTIONS:
        instead = "in another shell, type fgcli in place of fg"
        raise UsageError(f"there is no function for {shell!r}; there is one for {', '.join(FUNCTIONS)}: {instead}")
    print(FUNCTIONS[shell], end="")
