"""What an operator gets wrong, on the real cloud: one sentence, a number, nothing half-done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.clouds import BACKUP, STATE, TOP, on, recell

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bad")
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=directory)
    return directory


@pytest.fixture
def desk(scanned: Path, tmp_path: Path) -> Path:
    shutil.copy(scanned / "deployment.json", tmp_path)
    shutil.copy(TOP / "lab/layouts/split.yaml", tmp_path / "layout.yaml")
    return tmp_path


def sentence(directory: Path, expect: int, *words: str) -> str:
    """stderr: exactly one line, free of tracebacks."""
    said = recell(*words, directory=directory, expect=expect, timeout=300).stderr.strip()
    assert said.startswith("recell: ") and len(said.splitlines()) == 1, said
    return said


def inventory(directory: Path, old: str, new: str) -> str:
    text = (STATE / "inventory.ini").read_text()
    assert old in text
    path = directory / "inventory.ini"
    path.write_text(text.replace(old, new))
    return str(path)


def test_layouts(desk: Path) -> None:
    layout = desk / "layout.yaml"
    good = layout.read_text()
    for text, says in (
        ("api: [", "layout.yaml"),
        (good + "surprise: 1\n", "surprise"),
        (good.replace("mq4", "mq9"), "mq9"),
        (good.replace("mq4", "mq1"), "today's broker"),
        (good.replace("cell1", "cell9"), "cell9"),
    ):
        layout.write_text(text)
        assert says in sentence(desk, 3, "plan")
    assert not (desk / "plan.json").exists()


def test_an_unknown_and_an_unreachable_host(desk: Path) -> None:
    nobody = inventory(desk, "ansible_host=10.77.0.54", "ansible_host=10.77.0.99")
    assert "cmp4" in sentence(desk, 4, "scan", "--inventory", nobody)
    broken = inventory(desk, "[computes]", "[computes")
    assert "line" in sentence(desk, 3, "scan", "--inventory", broken)


def test_a_wrong_host_key_and_a_wrong_key(desk: Path) -> None:
    text = (STATE / "known_hosts").read_text().splitlines()
    mq1, mq2 = (next(i for i, line in enumerate(text) if f"10.77.0.{n}" in line) for n in (41, 42))
    text[mq1] = " ".join([text[mq1].split()[0], *text[mq2].split()[1:]])
    (desk / "known_hosts").write_text("\n".join(text) + "\n")
    moved = inventory(desk, str(STATE / "known_hosts"), str(desk / "known_hosts"))
    assert "mq1" in sentence(desk, 5, "scan", "--inventory", moved)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", desk / "key"], check=True)
    other = inventory(desk, str(STATE / "id_ed25519"), str(desk / "key"))
    sentence(desk, 5, "scan", "--inventory", other)


def test_a_broker_that_is_down_and_a_password_that_differs(desk: Path) -> None:
    recell("plan", directory=desk)
    on("mq4", "systemctl", "stop", "rabbitmq-server")
    try:
        said = recell("check", directory=desk, expect=7)
        assert "mq4" in said.stdout and "Traceback" not in said.stdout + said.stderr
    finally:
        on("mq4", "systemctl", "start", "rabbitmq-server")
        on("mq4", "rabbitmqctl", "-q", "await_startup")
    on("mq4", "rabbitmqctl", "-q", "add_user", "nova", "quite-another-one")
    try:
        assert "another password" in recell("check", directory=desk, expect=7).stdout
        sentence(desk, 7, "apply", *BACKUP)
        assert not (desk / "journal.sqlite").exists()
    finally:
        on("mq4", "rabbitmqctl", "-q", "delete_user", "nova")


def test_what_also_writes(desk: Path) -> None:
    recell("plan", directory=desk)
    on(
        "ctl2",
        "sh",
        "-c",
        "echo '0 3 * * * nova nova-manage db archive_deleted_rows' > /etc/cron.d/nova-archive",
    )
    try:
        found = recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=desk).stdout
        assert "/etc/cron.d/nova-archive" in found
        said = json.loads(recell("check", "--json", directory=desk, expect=7).stdout)
        assert "cron:ctl2:/etc/cron.d/nova-archive" in {v["id"] for v in said}
    finally:
        on("ctl2", "rm", "/etc/cron.d/nova-archive")


def test_stale_and_edited_plans(desk: Path) -> None:
    recell("plan", directory=desk)
    plan = desk / "plan.json"
    good = plan.read_text()
    plan.write_text(good.replace("mq4:5672", "mq5:5672", 1))
    assert "edited" in sentence(desk, 8, "apply", *BACKUP)
    plan.write_text(good)
    on("ctl2", "cp", "-p", "/etc/nova/nova.conf", "/etc/nova/nova.conf.kept")
    on("ctl2", "sh", "-c", "echo '# somebody was here' >> /etc/nova/nova.conf")
    try:
        sentence(desk, 8, "apply", *BACKUP)
        assert not (desk / "journal.sqlite").exists()
    finally:
        on("ctl2", "mv", "/etc/nova/nova.conf.kept", "/etc/nova/nova.conf")


def test_a_backup_must_be_named(desk: Path) -> None:
    recell("plan", directory=desk)
    said = sentence(desk, 3, "apply")
    assert "backup" in said and "cell1" in said and not (desk / "journal.sqlite").exists()


def test_two_recells_at_once(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    recell("plan", directory=desk)
    plan = json.loads((desk / "plan.json").read_text())
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom recell.journal import Journal\n"
        "j = Journal.create(Path(sys.argv[1]), sys.argv[2])\nwith j.writing('apply', 'forward'):\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", holder, str(desk / "journal.sqlite"), plan["digest"]], stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None and first.stdout.readline() == b"ready\n"
        assert f"pid {first.pid}" in sentence(desk, 9, "apply", *BACKUP, "--no-measure")
    finally:
        first.kill()
        first.wait()
    (desk / "journal.sqlite").unlink()
    # Another directory, the same cloud: the hosts themselves refuse.
    recell("apply", *BACKUP, "--no-measure", "--pause-before", "mapping/cell1", directory=desk, expect=13)
    other = tmp_path_factory.mktemp("other")
    for name in ("deployment.json", "layout.yaml", "plan.json"):
        shutil.copy(desk / name, other)
    sentence(other, 9, "apply", *BACKUP, "--no-measure")
    recell("undo", "--no-measure", directory=desk)
    assert "absent" in on("ctl1", "sh", "-c", "test -s /var/lib/recell/owner && echo there || echo absent")
