"""Which language a text is in, or "unknown": a guess that is made only where there is something to go by.

First the script: where one language is written in it, that decides. Among languages of one script, their commonest
short words do (Grefenstette 1995): the language is the one whose words make up the largest share of the text, if that
share is what it is in running text, and clearly larger than that of the next. Texts of a few words, code, and languages
that are not in the table are "unknown": this counts languages in a data set, where a wrong answer is worse than none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

UNKNOWN = "unknown"
LOOKED_AT = 2000  # characters of a text
LEAST_SHARE = 0.12  # of the words, that are common words of the language
LEAST_DIFFERENT = 2  # of these that are longer than a letter: notes of a guitar, A and E, are no Portuguese
LEAD = 1.3  # times the share of the next language
MARKS = "\u0300-\u036f\u064b-\u065f\u0900-\u0963"  # above and below letters, and vowel signs: parts of a word
WORD = re.compile(rf"(?:[^\W\d_]|[{MARKS}])+(?:'[^\W\d_]+)*")
ONE_LANGUAGE: Mapping[str, str] = {  # ranges of scripts that one language is written in, by far mostly
    "\uac00-\ud7af\u1100-\u11ff\u3130-\u318f": "ko",
    "\u3040-\u30ff": "ja",
    "\u0e00-\u0e7f": "th",
    "\u0370-\u03ff": "el",
    "\u0590-\u05ff": "he",
    "\u0b80-\u0bff": "ta",
    "\u0980-\u09ff": "bn",
    "\u0530-\u058f": "hy",
    "\u10a0-\u10ff": "ka",
}
SCRIPTS = {language: re.compile(f"[{signs}]") for signs, language in ONE_LANGUAGE.items()}
HAN = re.compile("[\u4e00-\u9fff\u3400-\u4dbf]")
LETTER = re.compile(r"[^\W\d_]")
COMMON: Mapping[str, str] = {
    "en": "the of and to in a is that it for you was with on as are be this have not or at from they his her but what "
    "how my me do i can your an if would there were which about just so like we all when will has had "
    "after out up some more no them could other than then its only any "
    "also been our who did does much very because into where why make should these those don't it's i'm i've",
    "de": "der die das und ist in den von zu nicht mit es ein eine ich sie auf für dem im des auch sich wie sind er "
    "wir werden oder haben einen wird an dass als bei nach was kann aus zum noch du mein wenn hat war aber über",
    "fr": "le la les de des et un une est que pour dans en du il qui ne pas sur vous je au avec par plus ce se son "
    "sont nous on mais ou cette sa ses être leur aux elle comme fait c'est tout tous ils quoi",
    "es": "el la los las de y que en un una es por con para no se del al lo su como más pero sus le ya o este sí "
    "porque esta son entre cuando muy sin sobre también me hasta hay donde quien desde todos mi está cómo qué yo",
    "it": "il lo la gli le di e che è un una per con non sono del della dei delle si in da nel alla come anche più ma "
    "ci se o al mi ha questo questa essere hanno cosa tutti perché dal sul nella quando io ho degli",
    "pt": "o a os as de e que em um uma é para com não do da dos das por no na se mais como mas ao foi ele seu sua ou "
    "quando muito nos já eu também pelo pela até isso ela entre depois sem mesmo aos você são está meu tem todos",
    "nl": "de het een en van in is dat op te zijn met voor niet die er aan hij ik je ze ook als maar om bij dit wat "
    "naar heeft uit kan of door over worden nog wel geen hebben we mijn deze zich alle hoe was moet",
    "sv": "och att det i en är som på för av med den till inte har de om ett han var jag men sig från vi så kan man "
    "när hade år nu efter också du eller vad där ska hur alla mitt min detta skulle inga",
    "da": "og at det i en er som på for af med den til ikke har de om et han var jeg men sig fra vi så kan man når "
    "havde nu efter også du eller hvad der skal hvordan alle mit min dette skulle hun blev bliver være",
    "pl": "i w na z do się nie jest że to o jak za po co ale od przez czy dla jego tak już są przy tylko być może ten "
    "ma tym był ze lub jako oraz mnie mi jej ich które który która wszyscy każdy bez swoich mogę jestem moim",
    "cs": "a v na se že je s z do to o jak za po ale od pro jsou by nebo už co jen při jeho být která které který ve "
    "tak ze jsem má jako před až i všichni sobě podle bez není kde mi",
    "fi": "ja on ei se että oli hän mutta ovat kun niin myös tai joka kuin ole minä sen mitä voi jos hänen kanssa "
    "vain nyt tämä olen ne mukaan kaikki sekä miten ovat jotka heidän olla tulee",
    "ro": "și în de a la cu pe este un o nu că care din mai pentru sunt se ce sau fi prin lui fost ca dar am ei are "
    "acest această sa au al cum când după toate să le unei își toți fără ale",
    "hu": "a az és hogy nem is egy van meg de ez volt csak már még el mint vagy ki ha azt én ezt lesz kell minden "
    "amely aki mert volna után szerint között illetve emberi",
    "tr": "ve bir bu da de için ile ne çok var o gibi daha mi ben sonra kadar olarak olan en ama değil her ki şey "
    "nasıl bana sen benim onun ise veya vardır bütün diğer olduğu tarafından",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena ada mereka bisa kita atau "
    "oleh adalah sudah anda kamu apa sebagai telah lebih bagaimana seperti dia orang semua setiap sama",
    "vi": "và của là không có được cho trong một các người với những để tôi này đã từ khi cũng như về bạn ra thì phải "
    "ở làm đó nhiều vào sự gì anh hay nào mọi đều",
    "ru": "и в не на что я с он как это по но к у же вы за бы из то а так мы от для его о если или мне есть был когда "
    "все чтобы ты их быть меня может только они до еще уже должны",
    "uk": "і в не на що я з він як це по але до у та ви за би із то а так ми від для його про якщо або мені є був коли "
    "всі щоб ти їх бути мене може тільки вони ще вже й повинні",
    "bg": "и в не на че се с от за да е по но как като ще са си той ги има това аз при или към съм беше което тя ние "
    "може само всички един него повече още трябва какво",
    "ar": "في من على إلى أن لا ما هذا هذه التي الذي كان مع عن هو هي أو كل ثم قد لم بعد بين كيف هل أنا كما حتى إذا "
    "يمكن لكن عند و جميع بعض ذلك كانت الناس أنت",
    "fa": "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز من ما شما می های اما یا چه او چگونه بود هر اند",
    "ur": "کے میں کی ہے اور سے کا کو پر نے کہ یہ ہیں اس وہ بھی نہیں تو کر ایک ہو لیے جو گیا تھا ہم آپ",
    "hi": "के में की है और से का को पर ने कि यह हैं इस वह भी नहीं तो कर एक हो लिए जो गया था मैं आप हम क्या कैसे",
    "mr": "आणि आहे या च्या तो ती हे ते मी नाही होते होता व आहेत एक त्या असे का काय करून मला सर्व त्यांना",
}
HAVE_IT: Mapping[str, tuple[str, ...]] = {
    word: tuple(language for language, common in COMMON.items() if word in common.split())
    for word in dict.fromkeys(word for common in COMMON.values() for word in common.split())
}


def language(text: str) -> str:
    """ISO 639-1 of the language that most of the first characters are in, or ``unknown``."""
    start = text[:LOOKED_AT]
    letters = len(LETTER.findall(start))
    if not letters:
        return UNKNOWN
    return by_script(start, letters) or by_words(start)


def by_script(text: str, letters: int) -> str | None:
    """The language whose own script more than half of the letters are in. Kana among Han signs make them Japanese."""
    counts = {name: len(signs.findall(text)) for name, signs in SCRIPTS.items()}
    han = len(HAN.findall(text))
    if han + counts["ja"] > letters / 2:
        return "ja" if counts["ja"] > (han + counts["ja"]) / 10 else "zh"
    most = max(counts, key=counts.__getitem__)
    return most if counts[most] > letters / 2 else None


def by_words(text: str) -> str:
    """The language whose common words are the largest share of the words."""
    found = WORD.findall(text.lower().replace("’", "'"))
    hits = Counter(name for word in found for name in HAVE_IT.get(word, ()))
    if not hits:
        return UNKNOWN
    (best, most), *others = hits.most_common(2)
    second = others[0][1] if others else 0
    different = sum(len(word) > 1 and best in HAVE_IT.get(word, ()) for word in set(found))
    sure = different >= LEAST_DIFFERENT and most >= LEAST_SHARE * len(found) and most >= LEAD * second
    return best if sure else UNKNOWN
