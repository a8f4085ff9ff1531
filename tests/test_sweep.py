"""Sweeps: what becomes of one job is no matter of the others, and a table tells it, whoever launches them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tests.helpers import is_alive
from wmlightning import sweep
from wmlightning.apart import Died, end_with_parent, possible, run_apart
from wmlightning.files import write_json

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/:UserWarning")

Train = Callable[..., Any]

#: Leaves a file for each training that begins, and makes some of them end in other ways: by the seed.
TRIP = """
import os
import signal
import time
from pathlib import Path

import lightning as L


class Trip(L.Callback):
    def __init__(self, folder, seed):
        self.folder, self.seed = Path(folder), seed

    def on_fit_start(self, trainer, pl_module):
        (self.folder / f"{self.seed}-{os.getpid()}").touch()
        if self.seed == 1:
            raise LookupError("no such thing")
        if self.seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        while self.seed > 2 and (self.folder / "hold").exists():
            time.sleep(0.05)
"""

#: The command as the first process of a group that Ctrl-C reaches, which the tests' own process may be shut off from.
GROUP = """
import os, runpy, signal, sys
os.setpgid(0, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Trips:
    """Sweeps over seeds, of which 0 is well, -1 the user's mistake, 1 raises, 2 is killed, and others wait."""

    def __init__(self, folder: Path, repo: Path, small: list[str], start: Train, train: Train) -> None:
        self.cwd, self.runs, self.seen = folder, folder / "runs", folder / "seen"
        self.seen.mkdir()
        (folder / "modules").mkdir()
        (folder / "modules" / "trip.py").write_text(TRIP)
        trip = ["+callbacks.trip._target_=trip.Trip", f"+callbacks.trip.folder={self.seen}"]
        self.typed = ["-m", *small, *trip, "+callbacks.trip.seed=${seed}"]
        self.options = {"runs": self.runs, "cwd": folder, "PYTHONPATH": f"{repo}:{folder / 'modules'}"}
        self._start, self._train = start, train
        self.group = (sys.executable, "-c", GROUP, str(repo / "train.py"))

    def train(self, *typed: str, **options: Any) -> Any:
        return self._train(*self.typed, *typed, **{**self.options, **options})

    def start(self, *typed: str, **options: Any) -> subprocess.Popen[str]:
        """Starts a sweep whose seeds above 2 wait until they are told to go on, or killed."""
        (self.seen / "hold").touch()
        return self._start(*self.typed, *typed, **{**self.options, **options})

    def begun(self, seed: int) -> list[int]:
        """Process numbers of trainings that began."""
        return [int(path.name.split("-")[-1]) for path in self.seen.glob(f"{seed}-*")]

    def wait_for(self, *seeds: int) -> None:
        until(lambda: all(self.begun(seed) for seed in seeds))

    def weights(self, seed: int) -> Path:
        (path,) = self.runs.glob(f"*-s{seed}-*/model.safetensors")
        return path


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def rows(out: str) -> dict[str, str]:
    """Outcomes by the overrides that the table shows."""
    return dict(re.findall(r"^ *\d+  +[\d.-]+  (\S+) +(\S.*)$", out, re.MULTILINE))


@pytest.fixture
def trips(tmp_path: Path, repo: Path, small: list[str], start: Train, train: Train) -> Trips:
    return Trips(tmp_path, repo, small, start, train)


def check_failures(trips: Trips, done: Any) -> dict[str, str]:
    """What every launcher has in common when some jobs fail."""
    assert done.code == 1, str(done)
    assert "Traceback" not in done.out + done.err, str(done)
    told = rows(done.out)
    assert told["seed=0"] == trips.weights(0).parent.name, str(done)
    assert told["seed=-1"].startswith("failed: seed: -1 ")
    assert "; " in told["seed=-1"], "says what would be right"
    assert told["seed=1"].startswith("failed: LookupError: no such thing (traceback: ")
    text = Path(told["seed=1"].partition("(traceback: ")[2].removesuffix(")")).read_text()
    assert text.startswith("Traceback")
    assert 'raise LookupError("no such thing")' in text
    return told


def test_failed_jobs_leave_the_others_alone(trips: Trips) -> None:
    """One after the other, and side by side with one of them killed; and the same weights from both."""
    done = trips.train("seed=-1,1,0")
    assert set(check_failures(trips, done)) == {"seed=-1", "seed=1", "seed=0"}, str(done)
    assert done.out.splitlines()[-1] == "3 jobs, 2 failed"
    assert len(done.errors) == 2, "each is told at once"
    first = trips.weights(0).read_bytes()

    done = trips.train("seed=2,-1,1,0", "hydra/launcher=joblib", "force=true")
    told = check_failures(trips, done)
    assert done.out.splitlines()[-1] == "4 jobs, 3 failed"
    assert told["seed=2"].startswith("died: its process was killed by SIGKILL")
    assert trips.weights(0).read_bytes() == first
    assert len(trips.begun(0)) == 2


def test_two_jobs_at_one_model_train_it_once(trips: Trips) -> None:
    done = trips.train("seed=0", "group=a,b", "hydra/launcher=joblib")
    assert done.code == 0, str(done)
    told = rows(done.out)
    assert set(told) == {"group=a", "group=b"}
    assert set(told.values()) == {trips.weights(0).parent.name}
    assert len(trips.begun(0)) == 1
    assert done.out.splitlines()[-1] == "2 jobs, 0 failed"
    assert not done.err, str(done)


def test_sweep_goes_on_after_a_kill(trips: Trips) -> None:
    """What was finished is not trained again, and the rest is."""
    process = trips.start("seed=0,3")
    trips.wait_for(3)
    before = trips.weights(0).stat().st_mtime_ns
    process.kill()
    process.communicate()
    (trips.seen / "hold").unlink()
    done = trips.train("seed=0,3")
    assert done.code == 0, str(done)
    assert trips.weights(0).stat().st_mtime_ns == before
    assert len(trips.begun(0)) == 1
    assert rows(done.out) == {f"seed={seed}": trips.weights(seed).parent.name for seed in (0, 3)}


@pytest.mark.parametrize(
    ("typed", "number", "begun"),
    [
        ("hydra/launcher=joblib hydra.launcher.n_jobs=2", signal.SIGINT, (3, 4)),
        ("hydra/launcher=joblib hydra.launcher.n_jobs=2", signal.SIGTERM, (3, 4)),
        ("hydra/launcher=basic", signal.SIGTERM, (3,)),
        ("hydra/launcher=basic", signal.SIGINT, (3,)),
    ],
)
def test_a_signal_ends_all_at_once(trips: Trips, typed: str, number: int, begun: tuple[int, ...]) -> None:
    """Ctrl-C reaches workers as well, SIGTERM the sweep's own process alone."""
    process = trips.start("seed=3,4,5", *typed.split(), program=trips.group)
    trips.wait_for(*begun)
    began = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 128 + number, out + err
    assert "Traceback" not in out + err
    told = {int(typed.removeprefix("seed=")): state for typed, state in rows(out).items()}
    assert set(told) == {3, 4, 5}, out
    assert {seed for seed, state in told.items() if state == "not started"} == {3, 4, 5} - set(begun)
    assert {told[seed] for seed in begun} <= {"interrupted", "died"}
    assert out.splitlines()[-1] == "The same command again does what is left."
    until(lambda: not any(is_alive(child) for seed in begun for child in trips.begun(seed)), 10)


def test_workers_end_with_a_sweep_that_is_killed(trips: Trips) -> None:
    process = trips.start("seed=3,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    trips.wait_for(3)
    trips.wait_for(4)
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not any(is_alive(child) for seed in (3, 4) for child in trips.begun(seed)), 10)


@pytest.mark.slow
def test_table_comes_even_when_a_worker_is_killed(trips: Trips) -> None:
    """Joblib then gives up; our own processes are its workers' children and not killed so easily."""
    process = trips.start("seed=0,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    trips.wait_for(3)
    until(lambda: any((trips.runs).glob("*-s0-*/card.json")))
    (child,) = trips.begun(3)
    worker = int(re.search(r"PPid:\s*(\d+)", Path(f"/proc/{child}/status").read_text())[1])
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    assert rows(out) == {"seed=0": trips.weights(0).parent.name, "seed=3": "died"}
    assert "The same command again does what is left." in out
    until(lambda: not is_alive(child), 10)


@pytest.mark.slow
def test_submitit_local(trips: Trips) -> None:
    """Processes of its own; the same outcomes, and the same weights as one after the other."""
    trips.train("seed=0")
    first = trips.weights(0).read_bytes()
    done = trips.train("seed=2,-1,1,0", "hydra/launcher=submitit_local", "force=true")
    told = check_failures(trips, done)
    assert told["seed=2"].startswith("died: its process was killed by SIGKILL")
    assert trips.weights(0).read_bytes() == first
    assert list(trips.runs.glob("multirun/*/submitit/*/*.out")), "what jobs print lies in the sweep's folder"


#: Stands in for a cluster: sbatch starts the jobs of an array here and now, srun starts a job's process.
SLURM = """#!{python}
import os, re, subprocess, sys
from pathlib import Path


def sbatch(script):
    n = int(re.search(r"--array=0-(\\d+)", Path(script).read_text())[1]) + 1
    for i in range(n):
        job = dict(SLURM_JOB_ID=str(5000 + i), SLURM_ARRAY_JOB_ID="4242", SLURM_ARRAY_TASK_ID=str(i))
        job.update(SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_JOB_NAME="train")
        null = subprocess.DEVNULL
        subprocess.Popen(["bash", script], env={{**os.environ, **job}}, stdout=null, stderr=null)
    print("Submitted batch job 4242")


def srun(*words):
    at = words.index("--output") + 1
    task = os.environ["SLURM_ARRAY_TASK_ID"]
    log = Path(words[at].replace("%A", "4242").replace("%a", task).replace("%t", "0"))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        subprocess.run(words[at + 1 :], stdout=file, stderr=file)


def sacct(*words):
    print("JobID|State|NodeList")


globals()[Path(sys.argv[0]).name](*sys.argv[1:])
"""


@pytest.mark.slow
def test_submitit_slurm(trips: Trips) -> None:
    tools = trips.cwd / "tools"
    tools.mkdir()
    for name in ("sbatch", "srun", "sacct"):
        (tools / name).write_text(SLURM.format(python=sys.executable))
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    done = trips.train("seed=2,-1,1,0", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", PATH=path)
    told = check_failures(trips, done)
    assert told["seed=2"].startswith("died: its process was killed by SIGKILL")
    (script,) = trips.runs.glob("multirun/*/submitit/*/*.sh")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script.read_text(), re.MULTILINE))
    wanted = {"array": "0-3%4", "partition": "gpu", "time": "240", "mem": "16GB", "nodes": "1", "signal": "USR2@120"}
    wanted |= {"cpus-per-task": "4", "gpus-per-node": "1", "ntasks-per-node": "1", "job-name": "train"}
    assert asked.items() >= wanted.items()
    assert asked["output"].startswith(str(trips.runs / "multirun"))


# -- in this process -------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep_of(runs: Path, repo: Path) -> Iterator[Callable[..., DictConfig]]:
    """The config of a sweep, as Hydra's callbacks get it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):

        def go(*typed: str) -> DictConfig:
            swept = [word for word in typed if not word.startswith(("hydra", "+hydra"))]
            fixed = [word for word in typed if word not in swept]
            cfg = compose("train", [f"runs_dir={runs}", "hydra.mode=MULTIRUN", *fixed], return_hydra_config=True)
            cfg.hydra.overrides.task = swept
            cfg.hydra.runtime.cwd = str(runs.parent)
            return cfg

        yield go


@pytest.mark.parametrize(
    ("launcher", "name"),
    [
        ("basic", "BasicLauncher"),
        ("joblib", "JoblibLauncher"),
        ("submitit_local", "LocalLauncher"),
        ("submitit_slurm", "SlurmLauncher"),
    ],
)
def test_launchers_compose(sweep_of: Callable[..., DictConfig], runs: Path, launcher: str, name: str) -> None:
    hydra = sweep_of(f"hydra/launcher={launcher}").hydra
    assert hydra.launcher._target_.endswith(f".{name}")
    if "submitit_folder" in hydra.launcher:
        assert hydra.launcher.submitit_folder.startswith(f"{runs}/multirun/")


@pytest.mark.parametrize(
    ("typed", "n_jobs", "wanted"),
    [
        ("hydra/launcher=joblib", 2, 6),
        ("hydra/launcher=joblib", 5, 2),
        ("hydra/launcher=joblib", 12, 1),
        ("hydra/launcher=joblib", 1000, 1),
        ("hydra/launcher=joblib hydra.launcher.n_jobs=3", 1000, 4),
        ("hydra/launcher=joblib hydra.launcher.n_jobs=100", 1000, 1),
        ("hydra/launcher=joblib hydra.sweeper.max_batch_size=4", 1000, 3),
        ("hydra/launcher=joblib", 0, 1),  # the sweeper decides as it goes
        ("hydra/launcher=joblib hparams_search=optuna hydra.sweeper.n_jobs=2", 0, 6),
        ("hydra/launcher=submitit_local", 3, 4),
        ("hydra/launcher=submitit_slurm", 3, None),
        ("hydra/launcher=basic", 3, None),
    ],
)
def test_cores_are_shared_out(
    repo: Path, monkeypatch: pytest.MonkeyPatch, typed: str, n_jobs: int, wanted: int | None
) -> None:
    import joblib

    monkeypatch.setattr(joblib, "cpu_count", lambda: 12)
    monkeypatch.setattr(joblib, "effective_n_jobs", lambda n: 12 if n == -1 else n)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        hydra = compose("train", typed.split(), return_hydra_config=True).hydra
    assert sweep.threads(hydra, n_jobs) == wanted
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert sweep.threads(hydra, n_jobs) is None, "the user has said"


def test_plan_has_every_job(sweep_of: Callable[..., DictConfig]) -> None:
    jobs = sweep.planned(sweep_of("seed=range(0,3)", "watermark=glob(*o*,exclude=none)", "model=resnet9").hydra)
    assert len(jobs) == 6
    assert jobs[0] == ["seed=0", "watermark=content", "model=resnet9"]
    assert jobs[-1] == ["seed=2", "watermark=noise", "model=resnet9"]
    assert sweep.planned(sweep_of("hparams_search=optuna", "hydra/sweeper=optuna").hydra) == []


def test_a_folder_of_the_users_own_is_left_alone(
    sweep_of: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``hydra.sweep.dir=.`` is common, and so are folders called jobs."""
    own = tmp_path / "jobs" / "submit.slurm"
    own.parent.mkdir()
    own.write_text("#!/bin/sh")
    typed = ("seed=0,1", f"hydra.sweep.dir={tmp_path}")
    for plan in (None, "rubbish", "{}", "[]"):
        if plan is not None:
            (tmp_path / "jobs" / "plan.json").write_text(plan)
        with pytest.raises(SystemExit) as stop:
            sweep.Sweep().on_multirun_start(sweep_of(*typed))
        assert stop.value.code == 1
        assert capsys.readouterr().err.startswith(f"error: hydra.sweep.dir: {tmp_path / 'jobs'} is there already")
        assert own.read_text() == "#!/bin/sh"


def test_records_of_an_earlier_sweep_go_and_nothing_else(
    sweep_of: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.atexit, "register", lambda *_: None)
    typed = ("seed=0,1", f"hydra.sweep.dir={tmp_path}")
    sweep.Sweep().on_multirun_start(sweep_of(*typed))
    for name in ("0.json", "17.txt", "notes.txt"):
        (tmp_path / "jobs" / name).write_text("x")
    sweep.Sweep().on_multirun_start(sweep_of(*typed))
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {"plan.json", "notes.txt"}


def test_a_job_that_exits_is_not_done(train: Train, small: list[str], runs: Path, tmp_path: Path) -> None:
    own = ["+callbacks.own._target_=sys.exit", "+callbacks.own._args_=[0]"]
    done = train("-m", *small, "seed=0,1", *own, runs=runs, cwd=tmp_path)
    assert done.code == 1, str(done)
    assert set(rows(done.out).values()) <= {"interrupted", "not started"}


def test_table_tells_of_jobs_without_an_end(tmp_path: Path) -> None:
    typed = [["a=1", "seed=0"], ["a=1", "seed=1"], ["a=1", "seed=22"], ["a=1", "seed=3"], ["a=1", "seed=4"]]
    write_json(tmp_path / sweep.PLAN, {"jobs": typed, "threads": None})
    gone = run_apart(os.getpid)
    here = {"host": os.uname().nodename, "state": "running"}
    records = [
        {**here, "process": gone},
        {**here, "process": os.getpid()},
        {**here, "process": gone, "host": "elsewhere"},
        {**here, "process": gone, "state": "done", "result": "the-name", "seconds": 1.234},
    ]
    for job, record in enumerate(records):
        write_json(tmp_path / f"{job}.json", {"job": job, "overrides": typed[job], **record})
    outcomes = sweep.read_outcomes(tmp_path)
    assert [outcome["state"] for outcome in outcomes] == ["died", "running", "no answer", "done", "not started"]
    assert sweep.table(outcomes).splitlines() == [
        "",
        "job  seconds  overrides  outcome",
        "  0        -  seed=0     died",
        "  1        -  seed=1     running",
        "  2        -  seed=22    no answer",
        "  3      1.2  seed=3     the-name",
        "  4        -  seed=4     not started",
        "5 jobs, 1 failed, 3 not finished",
    ]


@pytest.mark.skipif(not possible(), reason="jobs are not taken apart here")
def test_work_apart() -> None:
    assert run_apart(lambda: {"card": os.getpid()})["card"] != os.getpid()
    with pytest.raises(Died, match="killed by SIGKILL, perhaps for want of memory"):
        run_apart(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(Died, match=r"killed by SIGTERM$"):
        run_apart(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Died, match="ended with exit code 3"):
        run_apart(lambda: sys.exit(3))
    gone = run_apart(os.getpid)
    with pytest.raises(Died, match="ended with exit code 1"):
        run_apart(lambda: (end_with_parent(gone), time.sleep(60)))


@pytest.mark.skipif(not possible(), reason="jobs are not taken apart here")
def test_work_apart_ends_with_whom_it_is_for(tmp_path: Path) -> None:
    """When the caller is told to end, by an exception or for good, no process stays behind."""

    def work() -> None:
        (tmp_path / "process").write_text(str(os.getpid()))
        time.sleep(600)

    def expire(number: int, frame: object) -> None:
        raise TimeoutError

    def caller() -> None:
        signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, 1)
        try:
            run_apart(work)
        except TimeoutError:
            (tmp_path / "expired").touch()

    run_apart(caller)
    assert (tmp_path / "expired").exists()
    assert not is_alive(int((tmp_path / "process").read_text()))

    def killed() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 1)
        run_apart(work)

    with pytest.raises(Died, match="SIGALRM"):
        run_apart(killed)
    child = int((tmp_path / "process").read_text())
    until(lambda: not is_alive(child), 10)


