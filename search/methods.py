"""The table of search methods. Whatever reads what searches have found goes through it."""

from search.genetic.method import Genetic
from search.gradient.method import Gradient
from search.method import Method
from search.one_shot import SCORES, OneShot

OF_ALL: list[Method] = [Genetic(), Gradient(), *(OneShot(name, score) for name, score in SCORES.items())]
METHODS = {method.name: method for method in OF_ALL}
