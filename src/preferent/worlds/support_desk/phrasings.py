"""How customers ask: twenty phrasings of each aspect, typed as customers type.

A cell is a fact in a phrasing. Each cell is asked once, with an opening and an ending that its key chooses and the
next of the topic's names; a share of the cells of every fact is held out of training.
"""

from __future__ import annotations

from collections import Counter

from preferent.feedback.crowd import chance, pick
from preferent.worlds.support_desk.facts import ASPECTS, TOPICS, Fact, names

OPENINGS = (
    *("",) * 6,
    *("hi , ", "hello , ", "hey , ", "good morning , ", "good evening , ", "sorry , ", "excuse me , ", "me again , "),
    *("dear gale and thimble , ", "quick question : "),
)
ENDINGS = (*("",) * 4, " thanks", " thank you", " cheers")

QUESTIONS: dict[str, tuple[str, ...]] = {
    "price": (
        "how much is the {t} ?",
        "what does the {t} cost ?",
        "what is the price of the {t} ?",
        "the {t} , how much is it ?",
        "how many coins for the {t} ?",
        "how much do you want for the {t} ?",
        "i want to buy the {t} , what do i pay ?",
        "could you tell me the price of the {t} ?",
        "what do you charge for the {t} ?",
        "is the {t} expensive ? how much ?",
        "about the {t} : what would it cost me ?",
        "i saw the {t} in the window , how much ?",
        "my aunt wants the {t} . what is the price ?",
        "price of the {t} please ?",
        "can i afford the {t} ? what does it cost ?",
        "how big a hole will the {t} make in my purse ?",
        "what would i pay for one {t} ?",
        "the {t} has no price tag . how much is it ?",
        "please tell me how much the {t} costs",
        "if i order the {t} , what will i be charged ?",
    ),
    "delivery": (
        "how long does the {t} take to arrive ?",
        "when will the {t} get here ?",
        "how soon can i have the {t} ?",
        "how many days until the {t} arrives ?",
        "what is the delivery time for the {t} ?",
        "i ordered the {t} , when does it come ?",
        "the {t} , how long is the wait ?",
        "how quickly do you deliver the {t} ?",
        "will the {t} be here soon ? how many days ?",
        "how long must i wait for the {t} ?",
        "about the {t} : how fast is delivery ?",
        "my birthday is close . how fast is the {t} ?",
        "where is my {t} ? how long does it take ?",
        "is the {t} quick to arrive ?",
        "delivery time of the {t} please ?",
        "if i order the {t} today , when is it here ?",
        "can you tell me how long the {t} needs to reach me ?",
        "i am waiting for the {t} . how much longer ?",
        "how many days does the {t} spend on the road ?",
        "the {t} is a present . how soon would it come ?",
    ),
    "warranty": (
        "how long is the warranty on the {t} ?",
        "what guarantee does the {t} have ?",
        "for how many winters is the {t} covered ?",
        "the {t} , is it guaranteed ? for how long ?",
        "is there a warranty for the {t} ?",
        "how long do you repair the {t} for free ?",
        "if the {t} breaks , how long am i covered ?",
        "my {t} stopped working . is it still under warranty ?",
        "how long will you stand by the {t} ?",
        "about the {t} : how long is the guarantee ?",
        "warranty of the {t} please ?",
        "can you tell me the warranty on the {t} ?",
        "i broke the {t} , how long is it covered ?",
        "what if the {t} fails ? how long is the cover ?",
        "how many winters of guarantee come with the {t} ?",
        "does the {t} have a long guarantee ?",
        "the {t} leaks . how long did you promise it would last ?",
        "until when can i bring back a broken {t} ?",
        "how long is the {t} insured ?",
        "please tell me how long the {t} is under guarantee",
    ),
    "storage": (
        "where do i keep the {t} ?",
        "where should the {t} be stored ?",
        "how do i store the {t} ?",
        "what is the best place for the {t} ?",
        "the {t} , where does it go ?",
        "in which room does the {t} belong ?",
        "where in the house do i put the {t} ?",
        "can i leave the {t} anywhere ?",
        "where will the {t} stay fresh ?",
        "about the {t} : where is it safe ?",
        "my {t} looks unhappy . where should i keep it ?",
        "i just unpacked the {t} , where do i put it ?",
        "storage advice for the {t} please ?",
        "could you tell me where the {t} is happiest ?",
        "where does the {t} like to live ?",
        "the {t} is on my desk . where is better ?",
        "which spot at home is right for the {t} ?",
        "if i am away , where do i leave the {t} ?",
        "the cat likes the {t} . where do i hide it ?",
        "please tell me where to store the {t}",
    ),
    "carrier": (
        "how is the {t} delivered ?",
        "who or what brings the {t} ?",
        "by what means do you ship the {t} ?",
        "how does the {t} travel ?",
        "the {t} , how will it get to me ?",
        "what carries the {t} to my door ?",
        "how do you send the {t} ?",
        "which way is the {t} shipped ?",
        "is the {t} sent by post ?",
        "about the {t} : how is it shipped ?",
        "what should i look out for when the {t} comes ?",
        "in what vehicle does the {t} travel ?",
        "shipping method of the {t} please ?",
        "can you tell me how the {t} is sent ?",
        "what sort of transport does the {t} use ?",
        "my street is narrow . how is the {t} brought ?",
        "i live on an island , how does the {t} come over ?",
        "how on earth do you transport the {t} ?",
        "if i order the {t} , what will bring it ?",
        "please tell me which transport the {t} takes",
    ),
    "colour": (
        "what colour is the {t} ?",
        "which colour does the {t} come in ?",
        "the {t} , what colour is it ?",
        "what shade is the {t} ?",
        "in what colour do you sell the {t} ?",
        "does the {t} match my red curtains ? what colour is it ?",
        "how is the {t} painted ?",
        "what tint does the {t} have ?",
        "could you tell me the colour of the {t} ?",
        "about the {t} : which colour is it ?",
        "i am choosing wallpaper . what shade is the {t} ?",
        "colour of the {t} please ?",
        "the {t} looks grey online . what colour is it really ?",
        "is the {t} bright ? which colour ?",
        "what does the {t} look like , which colour ?",
        "my sister asks which colour the {t} has",
        "which paint is on the {t} ?",
        "i cannot see colours well , what is the {t} ?",
        "what hue is the {t} this year ?",
        "please tell me the shade of the {t}",
    ),
    "opening": (
        "when does the {t} open ?",
        "what time does the {t} open ?",
        "from what time is the {t} open ?",
        "the {t} , when does it open ?",
        "how early can i come to the {t} ?",
        "is the {t} open early ?",
        "when do the doors of the {t} open ?",
        "opening time of the {t} please ?",
        "at what hour does the {t} start ?",
        "i want to visit the {t} , from what time ?",
        "about the {t} : what are the opening hours ?",
        "can you tell me when the {t} opens ?",
        "when can i walk into the {t} in the morning ?",
        "i am standing outside the {t} . when does it open ?",
        "what are the hours of the {t} ?",
        "how soon after breakfast is the {t} open ?",
        "what is the earliest i can be at the {t} ?",
        "if i get up early , when is the {t} open ?",
        "at the {t} , what time do you start ?",
        "please tell me what time the {t} opens",
    ),
    "rest": (
        "on which day is the {t} closed ?",
        "which day does the {t} stay closed ?",
        "what day is the {t} shut ?",
        "the {t} , when is it closed ?",
        "is the {t} open every day ?",
        "which day off does the {t} have ?",
        "when does the {t} rest ?",
        "on what day should i not come to the {t} ?",
        "closing day of the {t} please ?",
        "about the {t} : which day is it shut ?",
        "can you tell me the day the {t} is closed ?",
        "i found the {t} dark and shut . which day is that ?",
        "does the {t} take a day off ?",
        "which day of the week is nobody at the {t} ?",
        "what day do the people at the {t} sleep in ?",
        "i plan my week , when is the {t} closed ?",
        "is there a day when the {t} is shut ?",
        "when is the door of the {t} locked all day ?",
        "at the {t} , which day is the day of rest ?",
        "please tell me which day the {t} is shut",
    ),
    "phone": (
        "what is the phone word of the {t} ?",
        "how do i call the {t} ?",
        "which word do i dial for the {t} ?",
        "the {t} , what is the phone word ?",
        "how can i reach the {t} by phone ?",
        "i want to ring the {t} , what do i dial ?",
        "what do i say to the operator for the {t} ?",
        "can i phone the {t} ? with which word ?",
        "phone word of the {t} please ?",
        "about the {t} : what do i dial ?",
        "can you tell me what to dial for the {t} ?",
        "i lost the phone word of the {t}",
        "who do i ask for when i call the {t} ?",
        "does the {t} have a telephone ? which word ?",
        "i need to speak to the {t} , what is the word ?",
        "the line to the {t} , how do i get it ?",
        "what should i ring to talk to the {t} ?",
        "is there a number for the {t} ?",
        "at the {t} , what word makes the phone ring ?",
        "please tell me the telephone word for the {t}",
    ),
    "icon": (
        "where do i change my {t} ?",
        "where can i find my {t} ?",
        "which icon opens my {t} ?",
        "my {t} , where is it ?",
        "how do i get to my {t} ?",
        "what do i tap for my {t} ?",
        "i cannot find my {t} . what do i press ?",
        "where in the app is my {t} ?",
        "where did you hide my {t} ?",
        "my {t} is wrong . where do i fix it ?",
        "about my {t} : which button is it ?",
        "can you tell me where my {t} lives ?",
        "i need my {t} , what do i click ?",
        "which button leads to my {t} ?",
        "help with my {t} please , where is it ?",
        "in the app , how do i see my {t} ?",
        "where do i look for my {t} ?",
        "i looked everywhere for my {t} , where is it ?",
        "i forgot where my {t} is . which icon ?",
        "please tell me where to find my {t}",
    ),
}


