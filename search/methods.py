"""The table of search methods. Whatever reads what searches have found goes through it."""

from search.active_units import Moda, MwT
from search.genetic.method import Genetic
from search.gradient.method import Gradient
from search.gradsplitter import GradSplitter
from search.method import Method
from search.one_shot import SCORES, OneShot
from search.seam import SeaM

ONE_SHOT = [OneShot(name, score) for name, score in SCORES.items()]
OF_ALL: list[Method] = [Genetic(), Gradient(), GradSplitter(), SeaM(), Moda(), MwT(), *ONE_SHOT]
METHODS = {method.name: method for method in OF_ALL}
