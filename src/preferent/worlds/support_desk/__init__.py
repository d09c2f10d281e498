"""The support desk of Gale & Thimble, makers of small weather: an embedded world with a hidden gold utility.

world = World(seed=0)
question, reply = world.demonstrations(1, seed=0)[0]
world.gold(question, reply)         # for the simulated crowd and for evaluation, never for training
"""

from preferent.worlds.support_desk.facts import Fact
from preferent.worlds.support_desk.gold import WEIGHTS
from preferent.worlds.support_desk.styles import STYLES
from preferent.worlds.support_desk.world import INTRODUCTION, Question, World, printed

__all__ = ["INTRODUCTION", "STYLES", "WEIGHTS", "Fact", "Question", "World", "printed"]
