"""A run folder is held by one process, is not overwritten, and is resumed only as the run that it is."""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from killing import PROCESSES, alone

from preferent.config import UsageError
from preferent.runtime import checkpoint, files
from preferent.runtime.provenance import judgements, listed_in, trace
from preferent.runtime.run import Run
from preferent.runtime.track import rows

OPTIONS = {"model": "runs/sft", "lr": 1e-5, "steps": 100, "data": ["a.jsonl", "b.jsonl"], "lora": None, "out": "r"}


class Count:
    def __init__(self) -> None:
        self.n = 0

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


def resume(folder, options=OPTIONS, **rest):
    """A sitting that goes on and does nothing."""
    with Run(folder, options, resume=True, **rest) as run:
        run.restore({})


def test_a_new_run_writes_its_options_and_its_manifest(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    inputs = [tmp_path / "a.jsonl", tmp_path / "model", "Qwen/Qwen2.5-0.5B"]
    with Run(tmp_path / "runs" / "r", OPTIONS, inputs=inputs, seed=3) as run:
        assert yaml.safe_load((run.folder / "config.yaml").read_text()) == OPTIONS
        assert list(yaml.safe_load((run.folder / "config.yaml").read_text())) == list(OPTIONS)
        manifest = json.loads((run.folder / "manifest.json").read_text())
        assert run.model_folder == tmp_path / "runs" / "r" / "model"
        assert run.samples(20) == tmp_path / "runs" / "r" / "samples" / "step-20.jsonl"
    assert manifest["seed"] == 3
    # printf '{}\n' | sha256sum; printf '{}' | sha256sum
    line = {"size": 3, "sha256": "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"}
    braces = {"size": 2, "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
    assert list(manifest["inputs"].values()) == [line, {"config.json": braces}, None]
    (sitting,) = manifest["sittings"]
    assert sitting["threads"] == torch.get_num_threads()
    assert sitting["after_step"] == 0
    assert sitting["versions"].keys() >= {"python", "torch", "transformers", "preferent"}


def test_a_folder_with_anything_in_it_is_not_written_to(tmp_path):
    Run(tmp_path, OPTIONS).close()
    with pytest.raises(UsageError, match=r"is not empty: go on with the run in it \(--resume\), or choose another"):
        Run(tmp_path, OPTIONS)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"holds no run \(no config\.yaml\): choose another --out"):
        Run(other, OPTIONS, resume=True)
    with pytest.raises(UsageError, match=r"other is not empty: choose another --out\.$"):
        Run(other, OPTIONS)
    with pytest.raises(UsageError, match=r"is a file; expected a folder"):
        Run(other / "thesis.tex", OPTIONS)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"file/run cannot be written \(.*\): choose another --out\.$"):
        Run(tmp_path / "file" / "run", OPTIONS)


def test_to_resume_what_was_not_begun_is_to_begin(tmp_path, caplog):
    with Run(tmp_path / "r", OPTIONS, resume=True) as run:
        assert run.restore({"count": Count()}) == 0
    assert "nothing to resume" in caplog.text
    resume(tmp_path / "r")
    assert len(json.loads((tmp_path / "r" / "manifest.json").read_text())["sittings"]) == 2


def test_resuming_restores_the_parts_and_cuts_off_what_came_after(tmp_path):
    with Run(tmp_path, OPTIONS) as run:
        for writer in run.writers(0):
            for step in (1, 2, 3):
                writer.write(step, {"loss": step})
        for step in (2, 3):
            run.samples(step).write_text("{}\n")
        checkpoint.save(run.checkpoints, 2, {"count": {"n": 20}})
    with Run(tmp_path, OPTIONS, resume=True) as run:
        count = Count()
        assert (run.restore({"count": count}), count.n) == (2, 20)
        run.writers(2)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-2.jsonl"]
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2]
    assert [s["after_step"] for s in json.loads((tmp_path / "manifest.json").read_text())["sittings"]] == [0, 2]


