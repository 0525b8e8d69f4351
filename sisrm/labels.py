"""The 150 classes of ADE20K's scene parsing benchmark: the vocabulary of the segmenter and of the label prompt (s2.2).

Index n here is line n + 1 of the benchmark's class list. The first synonym is used as the display name, lengthened where the short
form is shared by two classes ("screen") or would mislead a reader ("swimming" is a swimming pool).
"""

from __future__ import annotations

from sisrm.errors import ParameterError

CLASS_NAMES: tuple[str, ...] = tuple(
    name.strip()
    for name in """
    wall, building, sky, floor, tree, ceiling, road, bed, window, grass, cabinet, sidewalk, person, earth, door, table, mountain,
    plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock,
    wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper,
    fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge,
    bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer,
    swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television, airplane, dirt track, clothes, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyor belt, canopy, washer, toy, swimming pool, stool, barrel, basket, waterfall, tent, bag, motorbike, cradle,
    oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, projection screen, blanket,
    sculpture, hood, sconce, vase, traffic light, tray, trash can, fan, pier, crt screen, plate, monitor, bulletin board, shower,
    radiator, glass, clock, flag
    """.split(",")
)

_INDEX = {name: index for index, name in enumerate(CLASS_NAMES)}


def index_of(name: str) -> int:
    """Class index (0..149) of a display name; case and surrounding blanks do not matter. Raises ParameterError for any other word."""
    index = _INDEX.get(str(name).strip().lower())
    if index is None:
        raise ParameterError("labels", name, "names among the 150 ADE20K classes, such as 'sky', 'tree' or 'building'")
    return index
