"""Starting a run on several processes: where they are placed, how they end, what is refused; and the heartbeat."""

import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import typer
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from torch.distributed import HashStore

from tests.zygote import zygote
from zoo_core import ConfigError, TrainingError
from zoo_core.cli.main import app
from zoo_core.training.processes import launch as launching
from zoo_core.training.processes import watch as watching
from zoo_core.training.processes.launch import Hosts, asked_of_accelerate, launch, refuse_silent_launch
from zoo_core.training.processes.watch import Heartbeat, watch

__all__ = ["zygote"]

EXAMPLES = Path(__file__).parents[1] / "examples" / "accelerate"
SCRIPT = """
import json, os, pathlib, signal, sys, time
rank = int(os.environ["RANK"])
folder, *told = sys.argv[1:]
here = pathlib.Path(folder)
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Has the launcher start a small script instead of a run; it knows ``rank``, ``here`` and ``told``."""

    def start(code, *told, processes=2, **options):
        (tmp_path / "scripted.py").write_text(SCRIPT + code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(launching, "MODULE", "scripted")
        return launch([str(tmp_path), *map(str, told)], processes, **options)

    return start


class TestEnds:
    @pytest.mark.parametrize(
        ("codes", "code"),
        [
            ((0, 0), 0), ((75, 75), 75), ((75, 0), 75), ((0, 75), 75), ((1, 0), 1), ((0, 1), 1), ((75, 1), 1),
            ((2, 2), 2), ((0, 3), 1), ((-9, 0), 1), ((0, -9), 1),
        ],
    )  # fmt: skip
    def test_the_run_ends_as_its_processes_do(self, started, codes, code):
        """A process that is killed by a signal has a negative code."""
        ending = "code = int(told[rank])\nos.kill(os.getpid(), -code) if code < 0 else sys.exit(code)"
        assert started(ending, *codes) == code

    def test_what_others_than_the_main_process_tell_is_told_only_if_they_fail_first(self, started, capfd):
        assert started("print('out', rank); print('err', rank, file=sys.stderr)") == 0
        assert capfd.readouterr() == ("out 0\n", "err 0\n")
        assert started("rank and sys.exit('the disk is full')\ntime.sleep(1)") == 1
        assert capfd.readouterr().err.splitlines() == [
            "error: process 1 of 2 failed first (exit code 1); it said:",
            "the disk is full",
        ]

    def test_bad_input_which_all_see_is_told_once(self, started, capfd):
        refuses = """
time.sleep(0 if rank else 0.3)
print("error: no such recipe", file=sys.stderr)
sys.exit(2)
"""
        assert started(refuses) == 2
        assert capfd.readouterr().err == "error: no such recipe\n"

    def test_a_killed_process_is_named(self, started, capfd):
        assert started("rank == 1 and os.kill(os.getpid(), 9)") == 1
        assert "SIGKILL ended process 1 of 2" in capfd.readouterr().err

    @pytest.mark.parametrize("code", [1, 75])
    def test_what_does_not_end_by_itself_is_killed_with_all_it_has_started(self, started, tmp_path, monkeypatch, code):
        monkeypatch.setattr(launching, "AFTER_STOP", 0.3)
        monkeypatch.setattr(launching, "AFTER_FAILURE", 0.3)
        hangs = """
import subprocess
if rank == 0:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    (here / "new").write_text(f"{os.getpid()} {child.pid}")
    (here / "new").rename(here / "pids")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(30)
while not (here / "pids").exists():
    time.sleep(0.01)
sys.exit(int(told[0]))
"""
        assert started(hangs, code) == 1
        assert not [pid for pid in map(int, (tmp_path / "pids").read_text().split()) if alive(pid)]

    def test_a_process_may_go_on_after_another_one_is_done(self, started, monkeypatch):
        monkeypatch.setattr(launching, "AFTER_STOP", 0.1)
        monkeypatch.setattr(launching, "AFTER_FAILURE", 0.1)
        assert started("time.sleep(0 if rank else 1)") == 0


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


HEARING = """
came = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: came.append(number))
(here / f"ready-{rank}").touch()
end = time.monotonic() + 30
while not came and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.2)  # for a second one, if there is any
(here / f"came-{rank}").write_text(str(came))
sys.exit(75)
"""


class TestSignals:
    @pytest.mark.parametrize(
        ("sent", "heard"),
        [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)],
    )
    def test_reach_each_process_once_and_the_run_ends_as_they_do(self, started, tmp_path, sent, heard):
        # Who has started the tests in the background may have had the signal ignored.
        outside, ordinary = (
            signal.getsignal(sent),
            signal.default_int_handler if sent == signal.SIGINT else signal.SIG_DFL,
        )
        signal.signal(sent, ordinary)
        try:
            send_when_ready(tmp_path, sent)
            assert started(HEARING) == 75
            assert [(tmp_path / f"came-{rank}").read_text() for rank in (0, 1)] == [f"[{int(heard)}]"] * 2
            assert signal.getsignal(sent) == ordinary
        finally:
            signal.signal(sent, outside)

    def test_what_is_ignored_stays_so(self, started, tmp_path):
        """As ``nohup`` has it."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            send_when_ready(tmp_path, signal.SIGHUP)
            assert started("(here / f'ready-{rank}').touch()\ntime.sleep(0.5)") == 0
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_a_run_that_could_not_save_has_not_stopped(self, started, tmp_path, capfd):
        send_when_ready(tmp_path, signal.SIGTERM)
        assert started("(here / f'ready-{rank}').touch()\ntime.sleep(30)") == 1
        assert capfd.readouterr().err == "error: SIGTERM ended the run before it could save; checkpoints stay\n"


def send_when_ready(folder, number):
    def send():
        while not all((folder / f"ready-{rank}").exists() for rank in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


class TestPlaces:
    TELL = "(here / f'{rank}.json').write_text(json.dumps(dict(os.environ)))"

    def told(self, folder, rank):
        return yaml.safe_load((folder / f"{rank}.json").read_text())

    def test_processes_know_of_each_other(self, started, tmp_path, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        monkeypatch.setattr(launching.torch.accelerator, "device_count", lambda: 0)
        assert started(self.TELL, processes=2) == 0
        one, two = self.told(tmp_path, 0), self.told(tmp_path, 1)
        assert [(e["RANK"], e["LOCAL_RANK"]) for e in (one, two)] == [("0", "0"), ("1", "1")]
        assert one["WORLD_SIZE"] == one["LOCAL_WORLD_SIZE"] == "2"
        assert one["MASTER_PORT"] == two["MASTER_PORT"]
        assert int(one["OMP_NUM_THREADS"]) == max(len(os.sched_getaffinity(0)) // 2, 1)
        assert one["ACCELERATE_USE_CPU"] == "true"

    def test_what_the_user_has_set_stays(self, started, tmp_path, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert started(self.TELL) == 0
        assert self.told(tmp_path, 1)["OMP_NUM_THREADS"] == "3"

    def test_a_single_host_opens_its_store_to_nobody_else(self):
        store = launching.open_store(Hosts())
        listening = [c for c in psutil.Process().net_connections("tcp") if c.laddr.port == store.port]
        assert {c.laddr.ip for c in listening if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}

    def test_what_cannot_be_placed_is_refused(self, monkeypatch, free_port):
        with pytest.raises(ConfigError, match="must be a multiple of --num-machines 2"):
            launch([], 3, Hosts(machines=2, port=free_port))
        with pytest.raises(ConfigError, match="--num-processes 0"):
            launch([], 0)
        with pytest.raises(ConfigError, match="numbered from 0 to --num-machines - 1 = 1"):
            Hosts(machines=2, rank=2, port=free_port)
        with pytest.raises(ConfigError, match="--main-port"):
            Hosts(machines=2)
        with pytest.raises(ConfigError, match="--main-address"):
            Hosts(machines=2, rank=1, port=free_port)
        monkeypatch.setattr(launching, "gpus", lambda: 2)
        with pytest.raises(ConfigError, match="this host has 2; ACCELERATE_USE_CPU=true"):
            launch([], 3)

    def test_a_port_that_is_taken_is_named(self):
        store = launching.open_store(Hosts())
        with pytest.raises(TrainingError, match=f"port {store.port} of this host cannot be used"):
            launch([], 2, Hosts(port=store.port))


@pytest.fixture
def free_port():
    with launching.socket.create_server(("127.0.0.2", 0)) as server:
        return int(server.getsockname()[1])


def second_host():
    """The launcher of the second one."""
    launching.MODULE, launching.AFTER_FAILURE = "scripted", 0.3
    folder, processes, port = sys.argv[1:]
    sys.exit(launch([folder], int(processes), Hosts(machines=2, rank=1, address="127.0.0.2", port=int(port))))


class TestTwoHosts:
    """Two launchers, as on two hosts; the second one is in a process of its own."""

    @pytest.fixture
    def both(self, zygote, started, tmp_path, monkeypatch, free_port):
        monkeypatch.setattr(launching, "AFTER_FAILURE", 0.3)

        def start(code, processes):
            second = zygote.start(
                tmp_path, processes, free_port,
                folder=tmp_path, environment={"PYTHONPATH": str(tmp_path)}, program="tests.test_launch:second_host",
            )  # fmt: skip
            options = {"machines": 2, "address": "127.0.0.2", "port": free_port}
            return started(code, processes=processes, hosts=Hosts(rank=0, **options)), second.wait(60)

        return start

    def test_processes_are_numbered_through(self, both, tmp_path):
        assert both(TestPlaces.TELL, 4) == (0, 0)
        told = [TestPlaces().told(tmp_path, rank) for rank in range(4)]
        assert [e["LOCAL_RANK"] for e in told] == ["0", "1", "0", "1"]
        assert {(e["WORLD_SIZE"], e["LOCAL_WORLD_SIZE"], e["MASTER_ADDR"]) for e in told} == {("4", "2", "127.0.0.2")}

    @pytest.mark.parametrize("fails", [0, 1])
    def test_one_that_hangs_is_ended_when_the_run_fails_on_the_other_host(self, both, fails):
        """Its own launcher alone can do that, and has nobody else to learn it from."""
        code = f"""