def test_what_stops_every_job_is_told_first(
    sweep_of: Callable[..., DictConfig], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(runs))  # as on a machine without Slurm
    for typed, told in [
        (["hydra/launcher=submitit_slurm"], "error: hydra/launcher: there is no srun"),
        (
            ["hydra/launcher=joblib", "hydra.launcher._target_=hydra_plugins.x.Y"],
            "error: hydra/launcher: hydra_plugins",
        ),
        (["hydra.sweep.dir=/dev/null/sweep"], "error: runs_dir: /dev/null is a file; "),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "error: hydra.launcher.n_jobs: 0 jobs "),
        (["hydra/launcher=joblib", "hydra.launcher.backend=threading"], "error: hydra.launcher.backend: threading is "),
        (["hydra/launcher=joblib", "hydra.launcher.batch_size=0"], "error: hydra.launcher.batch_size: 0 is no "),
        (["hydra/launcher=joblib", "hydra.launcher.pre_dispatch=most"], "error: hydra.launcher.pre_dispatch: most is "),
        (["hydra.sweeper.max_batch_size=0"], "error: hydra.sweeper.max_batch_size: 0 is out of range; "),
        (["seed=interval(0,1)"], "error: seed: interval(0,1) has no end of values; "),
        (["watermark.strength=0.5,1", "seed=range(3,1)"], "error: seed: range(3,1) holds no value; "),
        (["watermark=glob(x*)"], "error: watermark: glob(x*) holds no value; "),
    ]:
        with pytest.raises(SystemExit) as stop:
            sweep.Sweep().on_multirun_start(sweep_of(*typed))
        assert stop.value.code == 1
        err = capsys.readouterr().err
        assert err.startswith(told)
        assert len(err.splitlines()) == 1
    assert not runs.exists()


def test_single_runs_know_nothing_of_it(main: Train, small: list[str], runs: Path) -> None:
    done = main(*small)
    assert done.code == 0, str(done)
    assert [path.name for path in runs.iterdir()] == [json.loads(next(runs.glob("*/card.json")).read_text())["name"]]
    assert "jobs, " not in done.out


def test_start_up_needs_no_torch() -> None:
    code = "import sys, wmlightning.cli, wmlightning.sweep; sys.exit(str({'torch', 'joblib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"


ENDING = """
import os, signal
from wmlightning.models.networks import SmallCNN

class Ending(SmallCNN):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Last()

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_in_a_finaliser_is_not_lost(
    train: Callable[..., Any], small: list[str], runs: Path, tmp_path: Path
) -> None:
    """Python drops the exception that ends the sweep there: it ends before the next job."""
    (tmp_path / "ending.py").write_text(ENDING)
    done = train(*small, "-m", "seed=0,1", "model._target_=ending.Ending", runs=runs, cwd=tmp_path)
    assert done.code == 128 + signal.SIGTERM, str(done)
    assert "Exception ignored in" in done.err
    assert "ended by SIGTERM; the same command goes on where it was" in done.err
    assert len(list(runs.glob("*/card.json"))) == 1
