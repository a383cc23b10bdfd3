"""The words of TPC-H's data: lists of the specification, and sentences after its grammar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SENTENCES = 300_000

REGIONS = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"]
NATIONS = [
    ("ALGERIA", 0), ("ARGENTINA", 1), ("BRAZIL", 1), ("CANADA", 1), ("EGYPT", 4),
    ("ETHIOPIA", 0), ("FRANCE", 3), ("GERMANY", 3), ("INDIA", 2), ("INDONESIA", 2),
    ("IRAN", 4), ("IRAQ", 4), ("JAPAN", 2), ("JORDAN", 4), ("KENYA", 0),
    ("MOROCCO", 0), ("MOZAMBIQUE", 0), ("PERU", 1), ("CHINA", 2), ("ROMANIA", 3),
    ("SAUDI ARABIA", 4), ("VIETNAM", 2), ("RUSSIA", 3), ("UNITED KINGDOM", 3), ("UNITED STATES", 1),
]  # fmt: skip
COLORS = """almond antique aquamarine azure beige bisque black blanched blue blush brown burlywood burnished
chartreuse chiffon chocolate coral cornflower cornsilk cream cyan dark deep dim dodger drab firebrick floral forest
frosted gainsboro ghost goldenrod green grey honeydew hot indian ivory khaki lace lavender lawn lemon light lime linen
magenta maroon medium metallic midnight mint misty moccasin navajo navy olive orange orchid pale papaya peach peru
pink plum powder puff purple red rose rosy royal saddle salmon sandy seashell sienna sky slate smoke snow spring steel
tan thistle tomato turquoise violet wheat white yellow""".split()
TYPES = (
    ["STANDARD", "SMALL", "MEDIUM", "LARGE", "ECONOMY", "PROMO"],
    ["ANODIZED", "BURNISHED", "PLATED", "POLISHED", "BRUSHED"],
    ["TIN", "NICKEL", "BRASS", "STEEL", "COPPER"],
)
CONTAINERS = (
    ["SM", "LG", "MED", "JUMBO", "WRAP"],
    ["CASE", "BOX", "BAG", "JAR", "PKG", "PACK", "CAN", "DRUM"],
)
SEGMENTS = ["AUTOMOBILE", "BUILDING", "FURNITURE", "MACHINERY", "HOUSEHOLD"]
PRIORITIES = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"]
INSTRUCTIONS = ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"]
MODES = ["REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"]

_NOUNS = """foxes ideas theodolites pinto_beans instructions dependencies excuses platelets asymptotes courts dolphins
multipliers sauternes warthogs frets dinos attainments somas Tiresias' patterns forges braids hockey_players frays
warhorses dugouts notornis epitaphs pearls tithes waters orbits gifts sheaves depths sentiments decoys realms pains
grouches escapades packages requests accounts deposits""".split()
_VERBS = """sleep wake are cajole haggle nag use boost affix detect integrate maintain nod was lose sublate solve
thrash promise engage hinder print x-ray breach eat grow impress mold poach serve run dazzle snooze doze unwind kindle
play hang believe doubt""".split()
_ADJECTIVES = """furious sly careful blithe quick fluffy slow quiet ruthless thin close dogged daring brave stealthy
permanent enticing idle busy regular final ironic even bold silent special pending unusual express""".split()
_ADVERBS = """sometimes always never furiously slyly carefully blithely quickly fluffily slowly quietly ruthlessly
thinly closely doggedly daringly bravely stealthily permanently enticingly idly busily regularly finally ironically
evenly boldly silently""".split()
_PREPOSITIONS = """about above according_to across after against along alongside_of among around at atop before behind
beneath beside besides between beyond by despite during except for from in_place_of inside instead_of into near of on
outside over past since through throughout to toward under until up upon without with within""".split()
_AUXILIARIES = "do may might shall will would can could should must".split()
_ENDS = [". ", "; ", ": ", "? ", "! ", "-- "]
_WORDS = {
    "N": [word.replace("_", " ") for word in _NOUNS],
    "V": _VERBS,
    "J": _ADJECTIVES,
    "D": _ADVERBS,
    "P": [word.replace("_", " ") for word in _PREPOSITIONS],
    "X": _AUXILIARIES,
    "T": ["the"],
}
#: Sentences as kinds of words: noun phrases, verb phrases and prepositional phrases put together.
_SHAPES = ("JNVD", "DJNV", "NXVPTN", "JJNVPTJN", "NVDPTN", "DJNXVD", "JNPTNVD", "NVTJN")
_LETTERS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ, ", np.uint8)


def pool(rng: np.random.Generator) -> Any:
    """Random sentences one after another, as uint8."""
    count = SENTENCES // len(_SHAPES)
    made = []
    for shape in _SHAPES:
        words = [
            pa.array(_WORDS[kind]).take(pa.array(rng.integers(0, len(_WORDS[kind]), count))) for kind in shape
        ]
        ends = pa.array(_ENDS).take(pa.array(rng.integers(0, len(_ENDS), count)))
        made.append(pc.binary_join_element_wise(pc.binary_join_element_wise(*words, " "), ends, ""))
    mixed = pa.concat_arrays(made).take(pa.array(rng.permutation(count * len(_SHAPES))))
    # the values of a string array lie one after another: that is the text
    return np.frombuffer(mixed.buffers()[2], np.uint8)


def cuts(text: Any, rng: np.random.Generator, rows: int, low: int, high: int) -> pa.Array:
    """Pieces of `text` at random places, `low`..`high` bytes long, without blanks at their ends."""
    sizes = rng.integers(low, high + 1, rows)
    return _gathered(text, rng.integers(0, len(text) - high, rows), sizes)


def addresses(rng: np.random.Generator, rows: int) -> pa.Array:
    """Meaningless strings of 10..40 characters."""
    sizes = rng.integers(10, 41, rows)
    data = _LETTERS[rng.integers(0, len(_LETTERS), int(sizes.sum()))]
    return pc.utf8_trim(_strings(data, sizes), " ")


def _gathered(text: Any, starts: Any, sizes: Any) -> pa.Array:
    ends = np.cumsum(sizes)
    at = np.arange(int(ends[-1])) - np.repeat(ends - sizes, sizes) + np.repeat(starts, sizes)
    return pc.utf8_trim(_strings(text[at], sizes), " ")


def _strings(data: Any, sizes: Any) -> pa.Array:
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return pa.Array.from_buffers(pa.string(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
