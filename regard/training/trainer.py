"""The training loop: a generator that yields what happens, step by step, and leaves a model folder.

    for event in train(load_recipe("g2p"), Path("runs/g2p")):
        print(event)

A run's folder holds `checkpoint.safetensors`, `log.jsonl` and, from the first validation on, `model/`, the best model
so far. Whoever drives the loop may stop it at any event (`close`); it then leaves a checkpoint of that very step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.training import checkpoints
from regard.training.averaging import NonMonotonicAveraging
from regard.training.card import Facts, write_model
from regard.training.checkpoints import CHECKPOINT
from regard.training.events import (
    LOG,
    Event,
    Finished,
    Started,
    Stepped,
    Validated,
    append_event,
    read_validations,
)
from regard.training.fine_tuning import layer_groups, unfreeze
from regard.training.memory import keep_freed_memory
from regard.training.optimizers import optimizers_of
from regard.training.recipe import Recipe
from regard.training.schedules import learning_rate
from regard.training.scoring import Result
from regard.training.tasks import Task, task_of, valid_loss
from regard.training.workers import Summed, Workers

MODEL = "model"


def train(
    recipe: Recipe, folder: Path, resume: bool = False, device: str = "cpu", workers: Workers | None = None
) -> Iterator[Event]:
    """Run a recipe in a folder. Raises RegardError where the folder holds a run already, or none to resume.

    With several `workers` each of them runs this; only the first one writes.
    """
    workers = workers or Workers()
    if recipe.training.carry_state and workers.count > 1:
        raise RegardError("training.carry_state reads streams of text in order: it is for one process")
    problem = workers.told(_problem(recipe, folder, resume) if workers.leads else "")
    if problem:
        raise RegardError(problem)
    keep_freed_memory()
    run = Run(recipe, folder, task_of(recipe, folder if resume else None), device, workers)
    if resume:
        run.restore()
    else:
        run.begin()
    yield Started(run.model.count_parameters(), len(run.task.train), run.task.train.tokens, run.step)
    try:
        yield from run.loop()
    except GeneratorExit:
        run.save()
        raise
    if workers.leads:
        yield run.finish()


def _problem(recipe: Recipe, folder: Path, resume: bool) -> str:
    """Why the run cannot begin, or go on, in this folder; empty where it can."""
    if resume:
        try:
            checkpoints.check_resumable(folder, recipe)
        except RegardError as error:
            return str(error)
    elif (folder / CHECKPOINT).exists():
        return f"{folder} holds a run already: go on with --resume, or choose another folder with --out"
    return ""


class Run:
    """The state of one training run."""

    def __init__(self, recipe: Recipe, folder: Path, task: Task, device: str, workers: Workers) -> None:
        self.recipe, self.folder, self.task, self.device = recipe, folder, task, torch.device(device)
        self.workers = workers
        torch.manual_seed(recipe.training.seed)
        self.model = task.make_model().to(self.device).train()
        self.optimizers = optimizers_of(self.model, recipe.training)
        averages = recipe.training.optimizer == "asgd"
        patience = recipe.training.averaging_patience
        self.averaging = NonMonotonicAveraging(self.optimizers[0], patience) if averages else None
        self.layers = layer_groups(self.model) if recipe.training.unfreeze_every else []
        self.step = self.epoch = self.batches = self.validated = 0
        self.seconds = self.cpu_seconds = 0.0
        self.best, self.waited, self.reason = float("-inf"), 0, ""
        self.snapshots: list[dict[str, Tensor]] = []
        self.plan: list[np.ndarray] = []

    def begin(self) -> None:
        if not self.workers.leads:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / LOG).write_text("", encoding="utf-8")
        self.task.codec.save(self.folder)
        self.save()

    def loop(self) -> Iterator[Event]:
        """Steps, validations and checkpoints until a reason to stop."""
        yield from self.after_step()  # what a run that was stopped right after a step still owes
        while not self.reason:
            self.plan = self.order()
            for chosen in self.plan[self.batches :]:
                yield self.train_step(self.workers.share(chosen))
                yield from self.after_step()
                if self.reason:
                    return
            self.epoch, self.batches = self.epoch + 1, 0

    def after_step(self) -> Iterator[Event]:
        training, step = self.recipe.training, self.step
        if step > self.validated and (step % training.validate_every == 0 or step >= training.max_steps):
            if self.workers.leads:
                yield self.validate()
            self.agree()
            self.save()
        elif step and training.checkpoint_every and step % training.checkpoint_every == 0:
            self.save()

    def train_step(self, chosen: np.ndarray) -> Stepped:
        """One update of the weights; `chosen`: this worker's share of the batch."""
        training, begun, begun_cpu = self.recipe.training, time.perf_counter(), time.process_time()
        self.step, self.batches = self.step + 1, self.batches + 1
        self.workers.seed(training.seed, self.step)
        rate = learning_rate(self.step, training, self.model.config.width)
        if self.layers:
            unfreeze(self.layers, 1 + (self.step - 1) // training.unfreeze_every)
        done = self.gradients(chosen)
        if not math.isfinite(done.loss):
            raise RegardError(
                f"the loss is {done.loss} at step {self.step}: lower training.learning_rate or set clip_norm"
            )
        if training.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.seconds += time.perf_counter() - begun
        self.cpu_seconds += (time.process_time() - begun_cpu) * self.workers.count  # shares are about equal
        return Stepped(self.step, self.epoch, done.loss, rate, done.tokens, self.seconds, done.stopping)

    def gradients(self, chosen: np.ndarray) -> Summed:
        """The gradients of the whole batch's loss, in every worker."""
        if not len(chosen):
            return self.workers.sum(self.model, None, None, 0, 0)
        training, batch = self.recipe.training, self.task.train.batch(chosen).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            loss, plain = self.task.loss(self.model, batch, training.label_smoothing)
        return self.workers.sum(self.model, loss, plain, self.task.predictions(batch), batch.tokens)

    def agree(self) -> None:
        """All workers know what the first one found at a validation."""
        facts = self.workers.told({name: getattr(self, name) for name in _FACTS})
        for name in _FACTS:
            setattr(self, name, facts[name])

    def validate(self) -> Validated:
        """Score the model; keep it if it is the best so far; find out whether to go on."""
        with self.averaging.averaged() if self.averaging else nullcontext():
            event = self.score_weights()
        if self.averaging:
            self.averaging.after_validation(event.loss)
        training = self.recipe.training
        if self.step >= training.max_steps:
            self.reason = f"{training.max_steps} steps are done"
        elif self.waited >= training.patience:
            self.reason = f"no better validation score for {self.waited} validations"
        return event

    def score_weights(self) -> Validated:
        """Score the weights as they are."""
        training, begun, begun_cpu = self.recipe.training, time.perf_counter(), time.process_time()
        self.validated = self.step
        weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.snapshots = [*self.snapshots, weights][-training.average :]
        loss, result = valid_loss(self.task, self.model, training.batch_tokens), self.task.valid_score(self.model)
        improved = result.better > self.best
        self.waited = 0 if improved else self.waited + 1
        self.seconds += time.perf_counter() - begun
        self.cpu_seconds += time.process_time() - begun_cpu
        event = Validated(self.step, loss, result.scores, improved, self.seconds, self.cpu_seconds)
        append_event(self.folder, event)
        if improved:
            self.best = result.better
            write_model(self.folder / MODEL, self.model, self.task.codec, self.card(result, "validation"))
        return event

    def finish(self) -> Finished:
        """The average of the last checkpoints or the best single one, whichever validates better, on the test part."""
        self.model.load_state_dict(checkpoints.average(self.snapshots))
        result = self.task.valid_score(self.model)
        if result.better > self.best:
            self.best = result.better
        else:
            self.model = type(self.model).load(self.folder / MODEL).to(self.device)
        result = self.task.test_score(self.model)
        write_model(self.folder / MODEL, self.model, self.task.codec, self.card(result, "test"))
        folder = str(self.folder / MODEL)
        event = Finished(self.step, self.reason, result.scores, result.signature, folder, self.seconds)
        append_event(self.folder, event)
        return event

    def save(self) -> None:
        """A checkpoint from which `restore` goes on with the same losses."""
        if not self.workers.leads:
            return
        facts = {name: getattr(self, name) for name in _FACTS}
        facts |= {"recipe": self.recipe.model_dump(mode="json"), "epochs": self.epochs}
        tensors = checkpoints.tensors_of(self.model, self.optimizers, self.snapshots)
        tensors |= {f"carried.{name}": value for name, value in getattr(self.task, "carried", {}).items()}
        if self.averaging:
            facts["averaging"] = {"losses": self.averaging.losses, "begun_at": self.averaging.begun_at}
        checkpoints.save_checkpoint(self.folder / CHECKPOINT, tensors, facts)

    def restore(self) -> None:
        tensors, facts = checkpoints.load_checkpoint(self.folder / CHECKPOINT)
        self.snapshots = checkpoints.restore(self.model, self.optimizers, tensors)
        if carried := checkpoints.under("carried.", tensors):
            self.task.carried.update(carried)  # type: ignore[attr-defined]
        if self.averaging:
            self.averaging.losses = facts["averaging"]["losses"]
            self.averaging.begin_at(facts["averaging"]["begun_at"])
        for name in _FACTS:
            setattr(self, name, facts[name])
        if self.reason.endswith("steps are done") and self.step < self.recipe.training.max_steps:
            self.reason = ""  # the recipe has more steps now

    def card(self, result: Result, part: str) -> Facts:
        """What the model card says of this run."""
        spent = (self.epochs, self.seconds, self.cpu_seconds)
        return Facts(self.recipe, result, part, self.step, *spent, self.task.counts, read_validations(self.folder))

    @property
    def epochs(self) -> float:
        """Passes over the data so far."""
        return self.epoch + self.batches / max(1, len(self.plan or self.order()))

    def order(self) -> list[np.ndarray]:
        """The batches of the present epoch."""
        return self.task.train.plan(self.recipe.training.batch_tokens, self.recipe.training.seed, self.epoch)


_FACTS = ("step", "epoch", "batches", "validated", "seconds", "cpu_seconds", "best", "waited", "reason")
