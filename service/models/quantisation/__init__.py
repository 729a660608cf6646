"""How the weights of a quantised model are stored, and which methods can be dequantised."""
