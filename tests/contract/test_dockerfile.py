"""The container image, judged from its Dockerfile: this suite parses it, so no container engine is needed.

What only a real build shows (the base image exists, Debian has tini) is not claimed here.
"""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = re.compile(
    "ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|RUN|STOPSIGNAL|USER|VOLUME|WORKDIR"
)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction, continuation lines joined: `COPY --from=build /a /b` has one flag and two words."""

    name: str
    flags: dict[str, str]
    rest: str

    @property
    def words(self) -> list[str]:
        """Arguments of either form: a JSON array (exec form) or words."""
        return self.array if self.rest.startswith("[") else self.rest.split()

    @property
    def array(self) -> list[str]:
        """Arguments of the exec form; a shell form is a failure."""
        value = json.loads(self.rest)
        assert isinstance(value, list)
        assert all(isinstance(word, str) for word in value)
        return value


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A FROM and what follows it."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """Every instruction of that name, in order."""
        return [instruction for instruction in self.instructions if instruction.name == name]

    def only(self, name: str) -> Instruction:
        """The single instruction of that name; in a stage, a second CMD or USER would silently win."""
        found = self.all(name)
        assert len(found) == 1, f"{name} stands {len(found)} times in the stage on {self.base}"
        return found[0]


def logical_lines(text: str) -> list[str]:
    """Lines with continuations joined; comment lines drop out, between continuation lines too."""
    lines, pending = [], ""
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1].rstrip() + " "
        else:
            lines.append(pending)
            pending = ""
    assert not pending, "the file ends in the middle of an instruction"
    return lines


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile. AssertionError on what it does not know, so nothing is skipped unread."""
    stages: list[Stage] = []
    for line in logical_lines(text):
        name, _, rest = line.partition(" ")
        name, rest = name.upper(), rest.strip()
        assert INSTRUCTIONS.fullmatch(name), f"unknown instruction: {line}"
        assert "<<" not in rest, "here-documents are not read by this parser"
        flags: dict[str, str] = {}
        while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            flags[match[1]] = match[2]
            rest = rest[match.end() :]
        if name == "FROM":
            base, *alias = rest.split()
            assert not alias or (len(alias) == 2 and alias[0].upper() == "AS"), line
            stages.append(Stage(base=base, name=alias[1] if alias else ""))
        else:
            assert stages, f"{name} stands before the first FROM"
            stages[-1].instructions.append(Instruction(name=name, flags=flags, rest=rest))
    return stages


def reaches_engine(path: str) -> bool:
    """Whether `.dockerignore` lets this path into the build context; the last match decides."""
    sent = True
    upwards = [PurePosixPath(path), *PurePosixPath(path).parents][:-1]
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        bare = pattern.removeprefix("!").rstrip("/")
        anywhere = bare.removeprefix("**/")
        compared = [part.name if bare != anywhere else str(part) for part in upwards]
        if any(fnmatch.fnmatchcase(part, anywhere) for part in compared):
            sent = pattern.startswith("!")
    return sent


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    """The stages of the project's own Dockerfile."""
    return parse((ROOT / "Dockerfile").read_text("utf-8"))


@pytest.fixture
def image(stages: list[Stage]) -> Stage:
    """The last stage: what is shipped."""
    return stages[-1]


def test_parser_joins_continuations_and_drops_comments_inside_them() -> None:
    """A RUN over several lines, a comment among them, is one instruction with its flags apart."""
    stage = parse("FROM a:1 AS b\n# why\nRUN --network=none one \\\n  # not the end\n  && two\n")[0]
    assert (stage.base, stage.name) == ("a:1", "b")
    assert stage.only("RUN") == Instruction(name="RUN", flags={"network": "none"}, rest="one && two")


@pytest.mark.parametrize("text", ["RUN x", "FROM a\nRNU x", "FROM a\nRUN x \\", "FROM a\nRUN <<EOF", "FROM a of b"])
def test_parser_refuses_what_it_cannot_read(text: str) -> None:
    """An instruction out of place, misspelt, cut off or of an unread kind fails instead of passing unseen."""
    with pytest.raises(AssertionError):
        parse(text)


def test_every_stage_stands_on_the_same_slim_glibc_python(stages: list[Stage]) -> None:
    """The wheels are for glibc, and a virtual environment only moves between equal Pythons."""
    assert len(stages) > 1, "build tools would be shipped"
    bases = {stage.base for stage in stages}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.(1[1-9]|2\d)-slim-(bookworm|trixie)", bases.pop())


def test_user_is_a_number_and_not_root(image: Stage) -> None:
    """Kubernetes' runAsNonRoot can only judge a numeric user."""
    user, group = (int(part) for part in image.only("USER").rest.split(":"))
    assert user >= 1000
    assert group >= 1000


