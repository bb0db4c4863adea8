"""How convolutions become fast; the only room that knows of C++."""
