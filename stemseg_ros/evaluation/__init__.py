"""Result files and the numbers computed from them."""
