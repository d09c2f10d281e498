"""The store under load, held against what it promises: many writers at once, and a million judgements.

python benchmarks/store.py             writes benchmarks/results/store.json (about ten minutes on two CPU cores)
python benchmarks/store.py --small     a hundredth of it, to see that it runs; writes nothing

A campaign of 2,000 comparisons, three opinions each, by a simulated crowd of 20 in 16 processes; then a store with a
million judgements, in which a claim, the statistics and an export are timed. On SQLite, and on a PostgreSQL server that
is started for it (where initdb is found).
"""

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sqlalchemy import insert, text

from preferent.feedback.aggregation import dawid_skene, majority
from preferent.feedback.agreement import fleiss, krippendorff_counts
from preferent.feedback.asking import item_of, person_of, says
from preferent.feedback.crowd import Crowd
from preferent.feedback.records import Choice, Judgement, batched
from preferent.feedback.store import open_engine, writing
from preferent.feedback.store.counting import habits, label_table, vote_table
from preferent.feedback.store.log import seal, verify
from preferent.feedback.store.queue import answer, ask, claim
from preferent.feedback.store.store import (
    add_annotator,
    add_campaign,
    add_judgements,
    read_judgements,
)
from preferent.feedback.store.tables import leases
from preferent.testing.postgresql import postgresql_programs, postgresql_server
from preferent.types import Comparison

RESULTS = Path(__file__).parent / "results" / "store.json"
PEOPLE, WRITERS, OVERLAP = 20, 16, 3
SAID = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))


def shorter(_, reply):
    return -len(reply[-1]["content"]) / 20


CROWD = Crowd(shorter, seed=0, people=PEOPLE, per_comparison=OVERLAP)


def questions(n, of="question"):
    return [item_of(Comparison(f"{of} {i}", (f"a longer reply to {i}", f"short {i}")))[0] for i in range(n)]


# --- a campaign ------------------------------------------------------------------------------------
def person(where, who):
    """Claim and answer until nothing is left; seconds of each claim, and the ids of what was acknowledged."""
    engine, say = open_engine(where), says(CROWD, who)
    claims, ids = [], []
    while True:
        began = time.perf_counter()
        lease = claim(engine, "c", person_of(CROWD, who))
        claims.append(time.perf_counter() - began)
        if lease is None:
            break
        said, seconds = say(lease.item, lease.shown)
        ids.append(answer(engine, lease.id, said, seconds=seconds).id)
    return claims, ids


def campaign(where, comparisons):
    engine = open_engine(where)
    for who in range(PEOPLE):
        add_annotator(engine, person_of(CROWD, who), kind="crowd")
    add_campaign(engine, "c", overlap=OVERLAP)
    ask(engine, "c", questions(comparisons))
    began = time.perf_counter()
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as writers:
        found = list(writers.map(person, [where] * PEOPLE, range(PEOPLE)))
    seconds = time.perf_counter() - began
    claims = sorted(each for some, _ in found for each in some)
    acknowledged = [id for _, ids in found for id in ids]
    kept = [each for _, group in read_judgements(engine, campaign="c") for each in group]
    opinions = Counter(each.item for each in kept)
    twice = len(kept) - len({(each.item, each.annotator) for each in kept})
    seal(engine)
    checked = verify(engine)
    engine.dispose()
    return {
        "comparisons": comparisons,
        "judgements": len(kept),
        "lost": len(set(acknowledged) - {each.id for each in kept}),
        "over_overlap": sum(count > OVERLAP for count in opinions.values()),
        "under_overlap": comparisons - sum(count == OVERLAP for count in opinions.values()),
        "asked_twice": twice,
        "faults": len(checked.faults),
        "claims_per_second": round(len(acknowledged) / seconds, 1),
        "claim_p95_ms": round(1000 * claims[int(0.95 * len(claims))], 1),
    }


