"""The store's tables. Judgements and events are only ever added; what may change is who holds which task."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA = MetaData()
NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself in INTEGER columns only
ID = String(64)

# What people are shown. Content-addressed: the id is a checksum of kind, context and options.
items = Table(
    "items",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("context", JSON, nullable=False),
    Column("options", JSON, nullable=False),
    Column("sources", JSON, nullable=False),
    Column("info", JSON, nullable=False),
    Column("at", String(32), nullable=False),
)

# Who judges, by a name that says nothing; who that is stands in ``identities``, and can be erased.
annotators = Table(
    "annotators",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("kind", String(16), nullable=False),  # person, crowd, judge, gold
    Column("at", String(32), nullable=False),
)
identities = Table(
    "identities",
    METADATA,
    Column("annotator", ID, ForeignKey("annotators.id"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("contact", Text, nullable=False, server_default=""),
)

guidelines = Table(
    "guidelines",
    METADATA,
    Column("version", ID, primary_key=True),  # checksum of the text
    Column("text", Text, nullable=False),
    Column("at", String(32), nullable=False),
)
campaigns = Table(
    "campaigns",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("guideline", ID, ForeignKey("guidelines.version"), nullable=False),
    Column("overlap", Integer, nullable=False),  # opinions wanted on each item
    Column("lease", Float, nullable=False),  # seconds
    Column("at", String(32), nullable=False),
)

# An item in a campaign: how many opinions are wanted, and how many are given or on their way.
tasks = Table(
    "tasks",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("campaign", ID, ForeignKey("campaigns.id"), nullable=False),
    Column("item", ID, ForeignKey("items.id"), nullable=False),
    Column("priority", Float, nullable=False, server_default="0"),
    Column("wanted", Integer, nullable=False),
    Column("taken", Integer, nullable=False, server_default="0"),
    UniqueConstraint("campaign", "item"),
)
OPEN = text("taken < wanted")
Index(
    "open_tasks",
    tasks.c.campaign,
    tasks.c.priority.desc(),
    tasks.c.number,
    sqlite_where=OPEN,
    postgresql_where=OPEN,
)

# Who is at which task, until when. An answered one stays, so nobody is asked twice; the judgement has the lease's id.
leases = Table(
    "leases",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("task", NUMBER, ForeignKey("tasks.number"), nullable=False),
    Column("annotator", ID, ForeignKey("annotators.id"), nullable=False),
    Column("shown", JSON, nullable=False),
    Column("state", String(8), nullable=False),  # held, over (given back, or its time ran out), answered
    Column("since", Float, nullable=False),  # seconds since 1970
    Column("until", Float, nullable=False),
    UniqueConstraint("task", "annotator"),
)
HELD = text("state = 'held'")  # for queries too, word for word: with a parameter SQLite would not use these indexes
Index("held_by_time", leases.c.until, sqlite_where=HELD, postgresql_where=HELD)
Index("held_by_annotator", leases.c.annotator, sqlite_where=HELD, postgresql_where=HELD)

judgements = Table(
    "judgements",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("id", ID, nullable=False, unique=True),
    Column("item", ID, ForeignKey("items.id"), nullable=False),
    Column("annotator", ID, ForeignKey("annotators.id"), nullable=False),
    Column("campaign", String(64), nullable=False, server_default=""),
    Column("said", String(16), nullable=False),
    Column("label", Integer),  # of a choice: the place of the preferred option, -1 for a tie, -2 for both bad
    Column("answer", JSON, nullable=False),
    Column("shown", JSON, nullable=False),
    Column("first", Integer),  # of two options, the place of the one that was shown first
    Column("seconds", Float),
    Column("guideline", String(64), nullable=False, server_default=""),
    Column("supersedes", ID, unique=True),  # no foreign key: a file may bring a correction before what it corrects
    Column("note", Text, nullable=False, server_default=""),
    Column("at", String(32), nullable=False),
    Index("judgements_by_item", "item", "annotator"),
    # These two hold all that statistics are counted from, in the order in which they count.
    Index("judgements_by_vote", "campaign", "item", "annotator", "label"),
    Index("judgements_by_habit", "campaign", "annotator", "first", "label", "seconds"),
)

# What happened, in the order in which it was written; sealed in batches, each seal a link of a chain of checksums.
seals = Table(
    "seals",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("events", Integer, nullable=False),
    Column("before", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("at", String(32), nullable=False),
)
events = Table(
    "events",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("at", String(32), nullable=False),
    Column("what", String(32), nullable=False),
    Column("of", String(64), nullable=False),
    Column("digest", String(64), nullable=False),  # of what was written
    Column("seal", Integer, ForeignKey("seals.number")),
    Index("events_by_seal", "seal"),
)
