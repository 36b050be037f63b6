"""Which captions name which of COCO's 80 object classes.

The form of the rules is that of Hinz et al. 2019 (arXiv 1910.13321): a caption belongs to a class
if it holds one of the class's words, and to none through phrases that hold the word and mean
something else ("hot dog", "orange cat", "bus stop"): a caption with such a phrase is left out.
The authors publish the captions that their rules chose; these lists are our own, so numbers are
close to theirs and not the same.

Words are singular unless only the plural means the object; plurals in -s and -es are understood,
of excluded phrases too.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """A class in captions: phrases that name it, and phrases that must not be there, by commas."""

    words: str
    excluded: str = ""


# In the order of COCO's categories, which is that of the detectors' outputs.
RULES = {
    "person": Rule(
        "person, people, human, man, men, woman, women, child, children, boy, girl, kid, lady, "
        "ladies, guy",
        "man made, snow man, gingerbread man, man hole, no people, no person, statue of a man, "
        "statue of a woman, statue of a child",
    ),
    "bicycle": Rule(
        "bicycle, bike, tricycle",
        "motor bike, dirt bike, quad bike, motorbike, motorcycle, moped, motocross, bike rack, "
        "bike lane, exercise bike, stationary bike",
    ),
    "car": Rule(
        "car, automobile, taxi, suv, sedan, minivan",
        "train car, rail car, railway car, railroad car, box car, cable car, street car, "
        "trolley car, subway car, dining car, freight car, passenger car, tank car, cattle car, "
        "cargo car, toy car, car seat",
    ),
    "motorcycle": Rule(
        "motorcycle, motorbike, motor bike, motor cycle, dirt bike, moped, motor scooter",
    ),
    "airplane": Rule(
        "airplane, plane, aeroplane, jet, airliner, jetliner, aircraft, biplane",
        "jet ski, jet skier, water jet, jet of, jet black, aircraft carrier, paper airplane, "
        "paper plane",
    ),
    "bus": Rule("bus", "bus stop, bus station, bus shelter, bus lane, bus bench, bus terminal"),
    "train": Rule(
        "train, locomotive, tram",
        "train station, train track, train platform, train yard, train depot, train bridge, "
        "train set, to train",
    ),
    "truck": Rule("truck, semi truck, lorry", "hand truck, truck stop, toy truck"),
    "boat": Rule(
        "boat, ship, sailboat, canoe, kayak, yacht, ferry, ferries, gondola, speedboat, "
        "rowboat, barge",
        "gravy boat, boat house, boat ramp, boat shoe, boat shaped, space ship",
    ),
    "traffic light": Rule("traffic light, traffic signal, stop light, stoplight"),
    "fire hydrant": Rule("hydrant"),
    "stop sign": Rule("stop sign, stopsign", "bus stop sign"),
    "parking meter": Rule("parking meter"),
    "bench": Rule("bench", "work bench, bench press, weight bench, bench top"),
    "bird": Rule(
        "bird, seagull, gull, pigeon, duck, goose, geese, parrot, owl, eagle, penguin, swan, "
        "pelican, flamingo, ostrich, peacock, parakeet, hawk, crow, hummingbird, heron",
        "bird house, bird feeder, bird cage, bird bath, bird s eye, birds eye, birdseye, angry "
        "bird, rubber duck, rubber ducky, duck tape, roast duck, eagle logo, bird seed",
    ),
    "cat": Rule(
        "cat, kitten, kitty, kitties",
        "hello kitty, cat fish, cat food, cat tail, cat toy",
    ),
    "dog": Rule(
        "dog, puppy, puppies, doggy",
        "hot dog, corn dog, chili dog, stuffed dog, prairie dog, dog food, dog house, dog toy, "
        "sea dog",
    ),
    "horse": Rule(
        "horse, pony, ponies, foal, mare, stallion",
        "horse shoe, rocking horse, saw horse, sea horse, carousel horse, toy horse, pony tail, "
        "statue of a horse, horse statue",
    ),
    "sheep": Rule("sheep, lamb, ewe", "lamb chop, leg of lamb, sheep dog, sheep skin"),
    "cow": Rule(
        "cow, cattle, calf, calves, bull, steer",
        "cow boy, cow bell, bull dog, pit bull, to steer, cow skull, bull horn, bull ring",
    ),
    "elephant": Rule("elephant", "stuffed elephant, toy elephant, elephant statue"),
    "bear": Rule(
        "bear, grizzly",
        "teddy, teddybear, teddy bear, stuffed bear, stuffed animal, stuffed toy, stuffed polar "
        "bear, toy bear, care bear, gummy bear, bear claw, build a bear, plush bear",
    ),
    "zebra": Rule("zebra", "zebra print, zebra crossing, zebra stripe, zebra striped"),
    "giraffe": Rule("giraffe", "stuffed giraffe, toy giraffe, giraffe statue"),
    "backpack": Rule("backpack, back pack, knapsack, rucksack"),
    "umbrella": Rule("umbrella, parasol"),
    "handbag": Rule("handbag, hand bag, purse, pocketbook"),
    "tie": Rule(
        "tie, necktie, neck tie, bow tie, bowtie",
        "tie dye, tie dyed, to tie, zip tie, railroad tie, train tie, tie up, tie a, tie down, "
        "tie wrap, twist tie",
    ),
    "suitcase": Rule(
        "suitcase, suit case, luggage",
        "luggage cart, luggage rack, luggage carousel, luggage belt",
    ),
    "frisbee": Rule("frisbee, frisbie, flying disc, flying disk", "frisbee golf"),
    "skis": Rule("skis", "water skis, jet skis"),
    "snowboard": Rule("snowboard, snow board"),
    "sports ball": Rule(
        "ball",
        "ball game, ball player, ball park, ball field, ball cap, ball gown, ball of, ball "
        "bearing, meat ball, rice ball, cheese ball, fish ball, melon ball, snow ball, cotton "
        "ball, disco ball, crystal ball, christmas ball, ball boy, ball girl, ball team",
    ),
    "kite": Rule("kite"),
    "baseball bat": Rule(
        "baseball bat, bat",
        "at bat, to bat, up bat, cricket bat, fruit bat, bat man, vampire bat",
    ),
    "baseball glove": Rule(
        "baseball glove, baseball mitt, catcher s mitt, catchers mitt, catcher mitt, mitt",
        "oven mitt, kitchen mitt, cooking mitt, hot mitt",
    ),
    "skateboard": Rule("skateboard, skate board, longboard", "skateboard park, skate board park"),
    "surfboard": Rule("surfboard, surf board, boogie board, paddle board, paddleboard"),
    "tennis racket": Rule("racket, racquet"),
    "bottle": Rule("bottle", "bottle cap, bottle opener, bottle brush"),
    "wine glass": Rule(
        "wine glass, wineglass, glass of wine, glasses of wine, glass of red wine, glasses of "
        "red wine, glass of white wine, glasses of white wine, champagne glass, champagne "
        "flute, wine goblet",
    ),
    "cup": Rule("cup, mug, teacup", "cup cake, world cup, cup holder, measuring cup, egg cup"),
    "fork": Rule("fork", "fork lift, pitch fork, tuning fork, fork in the road"),
    "knife": Rule("knife, knives"),
    "spoon": Rule("spoon"),
    "bowl": Rule(
        "bowl",
        "toilet bowl, super bowl, fish bowl, bowl cut, bowl haircut, skate bowl, skateboard "
        "bowl, concrete bowl, bowl shaped, dust bowl",
    ),
    "banana": Rule(
        "banana",
        "banana bread, banana cake, banana muffin, banana peel, banana costume, banana boat, "
        "banana republic, banana nut, banana pudding",
    ),
    "apple": Rule(
        "apple",
        "apple pie, apple sauce, apple juice, apple cider, apple tart, apple cake, pine apple, "
        "big apple, apple computer, apple laptop, apple desktop, apple monitor, apple keyboard, "
        "apple mouse, apple logo, apple product, apple device, apple phone, apple iphone, apple "
        "ipad, apple ipod, apple macbook, apple mac, apple brand, apple store, apple symbol, "
        "apple tv, apple remote",
    ),
    "sandwich": Rule("sandwich, panini", "ice cream sandwich, sandwich shop, sandwich board"),
    "orange": Rule(  # The singular is nearly always the colour.
        "oranges, orange slice, orange fruit, slice of orange, orange segment, orange wedge, "
        "peeled orange, half an orange, orange half, orange halves, orange peel, orange tree",
    ),
    "broccoli": Rule("broccoli, brocolli, brocoli", "broccoli soup, broccoli cheese soup"),
    "carrot": Rule("carrot", "carrot cake, carrot juice, carrot soup, carrot muffin, carrot nose"),
    "hot dog": Rule(
        "hot dog, hotdog, chili dog",
        "hot dog stand, hot dog cart, hot dog vendor, hot dog truck, hot dog costume, hot dog "
        "shop, hotdog stand, hotdog cart, hotdog vendor, hot dog bun",
    ),
    "pizza": Rule(
        "pizza",
        "pizza shop, pizza place, pizza parlor, pizza restaurant, pizza hut, pizza cutter, "
        "pizza delivery, pizza sign",
    ),
    "donut": Rule(
        "donut, doughnut",
        "donut shop, doughnut shop, donut store, donut machine, donut sign",
    ),
    "cake": Rule(
        "cake, cupcake, cup cake, cheesecake",
        "pan cake, crab cake, rice cake, fish cake, cake mix, cake pan, cake batter, cake shop",
    ),
    "chair": Rule("chair, armchair, recliner", "wheel chair, chair lift, chair man, ski chair"),
    "couch": Rule("couch, sofa, loveseat, love seat", "couch potato, couch potatoes"),
    "potted plant": Rule(
        "potted plant, potted flower, potted tree, potted palm, house plant, houseplant, flower "
        "pot, flowerpot, plant pot, plant in a pot, plants in pots, flowers in a pot, pot of "
        "flowers, planter",
    ),
    "bed": Rule(
        "bed",
        "flower bed, garden bed, river bed, truck bed, bed of, bed room, bed side, bed and "
        "breakfast, dog bed, cat bed, pet bed, raised bed",
    ),
    "dining table": Rule(
        "table",
        "pool table, ping pong table, table tennis, billiard table, coffee table, side table, "
        "end table, night table, bedside table, changing table, operating table, table saw, "
        "water table, train table, massage table, drafting table",
    ),
    "toilet": Rule(
        "toilet, commode",
        "roll of toilet paper, toilet paper roll, toilet paper holder, toilet brush, toilet sign",
    ),
    "tv": Rule(
        "tv, t v, television, monitor, screen",
        "tv stand, tv show, tv tray, tv remote, tv control, tv dinner, tv station, television "
        "show, television remote, television stand, screen door, sun screen, window screen, "
        "screen shot, touch screen, phone screen, laptop screen, baby monitor, screen of a "
        "laptop, screen of a phone",
    ),
    "laptop": Rule(
        "laptop, lap top, macbook, notebook computer",
        "laptop bag, laptop case, laptop sleeve",
    ),
    "mouse": Rule(  # The animal and Mickey are more common.
        "computer mouse, computer mice, wireless mouse, optical mouse, cordless mouse, apple "
        "mouse, keyboard and mouse, keyboard and a mouse, mouse and keyboard, mouse and a "
        "keyboard, keyboard mouse, mouse pad, mousepad",
    ),
    "remote": Rule(
        "remote, wiimote, wii controller, game controller, video game controller",
        "remote control car, remote control plane, remote control airplane, remote control "
        "boat, remote control helicopter, remote control truck, remote controlled, remote area, "
        "remote location, remote beach, remote field, remote road, remote place, remote island, "
        "remote region, remote village, remote part, remote mountain, remote desert",
    ),
    "keyboard": Rule(
        "keyboard",
        "piano keyboard, musical keyboard, music keyboard, electronic keyboard, electric "
        "keyboard, keyboard player, keyboard instrument",
    ),
    "cell phone": Rule(
        "cell phone, cellphone, mobile phone, cellular phone, smartphone, smart phone, iphone, "
        "flip phone, phone, mobile device",
        "pay phone, phone booth, phone pole, phone line, phone book, phone box, rotary phone, "
        "desk phone, office phone, corded phone, land line phone, toy phone, banana phone",
    ),
    "microwave": Rule("microwave", "microwave safe, microwave popcorn, microwave dinner"),
    "oven": Rule(
        "oven, stove",
        "microwave oven, toaster oven, oven mitt, pizza oven, dutch oven, brick oven, wood "
        "stove, wood burning stove, camp stove",
    ),
    "toaster": Rule("toaster", "toaster oven, toaster pastry, toaster pastries"),
    "sink": Rule("sink", "sink hole, to sink, sink into"),
    "refrigerator": Rule(
        "refrigerator, fridge, refridgerator",
        "refrigerator magnet, fridge magnet, refrigerator truck",
    ),
    "book": Rule(
        "book",
        "book bag, book store, mac book, note book, power book, check book, face book",
    ),
    "clock": Rule("clock", "o clock, clock wise, clock work, around the clock"),
    "vase": Rule("vase"),
    "scissors": Rule("scissors, scissor", "scissor lift, scissor kick"),
    "teddy bear": Rule(
        "teddy bear, teddybear, teddy, teddies, stuffed bear, toy bear, plush bear",
        "teddy roosevelt, teddy bear costume",
    ),
    "hair drier": Rule(
        "hair dryer, hair drier, hairdryer, hairdrier, blow dryer, blow drier, blowdryer",
    ),
    "toothbrush": Rule("toothbrush, tooth brush", "toothbrush holder, tooth brush holder"),
}
