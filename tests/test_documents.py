"""What the documents show can be typed: commands and options exist, links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from graphopt.cli import commands, main
from graphopt.cli.environment import Exit

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
OPERATORS = {"|", ">", "<", "&&", "||", ";", "&", ">>", "2>"}


def typed(text: str) -> Iterator[list[str]]:
    """The words of every graphopt command of a document: in code blocks, and between backticks with arguments."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    shell = [block.replace("\\\n", " ") for language, block in blocks if language in ("", "sh", "text")]
    lines = [line for block in shell for line in block.splitlines()]
    lines += [f"{mention} VALUE" for mention in re.findall(r"`(graphopt [^`]+ [^`]+)`", text)]
    for line in lines:
        found = re.search(r"(?:^|[\s/])graphopt (?=[a-z]+(?: |$))(.*)", line)
        if found is None or re.search(r"[\[{…]|\.\.\.", found.group(1)):
            continue
        words = shlex.split(found.group(1), comments=True)
        ends = [i for i, word in enumerate(words) if word in OPERATORS or word.startswith((">", "2>"))]
        yield words[: min(ends, default=len(words))]


def parse(words: list[str]) -> None:
    """Read a command line as far as its options; what files it names is not looked at."""
    command: click.Command = commands
    context = click.Context(command, info_name="graphopt")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no command {words[0]}")
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    command.make_parser(context).parse_args(list(words))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_documents_can_be_typed(document: Path) -> None:
    for words in typed(document.read_text(encoding="utf-8")):
        try:
            parse(words)
        except click.UsageError as error:
            pytest.fail(f"graphopt {shlex.join(words)}: {error.format_message()}")


def test_the_captures_of_the_readme_are_of_sample_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample_graphs").symlink_to(ROOT / "sample_graphs")
    captures = [words for words in typed((ROOT / "README.md").read_text(encoding="utf-8")) if words[0] == "capture"]
    assert captures
    for words in captures:
        assert main(words) == Exit.DONE


def test_commands_are_found_and_wrong_ones_noticed() -> None:
    assert len(list(typed((ROOT / "README.md").read_text(encoding="utf-8")))) >= 10
    with pytest.raises(click.UsageError):
        parse(["mine", "fleet", "--no-such-option"])
    with pytest.raises(click.UsageError):
        parse(["nonsense"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_documents_lead_to_files_and_headings(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target