(here / str(rank)).touch()
while not ((here / "0").exists() and (here / "1").exists()):
    time.sleep(0.01)
time.sleep(1 if rank == {fails} else 30)
sys.exit(rank == {fails})
"""
        assert both(code, 2) == (1, 1)


class TestSilentLaunches:
    @pytest.mark.parametrize(
        ("command", "asked"),
        [
            ("python /bin/accelerate launch --cpu --num_processes 2 -m zoo_core.training vae-mnist", 2),
            ("python /bin/accelerate launch --num-processes=3 script.py --num_processes 7", 3),
            ("python /bin/accelerate-launch --num_processes 2 script.py", 2),
            ("python -m accelerate.commands.launch --num_processes 2 script.py", 2),
            ("python -m accelerate.commands.accelerate_cli launch --num_processes 2 script.py", 2),
            ("python /bin/accelerate launch --config_file {file} script.py", 4),
            ("python /bin/accelerate launch --config_file {file} --num_processes 1 script.py", 1),
            ("python /bin/accelerate launch --cpu script.py", 1),
            ("python /bin/accelerate launch --an-option-of-tomorrow script.py", 1),
            ("python /bin/accelerate launch --config_file nowhere.yaml script.py", 1),
            ("python /bin/accelerate test --num_processes 2", 1),
            ("bash launch --num_processes 2", 1),
            ("", 1),
        ],
    )
    def test_what_was_asked_for_is_read_from_the_command(self, tmp_path, command, asked, capfd):
        file = tmp_path / "default.yaml"
        file.write_text("{distributed_type: MULTI_CPU, num_processes: 4, use_cpu: true}")
        assert asked_of_accelerate(shlex.split(command.format(file=file))) == asked
        assert capfd.readouterr() == ("", "")

    def test_the_file_that_accelerate_config_writes_counts(self, tmp_path, monkeypatch):
        from accelerate.commands.config import config_args

        (tmp_path / "default.yaml").write_text("{distributed_type: MULTI_CPU, num_processes: 4, use_cpu: true}")
        monkeypatch.setattr(config_args, "default_config_file", str(tmp_path / "default.yaml"))
        assert asked_of_accelerate(shlex.split("python accelerate launch script.py")) == 4
        assert asked_of_accelerate(shlex.split("python accelerate launch --cpu script.py")) == 1

    def test_one_process_where_two_were_asked_for_is_refused(self, monkeypatch):
        monkeypatch.setattr(
            launching, "parent_command", lambda: ["accelerate", "launch", "--cpu", "--num_processes", "2", "s"]
        )
        with pytest.raises(TrainingError, match=r"2 processes.* use: zoo train RECIPE --num-processes 2"):
            refuse_silent_launch({})
        refuse_silent_launch({"WORLD_SIZE": "2"})

    def test_sharding_that_would_not_shard_is_refused(self):
        asked = {"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"}
        with pytest.raises(TrainingError, match=r"--num-processes 2 --set training\.parallel=fsdp"):
            refuse_silent_launch(asked)
        refuse_silent_launch({**asked, "ACCELERATE_USE_FSDP": "false"})

    def test_an_ordinary_process_is_not_refused(self):
        refuse_silent_launch({})


def wait_for(condition, timeout=30):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


class TestHeartbeat:
    """Heartbeats of several processes in one, which share a store."""

    SILENCE = 0.5

    @pytest.fixture
    def run(self, tmp_path):
        store = HashStore()
        beating = []

        def begin(*ranks, world, store=store):
            for rank in ranks:
                beat = Heartbeat(store, rank, world, silence=self.SILENCE, folder=tmp_path)
                beat.accused = []
                beat.give_up = beat.accused.append
                beat.start()
                beating.append(beat)
            return beating[-len(ranks) :]

        yield begin
        for beat in beating:
            beat.end(in_peace=True)

    def test_nobody_is_accused_while_all_beat(self, run):
        beats = run(0, 1, 2, world=3)
        time.sleep(3 * self.SILENCE)
        assert [b.accused for b in beats] == [[], [], []]

    def test_nobody_waits_for_one_that_has_left_in_peace(self, run):
        one, two = run(0, 1, world=2)
        time.sleep(self.SILENCE)
        two.end(in_peace=True)
        time.sleep(3 * self.SILENCE)
        assert one.accused == []

    def test_one_that_falls_silent_is_named_by_all_others(self, run):
        one, two, three = run(0, 1, 2, world=3)
        time.sleep(self.SILENCE)
        two.end(in_peace=False)
        time.sleep(0.6 * self.SILENCE)
        assert one.accused == three.accused == []
        wait_for(lambda: one.accused and three.accused)
        name = f"process 1 on {launching.socket.gethostname()}"
        assert {*one.accused} == {*three.accused} == {name}

    def test_one_that_has_not_begun_is_given_more_time(self, run):
        (one,) = run(0, world=2)
        time.sleep(2 * self.SILENCE)
        assert one.accused == []
        wait_for(lambda: one.accused)
        assert {*one.accused} == {"process 1"}

    def test_time_in_which_a_process_did_not_run_itself_does_not_count(self, run, monkeypatch):
        """As when a whole run was frozen, and thawed."""
        frozen = [0.0]
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + frozen[0])
        monkeypatch.setattr(watching, "time", clock)
        one, two = run(0, 1, world=2)
        time.sleep(self.SILENCE)
        two.end(in_peace=False)
        time.sleep(0.25 * self.SILENCE)
        frozen[0] = 100 * self.SILENCE
        time.sleep(0.4 * self.SILENCE)
        assert one.accused == []

    def test_a_store_that_does_not_answer_is_the_main_host(self, run):
        silent = threading.Event()

        class Gone(HashStore):
            def add(self, key, amount):
                silent.wait()
                return super().add(key, amount)

        (one,) = run(1, world=2, store=Gone())
        wait_for(lambda: one.accused)
        silent.set()
        assert {*one.accused} == {"the main host of the run"}

    def test_without_a_store_a_line_tells_that_nobody_is_watched(self, tmp_path, monkeypatch, caplog):
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        with caplog.at_level(logging.WARNING), watch(0, 2, folder=tmp_path):
            pass
        assert len(caplog.records) == 1
        assert "no store to watch the other processes by" in caplog.text

    def test_how_long_silence_may_last_can_be_set(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ZOO_SILENCE", "40")
        assert watching.seconds_of_silence() == 40
        for wrong in ("soon", "0", "-1", "nan"):
            monkeypatch.setenv("ZOO_SILENCE", wrong)
            with pytest.raises(ConfigError, match="ZOO_SILENCE: must be a number of seconds above 0"):
                watching.seconds_of_silence()
        monkeypatch.delenv("ZOO_SILENCE")
        assert watching.seconds_of_silence() == 15

    def test_a_process_alone_needs_none(self, tmp_path, monkeypatch):
        monkeypatch.setattr(watching, "_connect", lambda: pytest.fail("connected"))
        with watch(0, 1, folder=tmp_path):
            pass

    def test_the_newest_whole_checkpoint_is_named(self, tmp_path):
        assert "starts anew" in watching.next_start(tmp_path)
        for file in ("step-00000010/manifest.json", "step-00000020/manifest.json", "step-00000030/model.safetensors"):
            (tmp_path / "checkpoints" / file).parent.mkdir(parents=True)
            (tmp_path / "checkpoints" / file).touch()
        assert watching.next_start(tmp_path).endswith("goes on from " + str(tmp_path / "checkpoints" / "step-00000020"))


class TestExamples:
    FILES = sorted(EXAMPLES.glob("*.yaml"))

    def commands(self, program):
        """Those in the README's code blocks."""
        blocks = re.findall(r"^```\n(.*?)^```", (EXAMPLES / "README.md").read_text(), re.DOTALL | re.MULTILINE)
        words = [shlex.split(line) for block in blocks for line in block.splitlines()]
        words = [[w for w in line if not re.fullmatch(r"[A-Z_]+=\w+", w)] for line in words]
        return [line for line in words if line[0] == program]

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_accelerate_reads_them_and_nothing_else(self, file, tmp_path):
        config = load_config_from_file(str(file))
        several = config.num_processes > 1
        # Anything else on a CPU, or with Accelerate's own FSDP, would be another launch than the file says.
        assert config.distributed_type == (DistributedType.MULTI_GPU if several else DistributedType.NO)
        (tmp_path / "odd.yaml").write_text(file.read_text() + "\nnum_procesess: 2\n")
        with pytest.raises(ValueError, match="num_procesess"):
            load_config_from_file(str(tmp_path / "odd.yaml"))

    def test_each_has_its_command(self):
        given = [launch_command_parser().parse_args(words[2:]) for words in self.commands("accelerate")]
        assert {Path(g.config_file).name for g in given} == {file.name for file in self.FILES}
        assert all((EXAMPLES.parents[1] / g.config_file).is_file() for g in given)
        assert {(g.module, g.training_script, g.training_script_args[0]) for g in given} == {
            (True, "zoo_core.training", "vae-mnist")
        }
        hosts = [g.machine_rank for g in given if "two_hosts" in g.config_file]
        assert hosts == [0, 1]

    def test_what_the_page_says_of_zoo_train_is_understood(self):
        page = (EXAMPLES / "README.md").read_text()
        commands = re.findall(r"(?:^|`)(zoo train vae-mnist[^`\n]*)(?:`|$)", page, re.MULTILINE)
        assert len([c for c in commands if "--num-processes 8" in c]) == 2
        train = typer.main.get_command(app).commands["train"]
        for command in commands:
            given = train.make_context("train", shlex.split(command)[2:]).params
            assert given["recipe"] == "vae-mnist"
            assert ("--num-processes" in command) == (given["processes"] is not None)
        assert [c.split("--machine-rank ")[1][0] for c in commands if "--machine-rank" in c] == ["0", "1"]

    def test_the_commands_in_the_files_are_those_of_the_page(self):
        page = [" ".join(words) for words in self.commands("accelerate")]
        for file in self.FILES:
            comment = " ".join(line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#"))
            assert [command for command in page if file.name in command and command in comment], file.name


@pytest.fixture(autouse=True)
def no_processes_left():
    """Whatever a test starts has ended with it."""
    before = {*psutil.Process().children(recursive=True)}
    yield
    left = {*psutil.Process().children(recursive=True)} - before
    assert [p for p in left if alive(p.pid)] == []
