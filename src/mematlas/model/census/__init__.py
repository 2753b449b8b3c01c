"""What every frame of RAM is: a byte for each, from the kernel's struct pages or from its files of words per frame."""
