"""The recipe of the bridge: pictures with words, their features, and what is learned from them."""