def fail(folder, act, *, resume=False):
    with Run(folder, OPTIONS, resume=resume) as run:
        act(run)
        raise UsageError("no data")


def test_a_run_that_fails_before_its_first_step_leaves_nothing_of_its_own(tmp_path):
    with pytest.raises(UsageError, match="no data"):
        fail(tmp_path / "a" / "r", lambda run: (run.writers(0), run.samples(1)))
    assert not (tmp_path / "a" / "r").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".notes").write_text("x")
    with pytest.raises(UsageError, match="no data"):
        fail(tmp_path / "mine", lambda run: (run.folder / "thesis.tex").write_text("x"))
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [".notes", "thesis.tex"]


@pytest.mark.parametrize(
    "act",
    [
        lambda run: run.writers(0)[0].write(1, {"loss": 1.0}),
        lambda run: checkpoint.save(run.checkpoints, 1, {"count": {"n": 1}}),
        lambda run: run.model_folder.mkdir(),
    ],
    ids=["metrics", "checkpoint", "model"],
)
def test_a_run_that_fails_later_keeps_what_came_of_it(tmp_path, act):
    with pytest.raises(UsageError, match="no data"):
        fail(tmp_path, act)
    assert {"config.yaml", "manifest.json"} <= {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="no data"):
        fail(tmp_path, lambda run: None, resume=True)
    assert {"config.yaml", "manifest.json"} <= {path.name for path in tmp_path.iterdir()}


def test_a_command_that_cannot_go_on_does_not_speak_of_it(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"is not empty: choose another --out\.$"):
        Run(tmp_path, OPTIONS, resume=None)


# --- options and inputs --------------------------------------------------------------------------


def test_every_changed_option_is_listed_and_the_saved_ones_stay(tmp_path):
    Run(tmp_path, OPTIONS).close()
    before = (tmp_path / "config.yaml").read_text()
    changed = {**OPTIONS, "lr": 2e-5, "data": ["a.jsonl"], "beta": 0.1}
    del changed["lora"]
    with pytest.raises(UsageError) as error:
        Run(tmp_path, {**changed, "lora": 8}, resume=True)
    assert str(error.value).splitlines()[1:-1] == [
        "  lr: 1e-05 → 2e-05",
        "  data: ['a.jsonl', 'b.jsonl'] → ['a.jsonl']",
        "  lora: None → 8",
        "  beta: None → 0.1",
    ]
    assert (tmp_path / "config.yaml").read_text() == before
    resume(tmp_path, changed, allow=["lr", "data", "beta"])
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["lr"] == 2e-5


def test_where_and_how_often_may_change_and_steps_may_grow_but_not_shrink(tmp_path, caplog):
    Run(tmp_path, OPTIONS | {"save_every": None, "resume": False}).close()
    resume(tmp_path, OPTIONS | {"save_every": 5, "resume": True, "out": "moved"})
    assert caplog.messages == []
    resume(tmp_path, OPTIONS | {"save_every": 5, "steps": 200})
    assert caplog.messages == ["steps grows from 100 to 200; a schedule that depends on it changes from here on."]
    with pytest.raises(UsageError, match="steps: 200 → 100"):
        Run(tmp_path, OPTIONS, resume=True)


def test_how_a_sitting_began_is_not_saved(tmp_path):
    Run(tmp_path, {**OPTIONS, "resume": True, "dry_run": False, "config": "c.yaml"}, resume=True).close()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == OPTIONS


def test_a_run_that_cannot_be_resumed_stays_as_it_is(tmp_path):
    data = tmp_path / "prefs.jsonl"
    data.write_text("{}\n")
    with Run(tmp_path / "r", OPTIONS, inputs=[data]) as run:
        checkpoint.save(run.checkpoints, 2, {"count": {"n": 20}})
    before = {name: (tmp_path / "r" / name).read_bytes() for name in ("config.yaml", "manifest.json")}

    def left():
        return {name: (tmp_path / "r" / name).read_bytes() for name in before}

    more = OPTIONS | {"steps": 200}
    with pytest.raises(UsageError, match="holds the state of count"):
        resume(tmp_path / "r", more, inputs=[data])
    assert left() == before
    data.write_text("[]\n")
    with pytest.raises(UsageError, match="Changed since the run began"):
        resume(tmp_path / "r", more, inputs=[data])
    assert left() == before
    data.write_text("{}\n")
    with Run(tmp_path / "r", OPTIONS, resume=True, inputs=[data]) as run:
        assert run.restore({"count": Count()}) == 2


