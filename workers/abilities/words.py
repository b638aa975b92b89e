"""Words, names and sentences for probes; the two purposes get alternate entries of each list."""

from __future__ import annotations

_NOUNS = """river lamp stone garden window basket candle bridge mirror ladder button carpet engine
feather hammer island jacket kettle letter market needle orange pencil quilt ribbon saddle
ticket umbrella violin wallet anchor barrel camera desert eagle forest glove harbor insect
jungle kitchen lemon mountain napkin ocean pillow rabbit sandwich table uncle village wagon
yard zebra apple bottle castle drum elephant fence guitar honey iron jewel king lake metal
nest onion paper queen rope silver tiger train valley water bread clock door flower gold
horse ice juice key leaf moon nose oil piano rain snow tree voice wheel wood chair coat
dish egg fish grass hat ink knife lion milk net oak pear ring soap tower wall boat cloud
dust field glass hill jar lock map nail oven pond road sand tent vase wind book cup duck
farm gate heart sugar plate spoon shirt shoe sock belt bell brush bucket cake card cave
cheese coin corn crown curtain desk diamond doll dragon fork frog goat hook jeep kite
magnet mask mouse mug owl paint peach pepper pipe potato pot rocket roof rose sail scarf
shell ship spider star statue sword tail tomato torch toy truck turtle whale wolf wool"""
NOUNS = tuple(_NOUNS.split())

_WOMEN = """Anna Maria Sofia Emma Laura Julia Clara Alice Helen Nora Diana Paula Rosa Irene Grace
Martha Ruth Vera Edith Lydia Nina Olga Iris Mona Stella Ellen Judith Ivy Jane Kate"""
WOMEN = tuple(_WOMEN.split())

_MEN = """Peter James Daniel Thomas David Michael Robert Simon Martin Lucas Oscar Victor Hugo
Felix Leo Adam Paul Mark George Frank Henry Carl Arthur Walter Ralph Bruno Oliver Samuel
Philip Noah"""
MEN = tuple(_MEN.split())

NAMES = tuple(
    name
    for place in range(0, len(WOMEN), 2)
    for name in (*WOMEN[place : place + 2], *MEN[place : place + 2])
)
"""Two women, two men, and so on, so that each purpose, with every second name, has both."""

_ADJECTIVES = """red small quiet heavy bright old green warm empty cold blue narrow soft tall
yellow dark wide clean round sharp white brown thin deep smooth dry black loud short wet"""
ADJECTIVES = tuple(_ADJECTIVES.split())

_PLACES = """Paris Berlin Madrid London Rome Vienna Lisbon Dublin Oslo Athens Boston Chicago Denver
Dallas Seattle Houston Toronto Sydney Tokyo Cairo Lima Delhi Geneva Prague Warsaw Milan
Naples Zurich Munich Lyon"""
PLACES = tuple(_PLACES.split())

SENTENCES = (
    "the {adjective} {noun} stood between the {second} and the {third}",
    "{name} carried the {noun} to {place} without saying a word",
    "nobody could find the {adjective} {noun} that {name} had lost",
    "every morning {name} cleaned the {noun} and fed the {second}",
    "the {noun} was worth more than the {second} and the {third} together",
    "{name} and {other} hid the {noun} behind the {adjective} {second}",
    "we never sold the {adjective} {noun} to anyone from {place}",
    "{name} wrote to {other} about a {noun} and a {adjective} {second}",
    "there was only one {noun} left when {name} came back from {place}",
    "the {second} fell on the {adjective} {noun} and woke {name}",
    "in {place} they use a {noun} where we would use a {second}",
    "a {adjective} {noun} is no place for a {second}, said {name}",
    "{name} traded two {second}s for the {adjective} {noun}",
    "the road to {place} ends at a {noun} and a {adjective} {second}",
    "{name} painted the {noun} while {other} repaired the {second}",
    "they put the {noun} under the {second} so that {name} would see it",
    "before {name} left {place}, the {noun} was already {adjective}",
    "after the {second} broke, {name} bought a {adjective} {noun}",
    "the {adjective} {noun}, the {second} and the {third} belong to {name}",
    "a {noun}, a {second} and a {adjective} {third} lay on the floor",
    "if {name} asks for the {noun}, give the {second} to {other}",
    "when {name} saw the {noun}, the {adjective} {second} was gone",
    "{name}, who lives in {place}, has never owned a {noun}",
    "{other}, who had sold the {noun}, now wanted the {second}",
    "it took {name} three days to carry the {noun} to {place}",
    "it was {other} who found the {adjective} {noun} in {place}",
    "no {noun} is as {adjective} as the {second} of {name}",
    "each {noun} has its {second}, but only one has a {third}",
    "{name} says that the {noun} is {adjective}; {other} disagrees",
    "{name} asked where the {noun} was; nobody in {place} knew",
    "under the {noun} there was a {second} with a {adjective} {third}",
    "behind the {second} {name} kept a {noun} from {place}",
)

