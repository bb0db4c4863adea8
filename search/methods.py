"""The table of search methods. Whatever reads what searches have found goes through it."""

from search.genetic.method import Genetic
from search.gradient.method import Gradient
from search.method import Method
from search.one_shot import SCORES, OneShot

METHODS: dict[str, Method] = {
    method.name: method for method in (Genetic(), Gradient(), *(OneShot(name, score) for name, score in SCORES.items()))
}