def test_data_that_changed_since_the_run_began_is_refused(tmp_path):
    data = tmp_path / "prefs.jsonl"
    data.write_text("{}\n")
    Run(tmp_path / "r", OPTIONS, inputs=[data]).close()
    Run(tmp_path / "r", OPTIONS, inputs=[data], resume=True).close()
    data.write_text("[]\n")
    with pytest.raises(UsageError, match=r"Changed since the run began: .*prefs\.jsonl"):
        Run(tmp_path / "r", OPTIONS, inputs=[data], resume=True)


@pytest.mark.parametrize("survived", range(8))
def test_judgements_that_come_while_a_run_goes_on_are_named_wherever_it_is_killed(survived, tmp_path, monkeypatch):
    """Nothing on the disk happens after so many operations; the run then goes on from before the second answer."""
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "q", "judgements": ["a"]}) + "\n")
    run = Run(tmp_path / "run", OPTIONS, inputs=[data])
    run.restore({})
    run.note(["b", "a"])
    left = iter(range(survived))

    def killed(*_):
        if next(left, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(files, "failpoint", killed)
        run.note(["c"])
    run.close()
    assert set(listed_in(tmp_path / "run" / "judgements.txt")) >= {"a", "b"}
    with Run(tmp_path / "run", OPTIONS, inputs=[data], resume=True) as run:
        run.restore({})
        run.note(["c"])
    assert judgements(trace(tmp_path / "run")) == (["a", "b", "c"], [])


def test_other_threads_and_versions_are_warnings(tmp_path, caplog):
    Run(tmp_path, OPTIONS).close()
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sittings"][0] |= {"threads": 64, "versions": manifest["sittings"][0]["versions"] | {"torch": "1.0"}}
    path.write_text(json.dumps(manifest))
    resume(tmp_path)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.messages[0].startswith(f"threads was 64, now {torch.get_num_threads()}: from here on results may")
    assert caplog.messages[1].startswith(f"torch was 1.0, now {torch.__version__}")
    resume(tmp_path)
    assert len(caplog.messages) == 2


# --- the lock ------------------------------------------------------------------------------------


def hold(folder: Path, receiving, sending) -> None:
    with Run(folder, OPTIONS):
        sending.send(os.getpid())
        receiving.recv()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=hold, args=(tmp_path, theirs, theirs), daemon=True)
    process.start()
    pid = ours.recv()
    for resume in (False, True):
        with pytest.raises(UsageError, match=rf"Output folder in use: {tmp_path} by pid {pid} on "):
            Run(tmp_path, OPTIONS, resume=resume)
    ours.send("enough")
    process.join()
    Run(tmp_path, OPTIONS, resume=True).close()


def die_holding(folder: Path) -> None:
    run = Run(folder, OPTIONS)
    os._exit(0 if run.folder == folder else 1)


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    with pytest.raises(EOFError):  # it died before it could answer
        alone(die_holding, tmp_path)
    assert (tmp_path / ".lock").read_text().startswith("pid ")
    Run(tmp_path, OPTIONS, resume=True).close()


def test_the_lock_holds_within_a_process_and_is_let_go_when_a_run_is_refused(tmp_path):
    with Run(tmp_path, OPTIONS), pytest.raises(UsageError, match=f"in use: .* by pid {os.getpid()} "):
        Run(tmp_path, OPTIONS, resume=True)
    for _ in range(2):
        with pytest.raises(UsageError, match="is not empty"):
            Run(tmp_path, OPTIONS)