def test_nothing_needs_root_after_the_user_is_set(image: Stage) -> None:
    """What runs or is copied in after USER would either fail or belong to the wrong owner."""
    names = [instruction.name for instruction in image.instructions]
    assert not {"RUN", "COPY", "ADD"}.intersection(names[names.index("USER") :])


def test_an_init_is_the_entry_point_and_is_installed(image: Stage) -> None:
    """tini forwards SIGTERM, so that a stop drains; it comes from Debian in the shipped stage."""
    assert image.only("ENTRYPOINT").array == ["/usr/bin/tini", "--"]
    assert any(re.search(r"apt-get install [^&]*\btini\b", run.rest) for run in image.all("RUN"))


def test_healthcheck_asks_the_server_itself(image: Stage) -> None:
    """The image says how it is without curl, by its own command, in exec form and within a bound."""
    check = image.only("HEALTHCHECK")
    form, _, arguments = check.rest.partition(" ")
    assert form == "CMD"
    assert json.loads(arguments) == ["ledgerwire", "healthcheck"]
    assert {"interval", "timeout", "start-period", "retries"} <= check.flags.keys()


def test_server_listens_where_the_image_says(image: Stage) -> None:
    """The port exposed is the port served, on every interface of the container."""
    command = image.only("CMD").array
    assert command == ["ledgerwire", "serve", "--host", "0.0.0.0", "--port", "8080"]
    assert image.only("EXPOSE").rest == "8080"


@pytest.mark.parametrize("verb", ["serve", "healthcheck"])
def test_commands_of_the_image_exist(verb: str, image: Stage) -> None:
    """The command line knows the verbs and options that CMD and HEALTHCHECK use."""
    command = [sys.executable, "-m", "gateway", verb, "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = [word for word in image.only("CMD").array if word.startswith("--")] if verb == "serve" else []
    assert [option for option in wanted if option not in shown] == []


def test_everything_copied_exists_and_reaches_the_engine(stages: list[Stage]) -> None:
    """No COPY names a file that is missing or that .dockerignore keeps away, or a stage there is not."""
    for stage in stages:
        assert not stage.all("ADD"), "ADD fetches and unpacks; COPY says what it does"
        for copy in stage.all("COPY"):
            *sources, _target = copy.words
            if "from" in copy.flags:
                assert copy.flags["from"] in {other.name for other in stages}
                continue
            for source in sources:
                assert (ROOT / source).exists(), source
                assert reaches_engine(source.rstrip("/")), f"{source} is in .dockerignore"


def test_build_context_is_only_what_is_copied() -> None:
    """Secrets, environments and history of a developer never reach the engine."""
    for path in (".env", ".git/config", ".venv/bin/python", "tests/x.py", "gateway/__pycache__/x.pyc"):
        assert not reaches_engine(path), path
    for path in ("gateway/__main__.py", "ledger/sql/schema.sql", "requirements/server.txt"):
        assert reaches_engine(path), path


def test_wheel_gets_all_that_its_metadata_names(stages: list[Stage]) -> None:
    """The build stage copies what pyproject.toml refers to, before it builds."""
    copied = {word.rstrip("/") for copy in stages[0].all("COPY") for word in copy.words[:-1]}
    assert {"pyproject.toml", "README.md", "LICENSE", "gateway", "ledger"} <= copied


def test_everything_installed_is_hash_locked(stages: list[Stage]) -> None:
    """Each pip installs a lock with required hashes, or our own wheel with nothing beside it."""
    commands = [part.strip() for stage in stages for run in stage.all("RUN") for part in run.rest.split("&&")]
    pips = [command.split() for command in commands if re.search(r"\bpip\b.* (install|wheel)\b", command)]
    assert pips, "no pip command was found"
    copied = {word for copy in stages[0].all("COPY") for word in copy.words}
    for words in pips:
        if "--no-deps" in words:
            assert {"--no-index", "--no-build-isolation"}.intersection(words)
        else:
            assert "--require-hashes" in words
            assert words[words.index("-r") + 1] in copied


def test_image_carries_no_postgresql(stages: list[Stage]) -> None:
    """The embedded server is for trying; the image is given a database by DATABASE_URL."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    locks = re.findall(r"-r (requirements/\S+\.txt)", text)
    assert "requirements/server.txt" in locks
    for lock in locks:
        assert "pgserver" not in (ROOT / lock).read_text("utf-8"), lock
    installed = " ".join(run.rest for stage in stages for run in stage.all("RUN"))
    assert "postgres" not in installed
