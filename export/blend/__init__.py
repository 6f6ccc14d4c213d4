"""Stage `blend`: memory, words and names of the catalogue, and the weights of a score's parts."""