FILLER = (
    "The weather stayed mild for most of the week, and the shops were busy until late.",
    "Several people asked about the new timetable, which nobody had seen yet.",
    "A long line had formed outside the library before it opened its doors.",
    "The committee met twice and could not agree on the colour of the fence.",
    "Later in the afternoon a truck delivered chairs for the school hall.",
    "Most of the letters were about parking, a few were about the noise at night.",
    "The old mill had been empty for years before a baker rented the ground floor.",
    "Visitors are asked to leave their bicycles on the other side of the square.",
    "In autumn the path along the water is covered with leaves and hard to see.",
    "The choir sings on Thursdays, unless the heating in the hall is broken again.",
    "Two students measured the depth of the canal for a project on fishing.",
    "A small fire in the kitchen was put out before anyone had to leave the house.",
    "The museum keeps its maps in a room that is opened on request.",
    "Farmers from the valley bring vegetables and cheese to the market hall.",
    "The last bus leaves at eleven, so the concert will end a little earlier.",
    "Some of the trees had to be cut because their roots lifted the pavement.",
)

SONG_LINES = (
    "Oh carry me over the {noun}", "The {noun} is calling my name",
    "And nobody knows where the {noun} has gone",
    "We danced by the {noun} till the morning came", "Sing to the {noun} and the {second}",
    "My heart is a {adjective} {noun}", "Hold on to the {adjective} {noun}, my dear",
    "So give me the {noun} and give me the {second}", "The {adjective} {noun} goes rolling along",
    "There's a {noun} in the garden of {place}", "Row, row down to the {noun}, my friend",
    "All that I want is a {adjective} {noun}", "Far away in {place} the {noun} is burning",
    "Let the {noun} shine, let the {second} shine", "I left my {noun} in the streets of {place}",
    "Come home, come home to the {noun}",
    "Oh {noun}, oh {second}, oh where have you been", "O {noun}, o {second}, come back again",
    "Nothing is left of the {noun} but a {second}", "Nothing so sweet as the {noun} in {place}",
    "You took the {noun}, you took the {second}", "You bring the {noun}, I will bring the {second}",
    "High on the {noun}, low by the {second}", "Deep in the {noun}, far from the {second}",
    "Tell me, {adjective} {noun}, will you wait for me", "Say to the {noun} that I loved you so",
    "It was a {adjective} night in {place}", "It was the {adjective} {noun} I used to know",
    "And the {noun} turns round and round", "And the {noun} goes up and the {noun} goes down",
    "Don't you cry for the {noun}, don't you cry",
    "Won't you dance with the {noun}, won't you dance",
    "I would give my {noun} for a {second}", "I would walk to {place} for a {adjective} {noun}",
    "Ring, {noun}, ring; the {second} is here", "Blow, wind, blow; my {noun} is gone",
    "Who stole the {noun}? Who hid the {second}?", "Where is my {noun}? Where is my {second}?",
    "(la la la) the {noun} and the {second}", "Hey ho, hey ho, the {adjective} {noun}",
    "Under the {adjective} {noun} we met, my love",
    "Beside the {noun}, beside the {second}, we slept",
    "When the {noun} falls, the {second} will rise", "If the {noun} breaks, then {place} will fall",
    "Goodbye, {place}, goodbye, my {noun}", "Farewell, {noun}; farewell, {adjective} {second}",
    "One for the {noun}, two for the {second}", "Once in the {noun}, twice in the {second}",
)  # fmt: skip