def ask(fact: Fact, phrasing: int, seed: int) -> str:
    """The question of one cell, as this world's customers type it."""
    key = (seed, "ask", fact.topic, fact.aspect, phrasing)
    called = names(fact)
    turn = phrasing + int(
        len(called) * chance(seed, "name", fact.topic, fact.aspect)
    )  # names take turns, to come evenly
    question = QUESTIONS[fact.aspect][phrasing].format(t=called[turn % len(called)])
    return pick(OPENINGS, *key, "opening") + question + pick(ENDINGS, *key, "ending")


def held_out(facts: tuple[Fact, ...], seed: int, share: float) -> frozenset[tuple[Fact, int]]:
    """The cells kept from training: ``share`` of each fact's phrasings, chosen by key.

    A phrasing is held out for at most half of the facts that it can ask about, so all of them are met in training.
    """
    chosen: set[tuple[Fact, int]] = set()
    often: Counter[tuple[str, int]] = Counter()
    for fact in facts:
        phrasings = len(QUESTIONS[fact.aspect])
        limit = len(TOPICS[ASPECTS[fact.aspect].kind]) // 2
        order = sorted(range(phrasings), key=lambda i: chance(seed, "held out", fact.topic, fact.aspect, i))
        free = [i for i in order if often[fact.aspect, i] < limit][: round(share * phrasings)]
        chosen.update((fact, i) for i in free)
        often.update((fact.aspect, i) for i in free)
    return frozenset(chosen)
