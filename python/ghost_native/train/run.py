"""A whole training run: the loop with its scores, samples, logs and checkpoints, and the way back into it."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ghost_native.train.checkpoint import MODEL_FILE, CheckpointFolder, Snapshot
from ghost_native.train.folder_lock import FolderBusyError, FolderLock
from ghost_native.train.logs import METRICS_FILE, RunLog, read_summary
from ghost_native.train.memory import MemoryMonitor
from ghost_native.train.precision import evaluating
from ghost_native.train.run_config.train_section import TrainSection
from ghost_native.train.shares import with_all_shares, with_own_share
from ghost_native.train.trainer import StepReport, Trainer

LOGS_FOLDER = "logs"


class Watcher:
    """What a run tells while it goes on; override what is of interest."""

    def started(self, step: int) -> None:
        """The run begins after `step` steps done, 0 for a new one."""

    def stepped(self, report: StepReport) -> None:
        """A step has been computed."""

    def scored(self, step: int, bpb: float, best: bool) -> None:
        """Held-out text has been scored."""

    def sampled(self, step: int, prompt: str, text: str) -> None:
        """A sample has been written."""

    def saved(self, step: int, path: Path) -> None:
        """A checkpoint is on the disk."""

    def warned(self, message: str) -> None:
        """Something went wrong that the run can live with."""


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        steps, tokens: done by all processes of the run together, earlier ones counted.
        seconds: of training, likewise.
        throughput: tokens per second.
        loss: of the last step.
        bpb, best_bpb, best_step: held-out bits per byte at the last score and at the best; None without scores.
        peak_memory_bytes: most that MLX held at once, in this process.
        interrupted: stopped before its end.
        model_path, checkpoint_path: what was saved; None in processes that do not write, and where the run was stopped
            before its first step in the folder of an earlier one, which is then as it was.
    """

    steps: int
    tokens: int
    seconds: float
    throughput: float
    loss: float | None
    bpb: float | None
    best_bpb: float | None
    best_step: int | None
    peak_memory_bytes: int
    interrupted: bool
    model_path: str | None
    checkpoint_path: str | None


