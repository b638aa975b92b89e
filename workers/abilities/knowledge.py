"""Slices of knowledge and simple arithmetic: short questions that the context does not answer."""

from __future__ import annotations

from workers.abilities.probe import Area, Probe, SliceKind, probe
from workers.abilities.source import Source

_CAPITALS_TEXT = """France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon
Austria:Vienna Greece:Athens Ireland:Dublin Norway:Oslo Sweden:Stockholm
Finland:Helsinki Denmark:Copenhagen Poland:Warsaw Hungary:Budapest
Russia:Moscow Ukraine:Kyiv Turkey:Ankara Egypt:Cairo Japan:Tokyo
China:Beijing India:Delhi Thailand:Bangkok Vietnam:Hanoi Iran:Tehran
Iraq:Baghdad Syria:Damascus Israel:Jerusalem Kenya:Nairobi Ghana:Accra
Cuba:Havana Peru:Lima Chile:Santiago Canada:Ottawa Australia:Canberra
Belgium:Brussels Romania:Bucharest Bulgaria:Sofia Serbia:Belgrade
Switzerland:Bern Netherlands:Amsterdam Morocco:Rabat Nigeria:Abuja
Zimbabwe:Harare Uganda:Kampala Venezuela:Caracas Ecuador:Quito
Uruguay:Montevideo Jamaica:Kingston Philippines:Manila Indonesia:Jakarta
Nepal:Kathmandu Bangladesh:Dhaka Pakistan:Islamabad Afghanistan:Kabul
Lebanon:Beirut Jordan:Amman Qatar:Doha Taiwan:Taipei Iceland:Reykjavik
Estonia:Tallinn Latvia:Riga Lithuania:Vilnius Croatia:Zagreb
Slovakia:Bratislava Libya:Tripoli Senegal:Dakar Tunisia:Tunis
Algeria:Algiers Sudan:Khartoum Belarus:Minsk Albania:Tirana
Cyprus:Nicosia Slovenia:Ljubljana Angola:Luanda Rwanda:Kigali
Zambia:Lusaka Armenia:Yerevan Georgia:Tbilisi Azerbaijan:Baku
Uzbekistan:Tashkent Nicaragua:Managua"""
_CAPITALS = tuple(tuple(pair.split(":")) for pair in _CAPITALS_TEXT.split())
_FORMS = (
    "The capital of {} is", "Q: What is the capital of {}?\nA:", "{}'s capital city is",
    "The government of {} sits in", "{}, whose capital is", "Capital of {}:",
    "An embassy in {} is usually in its capital,", "The largest ministry of {} is in its capital,",
)  # fmt: skip
_OPPOSITES_TEXT = """hot:cold big:small up:down left:right day:night black:white fast:slow
high:low open:closed rich:poor young:old happy:sad hard:soft light:dark
early:late full:empty strong:weak long:short inside:outside first:last
good:bad wet:dry win:lose true:false male:female east:west north:south
buy:sell push:pull begin:end love:hate near:far wide:narrow thick:thin
clean:dirty loud:quiet sweet:sour above:below before:after more:less
front:back top:bottom laugh:cry give:take accept:reject arrive:depart
remember:forget ask:answer attack:defend borrow:lend build:destroy
cheap:expensive deep:shallow easy:difficult enter:exit export:import
expand:contract succeed:fail melt:freeze friend:enemy guilty:innocent
heaven:hell host:guest increase:decrease lead:follow major:minor
maximum:minimum permanent:temporary plus:minus positive:negative
present:absent private:public rise:fall rough:smooth same:different
send:receive simple:complex float:sink start:finish summer:winter
teach:learn victory:defeat war:peace wise:foolish active:passive
ancient:modern asleep:awake beautiful:ugly rural:urban horizontal:vertical"""
_OPPOSITES = tuple(tuple(pair.split(":")) for pair in _OPPOSITES_TEXT.split())
_SUMS = (
    "{a} + {b} =", "{a} plus {b} is", "Q: {a} + {b}\nA:", "{a} and {b} make", "sum({a}, {b}) ->",
    "add({a}, {b}) =", "({a} + {b}) =", "[{a} + {b}]:",
)  # fmt: skip
_AGAINST = (
    "{} - {}\n", "{}: {}\n", "{} / {}\n", "{} versus {}\n", "{}, not {}\n", "{} is not {}\n",
    "{} <> {}\n", "{} != {}\n",
)  # fmt: skip


def draw_capital(source: Source) -> Probe:
    """Draw a probe for the capital of a country."""
    country, city = source.choose(_CAPITALS)
    return probe(source.choose(_FORMS).format(country), f" {city}")


def draw_opposite(source: Source) -> Probe:
    """Draw a probe for the opposite of a word."""
    pairs = source.sample(_OPPOSITES, 3)
    form = source.choose(_AGAINST)
    shown = "".join(form.format(*pair) for pair in pairs[:2])
    before = form.format(pairs[2][0], "\0").partition(" \0")[0]
    return probe(shown + before, f" {pairs[2][1]}")


def draw_sum(source: Source) -> Probe:
    """Draw a probe for a sum of one-digit numbers, after two other sums."""
    form = source.choose(_SUMS)
    sums = [(source.number(1, 9), source.number(1, 9)) for _ in range(4)]
    shown = "".join(f"{form.format(a=a, b=b)} {a + b}\n" for a, b in sums[:2])
    (a, b), (c, d) = sums[2:]
    return probe(shown + form.format(a=a, b=b), f" {a + b}\n", form.format(a=c, b=d), f" {c + d}\n")


SLICES = (
    SliceKind("capital_cities", Area.KNOWLEDGE, "name capital cities", draw_capital, 1),
    SliceKind("opposites", Area.KNOWLEDGE, "name opposites", draw_opposite, 1),
    SliceKind("sums", Area.KNOWLEDGE, "add one-digit numbers", draw_sum, 2),
)
