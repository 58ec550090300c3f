"""One model that finds objects, and another that follows them where the first loses them."""
