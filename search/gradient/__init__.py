"""The search by gradient: masks learned on training images, in rounds that keep less and less."""