# --- a million judgements ----------------------------------------------------------------------------
def filled(where, n):
    """A store in which ``n`` judgements were given through the queue; written in bulk."""
    engine = open_engine(where)
    chance = random.Random(0)
    names = [person_of(CROWD, who) for who in range(PEOPLE)]
    reliability = {name: 0.4 + 0.5 * who / PEOPLE for who, name in enumerate(names)}
    for name in names:
        add_annotator(engine, name, kind="crowd")
    add_campaign(engine, "c", overlap=OVERLAP)
    asked = questions(n // OVERLAP, of="old question")
    ask(engine, "c", asked)
    with writing(engine) as connection:
        connection.execute(text("UPDATE tasks SET taken = wanted"))
        numbers = dict(connection.execute(text("SELECT item, number FROM tasks")).all())
    for some in batched(asked, 20_000):
        made = [
            Judgement(
                each.id,
                name,
                Choice(true if chance.random() < reliability[name] else chance.choice(SAID)),
                chance.choice(((0, 1), (1, 0))),
                round(chance.expovariate(0.2), 1),
                campaign="c",
            )
            for each in some
            for true in chance.choices(SAID, (0.5, 0.4, 0.1))
            for name in chance.sample(names, OVERLAP)
        ]
        add_judgements(engine, made)
        rows = [
            {
                "id": j.id,
                "task": numbers[j.item],
                "annotator": j.annotator,
                "shown": [0, 1],
                "state": "answered",
                "since": 0.0,
                "until": 0.0,
            }
            for j in made
        ]
        with writing(engine) as connection:
            connection.execute(insert(leases), rows)
    return engine


STATISTICS = {
    "alpha": lambda engine: krippendorff_counts(label_table(engine, campaign="c")),
    "fleiss": lambda engine: fleiss(label_table(engine, campaign="c")),
    "majority": lambda engine: majority(vote_table(engine, campaign="c")),
    "dawid_skene": lambda engine: dawid_skene(vote_table(engine, campaign="c")),
    "habits": lambda engine: habits(engine, campaign="c"),
}


def timed(work):
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


def million(where, n):
    began = time.perf_counter()
    engine = filled(where, n)
    filling = time.perf_counter() - began
    seal(engine)
    ask(engine, "c", questions(500))
    claims = []
    for turn in range(1000):
        name = person_of(CROWD, turn % PEOPLE)
        began = time.perf_counter()
        lease = claim(engine, "c", name)
        claims.append(time.perf_counter() - began)
        answer(engine, lease.id, Choice((1.0, 0.0)))
    counted = {name: timed(lambda of=of: of(engine)) for name, of in STATISTICS.items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    exported = sum(len(group) for _, group in read_judgements(engine, campaign="c"))
    export_seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    alpha = str(krippendorff_counts(label_table(engine, campaign="c")))
    engine.dispose()
    return {
        "judgements": exported,
        "written_per_second": round(n / filling),
        "claim_p50_ms": round(1000 * statistics.median(claims), 1),
        "claim_p95_ms": round(1000 * sorted(claims)[950], 1),
        "alpha": alpha,
        "statistics_seconds": counted,
        "read_seconds": round(export_seconds, 1),
        "read_peak_grows_by_mb": round(grown / 1024, 1),
    }


# --- both databases ----------------------------------------------------------------------------------
def both(make, comparisons, judgements):
    return {"campaign": campaign(make("small"), comparisons), "million": million(make("large"), judgements)}


def promises(figures):
    run, large = figures["campaign"], figures["million"]
    bad = {name: run[name] for name in ("lost", "over_overlap", "under_overlap", "asked_twice", "faults")}
    held = {name: (value, value == 0) for name, value in bad.items()}
    return held | {
        "claim_p95_ms": (large["claim_p95_ms"], large["claim_p95_ms"] < 50),
        **{f"{name}_seconds": (value, value < 2) for name, value in large["statistics_seconds"].items()},
        "read_peak_grows_by_mb": (large["read_peak_grows_by_mb"], large["read_peak_grows_by_mb"] < 50),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    sizes = (20, 9_999) if small else (2_000, 999_999)
    folder = Path(tempfile.mkdtemp(prefix="preferent-store-"))
    try:
        report = {"sqlite": both(lambda name: str(folder / f"{name}.db"), *sizes)}
        report["postgresql"] = None
        if programs := postgresql_programs():
            with postgresql_server(programs) as make:
                report["postgresql"] = both(make, *sizes)
    finally:
        shutil.rmtree(folder)
    failed = 0
    for name, figures in report.items():
        for word, (value, holds) in (promises(figures) if figures else {"installed": ("no", False)}).items():
            print(f"{name:<11} {word:<22} {value}  {'PASS' if holds else 'FAIL'}")
            failed += not holds
    print(json.dumps(report, indent=1))
    if not small:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
