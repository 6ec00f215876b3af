"""Seeded random choices. They use only `Random.random()`, whose sequence Python keeps the same across versions."""

import random


class Dice:
    def __init__(self, seed):
        self._random = random.Random(seed)

    def chance(self, probability):
        return self._random.random() < probability

    def pick(self, items):
        return items[int(self._random.random() * len(items))]

    def shuffled(self, items):
        keyed = [(self._random.random(), index) for index in range(len(items))]
        return [items[index] for _, index in sorted(keyed)]

    def uniform(self):
        """A number in (0, 1], so that its logarithm is finite."""
        return 1.0 - self._random.random()
