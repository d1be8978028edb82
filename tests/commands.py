"""The `hardprompts` command as tests run it."""

from pathlib import Path

from typer.testing import CliRunner

from hardprompts.cli import app

#: What makes a search of the toy model take a moment only.
QUICK = ("--model", "toy", "--tokens", "3", "--steps", "3", "--restarts", "4", "--seed", "1")


class Run:
    """The outcome of a command."""

    def __init__(self, *words: str | Path) -> None:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr

    def fails(self, *words: str) -> None:
        """Checks that it was one clear line on stderr, and nothing else anywhere."""
        assert self.code == 2
        assert self.out == ""
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err
        assert "Traceback" not in self.err


def files(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
