"""How a network is run over an image, and by what: sliding windows, and the engines that run the network itself."""
