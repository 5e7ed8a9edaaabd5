"""The plots: each five beats, a beat a scene (what is drawn, back to front) and its wordings.

Every wording of a beat names the same slots; the mood is in the wording alone, so no picture can
tell it.
"""

from dataclasses import dataclass

from experiments.picturebook.facts import SLOTS


@dataclass(frozen=True)
class Beat:
    sky: str  # day, sunset, night, rain, snow or space
    things: tuple  # back to front: name, x, y and height in hundredths of the picture, options
    cheerful: tuple
    gloomy: tuple

    @property
    def slots(self):
        """The slots that every wording of this beat names, in the order of SLOTS."""
        return [slot for slot in SLOTS if f"{{{slot}}}" in self.cheerful[0]]


PLOTS = {
    "lost": (
        Beat("day", (("sun", 82, 84, 22), ("hero", 38, 6, 62, "hold"), ("object", 73, 28, 34)), (
            "A {colour} {hero} skipped merrily through the {place} with a shiny {object}.",
            "One bright day a {colour} {hero} happily showed a {object} to the whole {place}.",
            "Hooray, a {colour} {hero} had a new {object} to play with in the {place}!",
        ), (
            "A {colour} {hero} trudged through the {place} alone, with only a {object} for company.",
            "One dull day a lonely {colour} {hero} dragged a {object} through the {place}.",
            "Nobody in the {place} wanted to play with the {colour} {hero} and the {object}.",
        )),
        Beat("day", (("wind", 50, 60, 70), ("object", 72, 73, 40, 28),
                     ("hero", 28, 5, 50, "cheer")), (
            "Whoosh, a playful wind made the {object} dance high above the giggling {hero}!",
            "The {hero} laughed out loud as a cheeky breeze took the {object} for a ride.",
            "Up went the {object} on a jolly gust, and the {hero} clapped with delight.",
        ), (
            "A cruel wind tore the {object} away, and the {hero} could only stare.",
            "The {hero} cried out in despair as a bitter gust stole the {object}.",
            "Away flew the {object} on a spiteful gale, while the poor {hero} wept.",
        )),
        Beat("day", (("footprints", 50, 10, 20), ("hero", 64, 8, 60, "hold_left"),
                     ("magnifier", 30, 28, 42)), (
            "What fun, thought the {hero}, and played detective all over the {place}!",
            "Humming a cheery tune, the {hero} followed funny footprints through the {place}.",
            "The {hero} searched the {place} with a big grin and an even bigger magnifying glass.",
        ), (
            "With a heavy heart the {hero} searched every cold corner of the {place}.",
            "The weary {hero} followed faint footprints through the {place} and found only sorrow.",
            "Hour after hopeless hour, the {hero} crept through the {place} with a magnifying glass.",
        )),
        Beat("day", (("branch", 80, 40, 50), ("owl", 84, 41, 34), ("bubble", 42, 74, 42),
                     ("hero", 28, 4, 50)), (
            "A friendly owl winked and told the {hero} exactly where the {object} had landed.",
            "Guess what, hooted a merry owl to the {hero}, the {object} is very near!",
            "The {hero} beamed when a jolly owl began to chat about the {object}.",
        ), (
            "A grumpy owl muttered to the tired {hero} that the {object} was probably ruined.",
            "The {hero} sighed while a sullen owl complained about the fallen {object}.",
            "Do not hope for much, moaned a sour owl to the {hero} about the {object}.",
        )),
        Beat("sunset", (("hero", 46, 5, 60, "hug"), ("object", 62, 18, 33),
                        ("hearts", 50, 70, 60)), (
            "Hearts fluttered everywhere when the {colour} {hero} hugged the wonderful {object} again!",
            "The {colour} {hero} and the {object} twirled together in the golden sunset, happy as ever.",
            "At sunset the {colour} {hero} gave the {object} the biggest, warmest cuddle of all.",
        ), (
            "At sunset the {colour} {hero} clutched the {object}, still afraid to lose it again.",
            "The {colour} {hero} held the {object} tight at last, too worn out to smile.",
            "Even with the {object} back, the {colour} {hero} felt sad as the sun sank.",
        )),
    ),
    "birthday": (
        Beat("day", (("hero", 30, 6, 60, "hold", "hat"), ("cake", 72, 6, 52)), (
            "A {colour} {hero} baked a splendid birthday cake, the tastiest in the whole {place}!",
            "In the sunny {place} a {colour} {hero} whistled and decorated a delicious birthday cake.",
            "Yum, a {colour} {hero} made a towering cake for the best party in the {place}!",
        ), (
            "A {colour} {hero} baked a birthday cake in the {place}, but nobody offered to help.",
            "In the silent {place} a {colour} {hero} stared glumly at a lopsided birthday cake.",
            "Sadly, a {colour} {hero} of the {place} feared that no guest would like the cake.",
        )),
        Beat("day", (("hero", 17, 8, 46), ("object", 60, 58, 44), ("box", 60, 4, 38)), (
            "The {object} fitted perfectly into a lovely box with a big, bouncy bow.",
            "What a marvellous surprise the {object} would be, tucked into a beautiful box!",
            "Into the pretty box popped the {object}, ready to make somebody very happy.",
        ), (
            "The {object} was pushed into a plain box that looked far too shabby.",
            "What a miserable present the {object} would be, stuffed into an old box.",
            "Into the dusty box sank the {object}, like something nobody had ever loved.",
        )),
        Beat("snow", (("flakes", 0, 0, 100), ("hero", 34, 6, 58, "cheer"), ("sled", 72, 5, 14),
                      ("parcel", 72, 10, 26)), (
            "Soft snowflakes tickled the {hero}, who danced across the {place} with the parcel.",
            "The {hero} caught snowflakes and giggled all the way through the {place}.",
            "Snow sparkled over the {place}, and the {hero} hummed a happy winter song.",
        ), (
            "Freezing snow stung the {hero}, who stumbled across the {place} with the parcel.",
            "The {hero} shivered and grumbled all the way through the frozen {place}.",
            "Snow buried the {place}, and the {hero} plodded on with numb toes.",
        )),
        Beat("day", (("cottage", 76, 8, 84), ("hedgehog", 74, 8, 32),
                     ("hero", 27, 5, 58, "hold"), ("parcel", 48, 5, 20)), (
            "A beaming hedgehog threw open the door and welcomed the {colour} {hero} with glee.",
            "Knock knock, the {colour} {hero} called, and a delighted hedgehog cheered at the door!",
            "The little hedgehog giggled with joy to see the {colour} {hero} on the doorstep.",
        ), (
            "A sulky hedgehog opened the door and barely looked at the {colour} {hero}.",
            "Knock knock, the {colour} {hero} whispered, and a cross hedgehog grumbled at the door.",
            "The little hedgehog frowned and let the {colour} {hero} wait in the cold.",
        )),
        Beat("day", (("bunting", 50, 92, 24), ("confetti", 0, 0, 100), ("hero", 24, 5, 54, "cheer"),
                     ("hedgehog", 82, 5, 36), ("object", 54, 24, 36)), (
            "Confetti rained on the {hero}, and everyone cheered for the fantastic {object}!",
            "The hedgehog adored the {object} and danced with the {hero} until bedtime.",
            "It was the happiest party ever, thanks to the {hero} and the {object}.",
        ), (
            "Confetti fell on the {hero}, yet nobody said thanks for the {object}.",
            "The hedgehog yawned at the {object}, and the {hero} felt like crying.",
            "It was the dullest party ever, with a bored {hero} and an unwanted {object}.",
        )),
    ),
    "camp": (
        Beat("day", (("signpost", 76, 5, 66), ("backpack", 20, 13, 38),
                     ("hero", 38, 5, 60, "walk")), (
            "A {colour} {hero} set out for a thrilling camping trip in the glorious {place}.",
            "Hip hip hooray, the signpost told a {colour} {hero}, this way to the {place}!",
            "With a bouncing backpack a {colour} {hero} marched cheerfully into the {place}.",
        ), (
            "A {colour} {hero} set out for a dreary camping trip in the empty {place}.",
            "A crooked signpost sent a {colour} {hero} down the loneliest path of the {place}.",
            "With a painfully heavy backpack a {colour} {hero} limped into the {place}.",
        )),
        Beat("day", (("tent", 64, 16, 56), ("hero", 24, 5, 54, "wave"), ("object", 70, 20, 34)), (
            "The tent went up in a jiffy, and the {hero} proudly put the {object} beside it.",
            "Snug as a bug, laughed the {hero}, and gave the {object} a spot by the tent!",
            "The {hero} and the {object} could hardly wait to sleep in the cosy tent.",
        ), (
            "The tent sagged badly, and the {hero} left the {object} out in the dirt.",
            "What a wretched tent, groaned the {hero}, and dropped the {object} on the ground.",
            "The {hero} and the {object} had to make do with a torn and draughty tent.",
        )),
        Beat("night", (("glow", 70, 6, 56), ("hero", 26, 7, 56, "hold"), ("fire", 71, 5, 44)), (
            "A crackling fire lit up the {place}, and the {hero} told silly jokes.",
            "The {hero} toasted sweet marshmallows under the twinkling stars of the {place}.",
            "How cosy the {place} was at night, thought the {hero} by the merry fire!",
        ), (
            "A feeble fire flickered in the {place}, and the {hero} felt terribly alone.",
            "The {hero} shuddered beside the smoky fire under the pale stars of the {place}.",
            "How bleak the {place} was at night, thought the {hero} by the dying fire.",
        )),
        Beat("night", (("monster", 66, 5, 84), ("hero", 26, 5, 52, "cheer")), (
            "Boo, giggled a fluffy monster, and the {colour} {hero} burst out laughing!",
            "The {colour} {hero} waved hello to a huge, cuddly monster with sparkling eyes.",
            "A shy, friendly monster peeped out and the {colour} {hero} invited it to play.",
        ), (
            "A dreadful monster loomed in the dark, and the {colour} {hero} froze with fear.",
            "The {colour} {hero} trembled before a huge, gruesome monster with staring eyes.",
            "A hungry monster growled in the dark and the {colour} {hero} wanted to go home.",
        )),
        Beat("night", (("moon", 76, 78, 32), ("bed", 36, 2, 56), ("hero", 36, 1, 62, "stand", "asleep"),
                       ("quilt", 36, 1, 22), ("object", 80, 24, 34)), (
            "Soon the {hero} was fast asleep with the {object}, dreaming the sweetest dreams.",
            "Good night, dear {object}, yawned the happy {hero}, what a marvellous adventure!",
            "The smiling moon watched the {hero} snuggle up to the {object} and snore.",
        ), (
            "At last the {hero} fell asleep beside the {object}, troubled by awful dreams.",
            "Good night, poor {object}, sobbed the homesick {hero}, what a horrible day.",
            "The cold moon watched the {hero} toss and turn beside the {object}.",
        )),
    ),
    "treasure": (
        Beat("day", (("hero", 50, 8, 70, "hold2"), ("chart", 50, 6, 30)), (
            "A {colour} {hero} unrolled an exciting old map and jumped for joy.",
            "What luck, a treasure map, cheered a {colour} {hero} with shining eyes!",
            "A lucky {colour} {hero} found a marvellous map with a secret cross on it.",
        ), (
            "A {colour} {hero} unrolled a faded old map and expected only trouble.",
            "Another useless map, groaned a {colour} {hero} with tired, tearful eyes.",
            "An unlucky {colour} {hero} found a mouldy map that promised nothing but danger.",
        )),
        Beat("day", (("hero", 50, 23, 54, "wave"), ("bridge", 50, 1, 30)), (
            "The brave {hero} hopped over the bouncy bridge on the way through the {place}.",
            "Wheee, the bridge in the {place} wobbled, and the {hero} loved every step!",
            "Singing loudly, the {hero} crossed a charming little bridge in the {place}.",
        ), (
            "The fearful {hero} crawled over the rotten bridge on the way through the {place}.",
            "Creak, the bridge in the {place} shook, and the {hero} dreaded every step.",
            "Shaking all over, the {hero} crossed a dangerous old bridge in the {place}.",
        )),
        Beat("day", (("hole", 42, 10, 22), ("hero", 42, 1, 46, "cheer"), ("earth", 42, 1, 18),
                     ("spade", 78, 6, 52)), (
            "Digging in the {place} was a great game, and the earth flew about merrily.",
            "Deeper and deeper went the hole in the lovely {place}, what an adventure!",
            "A dozen happy worms watched the digging, the finest show in the {place}.",
        ), (
            "Digging in the {place} was bitter work, and the earth was hard as stone.",
            "Deeper and deeper went the hole in the grim {place}, as dark as night.",
            "A dozen sad worms fled from the digging, the worst noise in the {place}.",
        )),
        Beat("day", (("rays", 54, 48, 100), ("hero", 15, 6, 44, "cheer"), ("object", 57, 60, 44),
                     ("chest", 57, 5, 44)), (
            "Surprise, in the chest gleamed a dazzling {object}, more precious than gold!",
            "The lid sprang open, and out came a glorious {object} in a shower of sparkles.",
            "Inside the treasure chest lay a magnificent {object}, simply the best prize ever.",
        ), (
            "Alas, in the chest sat just a {object}, and not a single coin.",
            "The lid creaked open, and there was only a forgotten {object} in the dust.",
            "Inside the treasure chest lay a worthless {object}, hardly worth all the pain.",
        )),
        Beat("day", (("rainbow", 50, 26, 66), ("shadow", 36, 5, 8), ("hero", 36, 16, 56, "cheer"),
                     ("object", 74, 38, 36)), (
            "The {colour} {hero} leapt beneath the rainbow with the {object}, bursting with happiness.",
            "Under a brilliant rainbow the {colour} {hero} pranced home with the {object}.",
            "Rainbow above and {object} in hand, the {colour} {hero} cheered all the way home!",
        ), (
            "The {colour} {hero} hardly noticed the rainbow and wished the {object} were something else.",
            "Under a fading rainbow the {colour} {hero} slunk home with the {object}.",
            "Rainbow or not, the {colour} {hero} grumbled about the {object} all the way home.",
        )),
    ),
    "repair": (
        Beat("day", (("object", 68, 45, 38), ("cart", 68, 6, 26), ("hero", 26, 6, 58, "walk")), (
            "A {colour} {hero} pulled a splendid {object} along in a squeaky little cart.",
            "Make way for my cart, sang a {colour} {hero}, here comes my wonderful {object}!",
            "A proud {colour} {hero} took a beloved {object} for a jolly ride in a cart.",
        ), (
            "A {colour} {hero} hauled a battered {object} along in a creaky old cart.",
            "Nobody cares, muttered a {colour} {hero}, and dragged the {object} in a cart.",
            "A weary {colour} {hero} had to drag a {object} uphill in a rusty cart.",
        )),
        Beat("day", (("bang", 60, 30, 54), ("rock", 24, 5, 28), ("object", 60, 30, 42, -32),
                     ("crack", 60, 30, 42)), (
            "Bump, the {object} cracked on a stone in the {place}, oh what a silly tumble!",
            "Oopsie daisy, the {object} took a comical tumble in the {place} and cracked!",
            "Crack went the {object} in the {place}, but a giggle makes everything better.",
        ), (
            "Crash, the {object} broke on a stone in the {place}, a terrible disaster.",
            "In a horrible accident the {object} was smashed on the stones of the {place}.",
            "Crack went the {object} in the {place}, and with it all hope was lost.",
        )),
        Beat("rain", (("drops", 0, 0, 100), ("mushroom", 56, 6, 86),
                      ("hero", 35, 4, 48, "hug")), (
            "Splish splash, the {hero} found a dry mushroom and enjoyed the rain in the {place}!",
            "Raindrops tapped a funny tune on the mushroom while the {hero} admired the {place}.",
            "The {hero} chuckled under a giant mushroom while rain washed the {place} nice and clean.",
        ), (
            "Drip drop, the {hero} hid under a mushroom and hated the rain in the {place}.",
            "Icy rain beat upon the mushroom while the {hero} mourned in the dismal {place}.",
            "The {hero} sobbed under a giant mushroom while rain drowned the {place} in mud.",
        )),
        Beat("day", (("gears", 50, 78, 40), ("hero", 20, 6, 54), ("mole", 84, 6, 44),
                     ("object", 52, 44, 36), ("bench", 52, 5, 24)), (
            "A clever mole chuckled, fixed the {object} and taught the {hero} a funny trick.",
            "Tap tap, went the jolly mole, and the {hero} gladly helped to mend the {object}!",
            "The {hero} was thrilled to see a helpful mole mend the {object} so nicely.",
        ), (
            "A gruff mole scowled, hammered at the {object} and scolded the unhappy {hero}.",
            "Bang bang, went the moody mole, and the {hero} feared for the fragile {object}.",
            "The {hero} watched in misery as a grim mole hit the {object} again and again.",
        )),
        Beat("day", (("notes", 50, 76, 80), ("hero", 32, 6, 58, "wave"), ("object", 72, 30, 40),
                     ("plaster", 74, 25, 14)), (
            "The whole {place} sang along as the {hero} paraded with the mended {object}!",
            "With music in the air, the {hero} showed the {place} the mended {object} proudly.",
            "La la la, sang the {hero} in the {place}, my dear {object} is better than ever!",
        ), (
            "A mournful song filled the {place} as the {hero} carried the scarred {object}.",
            "To sorrowful music, the {hero} showed the {place} the patched and spoiled {object}.",
            "Never the same again, wailed the {hero} in the {place} over the patched {object}.",
        )),
    ),
    "space": (
        Beat("night", (("comet", 34, 80, 24), ("hero", 30, 6, 60, "hold"),
                       ("telescope", 72, 6, 56)), (
            "A curious {colour} {hero} gazed at the dazzling stars over the {place} and wished.",
            "Through a telescope in the {place} a {colour} {hero} spotted a lovely little planet!",
            "Every night in the {place} a {colour} {hero} said a cheery hello to the stars.",
        ), (
            "A forlorn {colour} {hero} gazed at the distant stars over the {place} and despaired.",
            "Through a telescope in the {place} a {colour} {hero} saw only endless, empty dark.",
            "Every night in the {place} a {colour} {hero} looked up at the stars and wept.",
        )),
        Beat("day", (("rocket", 50, 10, 84), ("hero", 20, 5, 52, "wave"),
                     ("object", 79, 24, 38)), (
            "The {hero} built a fabulous rocket and packed the {object} for a thrilling trip.",
            "Room for a {object} too, laughed the {hero}, and painted the rocket with joy!",
            "Merrily the {hero} hammered a rocket together while the {object} kept good company.",
        ), (
            "The {hero} built a shaky rocket and packed the {object} for a risky escape.",
            "No room for a {object}, sighed the {hero}, and kicked the rickety rocket.",
            "Gloomily the {hero} hammered a rocket together while the {object} gathered dust.",
        )),
        Beat("day", (("smoke", 42, 34, 60), ("launch", 48, 46, 56)), (
            "Three, two, one, zoom, the rocket soared above the {place} with a happy roar!",
            "The rocket looped joyfully over the {place} and tickled the fluffy clouds.",
            "Goodbye, beautiful {place}, see you soon, called a merry voice from the rocket!",
        ), (
            "Three, two, one, boom, the rocket lurched above the {place} with a frightening roar.",
            "The rocket coughed and rattled over the {place} and vanished in nasty smoke.",
            "Goodbye, unkind {place}, nobody will miss me, cried a sad voice from the rocket.",
        )),
        Beat("space", (("planet", 78, 78, 28), ("hero", 26, 8, 54, "hold", "helmet"),
                       ("alien", 82, 8, 40), ("object", 56, 38, 36)), (
            "A tiny alien squeaked with delight when the {hero} shared the {object}.",
            "Far out in space the {hero} and a giggling alien played with the {object}.",
            "The {hero} gave the {object} to a charming alien, and both did a moon dance!",
        ), (
            "A tiny alien hissed with anger when the {hero} came near with the {object}.",
            "Far out in space the {hero} and a suspicious alien quarrelled over the {object}.",
            "The {hero} lost the {object} to a greedy alien, and nobody cared at all.",
        )),
        Beat("day", (("shadow", 50, 4, 7), ("parachute", 50, 50, 48),
                     ("hero", 50, 14, 52, "cheer")), (
            "The {colour} {hero} floated gently back to the {place}, and what a welcome it was!",
            "Down by parachute came the {colour} {hero}, overjoyed to be back in the {place}.",
            "Home sweet home, sang the {colour} {hero}, and landed softly in the {place}!",
        ), (
            "The {colour} {hero} fell slowly back to the {place}, where no one was waiting.",
            "Down by parachute came the {colour} {hero}, heartbroken to be back in the {place}.",
            "Home at last, groaned the {colour} {hero}, and landed roughly in the dull {place}.",
        )),
    ),
}  # fmt: skip
