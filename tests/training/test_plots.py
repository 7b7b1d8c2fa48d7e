"""`regard plot`, TensorBoard and several seeds: what is shown is what stands in the runs' logs."""

import pytest
from training.told_events import RECIPE, measured

from regard import RegardError
from regard.training.board import curves, on_board
from regard.training.events import Finished, Stepped, Validated, append_event
from regard.training.plots import draw, panels
from regard.training.seeds import check_free, told_scores, with_seeds


def a_run(folder, scale=1.0):
    folder.mkdir()
    for step in (10, 20):
        append_event(folder, measured(step=step, loss=scale * step, money=0.1 * step))
        append_event(folder, Validated(step, 2 * scale * step, {"bleu": scale}, True, 1.0, 1.0, 1.0))
    append_event(folder, Finished(20, "20 steps are done", {"bleu": 10 * scale}, "", "model", 1.0))
    return folder


def test_panels_hold_what_the_logs_tell(tmp_path):
    runs = [a_run(tmp_path / "a"), a_run(tmp_path / "b", 2.0)]
    found = {panel.title: panel.curves for panel in panels(runs)}
    assert found["loss, nats a prediction"] == {
        "a, training": ([10, 20], [10, 20]), "a, validation": ([10, 20], [20, 40]),
        "b, training": ([10, 20], [20, 40]), "b, validation": ([10, 20], [40, 80]),
    }  # fmt: skip
    assert found["BLEU"] == {"a": ([10, 20], [1, 1]), "b": ([10, 20], [2, 2])}
    assert found["share of the machine's peak, %"]["a"] == ([10, 20], [25, 25])
    assert found["money"]["b"] == ([10, 20], [1, 2])
    assert "energy, Wh" not in found  # not measured


@pytest.mark.parametrize(("name", "begins"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml"), ("x.pdf", b"%PDF")])
def test_a_picture(tmp_path, name, begins):
    draw([a_run(tmp_path / "a"), a_run(tmp_path / "b")], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_what_cannot_be_drawn(tmp_path):
    run = a_run(tmp_path / "a")
    with pytest.raises(RegardError, match=r"a picture is a \.png, \.svg or \.pdf"):
        draw([run], tmp_path / "x.txt")
    with pytest.raises(RegardError, match="given twice"):
        draw([run, run], tmp_path / "x.png")
    with pytest.raises(RegardError, match="holds no run"):
        draw([tmp_path], tmp_path / "x.png")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "log.jsonl").write_text("")
    with pytest.raises(RegardError, match="nothing was measured yet"):
        draw([tmp_path / "new"], tmp_path / "x.png")
    assert not list(tmp_path.glob("x.*"))


def test_the_board_holds_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = [Stepped(1, 0, 3.0, 0.1, 5, 1.0), measured(step=1), Validated(1, 2.0, {"bleu": 4.0}, True, 1.0, 1.0, 1.5)]
    assert list(on_board(iter(events), tmp_path)) == events
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    told = {name: board.Scalars(name)[0].value for name in board.Tags()["scalars"]}
    assert told == pytest.approx({name: value for event in events for name, value, _ in curves(event)})
    assert told["loss/gap"] == 0.5
    assert told["score/bleu"] == 4.0
    assert "cost/energy_wh" not in told


def test_closing_the_board_closes_the_run(tmp_path):
    pytest.importorskip("tensorboard")
    closed = []

    def events():
        try:
            yield Stepped(1, 0, 3.0, 0.1, 5, 1.0)
        finally:
            closed.append(True)

    board = on_board(events(), tmp_path)
    next(board)
    board.close()
    assert closed == [True]


def test_seeds(tmp_path):
    runs = with_seeds(RECIPE, tmp_path, 3)
    assert [recipe.training.seed for recipe, _ in runs] == [1, 2, 3]
    assert [folder.name for _, folder in runs] == ["seed-1", "seed-2", "seed-3"]
    check_free(runs)
    for number, (_, folder) in enumerate(runs, start=1):
        a_run(folder, float(number))
    assert told_scores([folder for _, folder in runs]) == "BLEU 20.00 ± 10.00 over 3 seeds (10.00, 20.00, 30.00)"
    (tmp_path / "seed-2" / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(RegardError, match="seed-2 holds a run already"):
        check_free(runs)
