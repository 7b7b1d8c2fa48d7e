"""The training loop: a generator that yields what happens, step by step, and leaves a model folder.

    for event in train(load_recipe("g2p"), Path("runs/g2p")):
        print(event)

A run's folder holds `checkpoint.safetensors`, `log.jsonl` and, from the first validation on, `model/`, the best model
so far. Whoever drives the loop may stop it at any event (`close`); it then leaves a checkpoint of that very step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models.base import Model
from regard.training import checkpoints
from regard.training.applied import applied
from regard.training.averaging import averaging_of
from regard.training.card import Facts, write_model
from regard.training.events import (
    LOG,
    Event,
    Finished,
    Measured,
    Started,
    Stepped,
    Validated,
    append_event,
    read_log,
    read_validations,
)
from regard.training.failures import stop_unless_finite
from regard.training.fine_tuning import layer_groups, unfreeze
from regard.training.memory import keep_freed_memory
from regard.training.meter import Meter
from regard.training.optimizers import optimizers_of
from regard.training.overfitting import verdict
from regard.training.placement import check_layout, placement_of
from regard.training.recipe import Recipe
from regard.training.saving import FACTS, restore, save
from regard.training.schedules import learning_rate
from regard.training.scoring import Result
from regard.training.tasks import Task, task_of, valid_loss
from regard.training.workers import Share, Summed, Workers, restarted, starter

MODEL = "model"


def train(
    recipe: Recipe, folder: Path, resume: bool = False, device: str = "cpu", workers: Workers | None = None
) -> Iterator[Event]:
    """Run a recipe in a folder. Raises RegardError where the folder holds a run already, or none to resume.

    With several `workers` each of them runs this; only the first one writes.
    """
    workers = workers or Workers()
    check_layout(recipe, workers)
    workers.together = recipe.processes.tensor_parallel
    resume = workers.told(resume or (restarted() and checkpoints.begun_by(folder, starter())))
    problem = workers.told(checkpoints.why_not(folder, recipe, resume) if workers.leads else "")
    if problem:
        raise RegardError(problem)
    keep_freed_memory()
    run = Run(recipe, folder, task_of(recipe, folder if resume else None), device, workers)
    if resume:
        restore(run)
    else:
        run.begin()
    run.meter.begin()
    try:
        yield Started(run.model.count_parameters(), len(run.task.train), run.task.train.tokens, run.step, run.note)
        try:
            yield from run.loop()
        except GeneratorExit:
            save(run)
            raise
        if workers.leads:
            yield run.finish()
    finally:
        run.meter.stop()


class Run:
    """The state of one training run."""

    def __init__(self, recipe: Recipe, folder: Path, task: Task, device: str, workers: Workers) -> None:
        self.recipe, self.folder, self.task, self.device = recipe, folder, task, torch.device(device)
        self.workers = workers
        torch.manual_seed(recipe.training.seed)
        self.model = task.make_model().train()
        applied(self.model, recipe.training)
        self.placement = placement_of(task, self.model, recipe, workers, self.device)
        self.optimizers = optimizers_of(self.model, recipe.training)
        self.placement.take(self.optimizers)
        self.averaging = averaging_of(self.placement.parameters(), self.optimizers, recipe.training)
        self.meter = Meter(recipe, self.model.config, self.device, workers.count, workers.leads)
        self.layers = layer_groups(self.model) if recipe.training.unfreeze_every else []
        self.step = self.epoch = self.batches = self.validated = self.saved = 0
        self.seconds = self.cpu_seconds = 0.0
        self.best, self.waited, self.reason, self.note = float("-inf"), 0, "", ""
        self.snapshots: list[dict[str, Tensor]] = []
        self.plan: list[np.ndarray] = []

    def begin(self) -> None:
        if self.workers.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOG).write_text("", encoding="utf-8")
            self.task.codec.save(self.folder)
        save(self)

    def loop(self) -> Iterator[Event]:
        """Steps, validations and checkpoints until a reason to stop."""
        yield from self.after_step()  # what a run that was stopped right after a step still owes
        while not self.reason:
            self.plan = self.order()
            for chosen in self.plan[self.batches :]:
                yield self.train_step(chosen)
                yield from self.after_step()
                if self.reason:
                    return
            self.epoch, self.batches = self.epoch + 1, 0

    def after_step(self) -> Iterator[Event]:
        training, step = self.recipe.training, self.step
        validates = step > self.validated and (step % training.validate_every == 0 or step >= training.max_steps)
        if self.meter.recent.steps and (validates or step % training.log_every == 0):
            yield self.measure()
        if validates:
            if event := self.validate():
                yield event
            self.agree()
            save(self)
        elif step and training.checkpoint_every and step % training.checkpoint_every == 0:
            save(self)

    def train_step(self, chosen: np.ndarray) -> Stepped:
        """One update of the weights by a batch of examples, shared by all workers."""
        training, begun, begun_cpu = self.recipe.training, time.perf_counter(), time.process_time()
        self.step, self.batches = self.step + 1, self.batches + 1
        self.workers.seed(training.seed, self.step)
        rate = learning_rate(self.step, training, self.model.config.width)
        if self.layers:
            unfreeze(self.layers, 1 + (self.step - 1) // training.unfreeze_every)
        done = self.gradients(chosen)
        stop_unless_finite(self, "loss", done.loss, chosen)
        if training.clip_norm:
            stop_unless_finite(self, "gradient", self.placement.clip(training.clip_norm), chosen)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.averaging.after_step()
        took = time.perf_counter() - begun
        self.seconds += took
        self.cpu_seconds += (time.process_time() - begun_cpu) * self.workers.count  # shares are about equal
        told = (self.step, self.epoch, done.loss, rate, done.tokens, self.seconds, done.stopping, done.flops)
        return self.meter.stepped(Stepped(*told), took)

    def gradients(self, chosen: np.ndarray) -> Summed:
        """The gradients of the whole batch's loss, in every worker, from its share of the batch."""
        training, share = self.recipe.training, Share()
        parts = self.placement.parts(chosen, training.micro_batches)
        batches = [(self.task.train.batch(part).to(self.device), counts) for part, counts in parts]
        share.predictions = sum(self.task.predictions(batch) for batch, counts in batches if counts)
        if hasattr(self.task, "weigh"):
            tokens = sum(batch.tokens for batch, counts in batches if counts)
            self.task.weigh(*self.workers.added([share.predictions, tokens], self.device))
        for batch, counts in batches:
            predictions = self.task.predictions(batch) if counts else 0
            with torch.autocast(self.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                loss, plain = self.placement.loss(batch, training.label_smoothing)
            self.placement.backward(loss, predictions, share.predictions)
            if counts:
                share.read += float(plain) * predictions
                share.tokens, share.flops = share.tokens + batch.tokens, share.flops + self.meter.flops(batch)
        return self.placement.sum(share)

    def agree(self) -> None:
        """All workers know what the first one found at a validation."""
        facts = self.workers.told({name: getattr(self, name) for name in FACTS})
        for name in FACTS:
            setattr(self, name, facts[name])

    def measure(self) -> Measured:
        """What the run has cost so far."""
        event = self.meter.measured(self.step, self.seconds, self.seen())
        if self.workers.leads:
            append_event(self.folder, event)
        return event

    def validate(self) -> Validated | None:
        """Score the model, in the first worker; keep it if it is the best so far; find out whether to go on."""
        with self.averaging.averaged():
            model = self.placement.whole()
            event = self.score_weights(model) if model is not None else None
        self.averaging.after_validation(self.workers.told(event.loss if event else 0.0))
        if event is None:
            return None
        training = self.recipe.training
        if self.step >= training.max_steps:
            self.reason = f"{training.max_steps} steps are done"
        elif self.waited >= training.patience:
            self.reason = f"no better validation score for {self.waited} validations"
        return event

    def score_weights(self, model: Model) -> Validated:
        """Score the weights as they are."""
        training, begun, begun_cpu = self.recipe.training, time.perf_counter(), time.process_time()
        self.validated = self.step
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.snapshots = [*self.snapshots, weights][-training.average :]
        loss, result = valid_loss(self.task, model, training.batch_tokens), self.task.valid_score(model)
        improved = result.better > self.best
        self.waited = 0 if improved else self.waited + 1
        self.seconds += time.perf_counter() - begun
        self.cpu_seconds += time.process_time() - begun_cpu
        spent = (self.seconds, self.cpu_seconds, self.meter.loss_since_validation())
        event = Validated(self.step, loss, result.scores, improved, *spent)
        # A run that went back to a checkpoint finds in its log what it said the first time.
        before = [past for past in read_validations(self.folder) if past.step < self.step]
        event = replace(event, verdict=verdict([*before, event]))
        append_event(self.folder, event)
        if improved:
            self.best = result.better
            write_model(self.folder / MODEL, model, self.task.codec, self.card(result, "validation"))
        return event

    def finish(self) -> Finished:
        """The average of the last checkpoints or the best single one, whichever validates better, on the test part."""
        model = self.placement.bare()
        model.load_state_dict(checkpoints.average(self.snapshots))
        result = self.task.valid_score(model)
        if result.better > self.best:
            self.best = result.better
        else:
            model = type(model).load(self.folder / MODEL).to(self.device)
        result = self.task.test_score(model)
        opinion = getattr(self.task, "opinion", None)
        write_model(self.folder / MODEL, model, self.task.codec, self.card(result, "test"), opinion=opinion)
        folder = str(self.folder / MODEL)
        event = Finished(self.step, self.reason, result.scores, result.signature, folder, self.seconds)
        append_event(self.folder, event)
        return event

    def card(self, result: Result, part: str) -> Facts:
        """What the model card says of this run."""
        spent, log = (self.epochs, self.seconds, self.cpu_seconds), read_log(self.folder)
        history = [event for event in log if isinstance(event, Validated)]
        measured = [event for event in log if isinstance(event, Measured)]
        facts = Facts(self.recipe, result, part, self.step, *spent, self.task.counts, history)
        return replace(facts, measured=measured[-1] if measured else None)

    @property
    def epochs(self) -> float:
        """Passes over the data so far."""
        return self.epoch + self.batches / max(1, len(self.plan or self.order()))

    def seen(self) -> tuple[tuple[int, float], ...]:
        """How often which share of the examples was learnt from."""
        plan = self.plan or self.order()
        share = sum(map(len, plan[: self.batches])) / max(1, sum(map(len, plan)))
        return tuple((times, part) for times, part in ((self.epoch + 1, share), (self.epoch, 1 - share)) if part > 0)

    def order(self) -> list[np.ndarray]:
        """The batches of the present epoch."""
        return self.task.train.plan(self.recipe.training.batch_tokens, self.recipe.training.seed, self.epoch)
