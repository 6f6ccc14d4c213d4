"""The words of planted texts: the nouns of each topic, and adjectives for titles of all topics."""

from __future__ import annotations

_WORDS = """
harbour sailor anchor lighthouse tide captain reef voyage deck storm
kitchen oven recipe spice butter chef bread sauce dinner flavour
orbit rocket astronaut moon galaxy comet telescope planet shuttle gravity
orchestra violin melody conductor symphony rhythm piano concert choir drum
castle knight sword king dragon throne crown tower siege shield
detective murder clue suspect alibi evidence inspector crime witness motive
garden rose soil seed hedge blossom lawn orchard pond gardener
surgeon hospital nurse patient clinic medicine fever doctor ward diagnosis
desert camel dune oasis sand caravan nomad mirage heat cactus
glacier ice snow sled polar blizzard frost expedition penguin igloo
court lawyer judge trial jury verdict prosecutor prison appeal lawsuit
painter canvas gallery portrait brush sculpture museum sketch studio easel
football goal stadium referee coach striker match league penalty trophy
horse rider saddle stable ranch cowboy rodeo foal hoof pasture
robot circuit android machine laboratory sensor code engineer factory battery
vampire ghost haunting coffin werewolf curse graveyard demon witch nightmare
wedding bride groom romance kiss love honeymoon proposal heart bouquet
soldier battle trench general regiment army bomb rifle enemy victory
school teacher pupil classroom lecture homework exam student blackboard playground
bank money investor stock broker market profit loan debt merger
mountain summit climber cliff rope ridge avalanche peak valley hiker
train railway station locomotive carriage platform tunnel whistle rails signal
circus clown acrobat trapeze juggler tent elephant magician audience ringmaster
forest wolf bear oak hunter deer trail fox owl cabin
pirate treasure island parrot cannon map galleon plunder mutiny chest
temple monk prayer monastery pilgrim shrine priest ritual incense scripture
fashion designer dress model runway fabric tailor silk boutique magazine
newspaper journalist editor headline interview scandal reporter press column scoop
senator election president campaign parliament vote minister treaty debate speech
dinosaur fossil skeleton excavation cave extinction mammoth bone quarry amber
airplane pilot altitude airport cockpit parachute propeller hangar wings turbulence
wine vineyard grape cellar bottle harvest barrel tasting cork vintage
chess board pawn bishop champion tournament opening checkmate strategy queen
spy agent cipher informer embassy microfilm disguise traitor mission surveillance
ocean whale shark coral dolphin diver submarine octopus plankton seaweed
bicycle race cyclist wheel pedal sprint helmet marathon runner finish
baby mother cradle father family toddler grandmother childhood sister nursery
pharaoh pyramid mummy tomb hieroglyph sphinx papyrus scarab archaeologist nile
computer hacker network password virus keyboard software server internet screen
farm cow tractor barn wheat chicken milk farmer plough sheep
"""
TOPICS: tuple[tuple[str, ...], ...] = tuple(tuple(line.split()) for line in _WORDS.strip().splitlines())
"""The nouns of each topic, the same number for all."""
ADJECTIVES: tuple[str, ...] = (
    *("silent", "golden", "hidden", "broken", "distant", "crimson", "ancient", "restless", "gentle", "frozen"),
    *("burning", "hollow", "wild", "pale", "lonely", "bright", "bitter", "sudden", "endless", "secret"),
    *("dark", "quiet", "lost", "savage", "velvet", "iron", "silver", "narrow", "wandering", "forgotten"),
    *("last", "first", "brave", "crooked", "empty", "faithful", "grey", "humble", "lucky", "noble"),
)
"""For titles."""
KINDS: tuple[str, ...] = ("novel", "film", "series", "play", "podcast", "comic")
"""Values of an attribute that does not influence the interactions."""