class Run:
    """Trains, and writes down everything on the way.

    Args:
        trainer: with its model and data.
        config: how often what is done, and where it goes.
        score: held-out bits per byte of the model as it is; None for no scores.
        sample: the continuation of a prompt; None for no samples.
        byte_level: tokens are bytes, so that bits per token are bits per byte.
        watcher: told what happens.
        keep: called with the run's folder once a first step has been computed, to put there what belongs to the model,
            and whether the run replaces another one there.

    What an earlier run left in the folder, or this one after the checkpoint it goes on from, stays until the first step
    has been computed: a run that cannot start costs nothing.
    """

    def __init__(
        self,
        trainer: Trainer,
        config: TrainSection,
        *,
        score: Callable[[], float] | None = None,
        sample: Callable[[str], str] | None = None,
        byte_level: bool = True,
        watcher: Watcher | None = None,
        keep: Callable[[Path, bool], None] = lambda folder, replaces: None,
    ) -> None:
        self.trainer, self.config = trainer, config
        self.score, self.sample, self.byte_level, self.keep = score, sample, byte_level, keep
        self.watcher = watcher or Watcher()
        self.folder = Path(config.save_dir)
        self.logs = Path(config.log_path) if config.log_path else self.folder / LOGS_FOLDER
        self.checkpoints = CheckpointFolder(self.folder, config.ckpt_keep)
        # Metrics in a folder of their own may be those of another run, which that of the checkpoints tells nothing of.
        self._locks = [FolderLock(self.folder)]
        if config.log_path and self.logs.resolve() != self.folder.resolve():
            self._locks.append(FolderLock(self.logs, "train.log_path"))
        self._locked = False
        self._writes = trainer.ranks.first
        self._last_score: tuple[int, float] | None = None  # step and bits per byte
        self._best_score = math.inf
        self._saved_at = -1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """`with run.locked():` no other process writes to the folder or the logs. `train` sees to it itself.

        Every process of the run must enter it at the same point.

        Raises:
            FolderBusyError: another process trains into it; raised in all processes of this run.
        """
        if self._locked:  # not whether a lock is held: only the first process has it, and not on every file system
            yield
            return
        try:
            problem = self._take_locks() if self._writes else ""
            problem = self.trainer.ranks.gather(problem)[0]
            if problem:
                raise FolderBusyError(problem)
            self._locked = True
            yield
        finally:
            self._locked = False
            for lock in self._locks:
                lock.release()

    def _take_locks(self) -> str:
        try:
            without = [lock.folder for lock in self._locks if not lock.acquire()]
        except FolderBusyError as error:
            return str(error)
        for folder in without:
            self.watcher.warned(f"the file system of {folder} has no locks; let no other run write there")
        return ""

    def replaces(self) -> str:
        """Which folder holds what that a new run would replace; empty for none. All processes must ask at one point."""
        return self.trainer.ranks.gather(self._held() if self._writes else "")[0]

    def _held(self) -> str:
        if held := self.checkpoints.holds():
            return f"{self.folder} holds {held}"
        # Those in the run's own folder are of one that was ended before its first checkpoint.
        shared = self.config.log_path and (self.logs / METRICS_FILE).exists()
        return f"{self.logs} holds the metrics of a run" if shared else ""

    def resume(self, step: int | None = None) -> int:
        """Go back to a checkpoint: of `step`, or the newest that is undamaged. The step, 0 when there is none.

        Checkpoints of later steps are removed when the run goes on.

        Raises:
            FileNotFoundError: there is no checkpoint of `step`.
            DamagedCheckpointError: that of `step` is damaged.
            ValueError: the checkpoint is of a run with another configuration or other data.
        """
        ranks = self.trainer.ranks
        snapshot: Snapshot | None = None
        if step is None and ranks.first:
            snapshot, damaged = self.checkpoints.newest()
            for error in damaged:
                self.watcher.warned(f"{error}; going further back")
            if snapshot is None and damaged:
                raise damaged[0]
        # All processes go on from what the first one found.
        step = ranks.first_says((snapshot.step if snapshot else -1) if step is None else step)
        if step < 0:
            return 0
        snapshot = snapshot or self.checkpoints.load(step)
        path = self.checkpoints.path(snapshot.step) / MODEL_FILE
        try:
            self.trainer.model.load_weights(str(path))
        except ValueError as error:
            raise ValueError(f"[Run.resume] {path} is of another model: {error}.") from error
        self.trainer.restore(with_own_share(ranks, snapshot.tree))
        mx.eval(self.trainer.model.parameters())
        self._saved_at = snapshot.step
        if snapshot.score is not None:
            self._last_score = snapshot.step, snapshot.score
        best = self.checkpoints.best_until(snapshot.step)
        self._best_score = best.score if best else math.inf
        return snapshot.step

    def train(self, stop: Callable[[], bool] = lambda: False, *, overwrite: bool = False) -> Summary:
        """To the end of the schedule, or until `stop` returns True; saves where it ends.

        Args:
            stop: asked before every step.
            overwrite: replace the run that the folder holds, as soon as a first step has been computed.

        Raises:
            FileExistsError: the folder holds a run or a model that this run neither goes on with nor replaces.
            FolderBusyError: another process trains into the folder.
            ValueError: the processes of the run differ in configuration, data or checkpoint.
            OSError: the model or last checkpoint could not be written. Checkpoints on the way only warn.
        """
        with self.locked():
            held = self.replaces() if self._saved_at < 0 else ""
            exported = self.checkpoints.exported
            if held and (exported or not overwrite):
                ways = ["resume it"] * bool(self.checkpoints.steps()) + ["overwrite it"]
                key = "train.save_dir" if self.checkpoints.holds() else "train.log_path"
                raise FileExistsError(f"[Run.train] {held}; {_or([] if exported else ways)}give another {key}.")
            return self._train(stop)

    def _train(self, stop: Callable[[], bool]) -> Summary:
        trainer, config = self.trainer, self.config
        self.watcher.started(trainer.step)
        monitor = MemoryMonitor()
        log: RunLog | None = None
        report: StepReport | None = None
        begun = trainer.step
        logged = (time.perf_counter(), trainer.tokens, begun)
        try:
            for report in trainer.run(stop=stop, pause=self._due):
                self.watcher.stepped(report)
                if self._writes and log is None:
                    log = self._open(begun)
                if log is not None and (report.step % config.log_interval == 0 or report.step == 1):
                    logged = self._log(log, report, monitor, logged)
                begin = time.perf_counter()
                if self._beside(log, report):
                    logged = (logged[0] + time.perf_counter() - begin, *logged[1:])  # not time of training
            earlier: dict[str, Any] = {}
            if self._writes and log is None and not self._spares():
                earlier = read_summary(self.logs)
                log = self._open(begun)
            summary = self._end(log, report, stopped=stop(), earlier=earlier)
            trainer.ranks.first_says(0)  # the launcher ends a process whose peer is gone, even one that still writes
            return summary
        finally:
            if log is not None:
                log.close()

    def _spares(self) -> bool:
        """Whether the folder holds what this run, before a step, has no right to: another run, or its own later end."""
        later = any(step > self._saved_at for step in self.checkpoints.steps())
        return later or (self._saved_at < 0 and bool(self._held()))

    def _open(self, step: int) -> RunLog:
        """Make the folder this run's, which goes on from `step`: nothing stays of what it replaces."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.checkpoints.clean()
        replaces = self._saved_at < 0 and bool(self.checkpoints.holds())
        self.keep(self.folder, replaces)  # may fail, so before anything is gone
        self.checkpoints.drop_after(self._saved_at)
        (self.folder / MODEL_FILE).unlink(missing_ok=True)  # of an earlier end of the run, older than what comes
        return RunLog(self.logs, step=step, tensorboard=self._tensorboard())

    # -- what happens at a step ---------------------------------------------------------------------------------------

    def _beside(self, log: RunLog | None, report: StepReport) -> bool:
        """What is due after a step besides training; whether anything was."""
        config, step = self.config, report.step
        evaluates, saves = _every(config.eval_interval, step), _every(config.ckpt_interval, step)
        best = evaluates and log is not None and self._score(log, report)
        if evaluates or saves:
            try:
                self._save(best or saves)
            except ConnectionAbortedError:  # an OSError too, but of a lost process
                raise
            except OSError as error:
                self.watcher.warned(f"no checkpoint at step {step}: {error}; earlier ones are kept")
        if log is not None and _every(config.sample_interval, step):
            self._sample(log, step)
        return self._due(step)

    def _due(self, step: int) -> bool:
        config = self.config
        return any(_every(each, step) for each in (config.eval_interval, config.sample_interval, config.ckpt_interval))

    def _log(
        self, log: RunLog, report: StepReport, monitor: MemoryMonitor, before: tuple[float, int, int]
    ) -> tuple[float, int, int]:
        use, warning = monitor.check()
        if warning:
            self.watcher.warned(warning)
        now = time.perf_counter()
        seconds, steps = now - before[0], report.step - before[2]
        metrics: dict[str, float | int | str | None] = {
            "step": report.step,
            "phase": report.phase,
            "loss": report.loss,
            "bpb" if self.byte_level else "perplexity": report.bpt if self.byte_level else _exp(report.nats),
            "learning_rate": report.learning_rate,
            "grad_norm": report.grad_norm,
            "tokens_processed": report.tokens,
            "throughput": (report.tokens - before[1]) / max(seconds, 1e-9),
            "step_time_sec": seconds / max(1, steps),
            "elapsed_sec": report.elapsed_s,
            **use.metrics(),
        }
        if self.trainer.loss_scale:
            metrics["loss_scale"] = self.trainer.loss_scale.value
        log.record("train", metrics)
        return now, report.tokens, report.step

    def averaged(self) -> AbstractContextManager[None]:
        """The model with the weights that are scored, sampled and exported."""
        average = self.trainer.average
        return average.applied(self.trainer.model) if average else nullcontext()

    def _score(self, log: RunLog, report: StepReport) -> bool:
        """Score held-out text; whether it is the best score so far."""
        if self.score is None:
            return False
        with self.averaged(), evaluating(self.trainer.model):
            bpb = self.score()
        best = bpb < self._best_score
        self._last_score, self._best_score = (report.step, bpb), min(bpb, self._best_score)
        log.record("eval", {"step": report.step, "bpb": bpb, "elapsed_sec": report.elapsed_s,
                            "tokens_processed": report.tokens})  # fmt: skip
        self.watcher.scored(report.step, bpb, best)
        return best

    def _sample(self, log: RunLog, step: int) -> None:
        if self.sample is None:
            return
        with self.averaged(), evaluating(self.trainer.model):
            for prompt in self.config.sample_prompts:
                text = self.sample(prompt)
                log.text(prompt, text, step)
                self.watcher.sampled(step, prompt, text)

    def _save(self, wanted: bool) -> None:
        """Save a checkpoint if the first process wants one; all processes call this after the same step."""
        step, ranks = self.trainer.step, self.trainer.ranks
        if not ranks.first_says(int(wanted and step != self._saved_at)):
            return
        tree = with_all_shares(ranks, self.trainer.state())
        if not self._writes:
            return
        score = self._last_score[1] if self._last_score and self._last_score[0] == step else None
        path = self.checkpoints.save(self.trainer.model, Snapshot(step, tree, score))
        self._saved_at = step
        self.watcher.saved(step, path)

    def _end(self, log: RunLog | None, report: StepReport | None, stopped: bool, earlier: dict[str, Any]) -> Summary:
        """Save, and sum up. Without a step, what only steps tell is as in the `earlier` summary of the same step."""
        trainer = self.trainer
        # Of several processes another one may have wished to stop.
        total = trainer.total_steps
        interrupted = stopped and (report is None or report.progress < 1) if total is None else trainer.step < total
        model_path = checkpoint_path = None
        failure: OSError | None = None
        unscored = report is not None and not interrupted and report.step % (self.config.eval_interval or report.step)
        if log is not None and report is not None and unscored:
            self._score(log, report)
        try:
            self._save(log is not None)
        except ConnectionAbortedError:
            raise
        except OSError as error:
            failure = error
        if log is not None:
            checkpoint_path = str(self.checkpoints.path(trainer.step))
            model_path = str(self.folder / MODEL_FILE)
            with self.averaged():
                trainer.model.save(model_path)
            if failure is not None:
                raise failure
        best = self.checkpoints.best()
        known = earlier if earlier.get("steps") == trainer.step else {}
        summary = Summary(
            steps=trainer.step,
            tokens=trainer.tokens,
            seconds=trainer.elapsed_s,
            throughput=trainer.tokens / max(trainer.elapsed_s, 1e-9),
            loss=report.loss if report and math.isfinite(report.loss) else known.get("loss"),
            bpb=self._last_score[1] if self._last_score else known.get("bpb"),
            best_bpb=best.score if best else None,
            best_step=best.step if best else None,
            peak_memory_bytes=max(mx.get_peak_memory(), known.get("peak_memory_bytes", 0)),
            interrupted=interrupted,
            model_path=model_path,
            checkpoint_path=checkpoint_path,
        )
        if log is not None:
            log.summary(asdict(summary))
        return summary

    def _tensorboard(self) -> bool:
        if importlib.util.find_spec("tensorboardX") is not None:
            return True
        self.watcher.warned("no TensorBoard events: pip install 'ghost-native[train]' for them")
        return False


def _or(ways: list[str]) -> str:
    return "".join(f"{way}, " for way in ways) + ("or " if ways else "")


def _every(interval: int, step: int) -> bool:
    return interval > 0 and step % interval == 0


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
